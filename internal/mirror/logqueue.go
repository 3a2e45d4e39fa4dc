package mirror

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// maxQueued bounds the log lines that wait to be written.
const maxQueued = 1 << 20

// LogQueue stands between a logger and where it writes to. A pipe or a journal that takes nothing any more
// makes it drop lines; it never blocks who logs, because that is who serves.
type LogQueue struct {
	out  io.Writer
	done chan struct{} // closed when everything is written after Close

	mu      sync.Mutex
	some    *sync.Cond
	lines   [][]byte
	size    int
	dropped uint64 // in all
	untold  uint64 // of them, those that the log itself does not say yet
	closed  bool
}

// NewLogQueue begins to write to out.
func NewLogQueue(out io.Writer) *LogQueue {
	q := &LogQueue{out: out, done: make(chan struct{})}
	q.some = sync.NewCond(&q.mu)
	go q.run()
	return q
}

// Write takes a line, or drops it. It never fails.
func (q *LogQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.size+len(line) > maxQueued {
		q.dropped++
		q.untold++
		return len(line), nil
	}
	q.lines = append(q.lines, append([]byte(nil), line...))
	q.size += len(line)
	q.some.Signal()
	return len(line), nil
}

// Dropped counts the lines that were dropped.
func (q *LogQueue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Close waits until what was taken is written, for at most as long.
func (q *LogQueue) Close(within time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.some.Signal()
	q.mu.Unlock()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-q.done:
	case <-t.C:
	}
}

func (q *LogQueue) run() {
	defer close(q.done)
	for {
		lines, untold, more := q.take()
		for _, l := range lines {
			q.out.Write(l) //nolint:errcheck // there is nowhere left to say it
		}
		if untold > 0 { // they came after those that were waiting
			fmt.Fprintf(q.out, "level=WARN msg=\"log lines dropped: nobody took them\" lines=%d\n", untold)
		}
		if !more {
			return
		}
	}
}

// take waits for lines.
func (q *LogQueue) take() (lines [][]byte, untold uint64, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) == 0 && !q.closed {
		q.some.Wait()
	}
	lines, untold = q.lines, q.untold
	q.lines, q.size, q.untold = nil, 0, 0
	return lines, untold, !q.closed
}
