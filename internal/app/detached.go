package app

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/detach"
	"github.com/edgeprep/edgeprep/internal/progress"
)

const (
	attachPause = 50 * time.Millisecond
	// attachGrace is how long after its lock is free a run may take to say its result.
	attachGrace = 3 * time.Second
)

// Detached is a run that was started outside this terminal.
type Detached struct {
	Unit  string `json:"unit,omitempty"` // transient unit; empty: a process
	PID   int    `json:"pid,omitempty"`  // the process
	Where string `json:"where"`          // how to see what it prints
}

// Task is what a run outside the terminal is for: an apply, unless one of the others is set.
type Task struct {
	Allow  []string // risks that are accepted, besides [apply] allow
	Attach bool     // nothing is started: the run that goes on is watched, or the last one
	Undo   string   // the run to put back
}

// RunTask starts a task outside the terminal and gives the sink its events until it ends. When the context ends
// only the watching does.
func (a *App) RunTask(ctx context.Context, t Task, sink progress.Sink) (apply.Result, error) {
	var err error
	switch {
	case t.Attach:
	case t.Undo != "":
		_, err = a.DetachRollback(ctx, RollbackOptions{Run: t.Undo, Allow: t.Allow})
	default:
		_, err = a.DetachApply(ctx, ApplyOptions{Allow: t.Allow})
	}
	if err != nil {
		return apply.Result{}, err
	}
	return a.Attach(ctx, sink)
}

// DetachRollback starts a rollback that goes on when this terminal is lost.
func (a *App) DetachRollback(ctx context.Context, o RollbackOptions) (Detached, error) {
	p, err := a.RollbackPlan(ctx, o)
	if err == nil {
		err = p.Refusals(risks(o.Allow))
	}
	if err == nil {
		err = a.mayApply(ctx)
	}
	if err != nil {
		return Detached{}, err
	}
	if p.Empty() {
		return Detached{}, &diag.Refused{Err: &diag.Diagnostic{ID: "APL-085", Severity: diag.Error, What: "there is nothing to put back", Fix: "edgeprep status"}}
	}
	return a.detach(ctx, append([]string{"rollback", o.Run}, flagsOf(o.Allow, o.WaitLock)...))
}

// DetachApply starts an apply that goes on when this terminal is lost, and returns when the run has begun. What
// apply would refuse is refused here, so that whoever asks is told.
func (a *App) DetachApply(ctx context.Context, o ApplyOptions) (Detached, error) {
	if a.opts.Config == "-" {
		return Detached{}, &diag.Refused{Err: &diag.Diagnostic{ID: "APL-080", Severity: diag.Error, What: "a run outside this terminal cannot read its configuration from it",
			Fix: "give the configuration as a file: --config FILE"}}
	}
	p, err := a.Plan(ctx, o)
	if err != nil {
		return Detached{}, err
	}
	site, err := a.Site()
	if err != nil {
		return Detached{}, err
	}
	if err := p.Refusals(risks(o.Allow, site.Apply.Allow)); err != nil {
		return Detached{}, err
	}
	if err := a.mayApply(ctx); err != nil {
		return Detached{}, err
	}
	args := append([]string{"apply"}, flagsOf(o.Allow, o.WaitLock)...)
	if o.Verify {
		args = append(args, "--verify")
	}
	return a.detach(ctx, args)
}

func flagsOf(allow []string, wait time.Duration) []string {
	var out []string
	if len(allow) > 0 {
		out = append(out, "--allow", strings.Join(allow, ","))
	}
	if wait > 0 {
		out = append(out, "--wait-lock", wait.String())
	}
	return out
}

// detach starts this program outside the terminal and returns when its run has begun.
func (a *App) detach(ctx context.Context, args []string) (Detached, error) {
	cmd, err := a.detachedCommand(args)
	if err != nil {
		return Detached{}, err
	}
	before := a.liveRunFile()
	s, err := detach.Start(ctx, cmd)
	if err != nil {
		return Detached{}, err
	}
	return Detached{Unit: s.Unit, PID: s.PID, Where: s.Where()}, a.begun(ctx, s, before)
}

// mayApply refuses what only root may do.
func (a *App) mayApply(ctx context.Context) error {
	facts, err := a.reader.Facts(ctx)
	if err != nil || !facts.Live || facts.Root {
		return err
	}
	return fmt.Errorf("%w: %w", apply.ErrNeedsRoot, &diag.Diagnostic{ID: "APL-081", Severity: diag.Error,
		What: "apply has to change this node and runs without root", Fix: "sudo edgeprep apply --detach"})
}

