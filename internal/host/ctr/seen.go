package ctr

import (
	"context"
	"time"

	"github.com/containerd/platforms"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// criNamespace is the one that containerd's CRI plugin watches.
	criNamespace = "k8s.io"
	// seenWithin bounds the wait for CRI; it needs milliseconds, a loaded machine more.
	seenWithin = 10 * time.Second
	seenEvery  = 10 * time.Millisecond
)

// awaitCRI returns when CRI has taken note of the images' records, which it does by an event some time after
// they were made: until then it says that the image is absent, or is the one before, and kubelet would act on
// that. It is no error when CRI is not there or does not get to it; the checks ask again.
func (im *importer) awaitCRI(ctx context.Context, trees []*tree) {
	if im.r.ep.Namespace != criNamespace || !im.platform.Match(platforms.DefaultSpec()) {
		return
	}
	cc, err := im.r.conn.Ready(ctx)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	images := runtimeapi.NewImageServiceClient(cc)
	for _, t := range trees {
		for _, rec := range t.records {
			if !awaitImage(ctx, images, rec.Name, t.config.Digest.String()) {
				return
			}
		}
	}
}

// awaitImage waits for one name to mean the image with that id; false means that waiting is no use.
func awaitImage(ctx context.Context, images runtimeapi.ImageServiceClient, name, id string) bool {
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		resp, err := images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil {
			return false
		}
		if resp.GetImage().GetId() == id {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
