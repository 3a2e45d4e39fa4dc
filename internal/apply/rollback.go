package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// RollbackPlan says what a rollback of one run, or of all of them (empty), would do.
func RollbackPlan(ctx context.Context, r host.Reader, run string, allow []plan.Risk) (plan.Plan, error) {
	u, err := newUndoer(ctx, r, run, allow)
	if err != nil {
		return plan.Plan{}, err
	}
	return u.plan()
}

// Rollback puts back what one run, or all of them (empty), changed: content, mode and owner of files byte for
// byte, states of units, image records. What somebody else changed since stays, is named, and makes the
// result ErrKept. Killed, it is finished by being started again.
func (e *Engine) Rollback(ctx context.Context, run string) (Report, error) {
	build := func(ctx context.Context) (plan.Plan, error) { return RollbackPlan(ctx, e.Host, run, e.Allow) }
	return e.locked(ctx, "rollback", build, func(s *session) (Report, error) {
		u, err := newUndoer(ctx, e.Host, run, e.Allow)
		if err != nil {
			return s.report, err
		}
		p, err := u.plan()
		if err != nil {
			return s.report, err
		}
		s.report.Undoes, s.caches = u.runs(), u.caches
		return s.rollback(p)
	})
}

func (s *session) rollback(p plan.Plan) (Report, error) {
	if len(s.report.Undoes) == 0 || (len(p.Changes) == 0 && len(p.Kept) > 0) {
		return s.keptOnly(p)
	}
	if len(p.Changes) == 0 { // put back by hand, or by a rollback that was cut off at its end
		if err := s.begin(p); err != nil {
			return s.report, err
		}
		rep, err := s.finish(nil)
		return rep, errors.Join(err, s.purge())
	}
	rep, err := s.carryOut(p, nil)
	if err != nil {
		return rep, err
	}
	if len(rep.Kept) > 0 {
		return rep, keptError(rep.Kept)
	}
	return rep, s.purge()
}

// keptOnly ends a rollback that can do nothing.
func (s *session) keptOnly(p plan.Plan) (Report, error) {
	rep, err := s.nothing(p)
	rep.Kept = p.Kept
	if err != nil {
		return rep, err
	}
	if len(p.Kept) > 0 {
		rep.Outcome = OutcomeKept
		return rep, keptError(p.Kept)
	}
	return rep, s.purge()
}

// undoer makes the plan of a rollback from the journals.
type undoer struct {
	s      *session // reads only
	chosen []*run
	allow  []plan.Risk
	groups []*group
	byID   map[string]*group
	kept   []plan.Pending
	caches map[string]bool // mirrors' caches that images were brought into
}

// group are the targets of one resource, with all that was done to each, oldest first.
type group struct {
	id      string
	intent  entry // of the newest change
	history map[string][]plan.Target
	order   []string // keys in the order of first touch
}

func newUndoer(ctx context.Context, r host.Reader, id string, allow []plan.Risk) (*undoer, error) {
	facts, err := r.Facts(ctx)
	if err != nil {
		return nil, fmt.Errorf("identify the node: %w", err)
	}
	s := &session{e: &Engine{Allow: allow}, r: r, ctx: ctx, verb: "rollback", facts: facts, fs: r.FS()}
	if s.ledger, err = loadLedger(s.fs); err != nil {
		return nil, err
	}
	u := &undoer{s: s, allow: allow, byID: map[string]*group{}, caches: map[string]bool{}}
	if err := u.choose(id); err != nil {
		return nil, err
	}
	return u, u.collect()
}

// choose picks the runs that are put back: all that were not yet, rollbacks that stopped half-way included,
// since they are part of what happened.
func (u *undoer) choose(id string) error {
	runs, err := readRuns(u.s.fs)
	if err != nil {
		return err
	}
	undone := map[string]string{}
	for _, r := range u.s.ledger.Runs {
		undone[r.ID] = r.Undone
	}
	for _, x := range runs {
		if id == "" && undone[x.id] == "" || x.id == id {
			u.chosen = append(u.chosen, x)
		}
	}
	if id == "" {
		u.lost(runs)
		return nil
	}
	if len(u.chosen) == 0 || u.chosen[0].head.Verb == "rollback" {
		return noSuchRun(id, runs)
	}
	if undone[id] != "" {
		u.chosen = nil
	}
	return nil
}

