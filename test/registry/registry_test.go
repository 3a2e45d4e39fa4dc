package registry_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/registry"
)

func get(t *testing.T, url string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	// distribution does not take */* for an OCI manifest: registry/handlers/manifests.go, v3.1.2.
	req.Header["Accept"] = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, registry.TypeDockerManifest, registry.TypeDockerList}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func TestWhatIsPushedSurvivesARestart(t *testing.T) {
	t.Parallel()
	r := registry.Start(t)
	set, err := imagetest.Standard(imagetest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.PushSet(set)
	kinds := r.PushKinds("team/kinds")
	web, _ := set.Image(imagetest.WebName)
	r.Stop()
	if status, _ := get(t, r.URL+"/v2/"); status != 0 {
		t.Errorf("stopped, it answers %d", status)
	}
	r.Start()
	for _, tag := range []string{"1.0", "stable"} {
		if status, b := get(t, r.URL+"/v2/library/edge-web/manifests/"+tag); status != 200 || digest.FromBytes(b).String() != web.Digest {
			t.Errorf("%s: %d, %d bytes", tag, status, len(b))
		}
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		seen[k.MediaType] = true
		if status, b := get(t, r.URL+"/v2/team/kinds/manifests/"+k.Digest.String()); status != 200 || digest.FromBytes(b) != k.Digest {
			t.Errorf("%s: %d", k.Kind, status)
		}
		for _, d := range k.Blobs {
			if status, b := get(t, r.URL+"/v2/team/kinds/blobs/"+d.String()); status != 200 || digest.FromBytes(b) != d {
				t.Errorf("%s %s: %d", k.Kind, d, status)
			}
		}
	}
	if len(kinds) != 7 || len(seen) != 4 {
		t.Errorf("%d kinds of %d media types", len(kinds), len(seen))
	}
}
