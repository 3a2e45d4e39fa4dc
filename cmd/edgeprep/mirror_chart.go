package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
)

func newMirrorChart(g *globals) *cobra.Command {
	var out, image string
	cmd := &cobra.Command{
		Use:     "chart",
		Short:   "Write the mirror's Helm chart into a new directory",
		Example: "  edgeprep mirror chart --out edgeprep-mirror\n  helm install edgeprep-mirror ./edgeprep-mirror -n edgeprep --create-namespace --set storage.size=40Gi",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return &usageError{errors.New("--out DIR is missing")}
			}
			names, err := app.MirrorChart(cmd.Context(), out, image)
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, map[string]any{"dir": out, "files": names})
			}
			for _, n := range names {
				fmt.Fprintln(g.out, filepath.Join(out, n))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "directory to write, new or empty")
	cmd.Flags().StringVar(&image, "image", "", "reference of the mirror's image (default: that of edgeprep mirror image)")
	return cmd
}
