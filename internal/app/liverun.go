package app

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// liveRunPath is the stream of the run that goes on now, or of the last one: whoever attaches reads it. The logs
// below logDir are kept; this one begins anew with each run, has what came before the first change too, and
// ends with the result.
const liveRunPath = "/run/edgeprep/apply.jsonl"

// resultEvent is the last line of a stream that ended; its data is an apply.Result.
const resultEvent progress.Type = "result"

// liveRun writes it. That it cannot be written stops nothing.
type liveRun struct {
	mu   sync.Mutex
	file *os.File
	out  *progress.JSONLines
}

// Emit implements progress.Sink. Before open and after the result nothing is written.
func (l *liveRun) Emit(e progress.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		l.out.Emit(e)
	}
}

// open begins the stream of a run that has the lock. A reader of the old one keeps it.
func (l *liveRun) open(root string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		return
	}
	name := filepath.Join(root, liveRunPath)
	_ = os.Remove(name)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err == nil {
		l.file, l.out = f, progress.NewJSONLines(f)
	}
}

// end writes the result.
func (l *liveRun) end(r apply.Result) {
	data, err := json.Marshal(r)
	if err == nil {
		l.Emit(progress.Event{Type: resultEvent, Run: r.Run, Data: data})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.out = nil, nil
}

func (a *App) rootHere() string {
	if live(a.opts.Root) {
		return "/"
	}
	return a.opts.Root
}

// emitRun is the stream as a sink: a run that makes no plan first, a rollback, begins it.
func (a *App) emitRun(e progress.Event) {
	if e.Type == progress.RunStart {
		a.openRun()
	}
	a.run.Emit(e)
}

// openRun begins the stream when this process holds the lock.
func (a *App) openRun() {
	if pid, held, err := a.host.LockHolder(apply.LockPath); err == nil && held && pid == os.Getpid() {
		a.run.open(a.rootHere())
	}
}
