package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// Pulls are remembered in memory; the cache gets them in batches, and nothing else.
func TestUsesAreWrittenInBatches(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	u, m := newUses(), NewMisses()
	h := NewHandler(s, HandlerOptions{Misses: m, uses: u})
	before := len(snapshot(t, s.Dir()))
	web, _ := set.Image(imagetest.WebName)
	for _, path := range []string{"/v2/docker.io/library/edge-web/manifests/1.0", "/v2/docker.io/library/edge-web/manifests/" + web.Digest} {
		serveOne(h, http.MethodHead, path, "containerd/2.4")
	}
	serveOne(h, http.MethodGet, "/v2/"+strings.Replace(imagetest.APIName, ":", "/manifests/", 1), "edgeprep-check")
	serveOne(h, http.MethodGet, "/v2/docker.io/library/none/manifests/1", "containerd/2.4")
	if n := len(snapshot(t, s.Dir())); n != before {
		t.Errorf("a pull wrote into the cache: %d files, %d before", n, before)
	}
	var got []string
	for _, x := range u.list() {
		got = append(got, x.Reference)
	}
	diff(t, "uses", []string{"docker.io/library/edge-web:1.0", "docker.io/library/edge-web@" + web.Digest}, got)
	for _, k := range []*keeper{{store: s, file: fileUses, what: u}, {store: s, file: fileMisses, what: m}} {
		k.save(false)
		written, err := s.stat(k.file)
		if err != nil {
			t.Fatal(err)
		}
		k.save(true)
		if again, err := s.stat(k.file); err != nil || again != written {
			t.Errorf("%s was written although it says all: %v", k.file, err)
		}
	}
	u2, m2 := newUses(), NewMisses()
	(&keeper{store: s, file: fileUses, what: u2}).load()
	(&keeper{store: s, file: fileMisses, what: m2}).load()
	diff(t, "uses read back", u.list(), u2.list())
	diff(t, "misses read back", m.List(""), m2.List(""))
	if got := m2.List(""); len(got) != 1 || got[0].Count != 1 || got[0].Agent != "containerd/2.4" || got[0].Client != "192.0.2.1" {
		t.Errorf("%+v", got)
	}
	intact(t, s)
}

func serveOne(h http.Handler, method, path, agent string) {
	r, err := http.NewRequestWithContext(context.Background(), method, "http://mirror"+path, http.NoBody)
	if err != nil {
		panic(err)
	}
	r.RemoteAddr = "192.0.2.1:4711"
	r.Header.Set("User-Agent", agent)
	h.ServeHTTP(discardWriter{}, r)
}

type discardWriter struct{}

func (discardWriter) Header() http.Header         { return http.Header{} }
func (discardWriter) Write(b []byte) (int, error) { return len(b), nil }
func (discardWriter) WriteHeader(int)             {}

