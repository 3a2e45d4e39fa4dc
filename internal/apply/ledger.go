package apply

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// loadLedger reads the ledger. When there is none but there are journals (it was lost, or the first run was
// cut off) it is made again from them.
func loadLedger(r host.FS) (plan.Ledger, error) {
	l, err := plan.ReadLedger(r)
	if err != nil || len(l.Runs) > 0 {
		return l, err
	}
	runs, err := readRuns(r)
	if err != nil {
		return l, err
	}
	for _, x := range runs {
		if x.ended {
			foldRun(&l, x)
		}
	}
	return l, nil
}

// foldRun takes a journal into the ledger.
func foldRun(l *plan.Ledger, x *run) {
	i := slices.IndexFunc(l.Runs, func(r plan.Run) bool { return r.ID == x.id })
	if i < 0 {
		i = len(l.Runs)
		l.Runs = append(l.Runs, plan.Run{ID: x.id, Verb: x.head.Verb, Started: x.head.Time, Outcome: "recovered"})
	}
	for _, c := range x.changes {
		if c.result.Type == typeDone || c.result.Type == typeFail {
			fold(l, x.head, c)
		}
	}
	if x.ended {
		l.Runs[i].Outcome = x.outcome
	}
	if x.outcome != string(OutcomeDone) {
		return
	}
	for k := range l.Runs {
		if slices.Contains(x.head.Undoes, l.Runs[k].ID) {
			l.Runs[k].Undone = x.id
		}
	}
}

// position orders journal records over all runs.
func position(run string, seq int) string { return fmt.Sprintf("%08d/%08d", number(run), seq) }

// fold takes one finished change into the ledger, once.
func fold(l *plan.Ledger, head entry, c *change) {
	at := position(c.run, c.intent.Seq)
	if at <= l.Folded {
		return
	}
	l.Folded = at
	owe(l, head, c)
	switch c.intent.Kind {
	case resource.KindUnit:
		foldUnit(l, c)
	case resource.KindImageSet, resource.KindUser:
		foldSet(l, c)
	default:
		foldPath(l, head, c)
	}
}

// owe records restarts that a change makes necessary, and drops them when the unit was restarted.
func owe(l *plan.Ledger, head entry, c *change) {
	if c.intent.Kind == resource.KindUnit {
		if c.result.Type == typeDone && restarts(c.intent.Action) {
			delete(l.Owed, c.intent.Path)
		}
		return
	}
	if unchanged(c.result.Targets) {
		return
	}
	for _, u := range c.intent.Owes {
		d := l.Owed[u]
		if d.Boot != head.Boot {
			d = plan.Debt{Boot: head.Boot}
		}
		if !slices.Contains(d.IDs, c.intent.ID) {
			d.IDs = append(d.IDs, c.intent.ID)
		}
		l.Owed[u] = d
	}
}

func restarts(a plan.Action) bool {
	return a == plan.ActionStart || a == plan.ActionRestart || a == plan.ActionStop
}

func unchanged(ts []plan.Target) bool {
	return !slices.ContainsFunc(ts, func(t plan.Target) bool { return !plan.Same(t.Before, t.After) })
}

// record is the ledger's record of a change's resource, made new when it has none of edgeprep's writing.
func record(l *plan.Ledger, c *change) plan.Record {
	rec, ok := l.Records[c.intent.ID]
	if !ok || rec.Found {
		rec = plan.Record{Kind: c.intent.Kind, Seq: nextSeq(l)}
	}
	rec.Run, rec.Path, rec.Restarts = c.run, c.intent.Path, c.intent.Restarts
	return rec
}

func nextSeq(l *plan.Ledger) int {
	n := 0
	for _, r := range l.Records {
		n = max(n, r.Seq)
	}
	return n + 1
}

func foldUnit(l *plan.Ledger, c *change) {
	t, ok := unitTarget(c.result.Targets)
	if c.intent.Foreign || !ok {
		return
	}
	_, known := l.Records[c.intent.ID]
	if !known && c.result.Type == typeFail && plan.Same(t.Before, t.After) {
		return
	}
	rec := record(l, c)
	if !known {
		rec.Previous = t.Before
	}
	if t.After == nil || (known && plan.Same(t.After, orIdle(rec.Previous)) && c.intent.Action != plan.ActionRestart) {
		delete(l.Records, c.intent.ID)
		return
	}
	rec.State = *t.After
	l.Records[c.intent.ID] = rec
}

// orIdle is the state of a unit that did not exist: neither enabled nor running.
func orIdle(s *plan.State) *plan.State {
	if s == nil {
		return &plan.State{Unit: &plan.UnitState{}}
	}
	return s
}

// foldSet records images and accounts: they are wanted as a whole and put back by the journal alone.
func foldSet(l *plan.Ledger, c *change) {
	if c.intent.Action == plan.ActionRestore || c.intent.Action == plan.ActionDelete {
		delete(l.Records, c.intent.ID)
		return
	}
	if c.result.Type != typeDone {
		return
	}
	rec := record(l, c)
	rec.State = plan.State{Images: c.intent.Images}
	l.Records[c.intent.ID] = rec
}

func foldPath(l *plan.Ledger, head entry, c *change) {
	t, ok := primary(c)
	if !ok || c.intent.Ephemeral {
		return
	}
	old, known := l.Records[c.intent.ID]
	known = known && !old.Found
	gone := c.intent.Action == plan.ActionDelete || c.intent.Action == plan.ActionRestore
	if gone && c.result.Type == typeDone && (head.Verb == "apply" || !known || plan.Same(t.After, old.Previous) || t.After == nil) {
		delete(l.Records, c.intent.ID)
		return
	}
	if t.After == nil || plan.Same(t.Before, t.After) {
		return
	}
	rec := record(l, c)
	rec.Kind, rec.Shared = c.intent.Kind, c.intent.Shared
	if !known {
		rec.Previous = t.Before
	} else if t.Before != nil && !plan.Same(t.Before, &old.State) {
		rec.Edited = true
	}
	rec.State = *t.After
	l.Records[c.intent.ID] = rec
}

// primary is the target that the resource is about; others come with it.
func primary(c *change) (plan.Target, bool) {
	for _, t := range c.result.Targets {
		if t.Path == c.intent.Path {
			return t, true
		}
	}
	return plan.Target{}, false
}

// saveLedger writes the ledger when it is another one than on disk.
func (s *session) saveLedger() error {
	data, err := s.ledger.Encode()
	if err != nil {
		return err
	}
	if bytes.Equal(data, s.saved) {
		return nil
	}
	if _, err := s.stateDirs(); err != nil {
		return err
	}
	if err := s.files.Write(s.durable(), plan.LedgerPath, data, host.Meta{Mode: 0o644}); err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	s.saved = data
	return nil
}
