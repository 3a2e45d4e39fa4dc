package tui

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// role is what a piece of text means; a word or a sign always says the same as its colour.
type role int

const (
	plain role = iota
	strong
	dim
	good
	bad
	warn
	accent
)

type span struct {
	role role
	text string
}

// line is one row of text.
type line []span

// ln makes a line of strings and spans.
func ln(parts ...any) line {
	var l line
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			l = append(l, span{plain, p})
		case span:
			l = append(l, p)
		case line:
			l = append(l, p...)
		}
	}
	return l
}

func (l line) width() int {
	n := 0
	for _, s := range l {
		n += lipgloss.Width(s.text)
	}
	return n
}

// clip cuts a line to a width, and shows that it did.
func (l line) clip(width int) line {
	if l.width() <= width {
		return l
	}
	const mark = ".."
	room := max(0, width-len(mark))
	var out line
	for _, s := range l {
		t := cut(s.text, room)
		room -= lipgloss.Width(t)
		out = append(out, span{s.role, t})
		if t != s.text {
			break
		}
	}
	return append(out, span{dim, mark[:min(len(mark), width)]})
}

// cut is as much of s as fits.
func cut(s string, width int) string {
	n := 0
	for i, r := range s {
		n += lipgloss.Width(string(r))
		if n > width {
			return s[:i]
		}
	}
	return s
}

// pad fills s up to a width, or cuts it.
func pad(s string, width int) string {
	if w := lipgloss.Width(s); w <= width {
		return s + strings.Repeat(" ", width-w)
	}
	if width <= 2 {
		return cut(s, width)
	}
	return cut(s, width-2) + ".."
}

// para wraps text to a width, every line indented.
func para(width, indent int, r role, text string) []line {
	var out []line
	room := max(10, width-indent)
	for _, p := range strings.Split(text, "\n") {
		for _, w := range wrap(p, room) {
			out = append(out, ln(strings.Repeat(" ", indent), span{r, w}))
		}
	}
	return out
}

// wrap breaks text between words; a word that is longer than a line is broken within.
func wrap(text string, width int) []string {
	var out []string
	row := ""
	for _, w := range strings.Fields(text) {
		for lipgloss.Width(w) > width {
			if row != "" {
				out, row = append(out, row), ""
			}
			head := cut(w, width)
			if head == "" {
				break
			}
			out, w = append(out, head), w[len(head):]
		}
		switch {
		case row == "":
			row = w
		case lipgloss.Width(row)+1+lipgloss.Width(w) <= width:
			row += " " + w
		default:
			out, row = append(out, row), w
		}
	}
	return append(out, row)
}

// labelled wraps text behind a label, in a column of its own.
func labelled(width int, label string, labelWidth int, r role, text string) []line {
	rows := para(width, labelWidth, r, text)
	rows[0] = ln(pad(label, labelWidth), rows[0][1:])
	return rows
}

// styles are the colours of the sixteen that every terminal has.
func (r role) style() lipgloss.Style {
	s := lipgloss.NewStyle()
	switch r {
	case strong:
		return s.Bold(true)
	case dim:
		return s.Foreground(lipgloss.BrightBlack)
	case good:
		return s.Foreground(lipgloss.Green)
	case bad:
		return s.Foreground(lipgloss.Red).Bold(true)
	case warn:
		return s.Foreground(lipgloss.Yellow)
	case accent:
		return s.Foreground(lipgloss.Cyan).Bold(true)
	}
	return s
}

// render makes a line what is sent to the terminal.
func (l Look) render(row line, width int) string {
	var b strings.Builder
	for _, s := range row.clip(width) {
		text := l.printable(s.text)
		if l.Mono || s.role == plain || text == "" {
			b.WriteString(text)
			continue
		}
		b.WriteString(s.role.style().Render(text))
	}
	return strings.TrimRight(b.String(), " ")
}

// printable keeps control characters of file names and messages away from the terminal, and in ASCII everything
// that it may not have.
func (l Look) printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0, l.ASCII && r > '~':
			return '?'
		case r == 0x061c || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff:
			return '?' // invisible, or turns the direction of what follows
		}
		return r
	}, s)
}

// body is what a screen or dialog shows between header and footer; the lines [top, end) are kept in view.
type body struct {
	lines    []line
	top, end int
}

func (b *body) add(lines ...line) { b.lines = append(b.lines, lines...) }

func (b *body) blank() { b.add(line{}) }

// focus adds lines and keeps them in view.
func (b *body) focus(lines ...line) {
	b.top = len(b.lines)
	b.add(lines...)
	b.end = len(b.lines)
}

// window chooses the first line to show: what is in focus stays in view whatever the size, without a memory of
// what was shown before. page moves it by whole windows.
func (b body) window(height, page int) int {
	last := max(0, len(b.lines)-height)
	if last == 0 {
		return 0
	}
	at := 0
	if b.end > height {
		at = b.end - height/2
		if b.end-at > height || b.top < at {
			at = b.top
		}
	}
	if b.end == len(b.lines) {
		at = last
	}
	return min(last, max(0, min(last, at)+page*max(1, height-1)))
}
