// Package plan compares what a node should be with what it is and with what edgeprep last wrote there, and
// says as a value what has to be done about it. It is given a host.Reader and cannot change a node.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Schema is the version of the plan's JSON form; see docs/formats.md.
const Schema = 1

// Action is what a change does.
type Action string

// The actions.
const (
	ActionNone    Action = "none"
	ActionCreate  Action = "create"
	ActionUpdate  Action = "update"
	ActionDelete  Action = "delete"
	ActionRestore Action = "restore" // put back what was there before edgeprep
	ActionPlace   Action = "place"   // an archive
	ActionImport  Action = "import"  // images into containerd or into the mirror's cache
	ActionProve   Action = "prove"   // a gate
	ActionReload  Action = "reload"  // systemd reads unit files again
	ActionEnable  Action = "enable"
	ActionDisable Action = "disable"
	ActionStart   Action = "start"
	ActionStop    Action = "stop"
	ActionRestart Action = "restart"
)

// Risk is something disruptive that must be allowed by name.
type Risk string

// The risks, as --allow and [apply] allow name them.
const (
	RiskRestart        Risk = "restart"
	RiskOverwrite      Risk = "overwrite"
	RiskRemove         Risk = "remove"
	RiskPlainHTTP      Risk = "plain-http"
	RiskUntestedDistro Risk = "untested-distro"
)

// Risks are all risks that there are.
func Risks() []Risk {
	return []Risk{RiskRestart, RiskOverwrite, RiskRemove, RiskPlainHTTP, RiskUntestedDistro}
}

// Plan is what has to be done on one node, in order.
type Plan struct {
	Schema  int       `json:"schema"`
	Verb    string    `json:"verb"` // "apply" or "rollback"
	Node    string    `json:"node"` // host name
	Changes []Change  `json:"changes"`
	Pending []Pending `json:"pending"`
	// Problems are findings that no permission helps against; a plan with problems is refused.
	Problems diag.Report `json:"problems,omitempty"`
	Digest   string      `json:"digest"` // of everything above

	// Resources is the number of resources that were compared.
	Resources int `json:"-"`
	// Refresh holds what was read to know that nothing has to be done, so that it is not read again.
	Refresh map[string]Record `json:"-"`
	// Sources are the inspected archives to be remembered in the ledger; nil: leave what is there.
	Sources map[string]Source `json:"-"`
	// Kept names what a rollback leaves alone, with the reason.
	Kept []Pending `json:"kept,omitempty"`
}

// Change is one thing to be done.
type Change struct {
	ID      string        `json:"id"`
	Kind    resource.Kind `json:"kind"`
	Action  Action        `json:"action"`
	Steps   []Action      `json:"steps,omitempty"` // of a unit, in order
	Path    string        `json:"path,omitempty"`  // where it is done: a path with symlinks resolved, a unit, an account
	Summary string        `json:"summary"`
	Reason  string        `json:"reason,omitempty"`
	Before  *State        `json:"before,omitempty"` // nil: nothing is there
	After   *State        `json:"after,omitempty"`  // nil: nothing will be there
	Diff    string        `json:"diff,omitempty"`   // unified; secrets left out
	Bytes   int64         `json:"bytes,omitempty"`  // that have to be moved
	Risks   []Risk        `json:"risks,omitempty"`
	// Needs are the changes before it that must have succeeded.
	Needs []string `json:"needs,omitempty"`
	// Restarts are the units that must restart for it to take effect.
	Restarts []string `json:"restarts,omitempty"`

	// Resource is what is wanted; nil for a removal or a restoration.
	Resource *resource.Resource `json:"-"`
	// Undo is set in a rollback's plan: what is put back besides or instead of Path.
	Undo []Target `json:"-"`
}

// Pending is something that cannot be done on this node now.
type Pending struct {
	ID   string `json:"id"`
	What string `json:"what"` // "start edgeprep-mirror.service"
	Why  string `json:"why"`
}

// Empty says whether there is nothing to do now; what is pending does not count.
func (p Plan) Empty() bool { return len(p.Changes) == 0 && len(p.Problems) == 0 }

// Risks are the risks of the plan, each once.
func (p Plan) Risks() []Risk {
	var out []Risk
	for _, c := range p.Changes {
		for _, r := range c.Risks {
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Refusals is nil when the plan may be carried out with these permissions; else a *diag.Refused that names
// every change that needs another one.
func (p Plan) Refusals(allow []Risk) error {
	out := slices.Clone(p.Problems)
	var missing []string
	for _, r := range p.Risks() {
		if !slices.Contains(allow, r) {
			missing = append(missing, string(r))
		}
	}
	fix := "edgeprep " + p.Verb + " --allow " + strings.Join(missing, ",")
	for _, c := range p.Changes {
		for _, r := range c.Risks {
			if !slices.Contains(allow, r) {
				out.Add(refusal(c, r, fix))
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return &diag.Refused{Err: out}
}

func refusal(c Change, r Risk, fix string) *diag.Diagnostic {
	d := &diag.Diagnostic{Severity: diag.Error, Why: c.Reason, Fix: fix}
	switch r {
	case RiskRestart:
		d.ID, d.What, d.Where.Unit = "APL-001", c.Path+" runs and would be restarted", c.Path
	case RiskRemove:
		d.ID, d.What, d.Where.File = "APL-003", c.Summary+" would be removed", c.Path
	default:
		d.ID, d.What, d.Where.File = "APL-002", c.Summary+" would be overwritten", c.Path
	}
	return d
}

// seal fills the digest in.
func (p *Plan) seal() error {
	p.Digest = ""
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	sum := sha256.Sum256(data)
	p.Digest = hex.EncodeToString(sum[:])
	return nil
}

// New makes a plan of changes that were found otherwise than by Build: a rollback.
func New(verb, node string, changes []Change, kept []Pending) (Plan, error) {
	p := Plan{Schema: Schema, Verb: verb, Node: node, Changes: changes, Pending: []Pending{}, Kept: kept}
	if p.Changes == nil {
		p.Changes = []Change{}
	}
	return p, p.seal()
}
