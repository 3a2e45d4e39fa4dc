// Package apply carries a plan out. It is the only package that changes a node: under a lock, with a journal
// that holds what was there before each change, so that a run can be finished after a power cut and put back
// byte for byte.
package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// Where a run leaves its traces outside plan.StateDir. Both are gone after a boot.
const (
	LockPath   = resultDir + "/lock"
	ResultPath = resultDir + "/result.json"
	resultDir  = "/run/edgeprep"
)

// ErrNeedsRoot is wrapped when something has to be written and this process may not (exit 77).
var ErrNeedsRoot = errors.New("needs root")

// ErrKept is wrapped when a rollback left something as it is (exit 1).
var ErrKept = errors.New("not everything was put back")

// Builder makes the plan from what the node is now. It is called under the lock, and once more after the run.
type Builder func(ctx context.Context) (plan.Plan, error)

// Engine changes one node.
type Engine struct {
	Host host.Host
	// Sink is told what happens; nil: nobody.
	Sink progress.Sink
	// Now is the clock; nil: time.Now. It names runs and never orders them.
	Now func() time.Time
	// Allow are the risks that are accepted.
	Allow []plan.Risk
	// Wait is how long to wait for another run's lock.
	Wait time.Duration
	// Open opens an image archive by its node path.
	Open func(ctx context.Context, path string) (host.ImageSource, error)
	// Load brings images into the mirror's cache at a node path.
	Load func(ctx context.Context, cache string, src host.ImageSource, progress func(done, total int64)) error
	// Make makes what an archive with Made stands for, and gives a path of this machine that stays until the
	// engine is done.
	Make func(ctx context.Context, source string) (string, error)
	// HTTP proves that a mirror answers; nil: ask it.
	HTTP Prober
}

// Run makes the node what the plan says: it finishes what an earlier run left, builds the plan under the
// lock, refuses before it touches anything, carries the changes out and verifies that nothing is left to do.
func (e *Engine) Run(ctx context.Context, build Builder) (Report, error) {
	return e.locked(ctx, "apply", build, func(s *session) (Report, error) {
		p, err := build(ctx)
		if err != nil {
			return s.report, err
		}
		return s.carryOut(p, build)
	})
}

// locked does body under the lock with a recovered node. A process that may not write gets as far as
// learning whether there is something to write.
func (e *Engine) locked(ctx context.Context, verb string, build Builder, body func(*session) (Report, error)) (rep Report, err error) {
	facts, err := e.Host.Facts(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("identify the node: %w", err)
	}
	if facts.Live && !facts.Root {
		return e.powerless(ctx, verb, facts, build)
	}
	unlock, err := e.Host.Files().Lock(ctx, LockPath, "edgeprep "+verb, e.Wait)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	s, err := e.session(ctx, verb, facts)
	if err != nil {
		return Report{}, err
	}
	if err := s.recover(); err != nil {
		return s.report, err
	}
	return body(s)
}

// powerless answers for a process without root: nothing to do is success.
func (e *Engine) powerless(ctx context.Context, verb string, facts host.Facts, build Builder) (Report, error) {
	p, err := build(ctx)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return Report{}, err
	}
	if err == nil && p.Empty() {
		return Report{Schema: ReportSchema, Verb: verb, Node: facts.Hostname, Outcome: OutcomeNothing, Pending: p.Pending, Summary: p.Summary()}, nil
	}
	return Report{}, fmt.Errorf("%w: %w", ErrNeedsRoot, &diag.Diagnostic{ID: "APL-013", Severity: diag.Error,
		What: verb + " has to change this node and runs without root", Fix: "sudo edgeprep " + verb})
}

// session is one run of the engine.
type session struct {
	e      *Engine
	r      host.Reader
	ctx    context.Context
	verb   string
	facts  host.Facts
	fs     host.FS
	files  host.FileWriter
	ledger plan.Ledger
	saved  []byte // the ledger as it is on disk
	j      *journal
	report Report
	failed map[string]string // change id -> why what needs it cannot be done
	images map[host.Endpoint]map[string]host.Image
	caches map[string]bool // directories of mirrors caches, for a rollback
	reload bool            // unit files changed since systemd read them
}

