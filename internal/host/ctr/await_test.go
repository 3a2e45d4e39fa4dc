package ctr_test

import (
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/cri"
)

// awaitImage asks until CRI has taken note of a new image, which it does by an event.
func awaitImage(t *testing.T, c *cri.Client, ref string) host.CRIImage {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		img, ok, err := c.ImageStatus(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if ok && len(img.RepoDigests) > 0 && len(img.RepoTags) > 0 {
			return img
		}
		select {
		case <-deadline:
			t.Fatalf("%s is absent for CRI: %+v", ref, img)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
