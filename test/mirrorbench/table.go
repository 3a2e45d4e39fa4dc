package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// goal is what a figure should be, and the least that counts as done.
type goal struct {
	atLeast    bool // else at most
	aim, least float64
	format     string // of aim and least, with the unit
}

func atMost(aim, least float64, format string) goal {
	return goal{aim: aim, least: least, format: format}
}
func atLeast(aim, least float64, format string) goal { return goal{true, aim, least, format} }

func (g goal) meets(v, limit float64) bool {
	if g.atLeast {
		return v >= limit
	}
	return v <= limit
}

func (g goal) verdict(v float64) string {
	switch {
	case g.meets(v, g.aim):
		return "met"
	case g.meets(v, g.least):
		return "least met"
	}
	return "**missed**"
}

func (g goal) text(v float64) string {
	sign := "≤ "
	if g.atLeast {
		sign = "≥ "
	}
	return sign + fmt.Sprintf(g.format, v)
}

// row is one line of the table.
type row struct {
	what, aim, least, measured, verdict string
	others                              string // the peers in the same run
}

func (g goal) row(what string, v float64, others string) row {
	if math.IsNaN(v) {
		return row{what, g.text(g.aim), g.text(g.least), "", "not measured", others}
	}
	return row{what, g.text(g.aim), g.text(g.least), fmt.Sprintf(g.format, v), g.verdict(v), others}
}

// table is the rows as Markdown.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| what | aim | least | measured | verdict | peers in the same run |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.aim, r.least, r.measured, r.verdict, r.others)
	}
	return b.String()
}

// The markers of what this program writes into a document.
const (
	beginMark = "<!-- mirror: everything up to the end marker is written by test/mirrorbench -->"
	endMark   = "<!-- end of mirror -->"
)

// replace writes text between the markers of a document.
func replace(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s: the markers %q and %q are not there", path, beginMark, endMark)
	}
	return os.WriteFile(path, []byte(before+beginMark+"\n\n"+text+"\n"+endMark+after), 0o644)
}

// median is not a number when there is none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratios divides round by round: what disturbs a round disturbs both of its figures.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}
