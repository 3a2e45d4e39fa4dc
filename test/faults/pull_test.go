package faults

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/edgeprep"
)

func TestMain(m *testing.M) { os.Exit(edgeprep.Main(m)) }

// What a client gets. wrong is a body that looks whole and is not: there must never be one.
const (
	whole    = "whole"
	cut      = "cut"
	missing  = "404"
	noAnswer = "waits"
	wrong    = "WRONG, looks whole"
)

// patience is how long a client waits for an image.
const patience = 4 * time.Second

// one gets one thing and says how that went.
func one(ctx context.Context, url string, want []byte) (string, int) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err.Error(), 0
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return waited(err), 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return waited(err), len(b)
	case resp.StatusCode == http.StatusNotFound:
		return missing, 0
	case resp.StatusCode != http.StatusOK:
		return resp.Status, len(b)
	case !bytes.Equal(b, want):
		return wrong, len(b)
	}
	return whole, len(b)
}

func waited(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return noAnswer
	}
	return cut
}

// pull gets an image as a client does, and says where it ended: "whole", or like "layer: cut".
func pull(ctx context.Context, url string, set *imagetest.Set, n int) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	img := set.Images[n]
	repo, tag := "team/app", "1"
	if n == 1 {
		repo, tag = "team/other", "2"
	}
	for _, step := range []struct{ what, path, digest string }{
		{"manifest", "manifests/" + tag, img.Digest},
		{"manifest", "manifests/" + img.Digest, img.Digest},
		{"config", "blobs/" + img.Platforms[0].Config, img.Platforms[0].Config},
		{"layer", "blobs/" + img.Platforms[0].Layers[0], img.Platforms[0].Layers[0]},
	} {
		if got, _ := one(ctx, url+"/v2/"+repo+"/"+step.path+"?ns=up.test", set.Blob(step.digest)); got != whole {
			return step.what + ": " + got
		}
	}
	return whole
}

// soon pulls until it works, and says how long that took and how often it did not.
func soon(t testing.TB, url string, set *imagetest.Set, n int) (time.Duration, int) {
	t.Helper()
	start := time.Now()
	for failed := 0; ; failed++ {
		got := pull(t.Context(), url, set, n)
		if got == whole {
			return time.Since(start), failed
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("the fault is gone, and after %s: %s", time.Since(start), got)
		}
	}
}
