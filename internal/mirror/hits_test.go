package mirror

import (
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
