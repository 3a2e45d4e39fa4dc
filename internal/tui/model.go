package tui

import (
	"context"
	"fmt"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
)

// screen is one step. It keeps what it shows; what several screens need is in the model.
type screen interface {
	// about says what the screen is, and what does the same without the TUI.
	about(m *model) about
	// ready says why the step cannot be entered yet; empty: it can.
	ready(m *model) string
	// enter is called whenever the step comes into view.
	enter(m *model) tea.Cmd
	// key handles a key that the frame has no use for.
	key(m *model, msg tea.KeyPressMsg) tea.Cmd
	// update takes results of commands; every screen gets every one.
	update(m *model, msg tea.Msg) tea.Cmd
	view(m *model, width int) body
	// keys are the screen's own, for footer and help; the first ones matter most.
	keys(m *model) []key.Binding
}

// about is what a screen says of itself.
type about struct {
	title   string
	help    string // what is on the screen
	command string // does the same without the TUI
}

// interrupter is a screen on which ctrl+c does not mean quit.
type interrupter interface {
	interrupt(m *model) tea.Cmd
}

// model is the one bubbletea model.
type model struct {
	ctx     context.Context //nolint:containedctx // bubbletea gives commands none
	prog    Program
	opts    Options
	keys    keyMap
	look    Look
	width   int
	height  int
	screens []screen
	at      int
	page    int // windows scrolled away from what is in focus
	dialogs []dialog
	notice  line // what the last action came to
	busy    string

	survey app.Survey
	seen   bool // the survey is there
	draft  draft

	outcome error // of the last run or check, for the exit code
}

func newModel(ctx context.Context, p Program, o Options) *model {
	m := &model{ctx: ctx, prog: p, opts: o, keys: newKeyMap(), look: o.Look}
	m.screens = []screen{&detectScreen{}, &nodesScreen{}, &imagesScreen{}, &mirrorScreen{},
		&copiesScreen{}, &reviewScreen{}, &applyScreen{}, &checkScreen{}, &reportScreen{}}
	return m
}

// Init implements tea.Model.
func (m *model) Init() tea.Cmd { return m.screens[0].enter(m) }

// Update implements tea.Model. It does no I/O.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		return m, nil
	case tea.KeyPressMsg:
		return m, m.press(msg)
	case tea.PasteMsg:
		m.paste(msg.Content)
		return m, nil
	}
	return m, m.deliver(msg)
}

// deliver gives a result to whom it concerns: the model first, then every screen.
func (m *model) deliver(msg tea.Msg) tea.Cmd {
	cmds := []tea.Cmd{m.take(msg)}
	for _, s := range m.screens {
		cmds = append(cmds, s.update(m, msg))
	}
	return tea.Batch(cmds...)
}

// take keeps results that more than one screen shows.
func (m *model) take(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case surveyed:
		m.busy, m.survey, m.seen = "", msg.survey, msg.err == nil
		if msg.err != nil {
			return m.fail("the machine cannot be looked at", msg.err)
		}
	case loaded:
		m.busy = ""
		if msg.err != nil {
			return m.fail("the plan file cannot be read", msg.err)
		}
		d := newDraft(msg.draft)
		if err := d.found.Err(); err != nil {
			return m.fail(msg.draft.Name+" has problems; correct them there first", err)
		}
		m.draft = d
	case saved:
		return m.saved(msg)
	}
	return nil
}

// press handles a key: first the terminal that is too small to show anything, then what is open on top, then the
// frame, then the screen.
func (m *model) press(msg tea.KeyPressMsg) tea.Cmd {
	if m.tooSmall() {
		if is(msg, m.keys.stop, m.keys.quit) {
			return m.leave()
		}
		return nil
	}
	if is(msg, m.keys.repaint) {
		return tea.ClearScreen
	}
	if is(msg, m.keys.basic) {
		m.look.ASCII = !m.look.ASCII
		m.look.Mono = m.look.ASCII || m.opts.Look.Mono
		return nil
	}
	if n := len(m.dialogs); n > 0 {
		return m.pressDialog(m.dialogs[n-1], msg)
	}
	m.notice = nil
	switch {
	case is(msg, m.keys.pageUp):
		m.page--
		return nil
	case is(msg, m.keys.pageDown):
		m.page++
		return nil
	}
	m.page = 0
	if cmd, done := m.navigate(msg); done {
		return cmd
	}
	return m.screen().key(m, msg)
}

func (m *model) screen() screen { return m.screens[m.at] }

// navigate handles the keys that every screen shares.
func (m *model) navigate(msg tea.KeyPressMsg) (tea.Cmd, bool) {
	switch {
	case is(msg, m.keys.stop):
		if s, ok := m.screen().(interrupter); ok {
			return s.interrupt(m), true
		}
		return m.leave(), true
	case is(msg, m.keys.quit):
		return m.leave(), true
	case is(msg, m.keys.suspend):
		return tea.Suspend, true
	case is(msg, m.keys.help):
		return m.open(newHelp(m)), true
	case is(msg, m.keys.save):
		return m.save(nil), true
	case is(msg, m.keys.next):
		return m.goTo(m.at + 1), true
	case is(msg, m.keys.back, m.keys.esc):
		return m.goTo(m.at - 1), true
	case is(msg, m.keys.step):
		return m.goTo(int(msg.String()[0] - '1')), true
	}
	return nil, false
}

// goTo shows another step, or says why it cannot be shown yet.
func (m *model) goTo(step int) tea.Cmd {
	if step < 0 || step >= len(m.screens) || step == m.at {
		return nil
	}
	if why := m.screens[step].ready(m); why != "" {
		m.notice = ln(span{warn, fmt.Sprintf("step %d has to wait: %s", step+1, why)})
		return nil
	}
	m.at, m.page = step, 0
	return m.screen().enter(m)
}

// leave quits, after a question where answers would be lost.
func (m *model) leave() tea.Cmd {
	if s := screenOf[*imagesScreen](m); s.pull != nil && (!m.tooSmall() || len(m.dialogs) == 0) {
		return s.leavePull(m)
	}
	if !m.draft.dirty() || m.tooSmall() && len(m.dialogs) > 0 {
		return tea.Quit
	}
	return m.open(&ask{
		name: "Quit without saving?",
		text: "The answers are not in " + m.draft.file.Name + " yet. Nothing on the node has been changed.",
		options: []option{
			{"back", "Go back to the plan", nil},
			{"save", "Save and quit", func(m *model) tea.Cmd { return m.save(tea.Quit) }},
			{"drop", "Quit without saving", func(*model) tea.Cmd { return tea.Quit }},
		},
	})
}

// fail shows an error that an action ended with.
func (m *model) fail(what string, err error) tea.Cmd {
	m.busy = ""
	return m.open(&failure{what: what, err: err})
}
