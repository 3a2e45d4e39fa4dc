package tui

import (
	"fmt"

	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// Failed is a run or a check that did not come to what was wanted; its exit code is the command's.
type Failed struct{ Exit int }

func (f *Failed) Error() string { return fmt.Sprintf("exit %d", f.Exit) }

// after are the ways to go on after a failure.
func (s *applyScreen) after(m *model) []option {
	out := []option{
		{"retry", "Retry: what is done is not done again", func(m *model) tea.Cmd { return s.start(m) }},
		{"edit", "Edit the plan", func(m *model) tea.Cmd { return m.goTo(m.at - 1) }},
	}
	if id := s.run.id; id != "" && s.run.task.Undo == "" {
		out = append(out, option{"undo", "Undo this run", func(m *model) tea.Cmd { return s.undo(m, id) }})
	}
	return append(out, option{"quit", "Quit; for help from afar: " + m.opts.Command + " support-bundle", func(*model) tea.Cmd { return tea.Quit }})
}

func (s *applyScreen) afterIDs(m *model) []string {
	var ids []string
	for _, o := range s.after(m) {
		ids = append(ids, o.id)
	}
	return ids
}

func (s *applyScreen) chosen(m *model, msg tea.KeyPressMsg) tea.Cmd {
	ids := s.afterIDs(m)
	if s.choice.move(m.keys, msg, ids) || !is(msg, m.keys.choose) {
		return nil
	}
	return s.after(m)[s.choice.index(ids)].do(m)
}

// failure shows the step that failed with what, where, why and fix, what was kept, and how to go on.
func (s *applyScreen) failure(m *model, width int, b *body) {
	r := s.run
	at, n := r.current(), len(r.steps)
	head := " FAILED"
	if n > 0 {
		head += fmt.Sprintf(" at step %d of %d", at+1, n)
	}
	b.add(ln(span{bad, head}, "   ", orDash(r.id)).clip(width))
	if m.compact() { // what, and what to do now; l has the rest
		b.add(para(width, 1, plain, s.why()[0].ID+" "+s.why()[0].What)...)
	} else {
		s.details(m, width, b)
	}
	for i, o := range s.after(m) {
		if s.choice.on(s.afterIDs(m), i) {
			b.focus(ln(" ", m.look.cursor(true), span{accent, o.label}))
			continue
		}
		b.add(ln(" ", m.look.cursor(false), o.label))
	}
}

// details are the step, why it failed, and what was kept.
func (s *applyScreen) details(m *model, width int, b *body) {
	r := s.run
	b.blank()
	if len(r.steps) > 0 {
		b.add(s.row(m, width, r.steps[r.current()]), line{})
	}
	for _, d := range s.why() {
		b.add(findingLines(width, d)...)
	}
	b.blank()
	if r.result != nil {
		b.add(para(width, 1, dim, r.result.Summary)...)
		b.blank()
	}
}

// why are the findings that a run ended with.
func (s *applyScreen) why() diag.Report {
	r := s.run
	switch {
	case r.err != nil:
		if found := diag.Of(r.err); len(found) > 0 {
			return found
		}
		return diag.Report{{What: r.err.Error()}}
	case len(r.result.Errors) > 0:
		return r.result.Errors
	case len(r.steps) > 0:
		return diag.Report{{What: r.steps[r.current()].text, Why: r.steps[r.current()].msg}}
	}
	return diag.Report{{What: r.result.Summary}}
}

// undoing is the plan of putting a run back.
type undoing struct {
	id   string
	plan plan.Plan
	err  error
}

func (s *applyScreen) undo(m *model, id string) tea.Cmd {
	m.busy = "planning what to put back"
	return func() tea.Msg {
		p, err := m.prog.Undoing(m.ctx, id)
		return undoing{id, p, err}
	}
}

// confirmUndo shows what would be put back before anything is.
func (s *applyScreen) confirmUndo(m *model, msg undoing) tea.Cmd {
	m.busy = ""
	if msg.err != nil {
		return m.fail("the run cannot be undone", msg.err)
	}
	list := ""
	for _, c := range msg.plan.Changes {
		list += "\n" + string(c.Action) + " " + c.Summary
	}
	var allow []string
	for _, r := range msg.plan.Risks() {
		allow = append(allow, string(r))
	}
	text := msg.plan.Summary()
	if len(allow) > 0 {
		text += fmt.Sprintf(" It accepts: %v.", allow)
	}
	return m.open(&ask{name: "Undo run " + msg.id + "?", text: text + list, options: []option{
		{"back", "Leave it as it is", nil},
		{"undo", "Put it back", func(m *model) tea.Cmd { return s.begin(m, app.Task{Undo: msg.id, Allow: allow}, msg.plan) }},
	}})
}
