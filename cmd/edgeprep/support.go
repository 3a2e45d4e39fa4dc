package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/support"
)

func newSupportBundle(g *globals) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Collect what somebody who helps from afar needs to see, without secrets",
		Long: "Writes one archive (mode 0600) of text: configuration, what was detected, plan, checklist, status, the ledger, journals\n" +
			"and logs of runs, states and last log lines of the units, registries configuration, the mirror's numbers and misses, and\n" +
			"the list of its cache; no image content, and nothing of files as they were before a run. Passwords, tokens, keys and\n" +
			"headers of authentication are taken out, also where they stand in logs. At most 64 MiB before compression.\n" +
			"Nothing is sent anywhere: read it, then hand it on.",
		Example: "  edgeprep support-bundle\n  edgeprep support-bundle --out /media/usb/edge-1.tar.gz",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(ctx context.Context, a *app.App) error {
				r, err := a.SupportBundle(ctx, out)
				switch {
				case err != nil:
					return err
				case g.json():
					return writeJSON(g.out, r)
				}
				fmt.Fprintf(g.out, "%s (%s):\n", r.File, progress.Bytes(r.Size))
				return support.WriteEntries(g.out, r.Entries)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "write to this new file; .tar.gz is gzip, anything else zstd (default: "+app.SupportDir+"/edgeprep-support-NODE-TIME.tar.zst)")
	return cmd
}
