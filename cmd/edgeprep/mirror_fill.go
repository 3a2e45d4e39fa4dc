package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func newMirrorFill(g *globals) *cobra.Command {
	var r app.FillRequest
	cmd := &cobra.Command{
		Use:     "fill [REF...]",
		Short:   "Pull references completely into the cache while there is a network",
		Example: "  edgeprep mirror fill --required required.txt --platform linux/amd64\n  edgeprep mirror fill --cache /srv/cache --config site.toml docker.io/library/busybox:1.36",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && r.Required == "" {
				return &usageError{fmt.Errorf("nothing to fill with: name references or a --required file")}
			}
			r.References = args
			return g.fill(cmd, r)
		},
	}
	cacheFlag(cmd, &r.Cache)
	f := cmd.Flags()
	f.StringVar(&r.Required, "required", "", "file with one reference a line, or what ls -o json prints; - is stdin")
	f.StringSliceVar(&r.Platforms, "platform", nil, "platform to pull, like linux/arm64 (default: all that an image has)")
	return cmd
}

// fill brings references in and prints what became of each.
func (g *globals) fill(cmd *cobra.Command, r app.FillRequest) error {
	var err error
	if r.Upstreams, err = app.MirrorUpstreams(g.siteFile(), os.Getenv("CREDENTIALS_DIRECTORY")); err != nil {
		return err
	}
	sinks, closeAll, err := g.sinks()
	if err != nil {
		return err
	}
	r.Stdin = g.in
	out, err := app.FillCache(cmd.Context(), r, progress.NewStream("", "", nil, sinks...))
	if cerr := closeAll(); err == nil {
		err = cerr
	}
	if g.json() && err == nil {
		return writeJSON(g.out, out)
	}
	if !g.json() {
		for _, i := range out.Images {
			fmt.Fprintf(g.out, "%-8s %s  %s\n", i.Status, i.Reference, short(i.Digest))
		}
	}
	return err
}
