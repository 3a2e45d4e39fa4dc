package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/edgeprep/edgeprep/internal/check"
)

// Markdown writes a report for a ticket or a wiki.
func Markdown(w io.Writer, r check.Report) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# %s: %s\n", r.Verdict, cell(or(r.Node.Hostname, "node")))
	p("| | |\n|---|---|")
	for _, row := range identityRows(r) {
		p("| %s | %s |", row[0], cell(row[1]))
	}
	if len(r.Missing) > 0 {
		p("\n## What would make it PASS\n")
		for _, m := range r.Missing {
			p("- %s", cell(strings.TrimSpace(strings.Join(m.IDs, ", ")+" "+m.Text)))
		}
	}
	if r.Against != "" {
		p("\n## Changed since %s\n\n| what | was | is | matters |\n|---|---|---|---|", cell(r.Against))
		for _, d := range r.Drift {
			p("| %s | %s | %s | %v |", cell(d.What), cell(d.Was), cell(d.Is), d.Matters)
		}
	}
	factTables(p, r)
	for _, g := range groups(r) {
		p("\n## %s\n\n| status | check | what is true when it passes |\n|---|---|---|", g.Title)
		for _, x := range g.Results {
			p("| %s | %s | %s%s |", word(x), x.ID, cell(x.Title), remarkCells(x))
		}
	}
	if len(r.Egress.Probes) > 0 {
		p("\n## Ways out that were tried\n\n| target | how | tries | reached | last answer |\n|---|---|---|---|---|")
		for _, x := range r.Egress.Probes {
			p("| %s | %s | %d | %d | %s |", cell(x.Target), cell(x.How), x.Tries, x.Reached, cell(x.Last))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func remarkCells(x check.Result) string {
	var b strings.Builder
	if v := x.Waived; v != nil {
		b.WriteString("<br>accepted by " + cell(v.Owner+until(v.Until)+": "+v.Reason))
	}
	if len(x.CausedBy) > 0 {
		return b.String() + "<br>follows from " + strings.Join(x.CausedBy, ", ")
	}
	for _, f := range remarks(x) {
		b.WriteString("<br>" + cell(sentence(f)))
		if fix := f.Remedy.String(); fix != "" {
			b.WriteString("; fix: " + cell(fix))
		}
	}
	return b.String()
}

// factTables are the clock and the certificates.
func factTables(p func(format string, args ...any), r check.Report) {
	rows := clockRows(r.Clock)
	if len(rows) > 0 {
		p("\n## Clock\n\n| | |\n|---|---|")
	}
	for _, row := range rows {
		p("| %s | %s |", row[0], cell(row[1]))
	}
	if len(r.Certificates) > 0 {
		p("\n## Certificates\n\n| state | until | subject | file |\n|---|---|---|---|")
	}
	for _, row := range certificateRows(r.Certificates) {
		p("| %s | %s | %s | %s |", cell(row[0]), row[1], cell(row[2]), cell(row[3]))
	}
}

// cell keeps what came from a node from being markup.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "`", "'", "[", `\[`, "*", `\*`).Replace(oneLine(s))
}

// oneLine takes control characters out, those that end a line too.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// identityRows say what was checked, when and by whom; empty ones are left out.
func identityRows(r check.Report) [][2]string {
	n := r.Node
	rows := [][2]string{
		{"site", r.Site}, {"node", n.Hostname}, {"machine id", n.MachineID}, {"distribution", strings.TrimSpace(n.Distro + " " + n.Version)},
		{"role", n.Role}, {"platform", n.Platform}, {"profile", string(r.Profile)}, {"started", r.Started.Format(time.RFC3339)},
		{"finished", r.Finished.Format(time.RFC3339)}, {"egress", egressText(r.Egress)}, {"checks", Counts(r.Counts)}, {"checked by", r.Person},
		{"edgeprep", strings.TrimSpace(r.Tool.Version + " " + short(r.Tool.SHA256))},
	}
	for _, in := range r.Inputs {
		rows = append(rows, [2]string{in.Name, in.Path + " " + short(in.SHA256)})
	}
	var out [][2]string
	for _, row := range rows {
		if strings.TrimSpace(row[1]) != "" {
			out = append(out, row)
		}
	}
	return out
}

func short(sha256 string) string {
	if len(sha256) < 16 {
		return sha256
	}
	return "sha256:" + sha256[:16] + "..."
}

func egressText(e check.Egress) string {
	if e.Reason == "" {
		return fmt.Sprintf("%s (%d samples)", e.State, e.Samples)
	}
	return string(e.State) + ": " + e.Reason
}
