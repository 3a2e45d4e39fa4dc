// Package report shows the checklist's outcome: as text for people, as JSON for the record, and the list
// and stories of the checks themselves.
package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/check"
)

// Options say how text is written.
type Options struct {
	Color   bool // ANSI colours around status words; the words say everything without them
	Verbose bool // passed subjects too, and every finding
	Quiet   bool // nothing of what passed or was skipped
}

// maxFindings is how many findings of one check are shown unless Verbose.
const maxFindings = 8

// Text writes a report for people. It ends with the verdict and with what would make it PASS.
func Text(w io.Writer, r check.Report, o Options) error {
	p := &printer{Options: o}
	p.head(r)
	follow := folded(r)
	for _, x := range r.Results {
		calm := x.Status == check.StatusPass || x.Status == check.StatusSkip
		if len(x.CausedBy) == 0 && (!o.Quiet || !calm) {
			p.result(x, follow[x.ID])
		}
	}
	p.tail(r)
	_, err := io.WriteString(w, p.b.String())
	return err
}

// folded are the results shown under another one: each under the first of its causes.
func folded(r check.Report) map[string][]check.Result {
	out := map[string][]check.Result{}
	for _, x := range r.Results {
		if len(x.CausedBy) > 0 {
			out[x.CausedBy[0]] = append(out[x.CausedBy[0]], x)
		}
	}
	return out
}

type printer struct {
	Options
	b strings.Builder
}

func (p *printer) line(format string, args ...any) { fmt.Fprintf(&p.b, format+"\n", args...) }

func (p *printer) head(r check.Report) {
	n := r.Node
	p.line("%s: %s (%s), %s", or(n.Hostname, "node"), strings.TrimSpace(n.Distro+" "+n.Version), n.Role, n.Platform)
	when := r.Started.Format("2006-01-02 15:04:05 MST") + ", " + r.Finished.Sub(r.Started).Round(10*time.Millisecond).String()
	parts := []string{"profile " + string(r.Profile), when, "egress " + string(r.Egress.State)}
	if r.Site != "" {
		parts = append([]string{"site " + r.Site}, parts...)
	}
	if r.Deep {
		parts = append(parts, "deep")
	}
	p.line("%s\n", strings.Join(parts, ", "))
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// word is the status in capitals and in a column of its own.
func (p *printer) word(s check.Status, waived bool) string {
	text := strings.ToUpper(string(s))
	if waived {
		text = "WAIVED"
	}
	column := fmt.Sprintf("%-8s", text)
	if !p.Color {
		return column
	}
	code := map[string]string{"PASS": "32", "FAIL": "31;1", "ERROR": "31;1", "WARN": "33", "UNPROVEN": "33"}[text]
	if code == "" {
		return column
	}
	return "\x1b[" + code + "m" + column + "\x1b[0m"
}

func (p *printer) result(x check.Result, consequences []check.Result) {
	count := ""
	if n := len(x.Findings); n > 1 && x.Status == check.StatusPass {
		count = fmt.Sprintf(" (%d)", n)
	}
	p.line("%s  %-7s %s%s", p.word(x.Status, x.Waived != nil), x.ID, x.Title, count)
	if v := x.Waived; v != nil {
		p.line("%18saccepted by %s%s: %s", "", v.Owner, until(v.Until), v.Reason)
	}
	p.findings(x)
	for _, c := range consequences {
		p.line("%18sleads to  %s %s: %s", "", strings.ToUpper(string(c.Status)), c.ID, c.Title)
		if p.Verbose {
			p.findings(c)
		}
	}
}

func until(date string) string {
	if date == "" {
		return ""
	}
	return " until " + date
}

// findings prints what is not simply passed, those of one reason together.
func (p *printer) findings(x check.Result) {
	shown, hidden, said := 0, 0, map[string]bool{}
	for _, f := range x.Findings {
		if f.Status == check.StatusPass && !p.Verbose {
			continue
		}
		if shown >= maxFindings && !p.Verbose {
			hidden++
			continue
		}
		if f.Status == check.StatusSkip && said[f.Reason] {
			continue
		}
		said[f.Reason] = true
		shown++
		p.finding(f)
	}
	if hidden > 0 {
		p.line("%18s... and %d more; -v or -o json shows them", "", hidden)
	}
}

func (p *printer) finding(f check.Finding) {
	if f.Status == check.StatusSkip {
		label := "not applicable"
		if f.Deferred {
			label = "deferred"
		}
		p.line("%18s%s: %s", "", label, f.Reason)
		return
	}
	p.line("%18s%s", "", f.Subject)
	p.field("expected", f.Expected)
	p.field("observed", f.Observed)
	p.field("reason", f.Reason)
	p.field("source", f.Source)
	p.field("fix", f.Remedy.String())
}

func (p *printer) field(name, value string) {
	if value != "" {
		p.line("%20s%-9s %s", "", name, strings.ReplaceAll(strings.TrimRight(value, "\n"), "\n", "\n"+strings.Repeat(" ", 30)))
	}
}

// drift says what changed since an earlier record, what matters first.
func (p *printer) drift(r check.Report) {
	if r.Against == "" {
		return
	}
	p.line("\nChanged since %s:", r.Against)
	if len(r.Drift) == 0 {
		p.line("  nothing")
	}
	for _, matters := range []bool{true, false} {
		for _, d := range r.Drift {
			if d.Matters == matters {
				p.line("  %-8s %s: was %s, is %s", map[bool]string{true: "MATTERS", false: "fine"}[matters], d.What, or(d.Was, "empty"), or(d.Is, "empty"))
			}
		}
	}
}

func (p *printer) tail(r check.Report) {
	p.facts(r)
	p.drift(r)
	p.line("\n%d checks: %s", len(r.Results), Counts(r.Counts))
	p.line("\nVerdict: %s", r.Verdict)
	if len(r.Missing) == 0 {
		return
	}
	p.line("What would make it PASS:")
	for _, m := range r.Missing {
		text := strings.ReplaceAll(m.Text, "\n", "\n    ")
		if len(m.IDs) > 0 {
			text = strings.Join(m.IDs, ", ") + ": " + text
		}
		p.line("  - %s", text)
	}
}

// Counts is "9 pass, 1 fail".
func Counts(c check.Counts) string {
	var parts []string
	for _, x := range []struct {
		n    int
		word string
	}{
		{c.Pass, "pass"}, {c.Warn, "warn"}, {c.Fail, "fail"}, {c.Error, "error"},
		{c.Unproven, "unproven"}, {c.Skip, "skip"}, {c.Waived, "waived"},
	} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.word))
		}
	}
	return strings.Join(parts, ", ")
}
