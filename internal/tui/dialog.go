package tui

import (
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// dialog is what is shown over a screen until it is closed. Dialogs are a stack.
type dialog interface {
	// key handles a key; closed says that the dialog is done.
	key(m *model, msg tea.KeyPressMsg) (cmd tea.Cmd, closed bool)
	view(m *model, width int) body
	keys(m *model) []key.Binding
	// prompt is what is typed, in the line above the footer; nil: nothing is.
	prompt(m *model, width int) line
}

func (m *model) open(d dialog) tea.Cmd {
	m.dialogs, m.page = append(m.dialogs, d), 0
	return nil
}

// pressDialog gives a key to the topmost dialog. A dialog that closes is taken away before what it caused runs,
// so that an action may open another one.
func (m *model) pressDialog(d dialog, msg tea.KeyPressMsg) tea.Cmd {
	if is(msg, m.keys.pageUp) {
		m.page--
		return nil
	}
	if is(msg, m.keys.pageDown) {
		m.page++
		return nil
	}
	m.page = 0
	n := len(m.dialogs)
	cmd, closed := d.key(m, msg)
	if closed {
		m.dialogs = append(m.dialogs[:n-1:n-1], m.dialogs[n:]...)
	}
	return cmd
}

// option is one answer to a question.
type option struct {
	id, label string
	do        func(*model) tea.Cmd // nil: only close
}

// ask is a question with a few answers; the first, the harmless one, is chosen when it opens.
type ask struct {
	name, text string
	options    []option
	choice     choice
}

func (a *ask) ids() []string {
	var ids []string
	for _, o := range a.options {
		ids = append(ids, o.id)
	}
	return ids
}

func (a *ask) key(m *model, msg tea.KeyPressMsg) (tea.Cmd, bool) {
	switch {
	case a.choice.move(m.keys, msg, a.ids()):
	case is(msg, m.keys.esc):
		return nil, true
	case is(msg, m.keys.choose):
		o := a.options[a.choice.index(a.ids())]
		if o.do == nil {
			return nil, true
		}
		return o.do(m), true
	}
	return nil, false
}

func (a *ask) view(m *model, width int) body {
	var b body
	b.add(ln(" ", span{strong, a.name}))
	b.blank()
	b.add(para(width, 1, plain, a.text)...)
	b.blank()
	for i, o := range a.options {
		if a.choice.on(a.ids(), i) {
			b.focus(ln(" ", m.look.cursor(true), span{accent, o.label}))
			continue
		}
		b.add(ln(" ", m.look.cursor(false), o.label))
	}
	return b
}

func (a *ask) keys(m *model) []key.Binding {
	return []key.Binding{on("up/down", "move"), on("enter", "choose"), on("esc", "close")}
}

func (a *ask) prompt(*model, int) line { return nil }

// text is something to read.
type text struct {
	name  string
	lines func(m *model, width int) []line
}

func (t *text) key(m *model, msg tea.KeyPressMsg) (tea.Cmd, bool) {
	switch {
	case is(msg, m.keys.up):
		m.page--
	case is(msg, m.keys.down):
		m.page++
	case is(msg, m.keys.esc, m.keys.choose, m.keys.quit, m.keys.help):
		return nil, true
	}
	return nil, false
}

func (t *text) view(m *model, width int) body {
	var b body
	b.add(ln(" ", span{strong, t.name}))
	b.blank()
	b.add(t.lines(m, width)...)
	return b
}

func (t *text) keys(*model) []key.Binding {
	return []key.Binding{on("up/down", "scroll"), on("esc", "close")}
}

func (t *text) prompt(*model, int) line { return nil }

// newHelp shows what is on the screen and every key.
func newHelp(m *model) dialog {
	s, a := m.screen(), m.screen().about(m)
	return &text{name: "Help: " + a.title, lines: func(m *model, width int) []line {
		out := para(width, 1, plain, a.help)
		if a.command != "" {
			out = append(out, line{}, ln(" The same without this screen:"))
			out = append(out, para(width, 3, strong, a.command)...)
		}
		out = append(out, line{}, ln(" ", span{strong, "Keys here"}))
		out = append(out, keyLines(width, s.keys(m))...)
		out = append(out, line{}, ln(" ", span{strong, "Keys everywhere"}))
		return append(out, keyLines(width, m.keys.everywhere())...)
	}}
}

func keyLines(width int, keys []key.Binding) []line {
	var out []line
	for _, k := range keys {
		out = append(out, labelled(width, "   "+k.Help().Key, 15, plain, k.Help().Desc)...)
	}
	return out
}

// failure shows an error: every finding with what, where, why and fix.
type failure struct {
	what string
	err  error
}

func (f *failure) key(m *model, msg tea.KeyPressMsg) (tea.Cmd, bool) {
	return (&text{}).key(m, msg)
}

func (f *failure) view(m *model, width int) body {
	var b body
	b.add(para(width, 1, bad, strings.ToUpper(f.what[:1])+f.what[1:])...)
	b.blank()
	b.add(errorLines(width, f.err)...)
	return b
}

func (f *failure) keys(m *model) []key.Binding { return (&text{}).keys(m) }

func (f *failure) prompt(*model, int) line { return nil }

// errorLines are the findings of an error, or its text.
func errorLines(width int, err error) []line {
	var out []line
	found := diag.Of(err)
	if len(found) == 0 {
		return para(width, 1, plain, err.Error())
	}
	for i, d := range found {
		if i > 0 {
			out = append(out, line{})
		}
		out = append(out, findingLines(width, d)...)
	}
	return out
}

func findingLines(width int, d *diag.Diagnostic) []line {
	var out []line
	row := func(label string, r role, s string) {
		if s != "" {
			out = append(out, labelled(width, " "+label, 9, r, s)...)
		}
	}
	row("What", strong, strings.TrimSpace(d.ID+" "+d.What))
	row("Where", plain, d.Where.String())
	row("Why", plain, d.Why)
	row("Fix", good, d.Fix)
	return out
}
