package mirror

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestManifests(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	srv, _ := serveStore(t, s)
	web, _ := set.Image(imagetest.WebName)
	child := web.Platforms[1].Manifest
	for _, c := range []struct{ path, digest string }{
		{"/v2/library/edge-web/manifests/1.0?ns=docker.io", web.Digest},
		{"/v2/library/edge-web/manifests/stable?ns=docker.io", web.Digest},
		{"/v2/edge-web/manifests/1.0", web.Digest},
		{"/v2/docker.io/library/edge-web/manifests/" + web.Digest, web.Digest},
		{"/v2/library/edge-web/manifests/" + child + "?ns=docker.io", child},
	} {
		want := set.Blob(c.digest)
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := request(t, method, srv.URL+c.path)
			h := a.Header
			if a.StatusCode != 200 || h.Get("Docker-Content-Digest") != c.digest || a.ContentLength != int64(len(want)) {
				t.Errorf("%s %s: %s %v", method, c.path, a.Status, h)
			}
			if got := h.Get("Content-Type"); got != sniffManifest(want) {
				t.Errorf("%s: type %s", c.path, got)
			}
			if method == http.MethodGet && !bytes.Equal(a.body, want) {
				t.Errorf("%s: other bytes", c.path)
			}
		}
		if a := get(t, srv.URL+c.path, "If-None-Match", `"other", W/"`+c.digest+`"`); a.StatusCode != 304 || len(a.body) > 0 {
			t.Errorf("%s: %s", c.path, a.Status)
		}
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	srv, _ := serveStore(t, s)
	web, _ := set.Image(imagetest.WebName)
	layer := web.Platforms[0].Layers[1]
	want, url := set.Blob(layer), srv.URL+"/v2/some/other/blobs/"+layer+"?ns=quay.io"
	n := len(want)
	for _, c := range []struct {
		header string
		status int
		body   []byte
	}{
		{"", 200, want},
		{"bytes=0-", 206, want},
		{"bytes=10-19", 206, want[10:20]},
		{"bytes=" + strconv.Itoa(n-5) + "-", 206, want[n-5:]},
		{"bytes=-7", 206, want[n-7:]},
		{"bytes=" + strconv.Itoa(n) + "-", 416, nil},
		{"lines=1", 416, nil},
	} {
		a := get(t, url, "Range", c.header)
		if a.StatusCode != c.status || c.body != nil && !bytes.Equal(a.body, c.body) {
			t.Errorf("%q: %s, %d bytes", c.header, a.Status, len(a.body))
		}
		if c.status < 300 && (a.ContentLength != int64(len(c.body)) || a.Header.Get("Docker-Content-Digest") != layer) {
			t.Errorf("%q: %v", c.header, a.Header)
		}
	}
	head := request(t, http.MethodHead, url)
	if head.StatusCode != 200 || head.ContentLength != int64(n) || head.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("HEAD: %s %v", head.Status, head.Header)
	}
	if a := get(t, url, "If-None-Match", `"`+layer+`"`); a.StatusCode != 304 {
		t.Errorf("If-None-Match: %s", a.Status)
	}
}

// A manifest must not be found as a blob by a resolver, and a blob that happens to be one can still be read.
func TestManifestIsNoBlob(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	srv, _ := serveStore(t, s)
	web, _ := set.Image(imagetest.WebName)
	url := srv.URL + "/v2/x/y/blobs/" + web.Digest
	if a := request(t, http.MethodHead, url); a.StatusCode != 404 {
		t.Errorf("HEAD: %s", a.Status)
	}
	if a := get(t, url); a.StatusCode != 200 {
		t.Errorf("GET: %s", a.Status)
	}
	if a := request(t, http.MethodHead, srv.URL+"/v2/x/y/blobs/"+web.Platforms[0].Config); a.StatusCode != 200 {
		t.Errorf("HEAD config: %s", a.Status)
	}
}

