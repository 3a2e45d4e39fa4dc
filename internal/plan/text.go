package plan

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/edgeprep/edgeprep/internal/resource"
)

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

// Text writes the plan for people: each change with its sign, diffs, what has to wait, and one line of summary.
func (p Plan) Text(w io.Writer, color bool) error {
	t := &printer{w: bufio.NewWriter(w), color: color}
	for _, c := range p.Changes {
		t.change(c)
	}
	t.section("Not possible now:", p.Pending)
	t.section("Left as it is:", p.Kept)
	for _, d := range p.Problems {
		t.printf("%s\n", d.Text())
	}
	if len(p.Changes)+len(p.Pending)+len(p.Kept)+len(p.Problems) > 0 {
		t.printf("\n")
	}
	t.printf("%s\n", p.Summary())
	return t.w.Flush()
}

// Summary is the plan in one line.
func (p Plan) Summary() string {
	if len(p.Changes) == 0 {
		return "Nothing to do" + p.compared() + p.waiting() + "."
	}
	create, update, remove, starts := 0, 0, 0, 0
	var restarts []string
	for _, c := range p.Changes {
		switch c.Action {
		case ActionCreate, ActionPlace, ActionImport:
			if c.Before == nil {
				create++
			} else {
				update++
			}
		case ActionUpdate, ActionRestore, ActionEnable, ActionDisable, ActionReload:
			update++
		case ActionDelete:
			remove++
		case ActionStart, ActionStop:
			starts++
		case ActionRestart:
			restarts = append(restarts, c.Path)
		}
	}
	out := fmt.Sprintf("Plan: %d to create, %d to update, %d to remove", create, update, remove)
	if starts > 0 {
		out += "; " + count(starts, "unit") + " to start or stop"
	}
	if len(restarts) > 0 {
		out += fmt.Sprintf("; %s (%s)", count(len(restarts), "restart"), strings.Join(restarts, ", "))
	}
	return out + p.waiting() + "."
}

func (p Plan) compared() string {
	if p.Resources == 0 {
		return ""
	}
	return ": " + count(p.Resources, "resource") + " as wanted"
}

func (p Plan) waiting() string {
	if len(p.Pending) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d pending", len(p.Pending))
}

type printer struct {
	w     *bufio.Writer
	color bool
}

func (t *printer) printf(format string, args ...any) { fmt.Fprintf(t.w, format, args...) }

func (t *printer) paint(color, s string) string {
	if !t.color || color == "" {
		return s
	}
	return color + s + reset
}

func (t *printer) change(c Change) {
	sign, color := c.sign()
	line := fmt.Sprintf("%s %-8s %s", sign, c.Kind, c.Summary)
	if d := c.detail(); d != "" {
		line += "  (" + d + ")"
	}
	t.printf("%s\n", t.paint(color, line))
	if c.Reason != "" {
		t.printf("    %s\n", c.Reason)
	}
	for _, r := range c.Risks {
		t.printf("    %s\n", t.paint(yellow, "needs --allow "+string(r)))
	}
	if c.Kind == resource.KindFile || c.Kind == resource.KindImageSet || c.Kind == resource.KindSymlink {
		t.diff(c.Diff)
	}
}

// Sign is the mark before a change: + ~ - ! > or ? for a gate, which only looks.
func (c Change) Sign() string {
	s, _ := c.sign()
	return s
}

// Detail is what a change is about, in a few words; empty: its summary says all.
func (c Change) Detail() string { return c.detail() }

// sign marks what a change does; a gate only looks.
func (c Change) sign() (sign, color string) {
	switch c.Action {
	case ActionCreate:
		return "+", green
	case ActionPlace, ActionImport:
		if c.Before == nil {
			return "+", green
		}
		return "~", yellow
	case ActionDelete, ActionStop, ActionDisable:
		return "-", red
	case ActionStart, ActionEnable:
		return ">", green
	case ActionRestart:
		return "!", yellow
	case ActionProve:
		return "?", cyan
	}
	return "~", yellow
}

func (c Change) detail() string {
	switch {
	case len(c.Steps) > 0:
		parts := make([]string, len(c.Steps))
		for i, s := range c.Steps {
			parts[i] = string(s)
		}
		return strings.Join(parts, ", ")
	case c.Bytes > 0 && c.Resource != nil && c.Resource.Archive != nil:
		return Size(c.Bytes) + " from " + c.Resource.Archive.Source
	case c.Bytes > 0:
		return Size(c.Bytes)
	case c.Action == ActionCreate && c.After != nil && c.After.Type != "" && c.After.Target == "":
		return c.After.meta()
	case c.After != nil && c.After.Target != "":
		return "-> " + c.After.Target
	case c.Before != nil && c.After != nil && c.Before.Type != "" && c.Before.meta() != c.After.meta():
		return c.Before.meta() + " -> " + c.After.meta()
	}
	return ""
}

func (t *printer) diff(d string) {
	for _, line := range strings.Split(strings.TrimSuffix(d, "\n"), "\n") {
		if line == "" || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "+++ ") {
			continue
		}
		color := ""
		switch line[0] {
		case '+':
			color = green
		case '-':
			color = red
		case '@':
			color = cyan
		}
		t.printf("      %s\n", t.paint(color, printable(line)))
	}
}

// printable keeps control characters of a node's files away from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

func (t *printer) section(title string, list []Pending) {
	if len(list) == 0 {
		return
	}
	t.printf("\n%s\n", title)
	for _, x := range list {
		t.printf(". %s: %s\n", x.What, x.Why)
	}
}

// Size is a number of bytes for people.
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
