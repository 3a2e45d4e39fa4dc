package tui

import (
	"fmt"
	"path"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// applyScreen is step 7: the run, which goes on when this terminal is lost.
type applyScreen struct {
	run     *run
	choice  choice // what to do after a failure
	stopped time.Time
}

func (s *applyScreen) about(m *model) about {
	cmd := m.opts.Command + " apply --detach"
	if s.run != nil && s.run.goesOn() {
		cmd = m.opts.Command + " apply --attach"
	}
	return about{"Apply", "The plan is carried out by a run of its own, outside this terminal: closing it, or losing the line to it, " +
		"stops nothing. Every step is safe to stop at any instant, and what is done is not done again. ctrl+c lets the run stop after " +
		"its step; d leaves it going and quits.", cmd}
}

func (s *applyScreen) ready(m *model) string { return m.needsPlan() }

// goesOn says whether a run that is watched goes on.
func (s *applyScreen) goesOn() bool { return s.run != nil && s.run.goesOn() }

func (s *applyScreen) enter(*model) tea.Cmd { return nil }

func (s *applyScreen) update(m *model, msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case surveyed:
		return s.offer(m, msg)
	case happened:
		if s.run == nil || msg.from != s.run.feed {
			return nil
		}
		s.run.take(msg.events)
		return s.run.feed.listen(s.run.done)
	case tick:
		if s.run != nil && s.run.goesOn() {
			return m.second()
		}
	case ended:
		return s.ended(m, msg)
	case startNow:
		return s.plan(m)
	case planned:
		return s.planned(m, msg)
	case undoing:
		return s.confirmUndo(m, msg)
	case stopping:
		return s.stopping(m, msg)
	}
	return nil
}

// offer asks whether a run that goes on already should be watched.
func (s *applyScreen) offer(m *model, msg surveyed) tea.Cmd {
	if msg.err != nil || !msg.survey.Running || s.run != nil {
		return nil
	}
	return m.open(&ask{name: "A run goes on", text: "edgeprep is changing this node right now: started in another terminal, at boot, or here before the line was lost.",
		options: []option{
			{"watch", "Watch it", func(m *model) tea.Cmd { return s.begin(m, app.Task{Attach: true}, plan.Plan{}) }},
			{"not", "Not now", nil},
		}})
}

// start applies the plan: saved first, with every risk named and accepted.
func (s *applyScreen) start(m *model) tea.Cmd {
	switch {
	case s.goesOn():
		m.notice = ln(span{warn, "the run goes on"})
		return nil
	case screenOf[*imagesScreen](m).pull != nil: // the first apply gives the cache to the mirror's account
		m.notice = ln(span{warn, "images are pulled into the mirror's cache; wait for it, or stop it in step 3"})
		return nil
	case m.survey.Facts.Live && !m.survey.Facts.Root:
		m.notice = ln(span{warn, "only root may change this node: sudo " + m.opts.Command + " apply -c " + m.draft.file.Name})
		return nil
	case m.draft.dirty() || !m.draft.file.Exists:
		return m.save(func() tea.Msg { return startNow{} })
	}
	return func() tea.Msg { return startNow{} }
}

// startNow begins a run of the plan as it is on disk.
type startNow struct{}

// planned is the plan that is about to be carried out.
type planned struct {
	plan plan.Plan
	err  error
}

func (s *applyScreen) plan(m *model) tea.Cmd {
	m.busy = "planning"
	d := m.draft.file
	return func() tea.Msg {
		r, err := m.prog.Review(m.ctx, d)
		return planned{r.Plan, err}
	}
}

func (s *applyScreen) planned(m *model, msg planned) tea.Cmd {
	m.busy = ""
	switch {
	case msg.err != nil:
		return m.fail("there is no plan", msg.err)
	case len(msg.plan.Problems) > 0:
		return m.fail("the plan is refused; nothing was touched", msg.plan.Problems.Err())
	case msg.plan.Empty():
		m.notice = ln(span{good, "nothing to do: this node is what the plan says"})
		return nil
	}
	return s.accept(m, msg.plan)
}

