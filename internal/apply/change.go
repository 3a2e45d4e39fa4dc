package apply

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// step is one change being carried out.
type step struct {
	s      *session
	c      plan.Change
	intent entry
	kept   []plan.Pending // what was left as it is
	inUse  []plan.Pending // directories that others put something into: no failure, they are no longer ours alone
}

// change carries one change out: read what is there, keep what must be kept, write the intent down, do it,
// look again, write the outcome down.
func (s *session) change(c plan.Change) error {
	start := time.Now()
	s.emit(progress.Event{Type: progress.StepStart, Step: c.ID, Msg: string(c.Action) + " " + c.Summary, Total: c.Bytes})
	st := &step{s: s, c: c}
	err := st.run()
	o := Outcome{Status: StatusDone, Bytes: c.Bytes, Duration: time.Since(start)}
	switch {
	case err != nil:
		o.Status, o.Msg = StatusFailed, err.Error()
	case len(st.kept)+len(st.inUse) > 0:
		o.Status, o.Msg = StatusKept, append(slices.Clone(st.kept), st.inUse...)[0].Why
		s.report.Kept = append(s.report.Kept, st.kept...)
	}
	s.outcome(c, o)
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.Action, c.ID, err)
	}
	return nil
}

func (st *step) run() error {
	s := st.s
	if st.c.Kind == resource.KindGate {
		return st.prove()
	}
	targets, err := st.before()
	if err != nil || st.done(targets) {
		return err
	}
	for _, t := range targets {
		if err := s.backup(st.c, t); err != nil {
			return err
		}
	}
	s.j.seq++
	if st.intent, err = st.describe(targets); err != nil {
		return err
	}
	if err := s.j.append(s.ctx, st.intent); err != nil {
		return err
	}
	err = st.do()
	after, lookErr := st.after(targets)
	err = errors.Join(err, lookErr)
	if err == nil {
		err = st.verify(after)
	}
	return errors.Join(err, st.record(after, err))
}

// describe is the intent as the journal holds it.
func (st *step) describe(targets []plan.Target) (e entry, err error) {
	c := st.c
	e = entry{Type: typeIntent, Time: st.s.e.now(), Seq: st.s.j.seq, ID: c.ID, Kind: c.Kind, Action: c.Action, Path: c.Path,
		Targets: targets, Restarts: c.Restarts, Owes: st.s.owed(c.Restarts)}
	if r := c.Resource; r != nil {
		if r.File != nil {
			e.Shared, e.Ephemeral = r.File.Shared, r.File.Ephemeral
		}
		e.Foreign = r.Unit != nil && r.Unit.Foreign
		if r.ImageSet != nil {
			e.Images, e.Scan = c.After.Images, scanDirs(*r.ImageSet)
		}
		if r.Archive != nil {
			e.Stage = r.Archive.Stage
		}
	} else if c.Kind == resource.KindUnit {
		_, ours := st.s.ledger.Records[c.ID]
		e.Foreign = !ours
	}
	if c.Kind == resource.KindUnit {
		e.Links, err = st.s.linkDirs()
	}
	return e, err
}

// owed are the units that run and so have to take a change in. An image or directory has no running units.
func (s *session) owed(units []string) []string {
	if !s.facts.Live {
		return nil
	}
	var out []string
	for _, u := range units {
		if got, err := s.r.Units().Unit(s.ctx, u); err == nil && got.Running() {
			out = append(out, u)
		}
	}
	return out
}

// record writes the outcome down and takes it into the ledger.
func (st *step) record(after []plan.Target, failed error) error {
	e := entry{Type: typeDone, Time: st.s.e.now(), Seq: st.intent.Seq, Targets: after}
	if failed != nil {
		e.Type, e.Error = typeFail, failed.Error()
	}
	if err := st.s.j.append(st.s.durable(), e); err != nil {
		return err
	}
	fold(&st.s.ledger, entry{Verb: st.s.verb, Boot: st.s.facts.BootID}, &change{run: st.s.j.run, intent: st.intent, result: e})
	st.s.noteUnitFiles(after)
	return nil
}

