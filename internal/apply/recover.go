package apply

import (
	"path"
	"slices"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// recover takes up runs that were cut off. What they had done is looked at and written down; what they had
// not done is for the next plan.
func (s *session) recover() error {
	if err := s.sweepState(); err != nil {
		return err
	}
	runs, err := readRuns(s.fs)
	if err != nil {
		return err
	}
	for _, x := range runs {
		if x.ended {
			continue
		}
		if err := s.takeUp(x); err != nil {
			return err
		}
		s.report.Recovered = x.id
	}
	return nil
}

func (s *session) takeUp(x *run) error {
	j := newJournal(s.files, x.id)
	j.seq, j.torn = x.seq, x.torn
	for _, c := range x.changes {
		if c.result.Type != "" {
			s.noteUnitFiles(c.result.Targets)
			continue
		}
		res, err := s.findOut(c)
		if err != nil {
			return err
		}
		res.Seq, res.Time = c.intent.Seq, s.e.now()
		if err := j.append(s.ctx, res); err != nil {
			return err
		}
		c.result = res
		s.noteUnitFiles(res.Targets)
	}
	foldRun(&s.ledger, x)
	i := slices.IndexFunc(s.ledger.Runs, func(r plan.Run) bool { return r.ID == x.id })
	s.ledger.Runs[i].Outcome = "recovered"
	if err := s.saveLedger(); err != nil {
		return err
	}
	return j.append(s.ctx, entry{Type: typeEnd, Time: s.e.now(), Outcome: "recovered"})
}

// sweepState removes what a kill left half-written in the engine's own directories and where they are made.
func (s *session) sweepState() error {
	for _, d := range []string{path.Dir(plan.StateDir), plan.StateDir, plan.JournalDir, plan.BackupDir, path.Dir(LockPath)} {
		if err := s.sweep(d); err != nil {
			return err
		}
	}
	return nil
}

// findOut says what became of an intent without an outcome.
func (s *session) findOut(c *change) (entry, error) {
	if err := s.sweepIntent(c.intent); err != nil {
		return entry{}, err
	}
	s.images = nil
	now := slices.Clone(c.intent.Targets)
	before, after := true, true
	for i, t := range now {
		got, err := s.look(t)
		if err != nil {
			return entry{}, err
		}
		now[i].After = knownContent(got, t.After)
		before = before && plan.Same(got, t.Before)
		after = after && plan.Same(got, t.After)
	}
	more, err := s.scan(c.intent, now)
	if err != nil {
		return entry{}, err
	}
	switch {
	case before && len(more) == 0:
		return entry{Type: typeVoid}, nil
	case after:
		return entry{Type: typeDone, Targets: append(more, now...)}, nil
	case divisible(c.intent):
		return entry{Type: typeFail, Error: "cut off", Targets: append(more, now...)}, nil
	}
	return s.conflict(c, now)
}

// sweepIntent removes what a kill left half-written where a change writes.
func (s *session) sweepIntent(in entry) error {
	dirs := []string{in.Stage}
	for _, t := range in.Targets {
		if t.Path != "" {
			dirs = append(dirs, path.Dir(t.Path), t.Path)
		}
	}
	if in.Kind == resource.KindUnit {
		links, err := s.linkDirs()
		if err != nil {
			return err
		}
		dirs = append(append(dirs, unitDir), links...)
	}
	for _, d := range dirs {
		if d == "" {
			continue
		}
		if err := s.sweep(d); err != nil {
			return err
		}
	}
	return nil
}

// divisible: a change of several targets can be cut off between two of them; a later plan completes it.
func divisible(in entry) bool {
	switch in.Kind {
	case resource.KindUnit, resource.KindUser, resource.KindImageSet:
		return true
	}
	return len(in.Targets) > 1
}

// conflict is a path that is neither as before nor as it was to be.
func (s *session) conflict(c *change, now []plan.Target) (entry, error) {
	t := now[0]
	if halfMeta(t, c.intent.Targets[0].After) {
		return entry{Type: typeFail, Error: "cut off", Targets: now}, nil
	}
	if slices.Contains(s.e.Allow, plan.RiskOverwrite) {
		return entry{Type: typeVoid}, nil // somebody else's from here on
	}
	return entry{}, &diag.Refused{Err: &diag.Diagnostic{ID: "APL-015", Severity: diag.Error,
		What:  "it was edited after run " + c.run + " was cut off while it wrote it",
		Where: diag.Where{File: t.Path}, Why: "it is neither what was there before nor what edgeprep was to write",
		Fix: "edgeprep " + s.verb + " --allow overwrite"}}
}

// halfMeta: mode and owner are two steps of the kernel's; between them the content is there and one of the
// two is still the old one.
func halfMeta(t plan.Target, want *plan.State) bool {
	got, old := t.After, t.Before
	if got == nil || want == nil || old == nil || got.Type != want.Type || got.Type == host.TypeSymlink {
		return false
	}
	g := *got
	g.Mode, g.UID, g.GID = want.Mode, want.UID, want.GID
	return plan.Same(&g, want) && (got.Mode == old.Mode || got.Mode == want.Mode)
}
