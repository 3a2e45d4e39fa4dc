package clients

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/registry"
)

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
}

func ask(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, b}
}

// shape is how a client says what it wants: the path before "manifests", and the query.
type shape struct{ name, path, query string }

// hubShapes are the ways to name docker.io/library/edge-big. containerd: core/remotes/docker/resolver.go (ns);
// docker: registry mirrors of Docker Hub get the repository alone; CRI-O: registries.conf puts a path before it.
func hubShapes() []shape {
	return []shape{
		{"containerd", "library/edge-big", "?ns=docker.io"},
		{"containerd, by the API's host", "library/edge-big", "?ns=registry-1.docker.io"},
		{"docker", "library/edge-big", ""},
		{"a short name", "edge-big", ""},
		{"cri-o", "docker.io/library/edge-big", ""},
		{"cri-o, without library", "docker.io/edge-big", ""},
	}
}

func portShapes() []shape {
	return []shape{
		{"containerd", "team/kinds", "?ns=registry.example%3A5000"},
		{"upper case", "team/kinds", "?ns=Registry.Example%3A5000"},
		{"cri-o", pathHost + "/team/kinds", ""},
		{"a path with a colon", portHost + "/team/kinds", ""},
	}
}

// accepts are the Accept headers of clients, and some that do not fit: what is stored is never converted.
func accepts() map[string][]string {
	return map[string][]string{
		"containerd HEAD": {"Accept", strings.Join([]string{registry.TypeDockerManifest, registry.TypeDockerList,
			ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, "*/*"}, ", ")},
		"one type": {"Accept", registry.TypeDockerManifest},
		"several lines": {"Accept", ocispec.MediaTypeImageManifest, "Accept", ocispec.MediaTypeImageIndex,
			"Accept", registry.TypeDockerList, "Accept", "application/vnd.docker.distribution.manifest.v1+prettyjws"},
		"none": {},
	}
}

// Every image in every way of naming it: bytes, type, length and digest are those of the registry, connected and
// with the registry gone.
func TestManifestRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	want := map[digest.Digest][]byte{}
	for _, i := range s.images {
		_, repository, _ := strings.Cut(i.name, "/")
		want[i.digest] = ask(t, http.MethodGet, s.origin.URL+"/v2/"+repository+"/manifests/"+i.tag, "Accept", i.mediaType).body
	}
	s.twice(t, func(t *testing.T) {
		for _, i := range s.images {
			shapes := portShapes()
			if i.kind == "docker hub" {
				shapes = hubShapes()
			}
			for _, sh := range shapes {
				for name, accept := range accepts() {
					for _, ref := range []string{i.tag, i.digest.String()} {
						s.manifest(t, i, sh, name, ref, accept, want[i.digest])
					}
				}
			}
		}
	})
	for _, path := range []string{
		"team/kinds/manifests/multi-1.0?ns=registry.example%3A5000", "team/kinds/manifests/Multi-1.0", "kinds/manifests/v1?ns=registry.example%3A5000",
		"team/kinds/manifests/v1?ns=registry.example", "edge-big/manifests/1.0?ns=quay.invalid",
	} {
		if a := ask(t, http.MethodGet, s.mirror.URL+"/v2/"+path); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
}

func (s *site) manifest(t *testing.T, i image, sh shape, accept, ref string, header []string, want []byte) {
	t.Helper()
	url := s.mirror.URL + "/v2/" + sh.path + "/manifests/" + ref + sh.query
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		a := ask(t, method, url, header...)
		h := a.Header
		if a.StatusCode != 200 || h.Get("Content-Type") != i.mediaType || h.Get("Docker-Content-Digest") != i.digest.String() ||
			h.Get("Content-Length") != strconv.Itoa(len(want)) || h.Get("Content-Encoding") != "" || len(h["Transfer-Encoding"]) > 0 {
			t.Errorf("%s, %s, Accept %s: %s %s: %s %v", i.kind, sh.name, accept, method, ref, a.Status, h)
		}
		if method == http.MethodGet && !bytes.Equal(a.body, want) {
			t.Errorf("%s, %s, Accept %s: other bytes for %s", i.kind, sh.name, accept, ref)
		}
	}
	if a := ask(t, http.MethodGet, url, "If-None-Match", `"`+i.digest.String()+`"`); a.StatusCode != http.StatusNotModified || len(a.body) > 0 {
		t.Errorf("%s, %s: If-None-Match: %s", i.kind, sh.name, a.Status)
	}
}

