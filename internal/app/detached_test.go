package app

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// attached is a node on which a run of this process goes on, and what somebody who attached sees of it.
type attached struct {
	app    *App
	unlock func() error
	seen   chan progress.Event
	result chan apply.Result
	err    chan error
}

func attach(ctx context.Context, t *testing.T, begun bool) *attached {
	t.Helper()
	root := t.TempDir()
	a, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	unlock, err := a.host.Files().Lock(t.Context(), apply.LockPath, "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	if begun {
		a.openRun()
	}
	x := &attached{app: a, unlock: unlock, seen: make(chan progress.Event, 100), result: make(chan apply.Result, 1), err: make(chan error, 1)}
	go func() {
		r, err := a.Attach(ctx, progress.Func(func(e progress.Event) { x.seen <- e }))
		x.result <- r
		x.err <- err
	}()
	return x
}

func TestAttachFollowsARunToItsEnd(t *testing.T) {
	t.Parallel()
	x := attach(t.Context(), t, false)
	x.app.openRun() // after somebody attached
	x.app.run.Emit(progress.Event{Type: progress.StepStart, Step: "a", Msg: "place a"})
	if e := <-x.seen; e.Msg != "place a" {
		t.Errorf("%+v", e)
	}
	x.app.run.Emit(progress.Event{Type: progress.StepEnd, Step: "a", Status: "ok"})
	if e := <-x.seen; e.Status != "ok" {
		t.Errorf("%+v", e)
	}
	if err := x.unlock(); err != nil { // the result comes after the lock
		t.Fatal(err)
	}
	x.app.run.end(apply.Result{Report: apply.Report{Run: "r1"}, Exit: 1, Errors: diag.Report{{What: "broke"}}})
	if r, err := <-x.result, <-x.err; err != nil || r.Run != "r1" || r.Exit != 1 || len(r.Errors) != 1 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestAttachToARunThatIsKilled(t *testing.T) {
	t.Parallel()
	x := attach(t.Context(), t, true)
	x.app.run.Emit(progress.Event{Type: progress.StepStart, Step: "a"})
	<-x.seen
	if err := x.unlock(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	<-x.result
	if found := diag.Of(<-x.err); len(found) != 1 || found[0].ID != "APL-083" {
		t.Errorf("%v", found)
	}
}

func TestWatchingCanEndBeforeTheRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	x := attach(ctx, t, true)
	why := errors.New("hung up")
	cancel(why)
	<-x.result
	if err := <-x.err; !errors.Is(err, why) {
		t.Error(err)
	}
	if _, held, err := x.app.host.LockHolder(apply.LockPath); !held || err != nil {
		t.Errorf("%v %v", held, err)
	}
}

func TestAttachToNothing(t *testing.T) {
	t.Parallel()
	a, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Attach(t.Context(), progress.Discard{}); len(diag.Of(err)) != 1 || diag.Of(err)[0].ID != "APL-084" {
		t.Error(err)
	}
	if ok, err := a.StopRun(t.Context()); ok || err != nil {
		t.Error(ok, err)
	}
}

// A stream is read while it is written, also in the middle of a line, and lines of a newer edgeprep are left out.
func TestAttachReadsWholeLines(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	a, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	name := filepath.Join(root, liveRunPath)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		_, err := a.Attach(ctx, progress.Func(func(e progress.Event) { seen <- e.Msg }))
		done <- err
	}()
	put := func(s string) {
		if _, err := f.WriteString(s); err != nil {
			t.Error(err)
		}
	}
	put(`{"type":"log","msg":"one"}` + "\n" + `{"type":"lo`)
	if m := <-seen; m != "one" {
		t.Error(m)
	}
	data, err := json.Marshal(apply.Result{})
	if err != nil {
		t.Fatal(err)
	}
	put(`g","msg":"two"}` + "\n[]\nnonsense\n" + `{"type":"result","data":` + string(data) + "}\n")
	if m := <-seen; m != "two" {
		t.Error(m)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// systemctl show tells everybody the environment of a unit.
func TestNoSecretIsHandedToTheUnit(t *testing.T) {
	t.Parallel()
	got := handedDown([]string{"PATH=/bin", "HTTPS_PROXY=http://u:secret@proxy:3128", "https_proxy=http://u:secret@proxy", "EDGEPREP_TOKEN=secret", "AWS_SECRET_ACCESS_KEY=secret", "HOME=/root"})
	if len(got) != 2 || got[0] != "PATH=/bin" || got[1] != "HOME=/root" {
		t.Errorf("%q", got)
	}
}