// lost names the runs of the ledger whose journal is gone: what they changed stays, which is no success.
func (u *undoer) lost(runs []*run) {
	for _, r := range u.s.ledger.Runs {
		if r.Undone == "" && !slices.ContainsFunc(runs, func(x *run) bool { return x.id == r.ID }) {
			u.kept = append(u.kept, plan.Pending{ID: "run:" + r.ID, What: "what run " + r.ID + " changed", Why: journalLost})
		}
	}
}

func noSuchRun(id string, runs []*run) error {
	d := &diag.Diagnostic{ID: "APL-018", Severity: diag.Error, What: "there is no run " + id + " to put back", Fix: "edgeprep status"}
	for _, r := range runs {
		if r.head.Verb != "rollback" {
			d.Why = "the newest run is " + r.id
		}
	}
	return &diag.Refused{Err: d}
}

func (u *undoer) runs() []string {
	var out []string
	for _, x := range u.chosen {
		out = append(out, x.id)
	}
	return out
}

// collect gathers the history of each target.
func (u *undoer) collect() error {
	for _, x := range u.chosen {
		for _, c := range x.changes {
			if c.result.Type == "" {
				res, err := u.peek(c)
				if err != nil {
					return err
				}
				c.result = res
			}
			if len(c.intent.Scan) > 0 { // also one that was cut off before its first file: it may have left directories
				u.caches[c.intent.Path] = true
			}
			if c.result.Type == typeVoid || c.intent.Foreign {
				continue
			}
			u.take(c)
		}
	}
	return nil
}

// peek finds out about an intent without an outcome, without writing: a plan may be asked for while the
// node is not recovered yet.
func (u *undoer) peek(c *change) (entry, error) {
	now := slices.Clone(c.intent.Targets)
	for i, t := range now {
		got, err := u.s.look(t)
		if err != nil {
			return entry{}, err
		}
		now[i].After = knownContent(got, t.After)
	}
	more, err := u.s.scan(c.intent, now)
	return entry{Type: typeFail, Targets: append(more, now...)}, err
}

func (u *undoer) take(c *change) {
	g := u.byID[c.intent.ID]
	if g == nil {
		g = &group{id: c.intent.ID, history: map[string][]plan.Target{}}
		u.byID[c.intent.ID] = g
		u.groups = append(u.groups, g)
	}
	g.intent = c.intent
	for _, t := range c.targets() {
		if plan.Same(t.Before, t.After) {
			continue
		}
		if len(g.history[t.Key()]) == 0 {
			g.order = append(g.order, t.Key())
		}
		g.history[t.Key()] = append(g.history[t.Key()], t)
	}
}

// plan turns the groups round, last made first, and restarts units after the last of what they read.
func (u *undoer) plan() (plan.Plan, error) {
	var changes []plan.Change
	for _, g := range slices.Backward(u.groups) {
		c, err := u.change(g)
		if err != nil {
			return plan.Plan{}, err
		}
		if c != nil {
			changes = append(changes, *c)
		}
	}
	changes, err := u.withRestarts(changes)
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.New("rollback", u.s.facts.Hostname, changes, u.kept)
}

// change puts one resource back; nil: there is nothing to do.
func (u *undoer) change(g *group) (*plan.Change, error) {
	c := &plan.Change{ID: g.id, Kind: g.intent.Kind, Path: g.intent.Path, Summary: summaryOf(g.intent), Reason: "as it was before edgeprep"}
	var kept []plan.Pending
	for _, key := range slices.Backward(g.order) {
		t, why, err := u.target(g.history[key])
		if err != nil {
			return nil, err
		}
		if why == changedSince && g.intent.Ephemeral {
			continue
		}
		if why != "" {
			kept = append(kept, plan.Pending{ID: g.id, What: t.Name(), Why: why})
		}
		if why == changedSince && u.allowed(plan.RiskOverwrite) {
			kept = kept[:len(kept)-1]
			c.Risks = []plan.Risk{plan.RiskOverwrite}
		}
		if !plan.Same(t.Before, t.After) {
			c.Undo = append(c.Undo, t)
		}
	}
	if g.intent.Kind == resource.KindUser && len(kept) > 0 { // an account is in several files: all or none
		u.kept = append(u.kept, plan.Pending{ID: g.id, What: c.Summary, Why: kept[0].What + ": " + kept[0].Why})
		return nil, nil
	}
	u.kept = append(u.kept, kept...)
	if len(c.Undo) == 0 {
		return nil, nil
	}
	return u.shape(c, g), nil
}

