package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
)

func newSeed(g *globals) *cobra.Command {
	var o app.SeedOptions
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Write a cloud-init NoCloud seed for each node",
		Long: "Writes DIR/NODE/user-data and meta-data for every [[node]] of edgeprep.toml, or for the one that --node\n" +
			"names. The image is expected to carry edgeprep and its boot units (edgeprep unit install --root);\n" +
			"with --bootcmd the seed installs the units itself. Nothing of a node is read: run it anywhere.",
		Example: "  edgeprep seed -c site.toml --out seeds\n  edgeprep seed -c site.toml --out seeds --node edge-1\n" +
			"  genisoimage -quiet -output edge-1.iso -volid CIDATA -joliet -rock seeds/edge-1",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if o.Out == "" {
				return &usageError{fmt.Errorf("--out DIR is missing")}
			}
			if o.Revision < 1 {
				return &usageError{fmt.Errorf("--revision %d: count from 1", o.Revision)}
			}
			a, err := g.open()
			if err != nil {
				return err
			}
			s, err := a.Seed(o)
			if err != nil {
				return err
			}
			for _, m := range s.Missing {
				fmt.Fprintln(g.err, "not in the seed: "+m)
			}
			if g.json() {
				return writeJSON(g.out, s)
			}
			for i, n := range s.Nodes {
				fmt.Fprintf(g.out, "%s\t%s\n", n, s.Dirs[i])
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "directory in which a directory for each node is made")
	f.BoolVar(&o.All, "all", false, "every [[node]] (default, unless --node names one)")
	f.BoolVar(&o.Bootcmd, "bootcmd", false, "install the boot units by bootcmd: for an image that carries edgeprep without them")
	f.IntVar(&o.Revision, "revision", 1, "of the instance id; a higher one makes cloud-init run its first boot again")
	f.BoolVar(&o.WithSecrets, "with-secrets", false, "put the keys and credentials that edgeprep.toml names into the seed")
	f.StringVar(&o.Network, "network-config", "", "file that becomes the seed's network-config")
	return cmd
}