// noteUnitFiles remembers that systemd has to read its unit files again.
func (s *session) noteUnitFiles(ts []plan.Target) {
	for _, t := range ts {
		if strings.Contains(t.Path, "/systemd/system/") && !plan.Same(t.Before, t.After) {
			s.reload = true
		}
	}
}

// before reads what the change will touch. What is not as the plan saw it stops the change.
func (st *step) before() ([]plan.Target, error) {
	c := st.c
	switch {
	case len(c.Undo) > 0:
		return st.beforeUndo()
	case c.Kind == resource.KindUnit:
		return st.s.lookAll([]plan.Target{{Unit: c.Path, After: c.After}})
	case c.Kind == resource.KindUser:
		return st.s.lookAll(accountTargets())
	case c.Kind == resource.KindImageSet:
		return st.beforeImport()
	}
	targets := []plan.Target{{Path: c.Path, After: st.goal()}}
	if r := c.Resource; r != nil && r.Archive != nil {
		targets = append(targets, st.besides(*r.Archive)...)
	}
	targets, err := st.s.lookAll(targets)
	if err == nil && !plan.Same(targets[0].Before, c.Before) && !st.done(targets) {
		err = raced(c.Path)
	}
	return targets, err
}

// done says whether a path became what is wanted since the plan: the engine's own directory.
func (st *step) done(targets []plan.Target) bool {
	return len(targets) == 1 && targets[0].Path != "" && len(st.c.Undo) == 0 && plan.Same(targets[0].Before, st.goal())
}

func raced(p string) error {
	return &diag.Diagnostic{ID: "APL-006", Severity: diag.Error, What: "it changed between plan and apply", Where: diag.Where{File: p},
		Why: "another program works on this node at the same time", Fix: "edgeprep plan"}
}

// goal is what will be there. An account that an earlier step made has its ids now.
func (st *step) goal() *plan.State {
	if st.c.After == nil || st.c.Resource == nil || st.c.After.UID != plan.UnknownID || !st.s.facts.Root {
		return st.c.After
	}
	g := *st.c.After
	if a, ok, err := st.s.r.Account(owner(*st.c.Resource)); err == nil && ok {
		g.UID, g.GID = a.UID, a.GID
	}
	return &g
}

func owner(r resource.Resource) string {
	switch {
	case r.File != nil:
		return r.File.Owner
	case r.Dir != nil:
		return r.Dir.Owner
	}
	return ""
}

// besides are the staging directory, when it has to be made, and the source, when it is moved.
func (st *step) besides(a resource.Archive) []plan.Target {
	var out []plan.Target
	stage := a.Stage
	if stage == "" {
		stage = path.Dir(a.Path)
	}
	if _, err := st.s.fs.Stat(stage); err != nil {
		out = append(out, plan.Target{Path: stage, After: &plan.State{Type: host.TypeDir, Mode: 0o700, UID: plan.UnknownID, GID: plan.UnknownID}})
	}
	if a.Consume && !a.Local {
		out = append(out, plan.Target{Path: a.Source})
	}
	return out
}

// look is the state of a target now.
func (s *session) look(t plan.Target) (*plan.State, error) {
	switch {
	case t.Path != "":
		got, _, err := plan.Look(s.fs, t.Path)
		return got, err
	case t.Unit != "":
		u, err := s.r.Units().Unit(s.durable(), t.Unit)
		if errors.Is(err, host.ErrUnavailable) {
			return nil, nil
		}
		return plan.UnitStateOf(u), err
	}
	return s.lookImage(t)
}

// lookAll fills Before in.
func (s *session) lookAll(ts []plan.Target) ([]plan.Target, error) {
	for i := range ts {
		got, err := s.look(ts[i])
		if err != nil {
			return nil, err
		}
		ts[i].Before = got
	}
	return ts, nil
}

