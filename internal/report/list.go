package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/edgeprep/edgeprep/internal/check"
)

// JSON writes the report as one document, the form that is kept.
func JSON(w io.Writer, r check.Report) error { return encode(w, r) }

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// List writes the checks, one a line.
func List(w io.Writer, checks []check.Check) error {
	var b strings.Builder
	for _, c := range checks {
		title := c.Title
		if c.Unwaivable {
			title += " (cannot be waived)"
		}
		fmt.Fprintf(&b, "%-7s %-5s %-10s %s\n", c.ID, c.Severity, c.Scope, title)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ListJSON writes the checks, with their stories, as one JSON document.
func ListJSON(w io.Writer, checks []check.Check) error { return encode(w, checks) }

// Explain writes a check's story.
func Explain(w io.Writer, c check.Check) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n\n", c.ID, c.Title)
	part := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-10s %s\n", label, wrapped(text, 90, "           "))
		}
	}
	part("Seen", c.Story.Seen)
	part("Cause", c.Story.Cause)
	part("Looks at", c.Story.Look)
	part("Fix", c.Story.Fix)
	part("Severity", severity(c))
	part("Depends on", strings.Join(c.DependsOn, ", "))
	part("Sources", strings.Join(c.Story.Sources, "; "))
	_, err := io.WriteString(w, b.String())
	return err
}

func severity(c check.Check) string {
	switch {
	case c.Severity == check.SeverityWarn:
		return "warn: needs a decision, never fails the verdict"
	case c.Unwaivable:
		return "fail: blocks shipping and cannot be waived"
	}
	return "fail: blocks shipping unless waived with reason, owner and date"
}

// wrapped breaks text at spaces.
func wrapped(text string, width int, indent string) string {
	var b strings.Builder
	col := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case col+1+len(word) > width:
			b.WriteString("\n" + indent)
			col = 0
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += len(word)
	}
	return b.String()
}
