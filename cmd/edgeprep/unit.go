package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
)

func newUnit(g *globals) *cobra.Command {
	return group(&cobra.Command{
		Use:     "unit",
		Short:   "The boot units: apply before Kubernetes at every start, the checklist after it",
		Example: "  edgeprep unit install\n  edgeprep unit install --root /mnt/image --for k3s",
	}, newUnitInstall(g), newUnitRemove(g), newUnitStatus(g))
}

func newUnitInstall(g *globals) *cobra.Command {
	var o app.UnitOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the boot units and make the distribution wait for them",
		Long: "Writes and enables edgeprep-apply.service, which runs apply at every start before the distribution, and\n" +
			"edgeprep-check.service, which runs the checklist once containerd answers. A node that could not be\n" +
			"prepared does not start its distribution, unless --degraded says so. It may be run again at any time.",
		Example: "  edgeprep unit install\n  edgeprep unit install --root /mnt/image --for k3s   # no distribution in the image yet\n" +
			"  edgeprep unit install --for k3s --start               # from cloud-init's bootcmd",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.change(cmd.Context(), func(ctx context.Context, a *app.App) error {
				o.Confirm = g.confirm
				r, err := a.UnitInstall(ctx, o)
				return g.showRun(r, g.note(ctx, a, r, err))
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.For, "for", nil, "descriptors of distributions that shall wait, also when they are not installed yet (default: [distro] kind, else what is detected)")
	f.BoolVar(&o.Degraded, "degraded", false, "start the distribution also when apply failed")
	f.BoolVar(&o.Start, "start", false, "queue the apply unit now, without waiting for it: for bootcmd, while the node boots")
	unitFlags(cmd, &o)
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(app.DistroIDs(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func unitFlags(cmd *cobra.Command, o *app.UnitOptions) {
	allowFlag(cmd, &o.Allow)
	cmd.Flags().DurationVar(&o.WaitLock, "wait-lock", 0, "wait this long for another run to end")
}

func newUnitRemove(g *globals) *cobra.Command {
	var o app.UnitOptions
	cmd := &cobra.Command{
		Use:     "remove",
		Short:   "Remove the boot units; what apply prepared stays",
		Example: "  edgeprep unit remove",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.change(cmd.Context(), func(ctx context.Context, a *app.App) error {
				o.Confirm = g.confirm
				r, err := a.UnitRemove(ctx, o)
				return g.showRun(r, g.note(ctx, a, r, err))
			})
		},
	}
	unitFlags(cmd, &o)
	return cmd
}

func newUnitStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show the boot units, what waits for them, and the last result",
		Example: "  edgeprep unit status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			defer a.Close()
			s, err := a.UnitStatus(cmd.Context())
			if err != nil {
				return err
			}
			if g.json() {
				return writeJSON(g.out, s)
			}
			return s.Text(g.out)
		},
	}
}
