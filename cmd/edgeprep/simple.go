package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
)

// writeJSON prints the one document that stdout carries under -o json.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  edgeprep version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo()
			if g.json() {
				return writeJSON(g.out, v)
			}
			fmt.Fprintf(g.out, "edgeprep %s (%s, %s, %s)\nreads edgeprep.toml version %s\n", v["version"], v["commit"], v["go"], v["platform"], v["config"])
			return nil
		},
	}
}

func versionInfo() map[string]string {
	v := map[string]string{"version": version, "commit": "unknown commit", "go": runtime.Version(),
		"platform": runtime.GOOS + "/" + runtime.GOARCH, "config": "1"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v["commit"] = s.Value
		}
	}
	return v
}

func newDetect(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "detect",
		Short:   "Show the distribution, its version, role, runtime and paths, each with its evidence",
		Example: "  edgeprep detect\n  edgeprep detect -o json --root /mnt/image",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			n, err := a.Detect(cmd.Context())
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, n)
			}
			app.WriteNode(g.out, n)
			return nil
		},
	}
}

func newValidate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "validate",
		Short:   "Check edgeprep.toml, anywhere, without a node; all problems at once",
		Example: "  edgeprep validate -c edgeprep.toml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			site, err := a.Site()
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, map[string]any{"valid": true, "config": a.ConfigName(), "site": site.Site.Name})
			}
			fmt.Fprintf(g.out, "%s is valid\n", a.ConfigName())
			return nil
		},
	}
}

func newInit(g *globals) *cobra.Command {
	var o app.InitOptions
	var out string
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Print a commented edgeprep.toml for the node that was detected",
		Example: "  edgeprep init --out /etc/edgeprep/edgeprep.toml\n  edgeprep init --distro k3s --mode systemd",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			text, err := a.Init(cmd.Context(), o)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = fmt.Fprint(g.out, text)
				return err
			}
			return a.WriteNew(out, text)
		},
	}
	cmd.Flags().StringVar(&o.Distro, "distro", "", "distribution id instead of what is detected")
	cmd.Flags().StringVar(&o.Mode, "mode", "systemd", "how the mirror runs: systemd, workload or none")
	cmd.Flags().StringVar(&out, "out", "", "write to this new file instead of stdout")
	return cmd
}

func (g *globals) completeNodes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	a, err := g.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	site, err := a.Site()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, n := range site.Nodes {
		names = append(names, n.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