// Parts of a blob: each from a cache that has to pull it first, and again from the same cache.
func TestRangeRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	blob, body := s.big(t)
	n := len(body)
	etag := `"` + blob.String() + `"`
	for _, c := range []struct {
		name   string
		header []string
		status int
		want   []byte
		part   string // Content-Range
	}{
		{"whole", nil, 200, body, ""},
		{"from the start", []string{"Range", "bytes=0-"}, 206, body, fmt.Sprintf("bytes 0-%d/%d", n-1, n)},
		{"from the middle", []string{"Range", "bytes=1000000-"}, 206, body[1000000:], fmt.Sprintf("bytes 1000000-%d/%d", n-1, n)},
		{"a piece", []string{"Range", "bytes=5-9"}, 206, body[5:10], fmt.Sprintf("bytes 5-9/%d", n)},
		{"a piece past the end", []string{"Range", fmt.Sprintf("bytes=%d-%d", n-3, n+9)}, 206, body[n-3:], fmt.Sprintf("bytes %d-%d/%d", n-3, n-1, n)},
		{"the end", []string{"Range", "bytes=-7"}, 206, body[n-7:], fmt.Sprintf("bytes %d-%d/%d", n-7, n-1, n)},
		{"the last byte", []string{"Range", fmt.Sprintf("bytes=%d-", n-1)}, 206, body[n-1:], fmt.Sprintf("bytes %d-%d/%d", n-1, n-1, n)},
		{"past the end", []string{"Range", fmt.Sprintf("bytes=%d-", n)}, 416, nil, fmt.Sprintf("bytes */%d", n)},
		{"backwards", []string{"Range", "bytes=9-5"}, 416, nil, ""},
		{"no range", []string{"Range", "bytes=x"}, 416, nil, ""},
		{"had it", []string{"If-None-Match", etag}, 304, nil, ""},
		{"had it, of several", []string{"If-None-Match", `"x", ` + etag}, 304, nil, ""},
		{"had another", []string{"If-None-Match", `"x"`}, 200, body, ""},
		{"goes on with it", []string{"Range", "bytes=9-", "If-Range", etag}, 206, body[9:], fmt.Sprintf("bytes 9-%d/%d", n-1, n)},
		{"goes on with another", []string{"Range", "bytes=9-", "If-Range", `"x"`}, 200, body, ""},
		{"takes compressed ones", []string{"Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}, 200, body, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := edgeprep.Serve(t, edgeprep.Options{Upstreams: map[string]string{"docker.io": s.origin.URL}})
			for _, state := range []string{"cold", "warm"} {
				a := ask(t, http.MethodGet, m.URL+"/v2/library/edge-big/blobs/"+blob.String(), c.header...)
				if a.StatusCode != c.status || c.want != nil && !bytes.Equal(a.body, c.want) || c.part != a.Header.Get("Content-Range") && c.part != "" {
					t.Errorf("%s: %s, %d bytes, %v", state, a.Status, len(a.body), a.Header)
				}
				if h := a.Header; c.status < 300 && (h.Get("Docker-Content-Digest") != blob.String() || h.Get("Etag") != etag ||
					h.Get("Accept-Ranges") != "bytes" || h.Get("Content-Encoding") != "" || h.Get("Content-Length") != strconv.Itoa(len(c.want))) {
					t.Errorf("%s: %v", state, h)
				}
			}
		})
	}
}

// big is the large layer of the image on Docker Hub.
func (s *site) big(t *testing.T) (digest.Digest, []byte) {
	t.Helper()
	var idx ocispec.Index
	var m ocispec.Manifest
	repository := s.origin.URL + "/v2/library/edge-big/"
	if err := json.Unmarshal(ask(t, http.MethodGet, repository+"manifests/1.0", "Accept", ocispec.MediaTypeImageIndex).body, &idx); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(ask(t, http.MethodGet, repository+"manifests/"+idx.Manifests[0].Digest.String(), "Accept", ocispec.MediaTypeImageManifest).body, &m); err != nil {
		t.Fatal(err)
	}
	d := m.Layers[0].Digest
	return d, ask(t, http.MethodGet, repository+"blobs/"+d.String()).body
}

