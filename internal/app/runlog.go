package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/edgeprep/edgeprep/internal/progress"
)

// logDir is where a run's events are kept on a node.
const logDir = "/var/log/edgeprep"

// keptLogs is how many runs' events are kept.
const keptLogs = 50

// runLog writes the events of each run into a file of its own, named by the run. That a log cannot be written
// stops nothing.
type runLog struct {
	root string // the node's root on this machine
	file *os.File
	out  *progress.JSONLines
}

// Emit implements progress.Sink; the stream calls it for one event at a time.
func (l *runLog) Emit(e progress.Event) {
	if e.Type == progress.RunStart && e.Run != "" {
		l.open(e.Run)
	}
	if l.out != nil {
		l.out.Emit(e)
	}
}

func (l *runLog) open(run string) {
	l.close()
	dir := filepath.Join(l.root, logDir)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return // no /var/log, or not ours to write
	}
	l.prune(dir)
	f, err := os.OpenFile(filepath.Join(dir, run+".jsonl"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err == nil {
		l.file, l.out = f, progress.NewJSONLines(f)
	}
}

// prune removes the oldest logs; their names sort by run.
func (l *runLog) prune(dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	slices.Sort(logs)
	for len(logs) >= keptLogs {
		_ = os.Remove(logs[0])
		logs = logs[1:]
	}
}

func (l *runLog) close() {
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.out = nil, nil
}
