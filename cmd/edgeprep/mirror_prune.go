package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func newMirrorPrune(g *globals) *cobra.Command {
	var r app.PruneRequest
	var unused, grace string
	var required bool
	cmd := &cobra.Command{
		Use:   "prune [PATTERN...]",
		Short: "Remove references, and what no reference reaches, from the cache",
		Long: "Remove references, and what no reference reaches, from the cache. Without --yes it only says what would go.\n" +
			"Without PATTERN, --unused-for, --keep and --keep-required no reference goes; with keep lists alone all others do.\n" +
			"A mirror may be serving the cache meanwhile; while it is loaded or filled, this ends with 75." + patternHelp,
		Example: "  edgeprep mirror prune --cache /srv/cache\n  edgeprep mirror prune --unused-for 90d --keep-required --yes\n  edgeprep mirror prune 'docker.io/team/**:1.*' --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if r.UnusedFor, err = age("--unused-for", unused); err != nil {
				return err
			}
			if r.Grace, err = age("--grace", grace); err != nil {
				return err
			}
			if _, err := mirror.ParsePatterns(args); err != nil {
				return &usageError{err}
			}
			r.Patterns, r.Apply, r.Stdin = args, g.yes, g.in
			return g.prune(cmd, r, required)
		},
	}
	cacheFlag(cmd, &r.Cache)
	adminFlag(cmd, &r.Admin)
	f := cmd.Flags()
	f.StringVar(&unused, "unused-for", "", "only references that nobody pulled, and that came, longer ago: 90d, 36h")
	f.StringArrayVar(&r.Keep, "keep", nil, "file of references or patterns, one a line, that stay whatever else says; - is stdin")
	f.BoolVar(&required, "keep-required", false, "what the site's [images] required lists stays")
	f.StringVar(&grace, "grace", "24h", "what no reference reaches stays when it is newer: it may belong to a copy that is still going on")
	return cmd
}

func (g *globals) prune(cmd *cobra.Command, r app.PruneRequest, required bool) error {
	if required {
		a, err := g.open()
		if err != nil {
			return err
		}
		defer a.Close()
		if r.Required, err = a.RequiredReferences(); err != nil {
			return err
		}
	}
	if err := readable(r.Cache); err != nil {
		return err
	}
	sinks, closeAll, err := g.sinks()
	if err != nil {
		return err
	}
	out, err := app.PruneCache(cmd.Context(), r, progress.NewStream("", "", nil, sinks...))
	if cerr := closeAll(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if g.json() {
		return writeJSON(g.out, out)
	}
	return writePruned(g.out, out)
}

func writePruned(w io.Writer, r mirror.PruneReport) error {
	verb, done := "remove", "would be removed; do it: the same command with --yes"
	if r.Applied {
		verb, done = "removed", "removed"
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, p := range r.References {
		fmt.Fprintf(tw, "%s\t%s\t%s\tlast pull %s\tcame %s\n", verb, p.Reference, progress.Bytes(p.Size), minute(p.LastUse), minute(p.Time))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, p := range r.Idle {
		fmt.Fprintf(w, "note: nothing is selected by %s\n", p)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	if r.Young > 0 {
		fmt.Fprintf(w, "note: %d blobs, %s, that no reference reaches stay because they are new (--grace)\n", r.Young, progress.Bytes(r.YoungBytes))
	}
	fmt.Fprintf(w, "%d references, %d blobs, %d in quarantine, %s: %s\n", len(r.References), r.Blobs, r.Quarantine, progress.Bytes(r.Bytes), done)
	_, err := fmt.Fprintf(w, "%d references stay\n", r.Kept)
	return err
}

// age reads a length of time: what time.ParseDuration reads, and days (90d) and weeks (2w).
func age(flag, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			if v, err := strconv.ParseUint(n, 10, 16); err == nil {
				return time.Duration(v) * d, nil //nolint:gosec // 16 bits
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, &usageError{fmt.Errorf("%s %q is not a length of time: write it like 90d or 36h", flag, s)}
	}
	return d, nil
}