func (e *Engine) session(ctx context.Context, verb string, facts host.Facts) (*session, error) {
	s := &session{e: e, r: e.Host, ctx: ctx, verb: verb, facts: facts, fs: e.Host.FS(), files: e.Host.Files(), failed: map[string]string{}}
	s.report = Report{Schema: ReportSchema, Verb: verb, Node: facts.Hostname, Changes: []Outcome{}, Pending: []plan.Pending{}}
	l, err := loadLedger(s.fs)
	if err != nil {
		return nil, err
	}
	s.ledger = l
	s.saved, err = s.ledger.Encode()
	return s, err
}

func (e *Engine) now() time.Time {
	if e.Now != nil {
		return e.Now().UTC()
	}
	return time.Now().UTC()
}

func (s *session) emit(ev progress.Event) {
	if s.e.Sink != nil {
		s.e.Sink.Emit(ev)
	}
}

// durable is a context for what must be written even when the run was interrupted.
func (s *session) durable() context.Context { return context.WithoutCancel(s.ctx) }

// carryOut refuses, executes, records and verifies.
func (s *session) carryOut(p plan.Plan, again Builder) (Report, error) {
	s.report.Pending = append(s.report.Pending, p.Pending...)
	s.report.Kept = append(s.report.Kept, p.Kept...)
	if err := p.Refusals(s.e.Allow); err != nil {
		s.report.Outcome, s.report.Summary = OutcomeRefused, "Refused; nothing was touched."
		return s.report, err
	}
	if len(p.Changes) == 0 {
		return s.nothing(p)
	}
	if err := s.begin(p); err != nil {
		return s.report, err
	}
	err := s.execute(p)
	s.rememberSources(p)
	if err == nil && again != nil {
		err = s.settled(again)
	}
	return s.finish(err)
}

// nothing ends a run that has nothing to do; only what was learnt by reading is kept.
func (s *session) nothing(p plan.Plan) (Report, error) {
	s.learn(p)
	s.report.Outcome, s.report.Summary = OutcomeNothing, p.Summary()
	err := s.saveLedger()
	s.emit(progress.Event{Type: progress.RunEnd, Status: status(err), Msg: s.report.Summary})
	return s.report, err
}

// begin opens the journal.
func (s *session) begin(p plan.Plan) error {
	made, err := s.stateDirs()
	if err != nil {
		return err
	}
	run, err := s.nextRun()
	if err != nil {
		return err
	}
	s.report.Run, s.report.Started = run, s.e.now()
	s.j = newJournal(s.files, run)
	s.ledger.Runs = append(s.ledger.Runs, plan.Run{ID: run, Verb: s.verb, Started: s.report.Started})
	s.emit(progress.Event{Type: progress.RunStart, Run: run, Node: s.facts.Hostname, Msg: s.verb + ": " + strings.TrimPrefix(p.Summary(), "Plan: ")})
	return s.j.append(s.ctx, entry{Type: typeRun, Schema: JournalSchema, Time: s.report.Started, Verb: s.verb,
		Node: s.facts.Hostname, Boot: s.facts.BootID, Made: made, Undoes: s.report.Undoes})
}

// stateDirs makes the directories of the engine and says which ones above them it had to make.
func (s *session) stateDirs() ([]string, error) {
	var made []string
	var parents []string
	for d := path.Dir(plan.StateDir); d != "/"; d = path.Dir(d) {
		parents = append([]string{d}, parents...)
	}
	modes := map[string]os.FileMode{plan.JournalDir: 0o700, plan.BackupDir: 0o700}
	for _, d := range append(parents, plan.StateDir, plan.JournalDir, plan.BackupDir) {
		if fi, err := s.fs.Stat(d); err == nil && fi.Type == host.TypeDir {
			continue
		}
		mode, private := modes[d]
		if !private {
			mode = 0o755
		}
		if err := s.files.Mkdir(s.ctx, d, host.Meta{Mode: mode}); err != nil {
			return nil, fmt.Errorf("make %s: %w", d, err)
		}
		if slices.Contains(parents, d) {
			made = append(made, d)
		}
	}
	return made, nil
}

