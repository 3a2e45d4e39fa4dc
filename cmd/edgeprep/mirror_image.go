package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func newMirrorImage(g *globals) *cobra.Command {
	var o app.ImageOptions
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Write the mirror's own image as an archive, made from this very program",
		Long: "Writes an image that runs `edgeprep mirror serve` as user 65532 and holds nothing but this program and public\n" +
			"certification authorities, as an archive that containerd, k3s, RKE2, docker and podman load. It needs neither\n" +
			"Docker nor a network, and makes the same bytes from the same program. A mirror that runs in Kubernetes cannot\n" +
			"be pulled from itself: its archive must be on every node that may run it. apply does that by itself.",
		Example: "  edgeprep mirror image --out edgeprep-mirror.tar\n  edgeprep mirror image --out mirror-arm64.tar --platform linux/arm64 --binary ./edgeprep-arm64",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !strings.HasSuffix(o.Out, ".tar") {
				return &usageError{errors.New("--out needs a name that ends in .tar: loaders go by it, and the image is compressed inside")}
			}
			r, err := app.MirrorImage(cmd.Context(), o)
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, r)
			}
			roots := "no certification authorities inside: it can only pull from upstreams whose [[upstream]] names a ca"
			if r.Roots != "" {
				roots = "certification authorities from " + r.Roots
			}
			_, err = fmt.Fprintf(g.out, "%s  %s\n%s@%s\n%s, %s\n", r.File, progress.Bytes(r.Bytes), r.Reference, r.Digest, r.Platform, roots)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "archive to write, FILE.tar")
	f.StringVar(&o.Binary, "binary", "", "edgeprep program to put inside (default: this one)")
	f.StringVar(&o.Platform, "platform", "", "platform of the image, OS/ARCH[/VARIANT] (default: that of the program)")
	f.StringVar(&o.Tag, "tag", "", "reference of the image (default: edgeprep.local/mirror, tagged by the program's content)")
	f.StringVar(&o.Roots, "roots", "", "PEM file of certification authorities to put inside, or none (default: this machine's)")
	return cmd
}
