package mirror

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// blackHole takes connections and never says anything.
func blackHole(t testing.TB) (string, *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var n atomic.Int32
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range conns {
					c.Close()
				}
				return
			}
			n.Add(1)
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "http://" + l.Addr().String(), &n
}

// An upstream that swallows everything: the first miss takes at most 2 s, the next ones 50 ms, and a hit no
// longer than without one. The limits are the real ones; the best of a few counts, as the machine is shared.
func TestBlackHole(t *testing.T) {
	s, set := loaded(t)
	hole, _ := blackHole(t)
	p, srv := pullerOf(t, s, hole, defaultLimits(), nil)
	timed := func(what string, limit time.Duration, code int, paths ...string) {
		t.Helper()
		best := time.Hour
		for _, path := range paths {
			start := time.Now()
			if a := get(t, srv.URL+path); a.StatusCode != code {
				t.Errorf("%s: %s", what, a.Status)
			}
			if best = min(best, time.Since(start)); best <= limit {
				return
			}
		}
		t.Errorf("%s took %s, not %s", what, best, limit)
	}
	again := func(path string) []string { return slices.Repeat([]string{path}, 20) }
	web, _ := set.Image(imagetest.WebName)
	const miss = "/v2/library/none/manifests/1"
	timed("first miss", 2*time.Second, 404, miss, miss+"?ns=quay.io", miss+"?ns=ghcr.io", miss+"?ns=registry.k8s.io")
	const quick = 50 * time.Millisecond
	timed("next miss", quick, 404, again(miss)...)
	timed("blob", quick, 404, again("/v2/x/blobs/sha256:"+zeros)...)
	timed("tag in the cache", quick/5, 200, again("/v2/library/edge-web/manifests/1.0")...)
	timed("digest in the cache", quick/5, 200, again("/v2/library/edge-web/manifests/"+web.Digest)...)
	u, err := p.at(Name{DefaultRegistry, "library/none"})
	must(t, err)
	if !u.breaker.isOpen() {
		t.Error("the breaker is not open")
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// It refuses, it comes back: the next pull is right at once.
func TestUpstreamComesBack(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	lim := testLimits()
	lim.open = 5 * time.Second // a busy machine's probe takes longer than what a client waits for
	_, srv := pullerTo(t, "http://"+addr, lim, nil)
	url := srv.URL + "/v2/library/edge-web/manifests/1.0"
	for range 3 {
		if a := get(t, url); a.StatusCode != 404 {
			t.Error(a.Status)
		}
	}
	l, err = net.Listen("tcp", addr)
	must(t, err)
	back := &http.Server{Handler: o}
	go back.Serve(l)
	t.Cleanup(func() { back.Close() })
	if a := get(t, url); a.StatusCode != 200 {
		t.Errorf("back: %s", a.Status)
	}
}

// A long Retry-After is obeyed: nobody asks, and nobody waits.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, standard(t))
	o.setFault(status(429, "Retry-After", "3600"))
	p, srv := pullerTo(t, o.URL, testLimits(), nil)
	for range 5 {
		if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1.0"); a.StatusCode != 404 {
			t.Error(a.Status)
		}
	}
	if n := o.count("GET manifest"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	u, err := p.at(Name{DefaultRegistry, "x"})
	must(t, err)
	if d := time.Until(u.breaker.paused); d > maxPause {
		t.Errorf("paused for %s", d)
	}
}

// However many ask, there is one probe.
func TestOneProbe(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	b := breaker{lim: limits{contact: time.Millisecond, open: time.Millisecond}, now: time.Now}
	stop := make(chan struct{})
	b.run = func(f func(context.Context)) { go f(t.Context()) }
	probe := func(context.Context) error { n.Add(1); <-stop; return nil }
	for range 5 {
		if err := b.ready(t.Context(), probe); !errors.Is(err, errUnavailable) {
			t.Error(err)
		}
	}
	s := b.sign
	close(stop)
	<-s.done
	if err := b.ready(t.Context(), probe); err != nil || n.Load() != 1 || b.isOpen() {
		t.Errorf("%v after %d probes", err, n.Load())
	}
}

// Without an upstream there is nothing in the mirror that could open a connection.
func TestNeverHasNoDialer(t *testing.T) {
	t.Parallel()
	s, err := Listen(t.Context(), Config{Cache: tempDir(t), Listen: "127.0.0.1:0"})
	must(t, err)
	defer s.Close()
	if s.pull != nil || s.handler().(*handler).pull != nil {
		t.Error("a mirror without upstream can pull")
	}
}

// A network namespace with nothing but loopback: every miss is a 404 at once.
func TestNoNetwork(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if os.Getenv("EDGEPREP_MIRROR_NETNS") == "" {
		cmd := exec.Command("unshare", "-n", "sh", "-c", "ip link set lo up && exec \"$0\" -test.run '^TestNoNetwork$'", os.Args[0])
		cmd.Env = append(os.Environ(), "EDGEPREP_MIRROR_NETNS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	_, srv := pullerTo(t, "https://registry.example", testLimits(), nil)
	start := time.Now()
	for _, ns := range []string{"docker.io", "ghcr.io", "8.8.8.8", "quay.io"} {
		if a := get(t, srv.URL+"/v2/a/b/manifests/1?ns="+ns); a.StatusCode != 404 {
			t.Errorf("%s: %s", ns, a.Status)
		}
	}
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("it took %s", d)
	}
}

// The first pull after an outage waits for the probe of an upstream that is far away.
func TestFarUpstreamIsWaitedForAfterAnOutage(t *testing.T) {
	t.Parallel()
	const far = 150 * time.Millisecond
	b := breaker{lim: limits{contact: 10 * time.Second, open: time.Millisecond}, now: time.Now}
	b.run = func(fn func(context.Context)) { go fn(t.Context()) }
	probe := func(context.Context) error { time.Sleep(far); return nil }
	must(t, b.ready(t.Context(), probe))
	b.trip()
	if err := b.ready(t.Context(), probe); err != nil {
		t.Errorf("after an outage: %v", err)
	}
	b.trip()
	hung := make(chan struct{})
	defer close(hung)
	start := time.Now()
	err := b.ready(t.Context(), func(context.Context) error { <-hung; return nil })
	if took := time.Since(start); err == nil || took >= b.lim.contact {
		t.Errorf("an upstream that is away held a client for %s: %v", took, err)
	}
}
