package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// heartbeat is how often a long step says that it is alive where no line can be redrawn.
const heartbeat = 10 * time.Second

// Text prints events for people. On a terminal the running step is one line that is redrawn; elsewhere there
// is a line at a step's start and end and a heartbeat in between, and never a control character.
type Text struct {
	mu      sync.Mutex
	w       io.Writer
	live    bool // redraw one line
	width   int
	verbose bool
	quiet   bool
	steps   map[string]*step
	drawn   int
}

type step struct {
	msg         string
	start, last time.Time
}

// TextOptions say how Text prints.
type TextOptions struct {
	Live    bool // w is a terminal that can redraw a line
	Width   int  // of the terminal; default 80
	Verbose bool // log events too
	Quiet   bool // only what failed
}

// NewText prints to w.
func NewText(w io.Writer, o TextOptions) *Text {
	if o.Width <= 0 {
		o.Width = 80
	}
	return &Text{w: w, live: o.Live, width: o.Width, verbose: o.Verbose, quiet: o.Quiet, steps: map[string]*step{}}
}

// Emit implements Sink.
func (t *Text) Emit(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Type {
	case StepStart:
		t.steps[e.Step] = &step{msg: e.Msg, start: e.Time, last: e.Time}
		if t.live {
			t.draw(e.Msg)
		}
	case StepProgress:
		t.progress(e)
	case StepEnd:
		t.end(e)
	case Log:
		if t.verbose {
			t.line(e.Msg)
		}
	}
}

func (t *Text) progress(e Event) {
	s := t.steps[e.Step]
	if s == nil || t.quiet {
		return
	}
	every := heartbeat
	if t.live {
		every = 200 * time.Millisecond
	}
	if e.Time.Sub(s.last) < every {
		return
	}
	s.last = e.Time
	msg := s.msg + "  " + Amount(e.Done, e.Total, e.Time.Sub(s.start))
	if t.live {
		t.draw(msg)
		return
	}
	t.line(msg)
}

func (t *Text) end(e Event) {
	s := t.steps[e.Step]
	delete(t.steps, e.Step)
	if t.quiet && e.Status != "failed" {
		return
	}
	msg := e.Msg
	switch {
	case s == nil || strings.HasPrefix(msg, s.msg):
	case msg == "":
		msg = s.msg
	default: // what it was, and why it ended so
		msg = s.msg + ": " + msg
	}
	took := ""
	if s != nil && e.Time.Sub(s.start) >= time.Second {
		took = fmt.Sprintf("  (%s)", e.Time.Sub(s.start).Round(100*time.Millisecond))
	}
	t.line(fmt.Sprintf("%-8s %s%s", e.Status, msg, took))
}

// draw redraws the live line; it never wraps.
func (t *Text) draw(msg string) {
	if t.quiet {
		return
	}
	if len(msg) > t.width-1 {
		msg = msg[:t.width-1]
	}
	fmt.Fprintf(t.w, "\r%-*s", t.drawn, msg)
	t.drawn = len(msg)
}

func (t *Text) line(msg string) {
	if t.drawn > 0 {
		fmt.Fprintf(t.w, "\r%s\r", strings.Repeat(" ", t.drawn))
		t.drawn = 0
	}
	fmt.Fprintln(t.w, msg)
}

// Amount renders how much of a whole is done, how fast, and what is left: "52%  73.0/141.0 MiB  4.1 MiB/s  16s left".
func Amount(done, total int64, took time.Duration) string {
	if total <= 0 {
		return Bytes(done)
	}
	s := fmt.Sprintf("%d%%  %s/%s", done*100/total, Bytes(done), Bytes(total))
	if took < time.Second || done == 0 {
		return s
	}
	rate := float64(done) / took.Seconds()
	left := time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s  %s/s  %s left", s, Bytes(int64(rate)), left)
}

// Bytes renders a size in binary units with one decimal: "1.4 GiB".
func Bytes(n int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
