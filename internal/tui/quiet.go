package tui

import (
	"bytes"
	"io"
)

// file is a terminal as bubbletea wants it.
type file interface {
	io.ReadWriteCloser
	Fd() uintptr
}

// quiet keeps from an old terminal what it never heard of: a VT220 or the console of a management board prints the
// rest of a sequence that it does not know.
type quiet struct{ file }

// unknown are what bubbletea writes on every terminal at its start and end: queries of modes 2026 and 2027, tab stops,
// bracketed paste, xterm's and kitty's keyboards. bubbletea: tea.go, cursed_renderer.go, tty.go, v2.1.1
func unknown() []string {
	return []string{"\x1b[?2026$p", "\x1b[?2027$p", "\x1b[?5W", "\x1b[?2004h", "\x1b[?2004l", "\x1b[>4m", "\x1b[>4;2m", "\x1b[>4;0m", "\x1b[>1u",
		"\x1b[<1u", "\x1b[<u", "\x1b[?u", "\x1b[=0;1u", "\x1b[?1049h", "\x1b[?1049l"}
}

// Write leaves them out; the renderer writes whole sequences.
func (q quiet) Write(p []byte) (int, error) {
	out := p
	for _, u := range unknown() {
		out = bytes.ReplaceAll(out, []byte(u), nil)
	}
	if len(out) == 0 {
		return len(p), nil
	}
	if _, err := q.file.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