// detachedCommand is this program, told to work on the same node by the same configuration.
func (a *App) detachedCommand(args []string) (detach.Command, error) {
	program, err := ownProgram()
	if err != nil {
		return detach.Command{}, err
	}
	args = append(args, "--yes", "--no-input", "--quiet")
	for _, f := range []struct{ name, value string }{{"--config", cmp.Or(a.opts.Config, os.Getenv("EDGEPREP_CONFIG"))}, {"--root", a.opts.Root}} {
		if f.value == "" {
			continue
		}
		abs, err := filepath.Abs(f.value)
		if err != nil {
			return detach.Command{}, fmt.Errorf("%s %s: %w", f.name, f.value, err)
		}
		args = append(args, f.name, abs)
	}
	if a.opts.Node != "" {
		args = append(args, "--node", a.opts.Node)
	}
	dir := filepath.Join(a.rootHere(), logDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return detach.Command{}, fmt.Errorf("make the directory of logs: %w", err)
	}
	return detach.Command{Name: "edgeprep-run-" + time.Now().UTC().Format("20060102T150405.000"), Path: program, Args: args,
		Env: handedDown(os.Environ()), Log: filepath.Join(dir, "detached.log")}, nil
}

// handedDown are the variables that mean something to apply. The rest of a person's shell is nobody's business: who
// may ask systemd sees the environment of a unit, and a proxy's address may hold a password.
func handedDown(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains([]string{"PATH", "HOME", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}, name) {
			out = append(out, kv)
		}
	}
	return out
}

func (a *App) liveRunFile() os.FileInfo {
	fi, err := os.Stat(filepath.Join(a.rootHere(), liveRunPath))
	if err != nil {
		return nil
	}
	return fi
}

// begun waits until the run has begun, or ended without having begun.
func (a *App) begun(ctx context.Context, s *detach.Started, before os.FileInfo) error {
	for {
		alive := s.Alive(ctx)
		if now := a.liveRunFile(); now != nil && !sameStream(before, now) {
			return nil
		}
		if !alive {
			return &diag.Diagnostic{ID: "APL-082", Severity: diag.Error, What: "the run ended before it began", Fix: "see why: " + seeBy(s)}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(attachPause):
		}
	}
}

// sameStream says whether it is still the stream that there was; a new file may have the old one's inode.
func sameStream(before, now os.FileInfo) bool {
	return before != nil && os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size()
}

func seeBy(s *detach.Started) string {
	if s.Unit != "" {
		return s.Where()
	}
	return "tail " + s.Where()
}

// Attach gives the sink what the run that goes on now emits, from its beginning, and its result at the end. When
// none goes on it gives the last one of this boot. That the context ends ends nothing but the watching.
func (a *App) Attach(ctx context.Context, sink progress.Sink) (apply.Result, error) {
	f, err := a.openLiveRun(ctx)
	if err != nil {
		return apply.Result{}, err
	}
	defer f.Close()
	lines := &tail{in: bufio.NewReader(f)}
	var since time.Time // when the lock was seen free with nothing left to read
	for {
		_, held, err := a.host.LockHolder(apply.LockPath)
		if err != nil {
			return apply.Result{}, err
		}
		r, done, err := drain(lines, sink)
		if done || err != nil {
			return r, err
		}
		switch {
		case held:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > attachGrace:
			return apply.Result{}, &diag.Diagnostic{ID: "APL-083", Severity: diag.Error, What: "the run ended without a result: it was killed, or the node went down",
				Why: "every step is safe to stop at any instant", Fix: "run it again, it goes on where it was: edgeprep apply"}
		}
		select {
		case <-ctx.Done():
			return apply.Result{}, context.Cause(ctx)
		case <-time.After(attachPause):
		}
	}
}

// openLiveRun opens the stream, and waits for it while a run holds the lock and has not opened it.
func (a *App) openLiveRun(ctx context.Context) (*os.File, error) {
	for {
		_, held, err := a.host.LockHolder(apply.LockPath)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(filepath.Join(a.rootHere(), liveRunPath))
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("read what the run says: %w", err)
		case !held:
			return nil, &diag.Refused{Err: &diag.Diagnostic{ID: "APL-084", Severity: diag.Error, What: "there was no run since this node started",
				Fix: "start one: edgeprep apply --detach"}}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(attachPause):
		}
	}
}

// tail reads whole lines of a file that grows.
type tail struct {
	in   *bufio.Reader
	part []byte
}

func (t *tail) line() ([]byte, bool) {
	got, err := t.in.ReadBytes('\n')
	t.part = append(t.part, got...)
	if err != nil { // io.EOF: the rest comes later
		return nil, false
	}
	line := t.part
	t.part = nil
	return line, true
}

// drain hands on what is there.
func drain(lines *tail, sink progress.Sink) (r apply.Result, done bool, err error) {
	for {
		line, ok := lines.line()
		if !ok {
			return r, false, nil
		}
		var e progress.Event
		if json.Unmarshal(line, &e) != nil {
			continue // of a newer edgeprep
		}
		if e.Type != resultEvent {
			sink.Emit(e)
			continue
		}
		if err := json.Unmarshal(e.Data, &r); err != nil {
			return r, true, fmt.Errorf("read the result of the run: %w", err)
		}
		return r, true, nil
	}
}

// StopRun tells the run that goes on now to stop after its step. ok is false when none goes on.
func (a *App) StopRun(context.Context) (ok bool, err error) {
	pid, held, err := a.host.LockHolder(apply.LockPath)
	if err != nil || !held || pid <= 0 {
		return false, err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return false, fmt.Errorf("tell the run (pid %d) to stop: %w", pid, err)
	}
	return true, nil
}