// Errors have the specification's body, 404 is what is not there and 400 what cannot be, and a HEAD has no body.
func TestErrorRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	none := digest.FromString("none").String()
	s.twice(t, func(t *testing.T) {
		for path, want := range map[string]struct {
			status int
			code   string
		}{
			"team/kinds/manifests/none":                      {404, "MANIFEST_UNKNOWN"},
			"team/kinds/manifests/" + none:                   {404, "MANIFEST_UNKNOWN"},
			"team/none/manifests/v1":                         {404, "MANIFEST_UNKNOWN"},
			"team/kinds/manifests/.none":                     {404, "MANIFEST_UNKNOWN"},
			"team/kinds/blobs/" + none:                       {404, "BLOB_UNKNOWN"},
			"team/none/tags/list":                            {404, "NAME_UNKNOWN"},
			"Team/kinds/manifests/v1":                        {404, "NAME_INVALID"},
			"team/kinds/manifests/sha256:totallywrong":       {400, "DIGEST_INVALID"},
			"team/kinds/blobs/sha256:totallywrong":           {400, "DIGEST_INVALID"},
			"team/kinds/blobs/md5:" + none[7:39]:             {400, "DIGEST_INVALID"},
			"team/kinds/referrers/sha256:totallywrong":       {400, "DIGEST_INVALID"},
			"team/kinds/blobs/uploads/" + none:               {404, "UNSUPPORTED"},
			"edgeprep-probe/x/manifests/v1":                  {404, "MANIFEST_UNKNOWN"},
			"team/kinds/blobs/" + strings.ToUpper(none[:20]): {400, "DIGEST_INVALID"},
		} {
			url := s.mirror.URL + "/v2/" + path + "?ns=registry.example%3A5000"
			a := ask(t, http.MethodGet, url)
			var got struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal(a.body, &got); err != nil || a.StatusCode != want.status || len(got.Errors) != 1 ||
				got.Errors[0].Code != want.code || got.Errors[0].Message == "" || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %s %v %s", path, a.Status, a.Header, a.body)
			}
			if h := ask(t, http.MethodHead, url); h.StatusCode != want.status || len(h.body) > 0 {
				t.Errorf("HEAD %s: %s, %d bytes", path, h.Status, len(h.body))
			}
		}
	})
}

// An artifact is found by what it refers to: from the registry, and from the cache once it was pulled.
func TestReferrersRequests(t *testing.T) {
	t.Parallel()
	origin := registry.Start(t)
	kinds := origin.PushKinds("team/kinds")
	subject, artifact := kinds[0], kinds[len(kinds)-1]
	m := edgeprep.Serve(t, edgeprep.Options{Upstreams: map[string]string{portHost: origin.URL}})
	list := func(query string) []ocispec.Descriptor {
		t.Helper()
		a := ask(t, http.MethodGet, m.URL+"/v2/"+pathHost+"/team/kinds/referrers/"+subject.Digest.String()+query)
		var idx ocispec.Index
		if err := json.Unmarshal(a.body, &idx); err != nil || a.StatusCode != 200 || a.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			t.Errorf("%s %v %s", a.Status, a.Header, a.body)
		}
		return idx.Manifests
	}
	// distribution has no referrers API: the list is where the tag says, as oras and cosign keep it.
	entry := ocispec.Descriptor{MediaType: artifact.MediaType, Digest: artifact.Digest, Size: 1, ArtifactType: "application/vnd.example.sbom"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{entry}})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(""); len(got) != 0 {
		t.Errorf("before anybody said so: %v", got)
	}
	origin.PushManifest("team/kinds", strings.Replace(subject.Digest.String(), ":", "-", 1), ocispec.MediaTypeImageIndex, index)
	check := func(when string) {
		t.Helper()
		for query, n := range map[string]int{"": 1, "?artifactType=application/vnd.example.sbom": 1, "?artifactType=application/other": 0} {
			if got := list(query); len(got) != n || n == 1 && got[0].Digest != artifact.Digest {
				t.Errorf("%s, %q: %v", when, query, got)
			}
		}
	}
	check("connected")
	ask(t, http.MethodGet, m.URL+"/v2/"+pathHost+"/team/kinds/manifests/"+artifact.Digest.String())
	origin.Stop()
	check("upstream gone")
	m.Restart()
	check("restarted")
}

// Content under SHA-512: distribution keeps none, so the upstream is a few lines here.
func TestSHA512Requests(t *testing.T) {
	t.Parallel()
	layer := bytes.Repeat([]byte("layer "), 30000)
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: sum512(layer), Size: int64(len(layer))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/manifests/"+sum512(body).String()):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			_, _ = w.Write(body)
		case strings.HasSuffix(r.URL.Path, "/blobs/"+sum512(layer).String()):
			w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			_, _ = w.Write(layer)
		case r.URL.Path != "/v2/":
			http.NotFound(w, r)
		}
	}))
	defer up.Close()
	m := edgeprep.Serve(t, edgeprep.Options{Upstreams: map[string]string{portHost: up.URL}})
	check := func(when string) {
		t.Helper()
		for path, want := range map[string][]byte{"blobs/" + sum512(layer).String(): layer, "manifests/" + sum512(body).String(): body} {
			a := ask(t, http.MethodGet, m.URL+"/v2/"+pathHost+"/team/kinds/"+path)
			if a.StatusCode != 200 || !bytes.Equal(a.body, want) || a.Header.Get("Docker-Content-Digest") != sum512(want).String() {
				t.Errorf("%s: %s: %s %v", when, path[:20], a.Status, a.Header)
			}
		}
	}
	check("connected")
	up.Close()
	check("upstream gone")
	m.Restart()
	check("restarted")
}

func sum512(b []byte) digest.Digest {
	s := sha512.Sum512(b)
	return digest.NewDigestFromEncoded(digest.SHA512, hex.EncodeToString(s[:]))
}
