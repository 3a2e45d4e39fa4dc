package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
)

func newMirrorMisses(g *globals) *cobra.Command {
	var cache, admin, since string
	var required bool
	cmd := &cobra.Command{
		Use:   "misses",
		Short: "List what nodes asked the mirror for and it had not",
		Long: "List what nodes asked the mirror for and it had not: by whom, how often, and when. It asks the mirror that is\n" +
			"running, else it reads what one wrote into the cache. With --required the references alone, each once, without\n" +
			"those that came since: what edgeprep mirror fill --required takes.",
		Example: "  edgeprep mirror misses --since 7d\n  edgeprep mirror misses --required > missing.txt && edgeprep mirror fill --required missing.txt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := age("--since", since)
			if err != nil {
				return err
			}
			var from time.Time
			if d > 0 {
				from = time.Now().Add(-d)
			}
			if f := cmd.Flags(); f.Changed("admin") && !f.Changed("cache") {
				if cache, err = app.CacheOf(cmd.Context(), admin); err != nil {
					return err
				}
			}
			if err := readable(cache); err != nil {
				return err
			}
			list, err := app.CacheMisses(cmd.Context(), cache, admin, from)
			switch {
			case err != nil:
				return err
			case g.json():
				return writeJSON(g.out, list)
			case required:
				return writeRequired(g.out, list)
			}
			return writeMisses(g.out, list)
		},
	}
	cacheFlag(cmd, &cache)
	adminFlag(cmd, &admin)
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "only what was asked for within this time: 7d, 12h (default: all that is remembered)")
	f.BoolVar(&required, "required", false, "print the missing references alone, one a line")
	return cmd
}

func writeRequired(w io.Writer, list []app.MissedReference) error {
	seen := map[string]bool{}
	for _, m := range list {
		if m.Image == "" || m.Present || seen[m.Image] {
			continue
		}
		seen[m.Image] = true
		if _, err := fmt.Fprintln(w, m.Image); err != nil {
			return err
		}
	}
	return nil
}

func writeMisses(w io.Writer, list []app.MissedReference) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "WHAT\tCOUNT\tFIRST\tLAST\tCLIENT\tAGENT\tNOW")
	for _, m := range list {
		what, now := m.Image, "missing"
		switch {
		case what == "":
			what, now = fmt.Sprintf("%s %s/%s %s", m.Kind, m.Registry, m.Repository, m.Reference), ""
		case m.Present:
			now = "in the cache"
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", ascii(what), m.Count, minute(m.First), minute(m.Last), m.Client, ascii(m.Agent), now)
	}
	return tw.Flush()
}

// ascii is text of strangers as it can be shown on a terminal, which would obey what is not text.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
