package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/report"
)

func newExplain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "explain ID",
		Short: "What a check or an error means, why it matters, how to fix what it finds",
		Long: "Tells the story of a check (REG-01; edgeprep check --list names them), or what is said under the id of an error:\n" +
			"CFG configuration and descriptors, NOD the node and its archives, APL plan, apply and rollback, MER the mirror.",
		Example: "  edgeprep explain REG-01\n  edgeprep explain NOD-102",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			id := strings.ToUpper(args[0])
			if c, ok := check.ByID(id); ok {
				if g.json() {
					return writeJSON(g.out, c)
				}
				return report.Explain(g.out, c)
			}
			e, ok := app.ErrorByID(id)
			if !ok {
				return unknownID(args[0])
			}
			if g.json() {
				return writeJSON(g.out, e)
			}
			return e.Text(g.out)
		},
		ValidArgsFunction: completeIDs,
	}
}

// unknownID names the nearest id of a check or an error.
func unknownID(id string) error {
	var ids []string
	for _, c := range check.Catalogue() {
		ids = append(ids, c.ID)
	}
	for _, e := range app.Errors() {
		ids = append(ids, e.ID)
	}
	hint := ""
	if n := diag.Nearest(strings.ToUpper(id), ids); n != "" {
		hint = "; did you mean " + n + "?"
	}
	return &usageError{fmt.Errorf("there is no check %q, and no error%s; edgeprep check --list names the checks", id, hint)}
}

func completeIDs(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ids, directive := completeChecks(cmd, args, prefix)
	for _, e := range app.Errors() {
		ids = append(ids, e.ID+"\t"+e.Says)
	}
	return ids, directive
}
