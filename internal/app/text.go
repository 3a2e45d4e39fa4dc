package app

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// WriteNode prints a node for people: the facts, and for each where it comes from.
func WriteNode(w io.Writer, n distro.Node) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(k, v string) {
		if v != "" {
			fmt.Fprintf(tw, "%s\t%s\n", k, v)
		}
	}
	row("distribution", fmt.Sprintf("%s (%s)", n.Name, n.ID))
	row("version", firstOf(n.Version, "not known"))
	row("role", string(n.Role))
	row("platform", n.Platform)
	row("data directory", n.DataDir)
	row("containerd", firstOf(n.Runtime.Version, "version not known"))
	row("socket", n.Runtime.Endpoint.Socket)
	row("containerd config", n.Runtime.Config)
	row("external runtime", n.Runtime.External)
	row("images go to", firstOf(n.Preload.Dir, "containerd, over its API"))
	row("registries config", firstOf(n.Registries.File, n.Registries.CertsD))
	row("sandbox image", n.Sandbox)
	_ = tw.Flush()
	fmt.Fprintln(w, "\nevidence")
	for _, e := range n.Evidence {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", e.Fact, e.Value, e.Source)
	}
	_ = tw.Flush()
	for _, note := range n.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", note)
	}
}

// Brief prints the end of a run to people who saw its steps: what is pending, what was left, the summary.
func Brief(w io.Writer, r apply.Report) error {
	for _, s := range []struct {
		title string
		list  []plan.Pending
	}{{"Pending:", r.Pending}, {"Left as it is:", r.Kept}} {
		if len(s.list) > 0 {
			fmt.Fprintln(w, s.title)
		}
		for _, p := range s.list {
			fmt.Fprintf(w, "  %s: %s\n", p.What, p.Why)
		}
	}
	_, err := fmt.Fprintln(w, r.Summary)
	return err
}
