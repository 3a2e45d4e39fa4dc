package apply

import (
	"errors"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// What a mirror in Kubernetes starts from must be on the node before anything depends on it: each of the images, and
// the one that containerd makes sandboxes of.
func TestTheGateWantsTheMirrorsImages(t *testing.T) {
	t.Parallel()
	const mirror, pause = "edgeprep.local/mirror:0123456789ab", "registry.k8s.io/pause:3.10.1" // hosttest's sandbox image
	for _, c := range []struct {
		have    []string
		missing string
	}{
		{[]string{mirror, pause}, ""},
		{[]string{pause}, mirror},
		{[]string{mirror}, pause},
	} {
		n := hosttest.New(t)
		var images []*hosttest.MemImage
		for _, name := range c.have {
			images = append(images, hosttest.MakeImage(hosttest.ImageSpec{Name: name}))
		}
		if _, err := n.Containerd(endpoint).Import(t.Context(), hosttest.NewSource(images...), host.ImportOptions{Platform: "linux/amd64"}); err != nil {
			t.Fatal(err)
		}
		err := hasImages(t.Context(), n.CRI(endpoint), resource.CRIGate{Endpoint: endpoint, Images: []string{mirror}, Sandbox: true})
		ds := diag.Of(err)
		if c.missing == "" && err != nil || c.missing != "" && (len(ds) != 1 || ds[0].ID != "MER-086" || !strings.Contains(ds[0].What, c.missing)) {
			t.Errorf("with %v: %v", c.have, err)
		}
	}
	n := hosttest.New(t)
	n.Containerd(endpoint).SetDown(true)
	if err := hasImages(t.Context(), n.CRI(endpoint), resource.CRIGate{Endpoint: endpoint}); !errors.Is(err, host.ErrUnavailable) {
		t.Error(err)
	}
}
