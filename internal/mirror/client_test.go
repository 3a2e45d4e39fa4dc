package mirror

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func client(t testing.TB, url string) *Client {
	t.Helper()
	c, err := NewClient(url, ClientOptions{})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestClientWalk(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	srv, misses := serveStore(t, s)
	c := client(t, srv.URL)
	for _, img := range set.Images {
		for _, name := range img.Names {
			for _, deep := range []bool{false, true} {
				for platform, want := range map[string]int{"linux/arm64/v8": 3 + len(img.Platforms[0].Layers), "": 1 + 2*2 + distinctLayers(img)} {
					r, err := c.Walk(t.Context(), name, platform, deep)
					if err != nil || !r.OK() || r.Digest != img.Digest || r.Contents != want || r.Bytes == 0 {
						t.Errorf("%s %q deep=%v: %+v %v, want %d contents", name, platform, deep, r, err, want)
					}
				}
			}
		}
		if ok, err := c.Has(t.Context(), img.Names[0]); !ok || err != nil {
			t.Errorf("%s: %v %v", img.Names[0], ok, err)
		}
	}
	if m := misses.List(""); len(m) != 0 {
		t.Errorf("a walk over what is there causes misses: %+v", m)
	}
	if ok, err := c.Has(t.Context(), "docker.io/library/none:1"); ok || err != nil {
		t.Errorf("none: %v %v", ok, err)
	}
	r, err := c.Walk(t.Context(), "docker.io/library/none:1", "linux/amd64", false)
	if err != nil || len(r.Problems) != 1 || r.Problems[0].Kind != ProblemMissing {
		t.Errorf("none: %+v %v", r, err)
	}
	r, err = c.Walk(t.Context(), imagetest.WebName, "linux/s390x", false)
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Detail, "no platform linux/s390x") {
		t.Errorf("s390x: %+v %v", r, err)
	}
}

func distinctLayers(img imagetest.Image) int {
	seen := map[string]bool{}
	for _, p := range img.Platforms {
		for _, l := range p.Layers {
			seen[l] = true
		}
	}
	return len(seen)
}

// Each fault is found, on the right blob and as the right kind.
func TestClientFindsFaults(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	amd := web.Platforms[0]
	for name, c := range map[string]struct {
		digest  string
		wrong   func(w http.ResponseWriter, r *http.Request, body []byte)
		kind    ProblemKind
		shallow bool // found without reading layers
	}{
		"layer missing": {amd.Layers[1], func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(404) }, ProblemMissing, true},
		"layer short": {amd.Layers[1], func(w http.ResponseWriter, r *http.Request, b []byte) {
			send(w, r, 200, b[:len(b)-1])
		}, ProblemCorrupt, true},
		"layer flipped": {amd.Layers[1], func(w http.ResponseWriter, r *http.Request, b []byte) {
			b = bytes.Clone(b)
			b[3] ^= 1
			send(w, r, 200, b)
		}, ProblemCorrupt, false},
		"layer cut": {amd.Layers[1], func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Content-Length", "67072")
			if r.Method == http.MethodGet {
				w.Write(b[:50])
			}
		}, ProblemAnswer, false},
		"layer error":      {amd.Layers[1], func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(500) }, ProblemAnswer, true},
		"config flipped":   {amd.Config, func(w http.ResponseWriter, r *http.Request, b []byte) { send(w, r, 200, append([]byte(" "), b[1:]...)) }, ProblemCorrupt, true},
		"manifest missing": {amd.Manifest, func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(404) }, ProblemMissing, true},
		"manifest type": {amd.Manifest, func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Content-Type", "application/json")
			send(w, r, 200, b)
		}, ProblemAnswer, true},
	} {
		s := open(t, tempDir(t))
		load(t, s, sourceOf(set))
		h := NewHandler(s, HandlerOptions{})
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, c.digest) {
				c.wrong(w, r, set.Blob(c.digest))
				return
			}
			h.ServeHTTP(w, r)
		}))
		for _, deep := range []bool{false, true} {
			r, err := client(t, srv.URL).Walk(t.Context(), imagetest.WebName, "linux/amd64", deep)
			if err != nil || r.OK() != (!deep && !c.shallow) {
				t.Errorf("%s deep=%v: %+v %v", name, deep, r.Problems, err)
			}
			if !r.OK() && r.Problems[0].Kind != c.kind {
				t.Errorf("%s: %+v", name, r.Problems)
			}
		}
		srv.Close()
	}
}

func TestClientFindsWrongHeads(t *testing.T) {
	t.Parallel()
	good := map[string]string{"Docker-Content-Digest": someDigest.String(), "Content-Type": typeDockerList, "Content-Length": "10"}
	for k, v := range map[string]string{"Docker-Content-Digest": "sha256:1", "Content-Type": "application/json", "Content-Length": "0"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for gk, gv := range good {
				w.Header().Set(gk, gv)
			}
			w.Header().Set(k, v)
		}))
		if d, err := client(t, srv.URL).Resolve(t.Context(), "a:1"); err == nil {
			t.Errorf("%s: %+v", k, d)
		}
		srv.Close()
	}
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	for base, id := range map[string]string{"127.0.0.1:5000": "MER-013", "ftp://x": "MER-013", "": "MER-013", "http://": "MER-013"} {
		if _, err := NewClient(base, ClientOptions{}); len(diag.Of(err)) != 1 || diag.Of(err)[0].ID != id {
			t.Errorf("%q: %v", base, err)
		}
	}
	if _, err := NewClient("https://x", ClientOptions{CA: []byte("x")}); len(diag.Of(err)) != 1 || diag.Of(err)[0].ID != "MER-014" {
		t.Errorf("%v", err)
	}
}

func TestPlatformRank(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		node, image string
		want        int
	}{
		{"linux/amd64", "linux/amd64", 1}, {"linux/amd64/v3", "linux/amd64/v2", 2}, {"linux/amd64", "linux/amd64/v2", 0},
		{"linux/arm64", "linux/arm64/v8", 8}, {"linux/arm64/v8", "linux/arm64", 8}, {"linux/arm/v7", "linux/arm/v6", 6},
		{"linux/arm/v6", "linux/arm", 0}, {"linux/arm64", "linux/arm/v7", 0}, {"linux/amd64", "windows/amd64", 0},
		{"linux/x86_64", "linux/amd64", 1}, {"linux/amd64", "", 0}, {"linux/amd64", "unknown/unknown", 0},
	} {
		if got := platformRank(c.node, c.image); got != c.want {
			t.Errorf("%s on %s: %d, want %d", c.image, c.node, got, c.want)
		}
	}
}

// The JSON of what commands print is an interface: names must not change by accident.
func TestJSONNames(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	must(t, os.Remove(file(s, web.Platforms[1].Layers[1])))
	v, err := s.Verify(t.Context(), false, nil)
	must(t, err)
	b, err := json.Marshal(v)
	must(t, err)
	for _, want := range []string{`"entries":[{"reference":"docker.io/library/edge-web:1.0","digest":"sha256:`, `"problems":[{"kind":"missing"`,
		`"platforms":[{"platform":"linux/amd64"`, `"complete":true,"present":true}`, `"missing":[{"kind":"layer"`, `"deep":false`} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}
