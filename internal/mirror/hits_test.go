package mirror

import (
	"net/http"
	"net/url"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// A manifest that was just served is served without a look at the disk, but not for longer than said; what is new
// is served at once.
func TestHitsAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	s.hits = newHits(time.Hour)
	srv, _ := serveStore(t, s)
	url := srv.URL + "/v2/library/edge-web/manifests/1.0"
	if a := get(t, url); a.StatusCode != 200 {
		t.Fatal(a.Status)
	}
	ref, err := ParseReference(imagetest.WebName)
	must(t, err)
	must(t, os.Remove(s.path(recordPath(ref))))
	if a := get(t, url); a.StatusCode != 200 || a.Header.Get("Docker-Content-Digest") != set.Digests()[imagetest.WebName] {
		t.Errorf("a moment later: %s", a.Status)
	}
	s.hits.forget(ref)
	if a := get(t, url); a.StatusCode != 404 {
		t.Errorf("after a look: %s", a.Status)
	}
	load(t, s, sourceOf(set))
	if a := get(t, url); a.StatusCode != 200 {
		t.Errorf("new: %s", a.Status)
	}
}

func TestHitsEnd(t *testing.T) {
	t.Parallel()
	h := newHits(time.Minute)
	ref := Reference{Tag: "x"}
	h.put(ref, hit{at: time.Now().Add(-59 * time.Second)})
	if _, ok := h.get(ref); !ok {
		t.Error("gone too soon")
	}
	h.put(ref, hit{at: time.Now().Add(-61 * time.Second)})
	if _, ok := h.get(ref); ok {
		t.Error("there for too long")
	}
	if lookAgain > 100*time.Millisecond { // docs/cache.md
		t.Error(lookAgain)
	}
}

// The first look at a small layer does not read it into memory as a whole: 64 clients that ask for the same one of
// 4 MB took 256 MB.
func TestSmallLayerIsNotReadWhole(t *testing.T) {
	s := open(t, tempDir(t))
	set, layer := large(t, 3<<20)
	load(t, s, sourceOf(set))
	fresh := open(t, s.Dir())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b, err := fresh.openBlob(digest.Digest(layer))
	runtime.ReadMemStats(&after)
	must(t, err)
	b.file.Close()
	if b.flight != nil || b.manifest {
		t.Errorf("%+v", b)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// What a hit costs in garbage is paid by all that is served meanwhile: nothing of it is ours.
func TestHitLeavesNoGarbage(t *testing.T) { //nolint:paralleltest // testing.AllocsPerRun counts those of others, too
	s, _ := loaded(t)
	s.hits = newHits(time.Hour)
	p, err := newPuller(s, Upstreams{}, testLimits())
	must(t, err)
	p.fresh.put(Reference{Name: Name{DefaultRegistry, "library/edge-web"}, Tag: "1.0"}, time.Now(), 1)
	h := NewHandler(s, HandlerOptions{uses: newUses(), pull: p, Misses: NewMisses()})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/library/edge-web/manifests/1.0?ns=docker.io", http.NoBody)
	must(t, err)
	w := discard{http.Header{}}
	got := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) })
	if w.h.Get("Docker-Content-Digest") == "" || w.h.Get("Content-Length") == "" {
		t.Fatal(w.h)
	}
	if got > 1 { // the race detector empties pools now and then
		t.Errorf("%v allocations", got)
	}
}

// The short way to the ns parameter finds what the long way finds.
func TestNamespaceOf(t *testing.T) {
	t.Parallel()
	for _, q := range []string{"", "ns=docker.io", "ns=a:5000", "ns=a%3A5000", "ns=a+b", "ns=", "ns=a=b", "ns=a&ns=b", "x=1&ns=a", "ns=a&x=1", "ns=a;b", "nsx=a", "ns"} {
		u := &url.URL{RawQuery: q}
		if got := namespaceOf(u); got != u.Query().Get("ns") {
			t.Errorf("%q: %q, not %q", q, got, u.Query().Get("ns"))
		}
	}
}
