package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/ports"
)

func soakFor() time.Duration {
	switch {
	case os.Getenv("EDGEPREP_SOAK") == "1":
		return 5 * time.Minute
	case testing.Short():
		return 5 * time.Second
	}
	return 30 * time.Second
}

// soakSet is a dozen images, with layers below and above what is verified in one go.
func soakSet(t *testing.T) (*imagetest.Set, []string) {
	t.Helper()
	var specs []imagetest.ImageSpec
	for i := range 12 {
		specs = append(specs, imagetest.ImageSpec{Names: []string{fmt.Sprintf("up.test/team/app:%d", i)}, Platforms: []string{"linux/amd64"},
			Layers: []imagetest.LayerSpec{{Seed: fmt.Sprint("small", i), Size: 200 << 10, Random: 1}, {Seed: fmt.Sprint("big", i), Size: 5 << 20, Random: 1}}})
	}
	set, err := imagetest.Build(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return set, set.Blobs()
}

// 64 clients for a while: hits, misses, ranges, slow readers and some that leave, with an upstream that fails
// now and then and a cache that is emptied under them. No body is wrong, and memory, goroutines and
// descriptors are what they were.
func TestSoak(t *testing.T) {
	set, blobs := soakSet(t)
	o := newOrigin(t, set)
	o.breaks(nowAndThen)
	dir, err := os.MkdirTemp("/dev/shm", "soak-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	metrics := ports.Free(t)
	m := edgeprep.Serve(t, edgeprep.Options{Cache: dir, Upstreams: map[string]string{"up.test": "http://" + o.addr}, Args: []string{"--metrics", metrics}})
	measure := func() gauge { return gaugeOf(t, m.Pid(), metrics) }
	idle := measure()
	ctx, cancel := context.WithTimeout(t.Context(), soakFor())
	defer cancel()
	var wg sync.WaitGroup
	var done [4]atomic.Int64
	for c := range 64 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(c), 1))
			for ctx.Err() == nil {
				done[soakOne(ctx, t, m.URL, set, blobs, rnd)].Add(1)
			}
		})
	}
	var seen []gauge
	tick := time.NewTicker(soakFor() / 20)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-tick.C:
			seen = append(seen, measure())
			if i%3 == 2 {
				forgetSome(dir, set, i)
			}
		case <-ctx.Done():
		}
	}
	wg.Wait()
	t.Logf("whole %d, parts %d, nothing %d, left %d", done[0].Load(), done[1].Load(), done[2].Load(), done[3].Load())
	if done[0].Load() == 0 || done[1].Load() == 0 || done[2].Load() == 0 || done[3].Load() == 0 {
		t.Error("it did not do all that it should")
	}
	flat(t, measure, idle, seen)
}

// nowAndThen fails one request in twenty.
func nowAndThen(o *origin, w http.ResponseWriter, r *http.Request, ref string) bool {
	blob := strings.HasPrefix(ref, "sha256:") && strings.Contains(r.URL.Path, "/blobs/")
	switch n := rand.IntN(100); {
	case n == 0:
		return status(500)(o, w, r, ref)
	case n == 1:
		return reset(o, w, r, ref)
	case n == 2 && blob:
		return short(len(o.set.Blob(ref))/2)(o, w, r, ref)
	case n == 3 && blob && r.Header.Get("Range") == "":
		return altered(o, w, r, ref)
	case n == 4:
		return status(404)(o, w, r, ref)
	}
	return false
}

// soakOne gets one thing in one of the ways that clients have.
func soakOne(ctx context.Context, t *testing.T, url string, set *imagetest.Set, blobs []string, rnd *rand.Rand) int {
	d := blobs[rnd.IntN(len(blobs))]
	want := set.Blob(d)
	path := "/v2/team/app/blobs/" + d
	if rnd.IntN(4) == 0 {
		img := set.Images[rnd.IntN(len(set.Images))]
		want, path = set.Blob(img.Digest), "/v2/team/app/manifests/"+strings.SplitN(img.Names[0], ":", 2)[1]
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path+"?ns=up.test", http.NoBody)
	if err != nil {
		t.Error(err)
	}
	from, to := 0, len(want)
	if rnd.IntN(4) == 0 && len(want) > 10 && strings.Contains(path, "/blobs/") {
		from = rnd.IntN(len(want))
		to = from + 1 + rnd.IntN(len(want)-from)
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 2
	}
	defer resp.Body.Close()
	switch rnd.IntN(10) {
	case 0: // leaves
		io.CopyN(io.Discard, resp.Body, int64(rnd.IntN(1<<20)))
		return 3
	case 1: // slow
		io.CopyN(io.Discard, resp.Body, 0)
		sleep(ctx, time.Duration(rnd.IntN(300))*time.Millisecond)
	}
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil || resp.StatusCode == http.StatusNotFound:
		return 2
	case resp.StatusCode == http.StatusPartialContent && bytes.Equal(b, want[from:to]):
		return 1
	case resp.StatusCode == http.StatusOK && bytes.Equal(b, want):
		return 0
	}
	t.Errorf("%s %q: %s, %d bytes that look whole", path, req.Header.Get("Range"), resp.Status, len(b))
	return 2
}

// sleep is the client's own slowness.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// forgetSome removes blobs under the running mirror, and puts damaged copies in the place of others: what is
// being sent at that moment stays what it was.
func forgetSome(dir string, set *imagetest.Set, i int) {
	for n, d := range set.Blobs() {
		switch p := blobFile(dir, d); (n + i) % 5 {
		case 0:
			os.Remove(p)
		case 1:
			damaged := p + ".damaged"
			if os.WriteFile(damaged, flipped(set.Blob(d)), 0o644) == nil {
				os.Rename(damaged, p)
			}
		}
	}
}

// gauge is what a mirror holds.
type gauge struct{ anon, goroutines, files int }

func gaugeOf(t *testing.T, pid int, metrics string) gauge {
	t.Helper()
	var g gauge
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	g.anon = number(string(b), "RssAnon:") >> 10
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	g.files = len(fds)
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	g.goroutines = number(string(text), "\ngo_goroutines ")
	return g
}

func number(text, after string) int {
	_, rest, _ := strings.Cut(text, after)
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(f[0])
	return n
}

// flat compares the beginning with the end, and what is left when all clients are gone.
func flat(t *testing.T, measure func() gauge, idle gauge, seen []gauge) {
	t.Helper()
	t.Logf("idle: %d MB, %d goroutines, %d files", idle.anon, idle.goroutines, idle.files)
	early, late := 0, 0
	for i, g := range seen {
		t.Logf("%d MB, %d goroutines, %d files", g.anon, g.goroutines, g.files)
		if i < len(seen)/2 {
			early = max(early, g.anon)
		} else {
			late = max(late, g.anon)
		}
	}
	if late > early*3/2+16 {
		t.Errorf("memory grows: %d MB at most in the first half, %d in the second", early, late)
	}
	var g gauge
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		// Connections to the upstream are kept for a while, with two goroutines each.
		if g = measure(); g.goroutines <= idle.goroutines+40 && g.files <= idle.files+20 {
			return
		}
	}
	t.Errorf("without clients %d goroutines and %d files, before any %d and %d", g.goroutines, g.files, idle.goroutines, idle.files)
}
