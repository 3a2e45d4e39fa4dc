package tui

import (
	"strings"
	"unicode"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// editor is the one-line editor at the bottom: it works at any width, and a screen reader follows it. The screen
// stays in view above it.
type editor struct {
	label string
	hint  string // shown until something is wrong
	text  []rune
	at    int
	wrong string
	// done takes the text; what it returns as wrong keeps the editor open.
	done func(m *model, text string) (cmd tea.Cmd, wrong string)
}

func newEditor(label, hint, value string, done func(*model, string) (tea.Cmd, string)) *editor {
	return &editor{label: label, hint: hint, text: []rune(value), at: len([]rune(value)), done: done}
}

func (e *editor) key(m *model, msg tea.KeyPressMsg) (tea.Cmd, bool) {
	switch msg.String() {
	case "esc", "ctrl+c":
		return nil, true
	case "enter":
		cmd, wrong := e.done(m, strings.TrimSpace(string(e.text)))
		e.wrong = wrong
		return cmd, wrong == ""
	case "left":
		e.at = max(0, e.at-1)
	case "right":
		e.at = min(len(e.text), e.at+1)
	case "home", "ctrl+a":
		e.at = 0
	case "end", "ctrl+e":
		e.at = len(e.text)
	case "backspace", "ctrl+h":
		if e.at > 0 {
			e.text = append(e.text[:e.at-1:e.at-1], e.text[e.at:]...)
			e.at--
		}
	case "delete":
		if e.at < len(e.text) {
			e.text = append(e.text[:e.at:e.at], e.text[e.at+1:]...)
		}
	case "ctrl+u":
		e.text, e.at = nil, 0
	default:
		e.insert(msg.Text)
	}
	return nil, false
}

// insert puts printable text in; what comes by paste may hold anything.
func (e *editor) insert(s string) {
	for _, r := range s {
		if unicode.IsPrint(r) {
			e.text = append(e.text[:e.at:e.at], append([]rune{r}, e.text[e.at:]...)...)
			e.at++
		}
	}
}

// paste goes to the editor, if one is open; nothing else takes text.
func (m *model) paste(s string) {
	if n := len(m.dialogs); n > 0 && !m.tooSmall() {
		if e, ok := m.dialogs[n-1].(*editor); ok {
			e.insert(s)
		}
	}
}

func (e *editor) view(m *model, width int) body { return m.screen().view(m, width) }

func (e *editor) keys(m *model) []key.Binding {
	if e.wrong != "" || m.compact() {
		return []key.Binding{on("enter", "accept"), on("esc", "leave as it was")}
	}
	return []key.Binding{on("enter", "accept"), on("ctrl+u", "clear"), on("esc", "leave as it was")}
}

// prompt shows the end of the text that the cursor is in. The cursor is a character: no terminal mode is needed.
func (e *editor) prompt(m *model, width int) line {
	label := " " + e.label + ": "
	note := e.hint
	r := dim
	if e.wrong != "" {
		note, r = e.wrong, bad
	}
	room := max(12, width-lipgloss.Width(label)-2)
	from := 0
	for lipgloss.Width(string(e.text[from:e.at])) > room-1 {
		from++
	}
	left := string(e.text[from:e.at])
	right := cut(string(e.text[e.at:]), max(0, room-1-lipgloss.Width(left)))
	out := ln(span{strong, label}, left, span{accent, "_"}, right)
	if rest := width - out.width() - 3; note != "" && rest > 8 {
		out = ln(out, "  ", span{r, pad(note, min(rest, lipgloss.Width(note)))})
	}
	if e.wrong != "" && out.width() < lipgloss.Width(e.wrong) && width-out.width() < 12 {
		return ln(span{bad, " " + e.wrong}).clip(width)
	}
	return out
}
