package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// lister is an upstream of lists: handlers by path, everything else is not there.
func lister(t testing.TB, paths map[string]http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := paths[r.URL.Path]; ok {
			h(w, r)
			return
		}
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

const webTags = "/v2/library/edge-web/tags/list"

// paged answers with one page for each value of the query parameter next_page, as some registries do.
func paged(pages ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n := 0
		fmt.Sscan(r.URL.Query().Get("next_page"), &n)
		if n+1 < len(pages) {
			w.Header().Set("Link", fmt.Sprintf(`<http://elsewhere.invalid/x?next_page=%d>; rel="next"`, n+1))
		}
		fmt.Fprintf(w, `{"name":"x","tags":%s}`, pages[n])
	}
}

// tagsOf asks the mirror and gives the tags of the answer, or its status.
func tagsOf(t testing.TB, url string) (string, http.Header) {
	t.Helper()
	a := get(t, url)
	if a.StatusCode != http.StatusOK {
		return a.Status, a.Header
	}
	var got struct{ Tags []string }
	if err := json.Unmarshal(a.body, &got); err != nil || got.Tags == nil {
		t.Errorf("%s: %v %s", url, err, a.body)
	}
	return strings.Join(got.Tags, " "), a.Header
}

func TestTagsOfTheUpstream(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		list http.HandlerFunc
		want string // without a cache
		kept string // with 1.0 and stable in the cache
	}{
		"one page":     {paged(`["b","A","1.0"]`), "1.0 A b", "1.0 A b stable"},
		"pages":        {paged(`["b","a"]`, `["d"]`, `["c","a"]`), "a b c d", "1.0 a b c d stable"},
		"none":         {paged(`null`), "", "1.0 stable"},
		"no such repo": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "404 Not Found", "1.0 stable"},
		"refused":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "404 Not Found", "1.0 stable"},
		"down":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "404 Not Found", "1.0 stable"},
		"no list":      {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, "404 Not Found", "1.0 stable"},
		"names that are none": {
			paged(`["ok","../../etc","` + strings.Repeat("x", 200) + `","","a b"]`), "ok", "1.0 ok stable"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `</v2/x?n=1>; rel="next", <?`+r.URL.RawQuery+`x>; rel="next"`)
			w.Header().Set("Link", `<?x=`+r.URL.Query().Get("x")+`x>; rel="next"`)
			w.Write([]byte(`{"tags":["a"]}`))
		}, "404 Not Found", "1.0 stable"},
		"the same page again": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `<?x=1>; rel="next"`)
			w.Write([]byte(`{"tags":["a"]}`))
		}, "a", "1.0 a stable"},
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"tags":["a"`))
			for range 5 << 10 {
				w.Write([]byte(`,"` + strings.Repeat("x", 1020) + `"`))
			}
			w.Write([]byte(`]}`))
		}, "404 Not Found", "1.0 stable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := lister(t, map[string]http.HandlerFunc{webTags: c.list})
			_, empty := pullerTo(t, up.URL, testLimits(), nil)
			if got, _ := tagsOf(t, empty.URL+webTags+"?ns=docker.io"); got != c.want {
				t.Errorf("empty cache: %q", got)
			}
			s, _ := loaded(t)
			_, full := pullerOf(t, s, up.URL, testLimits(), nil)
			if got, _ := tagsOf(t, full.URL+webTags+"?ns=docker.io"); got != c.kept {
				t.Errorf("cached: %q", got)
			}
		})
	}
}

// Pages are cut from one list: the upstream is asked once, in its own pages, and a tag that comes meanwhile
// does not move the others.
func TestTagPagesAreOfOneList(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	list := paged(`["a","c"]`, `["e"]`)
	up := lister(t, map[string]http.HandlerFunc{webTags: func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		list(w, r)
	}})
	p, srv := pullerTo(t, up.URL, testLimits(), nil)
	var all []string
	next := webTags + "?n=2&ns=docker.io"
	for next != "" {
		got, h := tagsOf(t, srv.URL+next)
		all = append(all, got)
		_, link, _ := strings.Cut(h.Get("Link"), "<")
		next, _, _ = strings.Cut(link, ">")
	}
	if strings.Join(all, "|") != "a c|e" || asked.Load() != 2 {
		t.Errorf("%v by %d requests", all, asked.Load())
	}
	p.listed.put("docker.io/library/edge-web", listed{[]string{"old"}, time.Now().Add(-2 * freshFor)}, 1)
	if got, _ := tagsOf(t, srv.URL+webTags+"?last=a&ns=docker.io"); got != "c e" {
		t.Errorf("a page of an old list: %s", got)
	}
}

// A slow list is waited for when there is nothing else, and not for long when there is.
func TestSlowTags(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	up := lister(t, map[string]http.HandlerFunc{webTags: func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
		w.Write([]byte(`{"tags":["late"]}`))
	}})
	s, _ := loaded(t)
	lim := testLimits()
	lim.answer = 20 * time.Millisecond
	_, srv := pullerOf(t, s, up.URL, lim, nil)
	if got, _ := tagsOf(t, srv.URL+webTags+"?ns=docker.io"); got != "1.0 stable" {
		t.Errorf("%q", got)
	}
	close(hold)
	_, srv = pullerTo(t, up.URL, lim, nil)
	if got, _ := tagsOf(t, srv.URL+webTags+"?ns=docker.io"); got != "late" {
		t.Errorf("%q", got)
	}
}

// Neither a list goes upstream that the site denies, nor one of a repository that exists nowhere.
func TestListsRespectTheRules(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	note := func(http.ResponseWriter, *http.Request) { asked.Add(1) }
	const probe = "/v2/" + ProbeRepository + "/x"
	up := lister(t, map[string]http.HandlerFunc{
		webTags: note, "/v2/library/edge-web/referrers/" + someDigest.String(): note,
		probe + "/tags/list": note, probe + "/referrers/" + someDigest.String(): note,
	})
	_, srv := pullerTo(t, up.URL, testLimits(), func(u *Upstream) { u.Deny = []string{"library/**"} })
	for _, path := range []string{webTags, probe + "/tags/list"} {
		if a := get(t, srv.URL+path+"?ns=docker.io"); a.StatusCode != 404 {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	for _, repo := range []string{"/v2/library/edge-web", probe} {
		if a := get(t, srv.URL+repo+"/referrers/"+someDigest.String()+"?ns=docker.io"); a.StatusCode != 200 {
			t.Errorf("%s: %s", repo, a.Status)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
}

// artifact is a manifest whose subject is d.
func artifact(t testing.TB, subject digest.Digest, kind string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "artifactType": kind,
		"config": ocispec.DescriptorEmptyJSON, "layers": []any{ocispec.DescriptorEmptyJSON},
		"subject": ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 5},
	})
	must(t, err)
	return b
}

// listOf is the index that a registry answers with.
func listOf(t testing.TB, manifests ...[]byte) []byte {
	t.Helper()
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	for _, m := range manifests {
		var doc manifestDoc
		must(t, json.Unmarshal(m, &doc))
		idx.Manifests = append(idx.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest,
			Digest: digest.FromBytes(m), Size: int64(len(m)), ArtifactType: doc.ArtifactType})
	}
	b, err := json.Marshal(idx)
	must(t, err)
	return b
}

// referrersAt gives the artifact types of the answer, in order.
func referrersAt(t testing.TB, url string) string {
	t.Helper()
	a := get(t, url)
	var idx ocispec.Index
	if err := json.Unmarshal(a.body, &idx); err != nil || a.StatusCode != 200 || idx.Manifests == nil ||
		a.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
		t.Errorf("%s: %s %s", url, a.Status, a.body)
	}
	var types []string
	for _, d := range idx.Manifests {
		types = append(types, d.ArtifactType)
	}
	return strings.Join(types, " ")
}

func TestReferrersOfTheUpstream(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	subject := digest.Digest(web.Digest)
	sbom, sig := artifact(t, subject, "a/sbom"), artifact(t, subject, "a/sig")
	const repo = "/v2/library/edge-web"
	api, tag := repo+"/referrers/"+web.Digest, repo+"/manifests/"+fallbackTag(subject)
	serve := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Write(b)
		}
	}
	code := func(c int) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(c) } }
	second := serve(listOf(t, sbom))
	for name, c := range map[string]struct {
		paths map[string]http.HandlerFunc
		want  string // with sbom in the cache
	}{
		"by the API": {map[string]http.HandlerFunc{api: serve(listOf(t, sig, sbom))}, "a/sbom a/sig"},
		"in pages": {map[string]http.HandlerFunc{api: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("p") != "" {
				second(w, r)
				return
			}
			w.Header().Set("Link", `<`+api+`?p=2>; rel="next"`)
			serve(listOf(t, sig))(w, r)
		}}, "a/sbom a/sig"},
		"by the tag":          {map[string]http.HandlerFunc{tag: serve(listOf(t, sig))}, "a/sbom a/sig"},
		"by the tag, API 400": {map[string]http.HandlerFunc{api: code(400), tag: serve(listOf(t, sig))}, "a/sbom a/sig"},
		"neither":             {nil, "a/sbom"},
		"500":                 {map[string]http.HandlerFunc{api: code(500), tag: code(500)}, "a/sbom"},
		"no list":             {map[string]http.HandlerFunc{api: serve([]byte("<html>"))}, "a/sbom"},
		"digests that are none": {map[string]http.HandlerFunc{
			api: serve([]byte(`{"manifests":[{"digest":"sha256:../..","size":1},{"digest":"","size":1}]}`))}, "a/sbom"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, tempDir(t))
			load(t, s, sourceOf(set))
			src := &memSource{data: map[string][]byte{}}
			src.add("docker.io/library/edge-web:sbom", ocispec.MediaTypeImageManifest, sbom, []byte("{}"))
			load(t, s, src)
			_, srv := pullerOf(t, s, lister(t, c.paths).URL, testLimits(), nil)
			if got := referrersAt(t, srv.URL+api+"?ns=docker.io"); got != c.want {
				t.Errorf("%q", got)
			}
			if got, want := referrersAt(t, srv.URL+api+"?ns=docker.io&artifactType=a/sig"), strings.TrimPrefix(c.want, "a/sbom"); got != strings.TrimSpace(want) {
				t.Errorf("filtered: %q", got)
			}
		})
	}
}

// What a client once pulled by the tag of a list stays known without an upstream.
func TestTaggedReferrersOffline(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	sig := artifact(t, digest.Digest(web.Digest), "a/sig")
	src := &memSource{data: map[string][]byte{}}
	src.add("docker.io/library/edge-web:"+fallbackTag(digest.Digest(web.Digest)), ocispec.MediaTypeImageIndex, listOf(t, sig), sig, []byte("{}"))
	load(t, s, src)
	srv, _ := serveStore(t, s)
	if got := referrersAt(t, srv.URL+"/v2/library/edge-web/referrers/"+web.Digest); got != "a/sig" {
		t.Errorf("%q", got)
	}
}

func TestFallbackTag(t *testing.T) {
	t.Parallel()
	long := digest.SHA512.FromString("x")
	for d, want := range map[digest.Digest]string{
		someDigest: "sha256-" + someDigest.Encoded(),
		long:       "sha512-" + long.Encoded()[:64],
	} {
		if got := fallbackTag(d); got != want || !validTag(got) {
			t.Errorf("%s: %s", d, got)
		}
	}
}

func FuzzNextQuery(f *testing.F) {
	for _, s := range []string{`</v2/x/tags/list?n=1&last=a>; rel="next"`, `<a>; rel=prev, <b?c>; rel="next"`, `<`, `<>;rel=next`, `<%zz?x>;rel=next`, ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := nextQuery([]string{s})
		if strings.ContainsAny(q, "#\n\r") {
			t.Errorf("%q: %q", s, q)
		}
	})
}

func TestNextQuery(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		`</v2/x/tags/list?n=1&last=a>; rel="next"`:                "n=1&last=a",
		`<https://other.example/y?n=2>; title="b"; rel=next`:      "n=2",
		`<?p=0>; rel="prev", <?p=2>; rel="next"`:                  "p=2",
		`<?a=1,2>; REL="NEXT"`:                                    "a=1,2",
		`<?p=0>; rel="prev"`:                                      "",
		`</v2/x?n=1; rel="next"`:                                  "",
		`garbage`:                                                 "",
		`<https://h/%zz>; rel="next", <https://h/?x>; rel="next"`: "",
	} {
		if got := nextQuery([]string{s}); got != want {
			t.Errorf("%s: %q", s, got)
		}
	}
}

