// Package check is the checklist: what must be true of a node before it can be cut off, each check as data
// (id, severity, story, remedy) with one function that looks. Checks read and never write; the runner runs
// them in parallel, watches egress meanwhile, folds consequences under their cause, and gives one verdict.
//
// The ids are those of the catalogue of failure modes; docs/checks.md is generated from the data here.
package check

import (
	"context"
	"time"
)

// Severity is what a check's failure means.
type Severity string

// The severities.
const (
	SeverityFail Severity = "fail" // blocks shipping
	SeverityWarn Severity = "warn" // needs a decision; never fails the verdict by itself
)

// Scope says where a check can be proven.
type Scope string

// The scopes.
const (
	ScopeNode      Scope = "node"      // on one node, offline
	ScopeCluster   Scope = "cluster"   // needs the whole cluster or a second node
	ScopeRehearsal Scope = "rehearsal" // only a run with egress cut proves it
)

// Profile is the occasion of a run.
type Profile string

// The profiles.
const (
	ProfileStage   Profile = "stage"   // while the node is prepared
	ProfileShip    Profile = "ship"    // before the box is closed
	ProfileArrival Profile = "arrival" // first run on site
	ProfileRunning Profile = "running" // in operation
)

// Profiles lists every profile.
func Profiles() []Profile {
	return []Profile{ProfileStage, ProfileShip, ProfileArrival, ProfileRunning}
}

// Status is the outcome of a check or of one finding.
type Status string

// The statuses.
const (
	StatusPass     Status = "pass"
	StatusWarn     Status = "warn"
	StatusFail     Status = "fail"
	StatusSkip     Status = "skip"     // not applicable by design, or deferred; Reason says which
	StatusUnproven Status = "unproven" // looked, but what was seen proves nothing
	StatusError    Status = "error"    // could not run
)

// Check is one entry of the checklist.
type Check struct {
	ID       string    `json:"id"`
	Title    string    `json:"title"` // what is true when it passes
	Severity Severity  `json:"severity"`
	Scope    Scope     `json:"scope"`
	Profiles []Profile `json:"profiles,omitempty"` // empty: all
	// DependsOn names checks whose failure makes this one fail too; then it is folded under them.
	DependsOn []string      `json:"dependsOn,omitempty"`
	Story     Story         `json:"story"`
	Timeout   time.Duration `json:"-"` // zero: DefaultTimeout
	// Unwaivable: no waiver lets a node pass without it.
	Unwaivable bool `json:"unwaivable,omitempty"`
	// Last: judges what was observed during the whole run, so it runs after all others.
	Last bool                                          `json:"-"`
	Run  func(ctx context.Context, env *Env) []Finding `json:"-"`
}

// Story is what `edgeprep explain` tells about a check.
type Story struct {
	Seen    string   `json:"seen"`    // what an operator sees when it goes wrong
	Cause   string   `json:"cause"`   // why that happens
	Look    string   `json:"look"`    // what the check looks at
	Fix     string   `json:"fix"`     // what to do
	Sources []string `json:"sources"` // where the knowledge comes from
}

// DefaultTimeout bounds a check that names no time-out of its own.
const DefaultTimeout = 30 * time.Second

// Finding is what a check says about one subject.
type Finding struct {
	Status   Status `json:"status"`             // of this subject
	Subject  string `json:"subject"`            // a reference, file, endpoint, file system
	Expected string `json:"expected,omitempty"` // what should be there
	Observed string `json:"observed,omitempty"` // what is there
	Source   string `json:"source,omitempty"`   // file:line, API call or command that showed it
	Remedy   Remedy `json:"remedy,omitzero"`    // what to do
	Reason   string `json:"reason,omitempty"`   // why it is skip, unproven or error
	// Deferred: a skip whose proof is still owed, as opposed to one that is not applicable here.
	Deferred bool `json:"deferred,omitempty"`
}

// Remedy is what to do about a finding.
type Remedy struct {
	Text    string `json:"text,omitempty"`    // in words
	Command string `json:"command,omitempty"` // can be typed as it stands
}

// String is the remedy on one line.
func (r Remedy) String() string {
	switch {
	case r.Command == "":
		return r.Text
	case r.Text == "":
		return r.Command
	}
	return r.Text + ": " + r.Command
}

// Result is the outcome of one check.
type Result struct {
	ID         string      `json:"id"`                 // of the catalogue: docs/checks.md
	Title      string      `json:"title"`              // what is true when it passes
	Severity   Severity    `json:"severity"`           // what a failure means
	Scope      Scope       `json:"scope"`              // where it can be proven
	Status     Status      `json:"status"`             // the gravest of the findings
	Findings   []Finding   `json:"findings"`           // one per subject, never empty
	CausedBy   []string    `json:"causedBy,omitempty"` // failed checks that this one's failure follows from
	Waived     *Waiver     `json:"waived,omitempty"`   // the failure is accepted
	Egress     EgressState `json:"egress"`             // during the run that it was part of
	DurationMS int64       `json:"durationMs"`         // how long the check took, in ms
}

// Waiver is an accepted failure.
type Waiver struct {
	Reason string `json:"reason"`          // why it is accepted
	Owner  string `json:"owner"`           // who accepts it
	Until  string `json:"until,omitempty"` // last day, YYYY-MM-DD; empty: no end
}

// Owed says whether a proof is missing: something unproven or deferred.
func (r Result) Owed() bool {
	for _, f := range r.Findings {
		if f.Status == StatusUnproven || f.Status == StatusSkip && f.Deferred {
			return true
		}
	}
	return false
}

// Count is the number of findings with a status.
func (r Result) Count(s Status) int {
	n := 0
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

// rank orders findings from harmless to grave. A deferred skip outranks a pass: the proof is not complete.
func rank(f Finding) int {
	switch f.Status {
	case StatusFail:
		return 6
	case StatusError:
		return 5
	case StatusWarn:
		return 4
	case StatusUnproven:
		return 3
	case StatusPass:
		return 1
	}
	if f.Deferred {
		return 2
	}
	return 0
}

// gravest is the status of a whole check.
func gravest(fs []Finding) Status {
	worst := fs[0]
	for _, f := range fs[1:] {
		if rank(f) > rank(worst) {
			worst = f
		}
	}
	return worst.Status
}

func pass(subject, observed, source string) Finding {
	return Finding{Status: StatusPass, Subject: subject, Observed: observed, Source: source}
}

// skip says that a check does not apply here.
func skip(subject, reason string) Finding {
	return Finding{Status: StatusSkip, Subject: subject, Reason: reason}
}

// deferred says that a check applies but cannot be proven now, by design.
func deferred(subject, reason string) Finding {
	return Finding{Status: StatusSkip, Subject: subject, Reason: reason, Deferred: true}
}

func unproven(subject, reason string) Finding {
	return Finding{Status: StatusUnproven, Subject: subject, Reason: reason}
}

func couldNotRun(subject string, err error) Finding {
	return Finding{Status: StatusError, Subject: subject, Reason: err.Error()}
}