// accept asks for each risk that edgeprep.toml does not accept, by its name: nothing disruptive by accident.
func (s *applyScreen) accept(m *model, p plan.Plan) tea.Cmd {
	var open []string
	for _, r := range p.Risks() {
		if !contains(m.draft.site.Apply.Allow, string(r)) {
			open = append(open, string(r))
		}
	}
	if len(open) == 0 {
		return s.begin(m, app.Task{}, p)
	}
	want := strings.Join(open, ",")
	return m.open(newEditor("type "+want+" to accept", "esc: nothing is done", "", func(m *model, text string) (tea.Cmd, string) {
		if strings.ReplaceAll(text, " ", "") != want {
			return nil, "that is not " + want
		}
		return s.begin(m, app.Task{Allow: open}, p), ""
	}))
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// begin starts a task outside the terminal and watches it.
func (s *applyScreen) begin(m *model, t app.Task, p plan.Plan) tea.Cmd {
	r := newRun(t, p, m.now())
	s.run, s.stopped = r, time.Time{}
	show := m.show(s)
	run := func() tea.Msg {
		result, err := m.prog.Run(m.ctx, t, r.feed)
		return ended{r.feed, result, err}
	}
	return tea.Batch(show, run, r.feed.listen(r.done), m.second())
}

func (s *applyScreen) ended(m *model, msg ended) tea.Cmd {
	if s.run == nil || msg.from != s.run.feed {
		return nil
	}
	s.run.finish(msg)
	s.choice = choice{}
	m.outcome = nil
	if s.run.failed() {
		m.outcome = &Failed{Exit: max(1, msg.result.Exit)}
		return nil
	}
	m.notice = ln(span{good, "done; tab goes on to the checklist"})
	return nil
}

// interrupt implements interrupter: ctrl+c stops the run after its step, twice within two seconds leaves it.
func (s *applyScreen) interrupt(m *model) tea.Cmd {
	if s.run == nil || !s.run.goesOn() {
		return m.leave()
	}
	if now := m.now(); now.Sub(s.stopped) > 2*time.Second {
		s.stopped = now
		m.notice = ln(span{warn, "stopping after this step; ctrl+c again leaves it alone and quits"})
		return func() tea.Msg {
			ok, err := m.prog.Stop(m.ctx)
			return stopping{ok, err}
		}
	}
	return tea.Quit
}

// stopping is what came of asking the run to stop.
type stopping struct {
	ok  bool
	err error
}

func (s *applyScreen) stopping(m *model, msg stopping) tea.Cmd {
	switch {
	case msg.err != nil:
		return m.fail("the run cannot be stopped", msg.err)
	case !msg.ok:
		m.notice = ln("the run is over already")
	}
	return nil
}

func (s *applyScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	switch {
	case s.run != nil && msg.String() == "l":
		log := s.run.log
		if s.run.failed() {
			for _, d := range s.why() {
				log = append(log[:len(log):len(log)], strings.Split(d.Text(), "\n")...)
			}
		}
		return m.open(&text{name: "Log of the run", lines: func(_ *model, width int) []line {
			var out []line
			for _, t := range log {
				out = append(out, para(width, 1, plain, t)...)
			}
			return out
		}})
	case s.run != nil && s.run.goesOn():
		if msg.String() == "d" {
			return tea.Quit
		}
	case s.run != nil && s.run.failed():
		return s.chosen(m, msg)
	case is(msg, m.keys.choose) && s.run == nil, msg.String() == "A":
		return s.start(m)
	case is(msg, m.keys.choose):
		return m.goTo(m.at + 1)
	}
	return nil
}

func (s *applyScreen) keys(*model) []key.Binding {
	switch {
	case s.run == nil:
		return []key.Binding{on("enter", "apply")}
	case s.run.goesOn():
		return []key.Binding{on("l", "full log"), on("d", "detach"), on("ctrl+c", "stop after this step")}
	case s.run.failed():
		return []key.Binding{on("up/down", "move"), on("enter", "choose"), on("l", "full log")}
	}
	return []key.Binding{on("enter", "checklist"), on("l", "full log"), on("A", "apply again")}
}

func (s *applyScreen) view(m *model, width int) body {
	var b body
	switch {
	case s.run == nil:
		b.add(para(width, 1, plain, "Nothing on this node has been changed yet. enter saves "+path.Base(m.draft.file.Name)+
			" and carries out the plan of the review. A risk that the plan does not accept is asked for by its name.")...)
	case s.run.goesOn():
		s.going(m, width, &b)
	case s.run.failed():
		s.failure(m, width, &b)
	default:
		s.success(m, width, &b)
	}
	return b
}

// going shows a run that goes on: its steps, the one at work with its bytes, and that nobody has to wait here.
func (s *applyScreen) going(m *model, width int, b *body) {
	r := s.run
	head := fmt.Sprintf(" Run %s   %d of %d done   %s", orDash(r.id), r.count(stepDone), len(r.steps), clock(m.now().Sub(r.started)))
	b.add(ln(span{strong, head}), line{})
	at := r.current()
	for i, st := range r.steps {
		rows := []line{s.row(m, width, st)}
		if st.state == stepRuns && st.total > 0 {
			rows = append(rows, ln("        ", m.look.bar(int(st.done*100/st.total), barWidth(width)), progress.Amount(st.done, st.total, m.now().Sub(st.began))).clip(width))
		}
		if i == at {
			b.focus(rows...)
			continue
		}
		b.add(rows...)
	}
	b.blank()
	b.add(para(width, 1, dim, "Safe to disconnect: the run goes on. See it again: "+m.opts.Command+" apply --attach")...)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// clock is a duration as people read it: "2:31".
func clock(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// row is one step: state, what, and how far or how long where there is room for it.
func (s *applyScreen) row(m *model, width int, st runStep) line {
	r := map[stepState]role{stepRuns: accent, stepDone: good, stepFails: bad, stepSkips: warn, stepWaits: dim}[st.state]
	tail := ""
	switch {
	case width < wideWidth || st.began.IsZero():
	case st.state == stepRuns:
		tail = " " + clock(m.now().Sub(st.began))
	case !st.over.IsZero():
		tail = " " + clock(st.over.Sub(st.began))
	}
	room := width - 8 - len(tail)
	return ln("  ", span{r, pad(string(st.state), 4)}, "  ", pad(st.text, room), tail)
}

func barWidth(width int) int {
	if width < wideWidth {
		return 0
	}
	return 12
}

// bar is a progress bar in brackets; none where there is no room for one.
func (l Look) bar(percent, width int) string {
	if width <= 0 {
		return ""
	}
	full := min(width, max(0, percent)*width/100)
	return "[" + strings.Repeat(l.pick("█", "#"), full) + strings.Repeat(l.pick("░", "."), width-full) + "] "
}

func (s *applyScreen) success(m *model, width int, b *body) {
	r := s.run
	b.add(ln(" ", span{good, "DONE"}, "  ", r.result.Summary).clip(width), line{})
	for _, st := range r.steps {
		b.add(s.row(m, width, st))
	}
	for i, p := range r.result.Pending {
		if i == 0 {
			b.add(line{}, ln(" ", span{warn, "Pending"}))
		}
		b.add(para(width, 3, plain, p.What+": "+p.Why)...)
	}
	b.blank()
	b.add(para(width, 1, plain, "The next step proves it: enter goes on to the checklist.")...)
}

// second is the next tick; none where time is given from outside.
func (m *model) second() tea.Cmd {
	if m.opts.Now != nil {
		return nil
	}
	return tea.Tick(time.Second, func(time.Time) tea.Msg { return tick{} })
}

func (m *model) now() time.Time {
	if m.opts.Now != nil {
		return m.opts.Now()
	}
	return time.Now()
}

// show brings a screen into view.
func (m *model) show(want screen) tea.Cmd {
	for i, s := range m.screens {
		if s == want && i != m.at {
			m.at, m.page = i, 0
			return s.enter(m)
		}
	}
	return nil
}
