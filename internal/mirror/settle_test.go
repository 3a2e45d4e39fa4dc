package mirror

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A disk that takes long is nobody's wait: clients have manifest and blob while both are still being written, no
// second question goes upstream for them, and a mirror that is closed meanwhile has them afterwards.
func TestAnswersDoNotWaitForTheDisk(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	o := newOrigin(t, set)
	s := open(t, tempDir(t))
	hold := make(chan struct{})
	s.hook = func(step string) {
		if strings.HasPrefix(step, "rename ") || step == "sync" {
			<-hold
		}
	}
	p, srv := pullerOf(t, s, o.URL, testLimits(), nil)
	img := set.Images[0]
	manifest, url := set.Blob(img.Digest), srv.URL+"/v2/big/"
	for _, path := range []string{"manifests/1", "manifests/1", "manifests/" + img.Digest, "blobs/" + layer} {
		_, ref, _ := strings.Cut(path, "/")
		want := manifest
		if ref == layer {
			want = set.Blob(layer)
		}
		if a := get(t, url+path+atBig); a.StatusCode != http.StatusOK || a.err != nil || !bytes.Equal(a.body, want) {
			t.Errorf("%s: %s, %d bytes, %v", path, a.Status, len(a.body), a.err)
		}
	}
	if n := o.count("GET manifest 1") + o.count("GET manifest "+img.Digest); n != 1 {
		t.Errorf("the manifest was asked for %d times", n)
	}
	for _, d := range []string{img.Digest, layer} {
		if _, err := os.Stat(file(s, d)); err == nil {
			t.Fatalf("%s is in the cache: nothing was held up", d)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.ctx.Done()
	close(hold)
	must(t, <-closed)
	settled(t, p)
	again := open(t, s.Dir())
	for _, ref := range []Reference{{Name: Name{"registry.example:5000", "big"}, Tag: "1"},
		{Name: Name{"registry.example:5000", "big"}, Digest: digest.Digest(img.Digest)}} {
		if _, b, err := again.image(ref); err != nil || !bytes.Equal(b, manifest) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := os.Stat(file(s, layer)); err != nil {
		t.Error(err)
	}
}

// A list does not lack what the same client has just pulled: where the manifest is still being written, the list
// waits for that, and for nothing that is still being asked for.
func TestListsWaitForWhatWasGiven(t *testing.T) {
	t.Parallel()
	subject := digest.FromString("subject")
	sbom := artifact(t, subject, "a/sbom")
	const repo = "/v2/library/edge-web"
	up := lister(t, map[string]http.HandlerFunc{repo + "/manifests/v1": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Write(sbom)
	}, repo + "/manifests/never": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
	for name, list := range map[string]func(testing.TB, string) string{
		"referrers": func(t testing.TB, url string) string {
			return referrersAt(t, url+repo+"/referrers/"+subject.String()+"?ns=docker.io")
		},
		"tags": func(t testing.TB, url string) string {
			tags, _ := tagsOf(t, url+repo+"/tags/list?ns=docker.io")
			return tags
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, tempDir(t))
			hold := make(chan struct{})
			s.hook = func(step string) {
				if strings.HasPrefix(step, "rename ") {
					<-hold
				}
			}
			_, srv := pullerOf(t, s, up.URL, testLimits(), nil)
			go http.Get(srv.URL + repo + "/manifests/never?ns=docker.io")
			if a := get(t, srv.URL+repo+"/manifests/v1?ns=docker.io"); a.StatusCode != http.StatusOK {
				t.Fatal(a.Status)
			}
			time.AfterFunc(50*time.Millisecond, func() { close(hold) })
			if got, want := list(t, srv.URL), map[string]string{"referrers": "a/sbom", "tags": "v1"}[name]; got != want {
				t.Errorf("%q", got)
			}
		})
	}
}
