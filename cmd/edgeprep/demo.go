package main

import (
	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
)

func newDemo(g *globals) *cobra.Command {
	o := app.DemoOptions{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Do the whole job on a throw-away node: no root, no network, no containerd",
		Long: "Makes a small image set and a node tree in a folder, then runs the real engine on it: detect, plan,\n" +
			"apply, apply again (0 changes), serve every reference with no upstream, check. What needs a running\n" +
			"containerd is said to be pending. Ends non-zero when a step is not what it should be.",
		Example: "  edgeprep demo\n  edgeprep demo --distro kubeadm --dir /tmp/demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out, o.Color = g.out, g.colored(g.out)
			return app.Demo(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "folder for the node (default: a temporary one)")
	cmd.Flags().StringVar(&o.Distro, "distro", "k3s", "distribution of the node: k3s or kubeadm")
	_ = cmd.RegisterFlagCompletionFunc("distro", cobra.FixedCompletions([]string{"k3s", "kubeadm"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
