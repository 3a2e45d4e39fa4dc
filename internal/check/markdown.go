package check

import (
	"fmt"
	"strings"
)

// Markdown is docs/checks.md, made from the checks themselves.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# The checklist\n\n" +
		"Generated from `internal/check` by `make docs`.\n\n" +
		"`edgeprep check` runs these; `edgeprep explain ID` prints one. A *fail* check blocks shipping, a *warn* check never\n" +
		"fails the verdict. The verdict is PASS only when every check passed while egress was observed cut (PRC-03);\n" +
		"with a proof missing it is PASS-UNPROVEN, and with a check that failed or could not run it is FAIL.\n\n" +
		"A failed check can be waived by id, with reason, owner and date, in `[[checklist.waive]]` or by `--waive`; these cannot:\n" +
		strings.Join(unwaivable(), ", ") + ".\n\n" +
		"| id | true when it passes | severity | proven on | follows from |\n|---|---|---|---|---|\n")
	all := Catalogue()
	for _, c := range all {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %s | %s |\n", c.ID, strings.ToLower(c.ID), c.Title, severityCell(c), c.Scope, strings.Join(c.DependsOn, ", "))
	}
	for _, c := range all {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", c.ID, upperFirst(c.Title))
		for _, p := range []struct{ label, text string }{
			{"Seen", c.Story.Seen}, {"Cause", c.Story.Cause}, {"Looks at", c.Story.Look}, {"Fix", c.Story.Fix},
			{"Sources", strings.Join(c.Story.Sources, "; ")},
		} {
			if p.text != "" {
				fmt.Fprintf(&b, "- **%s:** %s.\n", p.label, strings.TrimSuffix(p.text, "."))
			}
		}
	}
	return b.String()
}

func unwaivable() []string {
	var out []string
	for _, c := range Catalogue() {
		if c.Unwaivable {
			out = append(out, c.ID+" ("+c.Title+")")
		}
	}
	return out
}

func severityCell(c Check) string {
	if c.Unwaivable {
		return string(c.Severity) + ", not waivable"
	}
	return string(c.Severity)
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