func (u *undoer) allowed(r plan.Risk) bool { return slices.Contains(u.allow, r) }

// shape fills in what is shown.
func (u *undoer) shape(c *plan.Change, g *group) *plan.Change {
	c.Restarts = g.intent.Restarts
	c.Before, c.After = c.Undo[0].Before, c.Undo[0].After
	c.Action = plan.ActionRestore
	if c.After == nil {
		c.Action = plan.ActionDelete
	}
	if t, ok := unitTarget(c.Undo); ok {
		c.Before, c.After, c.Steps = t.Before, t.After, plan.Steps(*unitOf(t.Before), t.After)
		if len(c.Steps) > 0 {
			c.Action = c.Steps[len(c.Steps)-1]
		}
	}
	if len(c.Undo) > 1 && c.Kind == resource.KindImageSet {
		c.Summary += fmt.Sprintf(" (%d entries)", len(c.Undo))
	}
	return c
}

func unitOf(s *plan.State) *plan.UnitState {
	if s == nil || s.Unit == nil {
		return &plan.UnitState{}
	}
	return s.Unit
}

func summaryOf(in entry) string {
	switch in.Kind {
	case resource.KindImageSet:
		return "images of " + in.Path
	case resource.KindUser:
		return "account " + in.Path
	}
	return in.Path
}

const (
	journalLost  = "the journal of the run is gone"
	changedSince = "changed since by somebody else"
	brokenChain  = "was edited between two runs of edgeprep; what was there before the later one comes back"
)

// target finds what a target has to become: from what is there now back through everything that was done to
// it. A state that edgeprep did not leave ends the way back.
func (u *undoer) target(history []plan.Target) (t plan.Target, why string, err error) {
	t = history[len(history)-1]
	cur, err := u.s.look(t)
	if err != nil {
		return t, "", err
	}
	goal := knownContent(cur, t.After)
	t.Before, t.After = cur, cur
	for i, h := range slices.Backward(history) {
		switch {
		case plan.Same(goal, h.After):
			goal = h.Before
		case i == len(history)-1 && plan.Same(goal, h.Before): // put back already
		case u.allowed(plan.RiskOverwrite):
			t.After = history[0].Before
			return t, changedSince, nil
		case i == len(history)-1:
			return t, changedSince, nil
		default:
			t.After = goal
			return t, brokenChain, nil
		}
	}
	t.After = goal
	return t, "", nil
}

// withRestarts adds a restart of each running unit after the last change that it reads.
func (u *undoer) withRestarts(changes []plan.Change) ([]plan.Change, error) {
	last := map[string]int{}
	stops := map[string]bool{}
	for i, c := range changes {
		if c.Kind == resource.KindUnit {
			stops[c.Path] = true
		}
		for _, r := range c.Restarts {
			last[r] = i
		}
	}
	var out []plan.Change
	for i, c := range changes {
		out = append(out, c)
		for _, name := range c.Restarts {
			if last[name] != i || stops[name] {
				continue
			}
			r, err := u.restart(name)
			if err != nil {
				return nil, err
			}
			if r != nil {
				out = append(out, *r)
			}
		}
	}
	return out, nil
}

func (u *undoer) restart(name string) (*plan.Change, error) {
	got, err := u.s.r.Units().Unit(u.s.ctx, name)
	if errors.Is(err, host.ErrUnavailable) || (err == nil && !got.Running()) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	id := resource.ID(resource.KindUnit, name)
	c := &plan.Change{ID: id, Kind: resource.KindUnit, Action: plan.ActionRestart, Steps: []plan.Action{plan.ActionRestart}, Path: name,
		Summary: name, Reason: "its configuration goes back", Before: plan.UnitStateOf(got), After: &plan.State{Unit: &plan.UnitState{Enabled: got.Enabled, Active: "active"}}}
	if _, ours := u.s.ledger.Records[id]; !ours {
		c.Risks = []plan.Risk{plan.RiskRestart}
	}
	return c, nil
}
