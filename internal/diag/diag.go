// Package diag holds what edgeprep has to say about something wrong: id, what, where, why, and one fix that
// can be typed.
package diag

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/edgeprep/edgeprep/internal/redact"
)

// Severity ranks a diagnostic.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Diagnostic is one finding.
type Diagnostic struct {
	ID       string   `json:"id"` // "CFG-003"; see docs/errors.md
	Severity Severity `json:"severity"`
	What     string   `json:"what"` // lower case, no full stop
	Where    Where    `json:"where,omitzero"`
	Why      string   `json:"why,omitempty"`
	Fix      string   `json:"fix,omitempty"` // something that can be typed
}

// Where is the place of a finding.
type Where struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"` // 1-based
	Col     int    `json:"col,omitempty"`  // 1-based
	Key     string `json:"key,omitempty"`
	Unit    string `json:"unit,omitempty"`
	Excerpt string `json:"-"` // source lines with a marker, for people
}

// String is file:line:col, or the unit or key.
func (w Where) String() string {
	switch {
	case w.File != "" && w.Line > 0 && w.Col > 0:
		return fmt.Sprintf("%s:%d:%d", w.File, w.Line, w.Col)
	case w.File != "" && w.Line > 0:
		return fmt.Sprintf("%s:%d", w.File, w.Line)
	case w.File != "" && w.Key != "":
		return w.File + " (" + w.Key + ")"
	case w.File != "":
		return w.File
	case w.Unit != "":
		return w.Unit
	}
	return w.Key
}

// shown is the finding without secrets: it may quote a configuration that holds one where none belongs.
func (d *Diagnostic) shown() Diagnostic {
	c := *d
	for _, s := range []*string{&c.What, &c.Why, &c.Fix, &c.Where.Excerpt} {
		*s = redact.Text(*s)
	}
	return c
}

// MarshalJSON implements json.Marshaler.
func (d *Diagnostic) MarshalJSON() ([]byte, error) {
	type plain Diagnostic
	return json.Marshal(plain(d.shown()))
}

// Error makes a Diagnostic an error.
func (d *Diagnostic) Error() string {
	d = new(d.shown())
	if w := d.Where.String(); w != "" {
		return d.ID + ": " + w + ": " + d.What
	}
	return d.ID + ": " + d.What
}

// Text is the finding for a terminal, several lines, without a final newline.
func (d *Diagnostic) Text() string {
	d = new(d.shown())
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s", d.Severity, d.ID, d.What)
	line := func(label, s string) {
		if s != "" {
			fmt.Fprintf(&b, "\n  %-6s %s", label, strings.ReplaceAll(s, "\n", "\n         "))
		}
	}
	line("where", d.Where.String())
	if d.Where.Excerpt != "" {
		b.WriteString("\n" + strings.TrimRight(d.Where.Excerpt, "\n"))
	}
	line("why", d.Why)
	line("fix", d.Fix)
	return b.String()
}

// Report is a list of findings; as an error it stands for all of them.
type Report []*Diagnostic

// Add appends findings.
func (r *Report) Add(ds ...*Diagnostic) { *r = append(*r, ds...) }

// HasErrors says whether any finding is an error.
func (r Report) HasErrors() bool {
	for _, d := range r {
		if d.Severity == Error {
			return true
		}
	}
	return false
}

// Err is the report as an error, nil without errors in it.
func (r Report) Err() error {
	if !r.HasErrors() {
		return nil
	}
	return r
}

func (r Report) Error() string {
	parts := make([]string, 0, len(r))
	for _, d := range r {
		parts = append(parts, d.Error())
	}
	return strings.Join(parts, "; ")
}

// Of finds the diagnostics in err: a Report, a Diagnostic, or none.
func Of(err error) Report {
	var r Report
	if errors.As(err, &r) {
		return r
	}
	var d *Diagnostic
	if errors.As(err, &d) {
		return Report{d}
	}
	return nil
}

// Refused wraps a finding that stopped edgeprep before it touched anything (exit 69).
type Refused struct{ Err error }

func (e *Refused) Error() string { return e.Err.Error() }

// Unwrap gives the finding.
func (e *Refused) Unwrap() error { return e.Err }