// after reads what is there now.
func (st *step) after(before []plan.Target) ([]plan.Target, error) {
	out := slices.Clone(before)
	for i := range out {
		got, err := st.s.look(out[i])
		if err != nil {
			return out, err
		}
		out[i].After = knownContent(got, st.wanted(out[i]))
	}
	more, err := st.s.scan(st.intent, out)
	return append(more, out...), err
}

// wanted is what the change was to leave at a target.
func (st *step) wanted(t plan.Target) *plan.State {
	for _, u := range st.c.Undo {
		if u.Key() == t.Key() {
			return u.After
		}
	}
	if t.Path == st.c.Path && t.Path != "" {
		return st.goal()
	}
	return nil
}

// knownContent gives a large file that was just written the hash that it was written with; it is not read again.
func knownContent(got, want *plan.State) *plan.State {
	if got != nil && want != nil && got.Type == host.TypeFile && got.SHA256 == "" && got.Size == want.Size {
		got.SHA256 = want.SHA256
	}
	return got
}

// verify compares what is there with what was wanted.
func (st *step) verify(after []plan.Target) error {
	switch {
	case len(st.c.Undo) > 0:
		return st.verifyUndo(after)
	case st.c.Kind == resource.KindImageSet:
		return st.verifyImport(after)
	case st.c.Kind == resource.KindUser:
		return nil // Ensure looked
	}
	if st.c.Kind == resource.KindUnit {
		if t, ok := unitTarget(after); ok && !plan.Same(t.After, st.c.After) {
			return mismatch(st.c.Summary)
		}
		return nil
	}
	if !plan.Same(after[0].After, st.goal()) && len(st.inUse) == 0 {
		return mismatch(st.c.Summary)
	}
	return nil
}

// unitTarget is the unit among the targets of its change.
func unitTarget(ts []plan.Target) (plan.Target, bool) {
	for _, t := range ts {
		if t.Unit != "" {
			return t, true
		}
	}
	return plan.Target{}, false
}

func mismatch(what string) error {
	return &diag.Diagnostic{ID: "APL-011", Severity: diag.Error, What: what + " is not as it was just written",
		Why: "another program changes it, or the storage is failing", Fix: "dmesg | tail; edgeprep plan"}
}

// do brings the change about.
func (st *step) do() error {
	c := st.c
	switch {
	case len(c.Undo) > 0:
		return st.undo()
	case c.Kind == resource.KindUnit:
		return st.s.unitSteps(c.Path, c.Steps)
	case c.Kind == resource.KindUser:
		return st.s.e.Host.EnsureAccount(st.s.ctx, host.Account{Name: c.Resource.User.Name, Home: c.Resource.User.Home})
	case c.Kind == resource.KindImageSet:
		return st.importImages()
	case c.Resource != nil && c.Resource.Archive != nil && c.Action == plan.ActionPlace:
		return st.place(*c.Resource.Archive)
	case c.Resource != nil && c.Resource.Dir != nil && c.Action == plan.ActionUpdate:
		if err := st.handOver(*c.Resource.Dir); err != nil {
			return err
		}
	}
	kept, err := st.s.put(c.Path, c.Before, st.goal(), st.content)
	st.occupied(c.Path, kept)
	return err
}

func (st *step) keep(what, why string) {
	st.kept = append(st.kept, plan.Pending{ID: st.c.ID, What: what, Why: why})
}

// occupied notes a directory that stays because of what others have in it; why is empty when it does not.
func (st *step) occupied(dir, why string) {
	if why != "" {
		st.inUse = append(st.inUse, plan.Pending{ID: st.c.ID, What: dir, Why: why})
	}
}

// content are the bytes that a file gets: those wanted, or those that were there before.
func (st *step) content(goal plan.State) ([]byte, error) {
	if r := st.c.Resource; r != nil && r.File != nil {
		return r.File.Content, nil
	}
	return st.s.restored(goal)
}
