package tui

import (
	"path"
	"slices"
	"strings"
)

// Look is how text is shown: which characters, whether in colour, and how often. Layout is the same in all.
type Look struct {
	ASCII bool // no character beyond ASCII
	Mono  bool // no colour
	Slow  bool // a serial line: few frames
	Old   bool // knows only what a VT220 knows
}

// Frames a second. A full frame at 9600 baud takes two seconds, and bubbletea sends changed cells only.
const (
	framesSlow = 2
	frames     = 30
)

func (l Look) fps() int {
	if l.Slow {
		return framesSlow
	}
	return frames
}

// LookFor chooses a look for a terminal from its environment, and from the name of its device where it is known:
// a serial line says nothing about itself in TERM.
func LookFor(env []string, device string) Look {
	get := func(key string) string {
		for _, e := range slices.Backward(env) {
			if k, v, ok := strings.Cut(e, "="); ok && k == key {
				return v
			}
		}
		return ""
	}
	term := get("TERM")
	old := term == "" || term == "dumb" || term == "unknown" || strings.HasPrefix(term, "vt")
	l := Look{
		ASCII: old || term == "linux" || term == "ansi" || !unicodeLocale(get),
		Mono:  old || get("NO_COLOR") != "",
		Slow:  old || serial(device),
		Old:   old || term == "linux" || term == "ansi" || serial(device),
	}
	return l
}

// unicodeLocale asks the variables in the order of locale(7).
func unicodeLocale(get func(string) string) bool {
	for _, k := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(get(k)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

func serial(device string) bool {
	name := path.Base(device)
	for _, p := range []string{"ttyS", "ttyAMA", "ttyUSB", "ttyACM", "hvc", "console"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// pick gives the rich or the plain form of a glyph; both are equally wide.
func (l Look) pick(rich, ascii string) string {
	if l.ASCII {
		return ascii
	}
	return rich
}

func (l Look) rule(width int) string { return strings.Repeat(l.pick("─", "-"), max(0, width)) }

func (l Look) cursor(on bool) string {
	if on {
		return l.pick("▸ ", "> ")
	}
	return "  "
}

func (l Look) radio(on bool) string {
	if on {
		return l.pick("(●)", "(*)")
	}
	return "( )"
}

func (l Look) box(on bool) string {
	if on {
		return l.pick("[✓]", "[x]")
	}
	return "[ ]"
}

func (l Look) arrow() string { return l.pick("→ ", "->") }

// gauge is a bar of width cells, filled by parts of a whole; each part has its own glyph, so that it needs no colour.
func (l Look) gauge(width int, whole int64, parts ...int64) string {
	fill := []string{l.pick("█", "#"), l.pick("▒", "+")}
	var b strings.Builder
	used := 0
	for i, p := range parts {
		n := 0
		if whole > 0 {
			n = int(min(p, whole) * int64(width) / whole)
		}
		if p > 0 && n == 0 {
			n = 1
		}
		n = min(n, width-used)
		used += n
		b.WriteString(strings.Repeat(fill[i%len(fill)], n))
	}
	return "[" + b.String() + strings.Repeat(l.pick("·", "."), width-used) + "]"
}
