package apply

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// ReportSchema is the version of the report's JSON form.
const ReportSchema = 1

// RunOutcome is how a run ended.
type RunOutcome string

// The outcomes.
const (
	OutcomeNothing     RunOutcome = "nothing" // nothing to do
	OutcomeDone        RunOutcome = "ok"
	OutcomeFailed      RunOutcome = "failed"
	OutcomeRefused     RunOutcome = "refused"
	OutcomeInterrupted RunOutcome = "interrupted"
	OutcomeKept        RunOutcome = "kept" // a rollback that left something as it is
)

// Status is how a change ended.
type Status string

// The statuses of a change.
const (
	StatusDone    Status = "ok"
	StatusFailed  Status = "failed"
	StatusSkipped Status = "skipped"
	StatusKept    Status = "kept"
)

// Report says what a run did.
type Report struct {
	Schema    int            `json:"schema"`
	Run       string         `json:"run,omitempty"` // empty: nothing was changed
	Verb      string         `json:"verb"`
	Node      string         `json:"node"`
	Started   time.Time      `json:"started,omitzero"`
	Ended     time.Time      `json:"ended,omitzero"`
	Outcome   RunOutcome     `json:"outcome"`
	Changes   []Outcome      `json:"changes"`
	Pending   []plan.Pending `json:"pending"`
	Kept      []plan.Pending `json:"kept,omitempty"`      // by a rollback
	Recovered string         `json:"recovered,omitempty"` // the unfinished run that was found
	Undoes    []string       `json:"undoes,omitempty"`
	Summary   string         `json:"summary"`
}

// Outcome is what became of one change.
type Outcome struct {
	ID       string        `json:"id"`
	Kind     resource.Kind `json:"kind"`
	Action   plan.Action   `json:"action"`
	Summary  string        `json:"summary"`
	Status   Status        `json:"status"`
	Msg      string        `json:"msg,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"`
	Duration time.Duration `json:"duration"` // nanoseconds
}

// Count is the number of changes with a status.
func (r Report) Count(s Status) int {
	n := 0
	for _, c := range r.Changes {
		if c.Status == s {
			n++
		}
	}
	return n
}

// summary is the run in one or two lines, with what to type next when it did not go well.
func (r Report) summary() string {
	out := fmt.Sprintf("Run %s: %d done", r.Run, r.Count(StatusDone))
	for _, s := range []Status{StatusFailed, StatusSkipped} {
		if n := r.Count(s); n > 0 {
			out += fmt.Sprintf(", %d %s", n, s)
		}
	}
	if n := len(r.Kept); n > 0 {
		out += fmt.Sprintf(", %d left as it is", n)
	}
	if n := len(r.Pending); n > 0 {
		out += fmt.Sprintf(", %d pending", n)
	}
	out += "."
	if r.Outcome == OutcomeFailed || r.Outcome == OutcomeInterrupted {
		out += " What was done is kept: edgeprep " + r.Verb + " goes on where it stopped"
		if r.Verb == "apply" {
			out += ", edgeprep rollback " + r.Run + " puts it back"
		}
		out += "."
	}
	return out
}

// Text writes the report for people.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	if r.Recovered != "" {
		fmt.Fprintf(&b, "Run %s had been cut off; it was taken up.\n", r.Recovered)
	}
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "%-8s %-8s %s", c.Status, c.Action, c.Summary)
		if c.Msg != "" {
			b.WriteString(": " + c.Msg)
		}
		b.WriteString("\n")
	}
	section(&b, "Pending:", r.Pending)
	section(&b, "Left as it is:", r.Kept)
	if r.Summary != "" {
		b.WriteString(r.Summary + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func section(b *strings.Builder, title string, list []plan.Pending) {
	if len(list) == 0 {
		return
	}
	b.WriteString(title + "\n")
	for _, p := range list {
		fmt.Fprintf(b, "  %s: %s\n", p.What, p.Why)
	}
}

// outcome records what became of a change and tells the sink.
func (s *session) outcome(c plan.Change, o Outcome) {
	o.ID, o.Kind, o.Action, o.Summary = c.ID, c.Kind, c.Action, c.Summary
	s.report.Changes = append(s.report.Changes, o)
	s.emit(progress.Event{Type: progress.StepEnd, Step: c.ID, Status: string(o.Status), Msg: o.Msg, Done: o.Bytes, Total: o.Bytes})
}
