package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
)

func newDistro(g *globals) *cobra.Command {
	return group(&cobra.Command{
		Use:     "distro",
		Short:   "The descriptors of distributions",
		Example: "  edgeprep distro list\n  edgeprep distro show k3s\n  edgeprep distro lint my-distro.toml",
	}, newDistroList(g), newDistroShow(g), newDistroLint(g))
}

func newDistroList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the distributions that edgeprep knows",
		Example: "  edgeprep distro list -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			set, err := a.Descriptors()
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, set)
			}
			w := tabwriter.NewWriter(g.out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tNAME\tPRELOAD\tREGISTRIES")
			for _, d := range set {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.ID, d.Name, d.Preload.Method, d.Registries.Format)
			}
			return w.Flush()
		},
	}
}

func newDistroShow(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show one descriptor",
		Example: "  edgeprep distro show k3s",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			set, err := a.Descriptors()
			if err != nil {
				return err
			}
			d, ok := set.Get(args[0])
			if !ok {
				return &usageError{fmt.Errorf("there is no distribution %q; edgeprep distro list names them", args[0])}
			}
			if g.json() {
				return writeJSON(g.out, d)
			}
			_, err = g.out.Write(a.DescriptorSource(d.ID))
			return err
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return app.DistroIDs(), cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func newDistroLint(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "lint FILE",
		Short:   "Check a descriptor file",
		Example: "  edgeprep distro lint /etc/edgeprep/distros/my-distro.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the descriptor: %w", err)
			}
			found := distro.Lint(args[0], data)
			if found.HasErrors() {
				return &app.InvalidConfig{Found: found}
			}
			if g.json() {
				return writeJSON(g.out, map[string]any{"valid": true, "findings": found})
			}
			printFindings(g, found)
			fmt.Fprintf(g.out, "%s is valid\n", args[0])
			return nil
		},
	}
}

func printFindings(g *globals, found diag.Report) {
	for _, d := range found {
		fmt.Fprintln(g.err, d.Text())
	}
}
