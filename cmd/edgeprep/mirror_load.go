package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func newMirrorLoad(g *globals) *cobra.Command {
	var r app.FillRequest
	cmd := &cobra.Command{
		Use:   "load PATH... | URL [REF...]",
		Short: "Bring images into the cache from archives, OCI layouts, folders of them, or another mirror",
		Long: "Bring images into the cache: from archives (docker, OCI; .tar, also packed with gzip, zstd or bzip2), OCI layouts\n" +
			"and folders of both; or from another mirror or registry at a URL. A registry's API cannot list what it has, so the\n" +
			"references are named, or come as a list: edgeprep mirror ls -o json on the other node prints one.",
		Example: "  edgeprep mirror load --cache /srv/cache k3s-airgap-images-amd64.tar.zst ./layout\n" +
			"  ssh node-1 edgeprep mirror ls -o json | edgeprep mirror load http://node-1:5000 --required -",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !app.IsMirrorURL(args[0]) {
				if r.Required != "" || len(r.Platforms) > 0 {
					return &usageError{errors.New("--required and --platform are for loading from a mirror's URL")}
				}
				return g.load(cmd, r.Cache, args)
			}
			r.From, r.References = args[0], args[1:]
			if len(r.References) == 0 && r.Required == "" {
				return &usageError{errors.New("nothing to load: name references or a --required file")}
			}
			return g.fill(cmd, r)
		},
	}
	cacheFlag(cmd, &r.Cache)
	f := cmd.Flags()
	f.StringVar(&r.Required, "required", "", "with a URL: file with one reference a line, or what ls -o json prints; - is stdin")
	f.StringSliceVar(&r.Platforms, "platform", nil, "with a URL: platform to load, like linux/arm64 (default: all that an image has)")
	return cmd
}

func (g *globals) load(cmd *cobra.Command, cache string, paths []string) error {
	sinks, closeAll, err := g.sinks()
	if err != nil {
		return err
	}
	r, err := app.LoadCache(cmd.Context(), cache, paths, progress.NewStream("", "", nil, sinks...))
	if cerr := closeAll(); err == nil {
		err = cerr
	}
	if g.json() && err == nil {
		return writeJSON(g.out, r)
	}
	for _, i := range r.Images {
		fmt.Fprintf(g.out, "%-8s %s@%s\n", i.Status, strings.TrimSuffix(i.Reference, "@"+i.Digest), i.Digest)
	}
	return err
}
