package tui

import (
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// feed holds the events of a run until the model takes them: a slow terminal never holds the run up.
type feed struct {
	mu     sync.Mutex
	events []progress.Event
	wake   chan struct{}
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1)} }

// Emit implements progress.Sink.
func (f *feed) Emit(e progress.Event) {
	f.mu.Lock()
	f.events = append(f.events, e)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) take() []progress.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.events
	f.events = nil
	return out
}

// listen gives what came in meanwhile, once there is something.
func (f *feed) listen(until <-chan struct{}) tea.Cmd {
	return func() tea.Msg {
		select {
		case <-f.wake:
			return happened{f, f.take()}
		case <-until:
			return nil
		}
	}
}

// happened are events of a run, and ended is what it came to.
type happened struct {
	from   *feed
	events []progress.Event
}

type ended struct {
	from   *feed
	result apply.Result
	err    error
}

// tick is a second that went by.
type tick struct{}

// stepState is how far a step is. The words are what is shown.
type stepState string

const (
	stepWaits stepState = "wait"
	stepRuns  stepState = "RUN"
	stepDone  stepState = "done"
	stepFails stepState = "FAIL"
	stepSkips stepState = "skip"
)

// runStep is one change of a run.
type runStep struct {
	id, text    string
	state       stepState
	msg         string
	done, total int64
	began, over time.Time
}

// run is what is known of a run outside the terminal.
type run struct {
	feed    *feed
	done    chan struct{} // closed when the run is not watched any more
	task    app.Task
	id      string
	steps   []runStep
	log     []string
	started time.Time
	result  *apply.Result // nil: it goes on
	err     error         // the watching failed
}

// logLines is how much of a run's log is kept for the full view.
const logLines = 2000

// newRun expects the changes of a plan; those of a run that was begun elsewhere come with its events.
func newRun(t app.Task, p plan.Plan, now time.Time) *run {
	r := &run{feed: newFeed(), done: make(chan struct{}), task: t, started: now}
	for _, c := range p.Changes {
		r.steps = append(r.steps, runStep{id: c.ID, text: string(c.Action) + " " + c.Summary, state: stepWaits, total: c.Bytes})
	}
	return r
}

func (r *run) goesOn() bool { return r.result == nil && r.err == nil }

func (r *run) step(id string) *runStep {
	for i := range r.steps {
		if r.steps[i].id == id {
			return &r.steps[i]
		}
	}
	r.steps = append(r.steps, runStep{id: id, state: stepWaits})
	return &r.steps[len(r.steps)-1]
}

// take brings the picture up to date.
func (r *run) take(events []progress.Event) {
	for _, e := range events {
		switch e.Type {
		case progress.RunStart:
			r.id, r.started = e.Run, e.Time
			r.note(e, e.Msg)
		case progress.StepStart:
			s := r.step(e.Step)
			s.text, s.state, s.began = e.Msg, stepRuns, e.Time
		case progress.StepProgress:
			s := r.step(e.Step)
			s.done, s.total = e.Done, e.Total
		case progress.StepEnd:
			r.end(e)
		case progress.RunEnd, progress.Log:
			r.note(e, e.Msg)
		}
	}
}

func (r *run) end(e progress.Event) {
	s := r.step(e.Step)
	s.over, s.msg = e.Time, e.Msg
	switch e.Status {
	case string(apply.StatusFailed):
		s.state = stepFails
	case string(apply.StatusSkipped):
		s.state = stepSkips
	default:
		s.state = stepDone
	}
	text := s.text
	if e.Msg != "" {
		text += ": " + e.Msg
	}
	r.note(e, string(s.state)+" "+text)
}

func (r *run) note(e progress.Event, text string) {
	r.log = append(r.log, e.Time.Local().Format("15:04:05")+" "+text)
	if n := len(r.log) - logLines; n > 0 {
		r.log = r.log[n:]
	}
}

// finish takes the result. Nothing is watched any more after it.
func (r *run) finish(msg ended) {
	r.take(r.feed.take())
	r.result, r.err = &msg.result, msg.err
	if msg.err != nil {
		r.result = nil
	}
	close(r.done)
}

// failed says whether it did not come to what was wanted.
func (r *run) failed() bool { return r.err != nil || r.result != nil && r.result.Exit != 0 }

func (r *run) count(s stepState) int {
	n := 0
	for _, x := range r.steps {
		if x.state == s {
			n++
		}
	}
	return n
}

// current is the step to look at: the one that failed, else the one that runs, else the last that ended.
func (r *run) current() int {
	at := 0
	for i, s := range r.steps {
		switch s.state {
		case stepFails:
			return i
		case stepRuns:
			at = i
		case stepDone:
			at = max(at, i)
		}
	}
	return at
}
