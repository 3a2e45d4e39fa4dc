package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/report"
)

func newCheck(g *globals) *cobra.Command {
	var o app.CheckOptions
	var list, ifConfigured, keep bool
	var profile, graph string
	var wait time.Duration
	var k keeping
	cmd := &cobra.Command{
		Use:   "check [ID...]",
		Short: "Run the checklist; the verdict is PASS, PASS-UNPROVEN or FAIL",
		Long: "Runs the checklist on this node. It never changes the node and never needs a network.\n" +
			"The verdict is PASS only when every required check ran and passed while egress was seen cut.\n\n" +
			"Exit codes: 0 PASS or PASS-UNPROVEN, 3 FAIL, 4 with --strict: warnings or PASS-UNPROVEN; or a check could not run.",
		Example: "  edgeprep check\n  edgeprep check --profile ship --deep\n  edgeprep check IMG-01 'REG-*' -o json\n  edgeprep check --list --profile ship\n" +
			"  edgeprep check --profile ship --out /var/lib/edgeprep/reports --by 'A. Nyman' --sign ~/.ssh/id_ed25519\n" +
			"  edgeprep check --profile arrival --against check-20261122T214000Z-kiosk-0417-PASS.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.IDs, o.Profile = args, check.Profile(profile)
			if list {
				return g.listChecks(check.Options{IDs: args, Profile: check.Profile(profile)}, profile == "")
			}
			if _, err := check.Select(check.Options{IDs: args, Profile: check.Profile(profile)}); err != nil {
				return &usageError{err}
			}
			if cmd.Flags().Changed("graph") {
				return g.drawColdStart(cmd.Context(), graph)
			}
			if err := k.into(&o); err != nil {
				return err
			}
			return g.with(cmd.Context(), func(ctx context.Context, a *app.App) error {
				if ifConfigured && !a.Configured() {
					fmt.Fprintf(g.err, "edgeprep: no %s, nothing to check\n", a.ConfigName())
					return nil
				}
				r, err := a.CheckUntil(ctx, o, wait)
				if err != nil {
					return err
				}
				if err := k.keep(g, r); err != nil {
					return err
				}
				return g.concludeCheck(ctx, a, r, keep, k.format)
			})
		},
		ValidArgsFunction: completeChecks,
	}
	f := cmd.Flags()
	f.StringVar(&profile, "profile", "", "which checks: stage, ship, arrival or running (default: [checklist] profile, else stage)")
	f.BoolVar(&o.Deep, "deep", false, "hash content again instead of trusting size and time")
	f.BoolVar(&o.Strict, "strict", false, "exit 4 on warnings and on PASS-UNPROVEN")
	f.BoolVar(&list, "list", false, "list the checks: all, those that are named, or those of --profile")
	k.flags(f)
	f.StringVar(&graph, "graph", "", "draw what waits for what at power-on (COLD-*), as mermaid or dot; with -o json as data")
	f.DurationVar(&wait, "wait", 0, "look again for this long while something fails: for a node that is starting")
	f.BoolVar(&keep, "keep", false, "keep the report in the directory [checklist] out")
	f.BoolVar(&ifConfigured, "if-configured", false, "without edgeprep.toml: do nothing and succeed (boot units)")
	return cmd
}

// drawColdStart prints the cold start as a drawing instead of running the checklist.
func (g *globals) drawColdStart(ctx context.Context, form string) error {
	draw, ok := map[string]func(*coldstart.Graph, io.Writer) error{"mermaid": (*coldstart.Graph).Mermaid, "dot": (*coldstart.Graph).DOT}[form]
	if !ok {
		return &usageError{fmt.Errorf("--graph draws as mermaid or dot, not %q", form)}
	}
	return g.with(ctx, func(ctx context.Context, a *app.App) error {
		graph, err := a.ColdStart(ctx)
		switch {
		case err != nil:
			return err
		case g.json():
			return writeJSON(g.out, graph)
		}
		return draw(graph, g.out)
	})
}

func (g *globals) concludeCheck(ctx context.Context, a *app.App, r check.Report, keep bool, format string) error {
	file, err := a.NoteCheck(ctx, r, keep)
	if err != nil {
		fmt.Fprintln(g.err, "edgeprep: the result is not kept: "+err.Error())
	} else if file != "" {
		fmt.Fprintln(g.err, "report: "+file)
	}
	if err := g.writeReport(r, format); err != nil {
		return err
	}
	if code := r.ExitCode(); code != 0 {
		return &exitError{code}
	}
	return nil
}

// listChecks lists the checks that are named, or those of a profile, or all.
func (g *globals) listChecks(o check.Options, all bool) error {
	list, err := check.Select(o)
	if err != nil {
		return &usageError{err}
	}
	if all && len(o.IDs) == 0 {
		list = check.Catalogue()
	}
	if g.json() {
		return writeJSON(g.out, list)
	}
	return report.List(g.out, list)
}

func completeChecks(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	for _, c := range check.Catalogue() {
		ids = append(ids, c.ID+"\t"+c.Title)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