// What is new is worth a write at once; what is known is written again once an hour, all together, and at the
// end whatever is missing.
func TestOutdated(t *testing.T) {
	t.Parallel()
	const noon = int64(1700000000 / 3600 * 3600)
	for _, c := range []struct {
		at, saved int64
		all, want bool
	}{
		{noon, 0, false, true}, {noon, noon, false, false}, {noon + 3599, noon, false, false}, {noon + 3600, noon, false, true},
		{noon + 3601, noon + 3599, false, true}, {noon + 1, noon, true, true}, {noon, noon, true, false}, {0, 0, false, false},
	} {
		if got := outdated(c.at, c.saved, c.all); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// A damaged, foreign or hostile file costs what it says and nothing else.
func TestKeptFilesMayBeDamaged(t *testing.T) {
	t.Parallel()
	u, m := newUses(), NewMisses()
	u.load([]byte("{\"reference\":\"busybox:1\",\"last\":\"2026-01-02T03:04:05Z\"}\n{\"reference\":\"../x\"}\nnot json\n{\"reference\":\"busybox:2\",\"la"))
	if l := u.list(); len(l) != 1 || l[0].Reference != "docker.io/library/busybox:1" || l[0].Last.Year() != 2026 {
		t.Errorf("%+v", l)
	}
	m.load([]byte("[]\n{\"registry\":\"a.io\",\"repository\":\"b\",\"reference\":\"1\",\"kind\":\"manifest\",\"count\":3}\n{\"count\":-1}\n\x00\n{\"agent\":\"" +
		strings.Repeat("x", maxMissLine) + "\",\"count\":1}\n"))
	if l := m.List(""); len(l) != 1 || l[0].Count != 3 {
		t.Errorf("%+v", l)
	}
	dir := tempDir(t)
	if err := os.MkdirAll(filepath.Join(dir, fileMisses), 0o755); err != nil {
		t.Fatal(err)
	}
	k := &keeper{store: open(t, dir), file: fileMisses, what: m}
	m.put(Miss{Registry: "a.io", Count: 1, Last: time.Unix(1700000000, 0)}, 0)
	k.save(true)
	if !k.failed {
		t.Error("a directory was written")
	}
}

func TestUsesAreBounded(t *testing.T) {
	t.Parallel()
	u := newUses()
	clock := time.Unix(1, 0)
	u.now = func() time.Time { clock = clock.Add(time.Second); return clock }
	for i := range maxUses + 1 {
		u.touch(Reference{Name: Name{"a.io", "b"}, Tag: fmt.Sprint(i)})
	}
	l := u.list()
	if len(l) > maxUses || l[0].Reference != fmt.Sprintf("a.io/b:%d", maxUses) || slices.ContainsFunc(l, func(x Use) bool { return x.Reference == "a.io/b:0" }) {
		t.Errorf("%d, newest %s", len(l), l[0].Reference)
	}
}

// The loop writes after its time and not before, and what came last is written at the end.
func TestKeeperRuns(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	synctest.Test(t, func(t *testing.T) {
		s := &Store{dir: filepath.Join(dir, "late"), log: slog.New(slog.DiscardHandler), hook: func(string) {}}
		u := newUses()
		k := &keeper{store: s, file: fileUses, what: u, every: saveEvery}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { k.run(ctx); close(done) }()
		u.touch(Reference{Name: Name{"a.io", "b"}, Tag: "1"})
		time.Sleep(saveEvery + time.Second) // synctest's clock
		if err := os.Mkdir(s.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(saveEvery - 2*time.Second)
		if _, err := s.stat(fileUses); err == nil {
			t.Error("written too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := s.stat(fileUses); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
	})
}

func TestMissImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		m    Miss
		want string
	}{
		{Miss{Registry: "docker.io", Repository: "library/a", Reference: "1", Kind: "manifest"}, "docker.io/library/a:1"},
		{Miss{Registry: "docker.io", Repository: "library/a", Reference: someDigest.String(), Kind: "manifest"}, "docker.io/library/a@" + someDigest.String()},
		{Miss{Registry: "docker.io", Repository: "library/a", Reference: someDigest.String(), Kind: "blob"}, ""},
		{Miss{Registry: "docker.io", Repository: "../a", Reference: "1", Kind: "manifest"}, ""},
		{Miss{Registry: "docker.io", Repository: "library/a", Reference: "-x", Kind: "manifest"}, ""},
		{Miss{Registry: "docker.io", Repository: ProbeRepository + "/x", Reference: "1", Kind: "manifest"}, ""},
		{Miss{Registry: ProbeRegistry, Repository: "library/a", Reference: "1", Kind: "manifest"}, ""},
	} {
		got := ""
		if r, ok := c.m.Image(); ok {
			got = r.String()
		}
		if got != c.want {
			t.Errorf("%+v: %q", c.m, got)
		}
	}
}

func BenchmarkTouch(b *testing.B) {
	u := newUses()
	refs := make([]Reference, 64)
	for i := range refs {
		refs[i] = Reference{Name: Name{"docker.io", "library/edge-web"}, Tag: fmt.Sprint(i)}
	}
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			u.touch(refs[i%len(refs)])
		}
	})
}