// Without a network the cache serves, and its log is not filled with an upstream that is away.
func TestQuietLogOffline(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s, err := Open(tempDir(t), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	load(t, s, sourceOf(standard(t)))
	_, srv := pullerOf(t, s, "http://127.0.0.1:1", testLimits(), nil)
	for range 3 {
		if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1.0?ns=docker.io"); a.StatusCode != 200 {
			t.Error(a.Status)
		}
	}
	get(t, srv.URL+"/v2/library/edge-web/manifests/none?ns=docker.io")
	must(t, s.Close()) // and with it what runs in the background
	if n := strings.Count(log.String(), "not pulled"); n != 1 || !strings.Contains(log.String(), "edge-web:none") {
		t.Errorf("%s", log.String())
	}
}

// What is asked for only to see whether ns counts is refused, and no upstream hears of it.
func TestProbeRegistryIsNotForwarded(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	up := lister(t, map[string]http.HandlerFunc{"/": func(http.ResponseWriter, *http.Request) { asked.Add(1) }})
	p, srv := pullerTo(t, up.URL, testLimits(), nil)
	if _, err := p.at(Name{ProbeRegistry, "library/edge-web"}); !errors.Is(err, errRefused) {
		t.Errorf("%v", err)
	}
	if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1?ns="+ProbeRegistry); a.StatusCode != 404 || asked.Load() != 0 {
		t.Errorf("%s, %d requests went upstream", a.Status, asked.Load())
	}
}
