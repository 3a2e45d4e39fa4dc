package tui

import (
	"fmt"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
)

// The sizes. Below the smallest nothing is shown that could be acted on, so keys are ignored there.
const (
	minWidth, minHeight   = 40, 12
	wideWidth, wideHeight = 60, 16
)

// steps is the number of screens.
const steps = 9

func (m *model) tooSmall() bool { return m.width < minWidth || m.height < minHeight }

// compact says whether header and footer are cut down to what is needed.
func (m *model) compact() bool { return m.width < wideWidth || m.height < wideHeight }

// View implements tea.Model.
func (m *model) View() tea.View {
	v := tea.NewView(m.content())
	v.AltScreen = !m.look.Old
	return v
}

// content is the whole frame. The last column stays empty: old consoles wrap when it is written; where there is
// room for it so does the last row, which would scroll.
func (m *model) content() string {
	if m.width == 0 || m.height == 0 {
		return ""
	}
	if m.tooSmall() {
		return m.smallNotice()
	}
	width, height := m.width-1, m.height
	if height > minHeight {
		height--
	}
	var b body
	var keys []key.Binding
	prompt := line(nil)
	if n := len(m.dialogs); n > 0 {
		d := m.dialogs[n-1]
		b, keys = d.view(m, width), d.keys(m)
		prompt = d.prompt(m, width)
	} else {
		b, keys = m.screen().view(m, width), m.footerKeys()
	}
	rows := []string{m.look.render(m.header(width), width), m.look.render(ln(span{dim, m.look.rule(width)}), width)}
	rows = append(rows, m.rows(b, width, height-5)...)
	rows = append(rows, m.look.render(m.status(prompt, width), width),
		m.look.render(ln(span{dim, m.look.rule(width)}), width), m.look.render(m.footer(keys, width), width))
	return strings.Join(rows, "\n")
}

// rows are the part of a body that fits, with a note of what does not.
func (m *model) rows(b body, width, height int) []string {
	at := b.window(height, m.page)
	rows := make([]string, height)
	for i := range rows {
		if at+i < len(b.lines) {
			rows[i] = m.look.render(b.lines[at+i], width)
		}
	}
	if at > 0 && b.top != at {
		rows[0] = m.look.render(ln(span{dim, fmt.Sprintf(" ... %d more above", at+1)}), width)
	}
	if rest := len(b.lines) - at - height; rest > 0 && b.end < at+height {
		rows[height-1] = m.look.render(ln(span{dim, fmt.Sprintf(" ... %d more below", rest+1)}), width)
	}
	return rows
}

func (m *model) header(width int) line {
	title := m.screen().about(m).title
	if m.compact() {
		return ln(span{strong, "edgeprep"}, fmt.Sprintf("  %d/%d ", m.at+1, steps), title)
	}
	left, right := "edgeprep "+m.opts.Version, m.siteName()
	middle := fmt.Sprintf("Step %d of %d: %s", m.at+1, steps, title)
	gap := max(1, (width-len(middle))/2-len(left))
	tail := max(1, width-len(left)-gap-len(middle)-len(right))
	return ln(span{strong, left}, strings.Repeat(" ", gap), span{accent, middle}, strings.Repeat(" ", tail), right)
}

// siteName is the plan's name, with a star while it holds what its file does not.
func (m *model) siteName() string {
	name := cut(m.draft.name(), 20)
	if m.draft.dirty() {
		return name + " *"
	}
	return name
}

// status is the line above the footer: what is typed, what is going on, what the last action came to, else the
// command that does the same.
func (m *model) status(prompt line, width int) line {
	switch {
	case prompt != nil:
		return prompt
	case m.notice != nil:
		return ln(" ", m.notice)
	case m.busy != "":
		return ln(span{warn, " " + m.busy + " ..."})
	}
	cmd := m.screen().about(m).command
	if cmd == "" {
		return nil
	}
	return ln(span{dim, " $ "}, cmd).clip(width)
}

func (m *model) footerKeys() []key.Binding {
	own := m.screen().keys(m)
	if m.at == 0 {
		return append(own, m.keys.help, m.keys.quit)
	}
	return append(own, m.keys.next, m.keys.back, m.keys.help)
}

// footer shows as many keys as fit, the last one, help or leaving, always.
func (m *model) footer(keys []key.Binding, width int) line {
	if len(keys) == 0 {
		return nil
	}
	show := func(k key.Binding) line { return ln(span{strong, k.Help().Key}, " "+k.Help().Desc) }
	last := show(keys[len(keys)-1])
	out := ln(" ")
	for _, k := range keys[:len(keys)-1] {
		next := ln(show(k), "  ")
		if out.width()+next.width()+last.width() > width {
			break
		}
		out = ln(out, next)
	}
	return ln(out, last)
}

func (m *model) smallNotice() string {
	text := fmt.Sprintf("edgeprep needs %dx%d, this terminal is %dx%d. Resize it, or leave with q and use edgeprep --plain. Keys other than q and ctrl+c are ignored.",
		minWidth, minHeight, m.width, m.height)
	rows := wrap(text, max(10, m.width-1))
	return strings.Join(rows[:min(len(rows), m.height)], "\n")
}
