package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
)

// Schema is the version of Report's JSON form.
const Schema = 1

// Verdict is the one word that a run ends with.
type Verdict string

// The verdicts.
const (
	VerdictPass     Verdict = "PASS"          // every check ran and passed while egress was observed cut
	VerdictUnproven Verdict = "PASS-UNPROVEN" // nothing failed, but the proof is not complete
	VerdictFail     Verdict = "FAIL"          // a check failed or could not run
)

// Report is the outcome of a run. Its JSON form is the record that is kept.
type Report struct {
	Schema   int           `json:"schema"`           // version of this form: 1
	Started  time.Time     `json:"started"`          // by the clock of the node, UTC
	Finished time.Time     `json:"finished"`         // by the clock of the node, UTC
	Site     string        `json:"site,omitempty"`   // [site] name of edgeprep.toml
	Node     Identity      `json:"node"`             // which node this was
	Tool     Tool          `json:"tool,omitzero"`    // the edgeprep that ran
	Person   string        `json:"person,omitempty"` // who ran it
	Inputs   []Input       `json:"inputs,omitempty"` // the files that it was about
	Images   []ImageRecord `json:"images,omitempty"` // what containerd has
	// Certificates are those that the checks of this run read.
	Certificates []CertificateRecord `json:"certificates,omitempty"`
	Clock        ClockRecord         `json:"clock,omitzero"` // what was seen of the clocks
	// Against names the earlier record that is compared with.
	Against string  `json:"against,omitempty"`
	Drift   []Drift `json:"drift,omitempty"`   // what changed since that record
	Profile Profile `json:"profile"`           // the occasion: it picks the checks
	Deep    bool    `json:"deep,omitempty"`    // content was hashed again, not believed by size and time
	Strict  bool    `json:"strict,omitempty"`  // warnings and missing proofs gave exit code 4
	Partial bool    `json:"partial,omitempty"` // only named checks were run
	Verdict Verdict `json:"verdict"`           // what came of it
	// Missing says what keeps the verdict from PASS, one line each, most important first.
	Missing []Missing `json:"missing,omitempty"`
	Egress  Egress    `json:"egress"`  // what was seen of the ways out
	Counts  Counts    `json:"counts"`  // checks by status
	Results []Result  `json:"results"` // one per check, in the order of the catalogue
}

// Identity says which node was checked.
type Identity struct {
	Hostname  string `json:"hostname"`            // as the kernel says
	MachineID string `json:"machineId,omitempty"` // of /etc/machine-id
	BootID    string `json:"bootId,omitempty"`    // changes with each boot
	Distro    string `json:"distro"`              // id of the descriptor that matched
	Version   string `json:"version,omitempty"`   // of the distribution, as it calls it
	Role      string `json:"role"`                // server, agent, ...
	Platform  string `json:"platform"`            // "linux/amd64"
	Live      bool   `json:"live"`                // false: a mounted image or directory
}

// Missing is one thing between a node and PASS.
type Missing struct {
	IDs  []string `json:"ids,omitempty"` // of the checks that lack it; empty when it is about the whole run
	Text string   `json:"text"`          // what to do, or why the proof is missing
}

// Counts are the numbers of checks by status.
type Counts struct {
	Pass     int `json:"pass"`     // every finding passed
	Warn     int `json:"warn"`     // something needs a decision
	Fail     int `json:"fail"`     // what must be true is not
	Skip     int `json:"skip"`     // not applicable, or deferred
	Unproven int `json:"unproven"` // looked, but what was seen proves nothing
	Error    int `json:"error"`    // could not run
	Waived   int `json:"waived"`   // of those above
}

func (c *Counts) add(r Result) {
	switch r.Status {
	case StatusPass:
		c.Pass++
	case StatusWarn:
		c.Warn++
	case StatusFail:
		c.Fail++
	case StatusSkip:
		c.Skip++
	case StatusUnproven:
		c.Unproven++
	case StatusError:
		c.Error++
	}
	if r.Waived != nil {
		c.Waived++
	}
}

// Result finds the result of a check.
func (r Report) Result(id string) (Result, bool) {
	for _, x := range r.Results {
		if x.ID == id {
			return x, true
		}
	}
	return Result{}, false
}

// ExitCode is the process exit code for the report: 3 a check failed, 4 a check could not run, or with
// Strict a warning or a missing proof; 0 otherwise.
func (r Report) ExitCode() int {
	failed, broken, soft := false, false, r.Verdict == VerdictUnproven
	for _, x := range r.Results {
		if x.Waived != nil {
			continue
		}
		failed = failed || x.Count(StatusFail) > 0
		broken = broken || x.Count(StatusError) > 0
		soft = soft || x.Count(StatusWarn) > 0
	}
	switch {
	case failed:
		return 3
	case broken, r.Strict && soft:
		return 4
	}
	return 0
}

