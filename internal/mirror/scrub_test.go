package mirror

import (
	"context"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// scrubTime is a clock that runs only while somebody sleeps.
type scrubTime struct {
	now    time.Time
	slept  time.Duration
	before func() // called before each sleep
}

func (c *scrubTime) sleep(ctx context.Context, d time.Duration) error {
	if c.before != nil {
		c.before()
	}
	c.now, c.slept = c.now.Add(d), c.slept+d
	return ctx.Err()
}

func scrubberOf(s *Store, period time.Duration) (*scrubber, *scrubTime) {
	b, c := newScrubber(s, period), &scrubTime{now: time.Now()}
	b.sleep, b.now = c.sleep, func() time.Time { return c.now }
	return b, c
}

// remember marks a blob as verified with the metadata that it has now: what follows looks as a flip on the disk
// does, which changes none.
func remember(t testing.TB, s *Store, d string) {
	t.Helper()
	age(t, file(s, d))
	key, err := s.stat(blobPath(digest.Digest(d)))
	if err != nil {
		t.Fatal(err)
	}
	s.marks.set(digest.Digest(d), mark{key: key, good: true})
}

// A flip that changed no metadata is served until the scrub comes by: it sets the blob aside, says so, and the
// blob is not served any more.
func TestScrubFindsAFlip(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	s.settle = 0
	layer := imageOf(set, imagetest.WebName).Platforms[0].Layers[1]
	flip(t, file(s, layer), 7)
	remember(t, s, layer)
	srv, _ := serveStore(t, s)
	if a := get(t, srv.URL+"/v2/library/edge-web/blobs/"+layer); a.StatusCode != 200 || string(a.body) == string(set.Blob(layer)) {
		t.Fatalf("the test's flip shows: %s", a.Status)
	}
	b, _ := scrubberOf(s, time.Hour)
	var healed []string
	b.heal = func(_ context.Context, d digest.Digest) { healed = append(healed, d.String()) }
	if !b.pass(t.Context()) {
		t.Fatal("no pass")
	}
	st := b.state.get()
	if st.Bad != 1 || st.BadEver != 1 || st.LastBad != layer || st.Blobs != len(set.Blobs()) || st.Done != st.Total || st.Position != "" || st.Completed.IsZero() {
		t.Errorf("%+v", st)
	}
	diff(t, "healed", []string{layer}, healed)
	if a := get(t, srv.URL+"/v2/library/edge-web/blobs/"+layer); a.StatusCode != 404 {
		t.Errorf("%s", a.Status)
	}
	if _, err := s.stat(badPath(digest.Digest(layer))); err != nil {
		t.Error(err)
	}
	load(t, s, sourceOf(set))
	if a := get(t, srv.URL+"/v2/library/edge-web/blobs/"+layer); a.StatusCode != 200 || string(a.body) != string(set.Blob(layer)) {
		t.Errorf("%s", a.Status)
	}
}

// With an upstream the scrub brings a bad blob in again by itself.
func TestScrubHeals(t *testing.T) {
	t.Parallel()
	origin, set := loaded(t)
	up := httptest.NewServer(NewHandler(origin, HandlerOptions{}))
	t.Cleanup(up.Close)
	dir := tempDir(t)
	load(t, open(t, dir), sourceOf(set))
	srv, err := Listen(t.Context(), Config{Cache: dir, Listen: "127.0.0.1:0", ScrubPeriod: time.Hour, Upstream: &Upstreams{Named: []Upstream{
		{Host: "docker.io", URL: up.URL + "/docker.io"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	srv.store.settle = 0
	layer := imageOf(set, imagetest.WebName).Platforms[1].Layers[1]
	flip(t, file(srv.store, layer), 7)
	remember(t, srv.store, layer)
	srv.scrub.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	srv.scrub.pass(t.Context())
	if h := srv.health(); h.Scrub == nil || h.Scrub.Bad != 1 || h.Status != statusDegraded {
		t.Errorf("%+v", h)
	}
	settled(t, srv.pull)
	if bad, err := srv.store.rehash(t.Context(), digest.Digest(layer)); bad || err != nil || !srv.store.hasBlob(digest.Digest(layer), int64(len(set.Blob(layer)))) {
		t.Errorf("it is not healed: %v", err)
	}
}

// A restart goes on where the last process was; without the file, or with a damaged one, it begins anew.
func TestScrubGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	b, c := scrubberOf(s, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	c.before = func() {
		if n++; n == 5 {
			cancel()
		}
	}
	b.run(ctx)
	half := b.state.get()
	if half.Blobs == 0 || half.Blobs >= len(set.Blobs()) || half.Position == "" {
		t.Fatalf("%+v", half)
	}
	b2, _ := scrubberOf(open(t, s.Dir()), time.Hour)
	b2.load()
	b2.pass(t.Context())
	if st := b2.state.get(); st.Blobs != len(set.Blobs()) || st.Done != st.Total || !st.Started.Equal(half.Started) {
		t.Errorf("%+v after %+v", st, half)
	}
	for _, text := range []string{"", "{", `{"position":"../../etc/passwd","started":"2026-01-01T00:00:00Z"}`, `{"position":"blobs/sha256/aa/x","done":-5}`} {
		if err := os.WriteFile(s.path(fileScrub), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b3, _ := scrubberOf(s, time.Hour)
		b3.load()
		if b3.pass(t.Context()); b3.state.get().Blobs != len(set.Blobs()) {
			t.Errorf("%q: %+v", text, b3.state.get())
		}
	}
}

// It waits while requests run, and stops waiting when the pass would not end in time.
func TestScrubWaitsForRequests(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	b, c := scrubberOf(s, time.Hour)
	busy, waited := true, time.Duration(0)
	b.busy = func() bool { return busy }
	c.before = func() {
		if b.state.get().Blobs == 0 {
			waited = c.slept
		}
	}
	b.pass(t.Context())
	if st := b.state.get(); st.Blobs != len(set.Blobs()) || waited < 25*time.Minute || waited > 35*time.Minute || c.slept > time.Hour {
		t.Errorf("first blob after %v, all after %v: %+v", waited, c.slept, st)
	}
	busy = false
	c.slept = 0
	b.pass(t.Context())
	if c.slept > time.Minute {
		t.Errorf("nobody is there, and it takes %v", c.slept)
	}
}

func TestScrubIsDue(t *testing.T) {
	t.Parallel()
	b, c := scrubberOf(open(t, tempDir(t)), time.Hour)
	for name, x := range map[string]struct {
		st   ScrubState
		want time.Duration
	}{
		"never run":      {ScrubState{}, 0},
		"interrupted":    {ScrubState{Started: c.now, Position: "blobs/sha256/aa/x"}, 0},
		"just run":       {ScrubState{Started: c.now.Add(-10 * time.Minute)}, 50 * time.Minute},
		"long ago":       {ScrubState{Started: c.now.Add(-10 * time.Hour)}, -9 * time.Hour},
		"clock set back": {ScrubState{Started: c.now.Add(time.Hour)}, 0},
	} {
		b.state.set(func(st *ScrubState) { *st = x.st })
		if got := b.due(); got != x.want {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
	if b.pass(t.Context()) {
		t.Error("an empty cache was scrubbed")
	}
}

func TestScrubRate(t *testing.T) {
	t.Parallel()
	const gib, week = int64(1 << 30), 7 * day
	for _, c := range []struct {
		total, left int64
		rest        time.Duration
		want        float64
	}{
		{gib, gib, week, scrubSlow},                                 // small: slow is fast enough
		{10 << 40, 10 << 40, week, 1.25 * float64(10<<40) / 604800}, // the period demands more than the limit
		{4 << 40, 4 << 40, week / 4, scrubFast},                     // late: as fast as is decent
		{gib, gib, -1, scrubFast},
	} {
		if got := scrubRate(c.total, c.left, week, c.rest); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// The blobs of a pass come in the order that a restart relies on.
func TestScrubOrder(t *testing.T) {
	t.Parallel()
	s, _ := loaded(t)
	b, _ := scrubberOf(s, time.Hour)
	var got []string
	_, shards := b.measure()
	for _, shard := range shards {
		for _, d := range b.blobsOf(shard) {
			got = append(got, blobPath(d))
		}
	}
	if !slices.IsSorted(got) || len(got) == 0 {
		t.Error(got)
	}
}