func TestMissesAndErrors(t *testing.T) {
	t.Parallel()
	s, _ := loaded(t)
	srv, misses := serveStore(t, s)
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/library/none/manifests/1?ns=docker.io", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/edge-web/manifests/2?ns=docker.io", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/edge-web/manifests/.INVALID?ns=docker.io", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/edge-web/manifests/sha256:12?ns=docker.io", 400, "DIGEST_INVALID"},
		{"GET", "/v2/library/edge-web/manifests/1.0?ns=quay.io", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/a/blobs/" + someDigest.String(), 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/a/blobs/../../etc/passwd", 404, "UNSUPPORTED"},
		{"GET", "/v2/a/blobs/sha256:..%2f..", 404, "UNSUPPORTED"},
		{"GET", "/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"},
		{"GET", "/v2/none/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/UPPER/manifests/1", 404, "NAME_INVALID"},
		{"GET", "/v2/_catalog", 404, "UNSUPPORTED"},
		{"GET", "/", 404, "UNSUPPORTED"},
		{"PUT", "/v2/a/manifests/1", 405, "UNSUPPORTED"},
		{"POST", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"},
		{"PATCH", "/v2/a/blobs/uploads/1", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/library/edge-web/manifests/1.0", 405, "UNSUPPORTED"},
	} {
		a := request(t, c.method, srv.URL+c.path)
		var body struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(a.body, &body); err != nil || a.StatusCode != c.status || len(body.Errors) != 1 || body.Errors[0].Code != c.code {
			t.Errorf("%s %s: %s %s", c.method, c.path, a.Status, a.body)
		}
	}
	got := misses.List("library/none") // the last first
	if len(got) != 2 || got[0].Kind != "tags" {
		t.Fatalf("misses: %+v", got)
	}
	if got = got[1:]; got[0].NS != "docker.io" || got[0].Reference != "1" || got[0].Kind != "manifest" {
		t.Errorf("misses: %+v", got)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	srv, _ := serveStore(t, open(t, tempDir(t)))
	for _, p := range []string{"/v2/", "/v2"} {
		if a := get(t, srv.URL+p); a.StatusCode != 200 || a.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s: %s %v", p, a.Status, a.Header)
		}
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	s, _ := loaded(t)
	srv, _ := serveStore(t, s)
	base := srv.URL + "/v2/docker.io/library/edge-web/tags/list"
	for _, c := range []struct{ query, want, link string }{
		{"", "1.0 stable", ""},
		{"?n=1", "1.0", `</v2/docker.io/library/edge-web/tags/list?last=1.0&n=1>; rel="next"`},
		{"?n=1&last=1.0", "stable", ""},
		{"?n=0", "", ""},
		{"?last=a", "stable", ""},
		{"?n=5&last=zzz", "", ""},
	} {
		a := get(t, base+c.query)
		var got struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &got); err != nil || got.Tags == nil {
			t.Errorf("%s: %v %s", c.query, err, a.body)
		}
		if strings.Join(got.Tags, " ") != c.want || a.Header.Get("Link") != c.link || got.Name != "docker.io/library/edge-web" {
			t.Errorf("%s: %+v %q", c.query, got, a.Header.Get("Link"))
		}
	}
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	empty := []byte("{}")
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "artifactType": "application/x-sbom",
		"config":      ocispec.DescriptorEmptyJSON,
		"layers":      []any{ocispec.DescriptorEmptyJSON},
		"subject":     map[string]any{"mediaType": web.MediaType, "digest": web.Digest, "size": web.Size},
		"annotations": map[string]string{"a": "b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	src := &memSource{data: map[string][]byte{}}
	src.add("docker.io/library/edge-web:sbom", ocispec.MediaTypeImageManifest, m, empty)
	load(t, s, src)
	srv, _ := serveStore(t, s)
	base := srv.URL + "/v2/library/edge-web/referrers/"
	for _, c := range []struct {
		path string
		want int
	}{{web.Digest, 1}, {web.Digest + "?artifactType=application/x-sbom", 1}, {web.Digest + "?artifactType=other", 0}, {someDigest.String(), 0}} {
		a := get(t, base+c.path)
		var idx ocispec.Index
		if err := json.Unmarshal(a.body, &idx); err != nil || a.StatusCode != 200 || len(idx.Manifests) != c.want || idx.Manifests == nil {
			t.Errorf("%s: %s %s", c.path, a.Status, a.body)
		}
		if c.want == 1 && (idx.Manifests[0].ArtifactType != "application/x-sbom" || idx.Manifests[0].Digest != digest.FromBytes(m)) {
			t.Errorf("%+v", idx.Manifests[0])
		}
		if strings.Contains(c.path, "?") != (a.Header.Get("OCI-Filters-Applied") == "artifactType") {
			t.Errorf("%s: %v", c.path, a.Header)
		}
	}
}

// add puts an image of one manifest into a source.
func (m *memSource) add(name, mediaType string, manifest []byte, blobs ...[]byte) {
	all := append([][]byte{manifest}, blobs...)
	for _, b := range all {
		d := digest.FromBytes(b).String()
		m.data[d] = b
		m.blobs = append(m.blobs, descriptorFor(b, ""))
	}
	m.images = append(m.images, imageFor(name, descriptorFor(manifest, mediaType)))
}

// kernelWriter is a ResponseWriter that tells how a body got to it.
type kernelWriter struct {
	*httptest.ResponseRecorder
	fromFile bool
}

// ReadFrom is what net/http's writer has; net uses sendfile when the source below a LimitedReader is a file.
func (w *kernelWriter) ReadFrom(r io.Reader) (int64, error) {
	lr, ok := r.(*io.LimitedReader)
	if ok {
		_, w.fromFile = lr.R.(*os.File)
	}
	return io.Copy(w.ResponseRecorder, r)
}

func TestBlobsAreSentByTheKernel(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	layer := web.Platforms[0].Layers[1]
	age(t, file(s, layer))
	h := (&Server{store: s, misses: NewMisses(), log: s.log, cfg: Config{AccessLog: true}}).handler()
	w := &kernelWriter{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/a/blobs/"+layer, http.NoBody))
	if !w.fromFile || !bytes.Equal(w.Body.Bytes(), set.Blob(layer)) {
		t.Errorf("from file: %v, %d bytes", w.fromFile, w.Body.Len())
	}
}