// judge fills verdict, counts and what is missing from the results.
func (r *Report) judge() {
	r.Verdict = VerdictPass
	for _, x := range r.Results {
		r.Counts.add(x)
		if x.Waived == nil && (x.Count(StatusFail) > 0 || x.Count(StatusError) > 0) {
			r.Verdict = VerdictFail
		}
	}
	owed := func(x Result) bool { return x.Owed() && !failing(x) }
	r.Missing = append(r.missing(failing), r.missing(owed)...)
	if r.Partial {
		r.Missing = append(r.Missing, Missing{Text: "only the named checks were run; a verdict needs them all: edgeprep check"})
	}
	if len(r.Missing) > 0 && r.Verdict == VerdictPass {
		r.Verdict = VerdictUnproven
	}
}

func failing(r Result) bool {
	return r.Waived == nil && (r.Count(StatusFail) > 0 || r.Count(StatusError) > 0)
}

// missing has one line per thing that is wrong with the results that want picks and that do not follow from
// another one. Checks that lack the same thing, a runtime for instance, share a line.
func (r Report) missing(want func(Result) bool) []Missing {
	var out []Missing
	for _, x := range r.Results {
		if !want(x) || len(x.CausedBy) > 0 {
			continue
		}
		text := whatIsMissing(x)
		if i := slices.IndexFunc(out, func(m Missing) bool { return m.Text == text }); i >= 0 {
			out[i].IDs = append(out[i].IDs, x.ID)
			continue
		}
		out = append(out, Missing{IDs: []string{x.ID}, Text: text})
	}
	return out
}

// whatIsMissing takes the gravest finding's remedy or reason. The reason of a skip is the same for every subject.
func whatIsMissing(x Result) string {
	worst, same := x.Findings[0], 0
	for _, f := range x.Findings {
		if rank(f) > rank(worst) {
			worst = f
		}
	}
	for _, f := range x.Findings {
		if f.Status == worst.Status {
			same++
		}
	}
	text := worst.Subject
	switch {
	case worst.Status == StatusSkip:
		return worst.Reason
	case worst.Remedy.String() != "":
		text += ": " + worst.Remedy.String()
	case worst.Reason != "":
		text += ": " + worst.Reason
	}
	if same > 1 {
		text += fmt.Sprintf(" (and %d more)", same-1)
	}
	return text
}

// fold marks failures that follow from another check's failure, through any number of steps.
func fold(results []Result, checks []Check) {
	deps := map[string][]string{}
	for _, c := range checks {
		deps[c.ID] = c.DependsOn
	}
	bad := map[string]bool{}
	for _, r := range results {
		bad[r.ID] = failing(r) // a waived cause hides nothing
	}
	for i := range results {
		if s := results[i].Status; s == StatusFail || s == StatusError || s == StatusUnproven {
			results[i].CausedBy = causes(results[i].ID, deps, bad, map[string]bool{results[i].ID: true})
		}
	}
}

// causes are the nearest failed checks that id depends on.
func causes(id string, deps map[string][]string, bad, seen map[string]bool) []string {
	var out []string
	for _, d := range deps[id] {
		if seen[d] {
			continue
		}
		seen[d] = true
		if bad[d] {
			out = append(out, d)
			continue
		}
		out = append(out, causes(d, deps, bad, seen)...)
	}
	return out
}

// waive marks failed results that the site accepts. An expired or unreadable waiver and one for an
// unwaivable check do nothing but say so in the findings.
func waive(results []Result, checks []Check, waivers []config.Waiver, now time.Time) {
	for _, w := range waivers {
		for i := range results {
			if results[i].ID == w.ID {
				results[i].apply(w, byID(checks, w.ID), now)
			}
		}
	}
}

func (r *Result) apply(w config.Waiver, c Check, now time.Time) {
	if r.Status != StatusFail && r.Status != StatusWarn && r.Status != StatusError {
		return
	}
	why := refuseWaiver(w, c, now)
	if why == "" {
		r.Waived = &Waiver{Reason: w.Reason, Owner: w.Owner, Until: w.Until}
		return
	}
	r.Findings = append(r.Findings, Finding{Status: StatusWarn, Subject: "waiver for " + w.ID, Observed: why,
		Remedy: Remedy{Text: "renew or remove its [[checklist.waive]]"}})
}

// refuseWaiver says why a waiver does not count.
func refuseWaiver(w config.Waiver, c Check, now time.Time) string {
	switch {
	case c.Unwaivable:
		return "this check cannot be waived"
	case w.Reason == "" || w.Owner == "":
		return "a waiver needs a reason and an owner"
	case w.Until == "":
		return ""
	}
	until, err := time.Parse(time.DateOnly, w.Until)
	if err != nil {
		return fmt.Sprintf("until = %q is not a date", w.Until)
	}
	if !now.Before(until.AddDate(0, 0, 1)) {
		return "it expired on " + w.Until
	}
	return ""
}

func byID(checks []Check, id string) Check {
	for _, c := range checks {
		if c.ID == id {
			return c
		}
	}
	return Check{}
}
