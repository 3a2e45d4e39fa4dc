package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func newMirrorExport(g *globals) *cobra.Command {
	var r app.ExportRequest
	cmd := &cobra.Command{
		Use:   "export [PATTERN...]",
		Short: "Write references of the cache as an OCI layout or as one archive",
		Long: "Write references of the cache as an OCI layout, in a directory or as one archive (.tar, .tar.gz, .tar.zst) that\n" +
			"containerd, docker, skopeo and edgeprep mirror load read. Digests stay what they are." + patternHelp,
		Example: "  edgeprep mirror export --required required.txt --out images.tar --platform linux/arm64\n  edgeprep mirror export 'ghcr.io/team/**' --out ./layout --platform all",
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := mirror.ParsePatterns(args); err != nil {
				return &usageError{err}
			}
			if len(args) == 0 && r.Required == "" {
				return &usageError{errors.New("nothing to export: name references, '**' for all, or a --required file")}
			}
			if r.Out == "" {
				return &usageError{errors.New("--out names the directory or archive to write")}
			}
			if err := readable(r.Cache); err != nil {
				return err
			}
			sinks, closeAll, err := g.sinks()
			if err != nil {
				return err
			}
			r.Patterns, r.Stdin = args, g.in
			out, err := app.ExportCache(cmd.Context(), r, progress.NewStream("", "", nil, sinks...))
			if cerr := closeAll(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, out)
			}
			for _, i := range out.Images {
				fmt.Fprintf(g.out, "exported %s  %s  %v\n", i.Reference, short(i.Digest), i.Platforms)
			}
			return nil
		},
	}
	cacheFlag(cmd, &r.Cache)
	f := cmd.Flags()
	f.StringVar(&r.Required, "required", "", "file with one reference a line, or what ls -o json prints; - is stdin")
	f.StringSliceVar(&r.Platforms, "platform", nil, "platform that each image must have, like linux/arm64; all: every one that is complete (default: this machine's)")
	f.StringVar(&r.Out, "out", "", "directory, or archive: FILE.tar, FILE.tar.gz, FILE.tar.zst (required)")
	return cmd
}