// execute does the changes in order. What needs a failed one is skipped, and nothing is removed after a
// failure: what replaces it may be what failed.
func (s *session) execute(p plan.Plan) error {
	var first error
	for i, c := range p.Changes {
		if err := s.ctx.Err(); err != nil {
			s.skipRest(p.Changes[i:], "interrupted")
			return errors.Join(first, err)
		}
		if why := s.blocked(c, first); why != "" {
			s.failed[c.ID] = why
			s.outcome(c, Outcome{Status: StatusSkipped, Msg: why})
			continue
		}
		if err := s.change(c); err != nil {
			s.failed[c.ID] = c.ID + " failed"
			if first == nil {
				first = err
			}
		}
	}
	return errors.Join(first, s.reloadUnits())
}

func (s *session) blocked(c plan.Change, failed error) string {
	for _, n := range c.Needs {
		if _, bad := s.failed[n]; bad {
			return "needs " + n
		}
	}
	if failed != nil && c.Resource == nil && s.verb == "apply" {
		return "nothing is removed after a failure"
	}
	return ""
}

func (s *session) skipRest(rest []plan.Change, why string) {
	for _, c := range rest {
		s.outcome(c, Outcome{Status: StatusSkipped, Msg: why})
	}
}

// settled plans once more: what is not as wanted now was not brought about, or somebody else works on this
// node at the same time.
func (s *session) settled(build Builder) error {
	if err := s.saveLedger(); err != nil {
		return err
	}
	p, err := build(s.ctx)
	if err != nil {
		return fmt.Errorf("plan once more after the run: %w", err)
	}
	if p.Empty() {
		s.learn(p)
		return nil
	}
	var left []string
	for _, c := range p.Changes {
		left = append(left, string(c.Action)+" "+c.ID)
	}
	for _, d := range p.Problems {
		left = append(left, d.What)
	}
	return &diag.Diagnostic{ID: "APL-010", Severity: diag.Error, What: "after the run there is still something to do: " + strings.Join(left, "; "),
		Why: "another program changed it at the same time, or this is a mistake in edgeprep", Fix: "edgeprep plan"}
}

// learn takes what was read to know that nothing has to be done.
func (s *session) learn(p plan.Plan) {
	for id, rec := range p.Refresh {
		if rec.Kind == "" {
			delete(s.ledger.Records, id)
			continue
		}
		s.ledger.Records[id] = rec
	}
	if p.Sources != nil {
		s.ledger.Sources = p.Sources
	}
}

// finish closes the journal and the ledger and says how it went.
func (s *session) finish(failed error) (Report, error) {
	s.report.Ended = s.e.now()
	s.report.Outcome = OutcomeDone
	switch {
	case errors.Is(failed, context.Canceled) || errors.Is(failed, context.DeadlineExceeded):
		s.report.Outcome = OutcomeInterrupted
	case failed != nil:
		s.report.Outcome = OutcomeFailed
	case len(s.report.Kept) > 0:
		s.report.Outcome = OutcomeKept
	}
	err := s.close(string(s.report.Outcome))
	s.report.Summary = s.report.summary()
	s.emit(progress.Event{Type: progress.RunEnd, Status: status(failed), Msg: s.report.Summary})
	return s.report, errors.Join(failed, err)
}

// close writes the ledger, then the journal's end: a journal without an end is folded in once more.
func (s *session) close(outcome string) error {
	last := &s.ledger.Runs[len(s.ledger.Runs)-1]
	last.Ended, last.Outcome, last.Pending = s.e.now(), outcome, s.report.Pending
	if outcome == string(OutcomeDone) {
		s.markUndone(last.ID)
	}
	if err := s.saveLedger(); err != nil {
		return err
	}
	return s.j.append(s.durable(), entry{Type: typeEnd, Time: last.Ended, Outcome: outcome})
}

func (s *session) markUndone(by string) {
	for i := range s.ledger.Runs {
		if r := &s.ledger.Runs[i]; slices.Contains(s.report.Undoes, r.ID) || (r.ID == by && len(s.report.Undoes) > 0) {
			r.Undone = by
		}
	}
}

func status(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}
