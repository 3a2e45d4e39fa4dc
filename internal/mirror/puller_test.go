package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// A pull through the mirror gives what the upstream has; the second one asks it for nothing, also by a mirror
// that starts anew with no upstream.
func TestPullThrough(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	s := open(t, tempDir(t))
	p, srv := pullerOf(t, s, o.URL, testLimits(), func(u *Upstream) { u.Rate = 1 << 30 })
	pullAll(t, srv.URL, set)
	first := o.count("GET")
	if b := o.count("GET blob"); b == 0 || first == 0 {
		t.Fatal("nothing was asked for")
	}
	pullAll(t, srv.URL, set)
	if n := o.count("GET"); n != first {
		t.Errorf("the second pull made %d requests", n-first)
	}
	for k, n := range o.gets {
		if strings.HasPrefix(k, "GET blob") && n != 1 {
			t.Errorf("%s: %d times", k, n)
		}
	}
	o.Close()
	settled(t, p)
	cold := open(t, s.Dir())
	offline, _ := serveStore(t, cold)
	pullAll(t, offline.URL, set)
	if v, err := cold.Verify(t.Context(), true, nil); err != nil || !v.OK() || len(v.Foreign) > 0 {
		t.Errorf("%+v %v", v.Problems, err)
	}
	noTemp(t, s)
}

func noTemp(t testing.TB, s *Store) {
	t.Helper()
	left, _ := filepath.Glob(s.path(dirTmp) + "/*")
	if len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// once makes a fault that happens to the first blob request only.
func once(f func(http.ResponseWriter, *http.Request, string) bool) func(http.ResponseWriter, *http.Request, string) bool {
	var o sync.Once
	return func(w http.ResponseWriter, r *http.Request, ref string) (hit bool) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			o.Do(func() { hit = f(w, r, ref) })
		}
		return hit
	}
}

// short sends n bytes of the body under its full length, and cuts the connection.
func short(body []byte, n int) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body[:n])
		panic(http.ErrAbortHandler)
	}
}

func reset(w http.ResponseWriter, _ *http.Request, _ string) bool {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return true
}

func status(code int, header ...string) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		return true
	}
}

// Faults of an upstream: the body is right, or it does not look whole; nothing wrong is kept, other blobs are
// served meanwhile, and once the fault is gone the next pull is right.
func TestUpstreamFaults(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	body := set.Blob(layer)
	wrong := bytes.Clone(body)
	wrong[1000] ^= 1
	whole := func(b []byte) func(http.ResponseWriter, *http.Request, string) bool {
		return func(w http.ResponseWriter, r *http.Request, _ string) bool { w.Write(b); return true }
	}
	hang := func(w http.ResponseWriter, r *http.Request, _ string) bool { <-r.Context().Done(); return true }
	midway := func(w http.ResponseWriter, r *http.Request, _ string) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body[:1<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request, string) bool
		once  bool // a fault that happens once must not be seen
	}{
		"500": {status(500), false}, "500 once": {status(500), true}, "503 once": {status(503), true},
		"429":            {status(429, "Retry-After", "0"), false},
		"429 once":       {status(429, "Retry-After", "1"), true},
		"404":            {status(404), false},
		"reset":          {reset, false},
		"reset once":     {reset, true},
		"truncated":      {short(body, 100), false},
		"truncated once": {short(body, 1<<20), true},
		"one wrong byte": {whole(wrong), false},
		"too long":       {whole(append(bytes.Clone(body), 'x')), false},
		"too short":      {whole(body[:1<<20]), false},
		"html":           {whole([]byte("<html>log in to the hotel's network</html>")), false},
		"hang at header": {hang, false}, "hang mid-body": {midway, false}, "hang mid-body once": {midway, true},
		"redirect loop": {func(w http.ResponseWriter, r *http.Request, _ string) bool {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
			return true
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t, set)
			lim := testLimits()
			lim.header, lim.stall = 300*time.Millisecond, 100*time.Millisecond
			s := open(t, tempDir(t))
			_, srv := pullerOf(t, s, o.URL, lim, nil)
			config := set.Images[0].Platforms[0].Config
			onLayer := func(w http.ResponseWriter, r *http.Request, ref string) bool {
				return ref == layer && c.fault(w, r, ref)
			}
			if o.setFault(onLayer); c.once {
				o.setFault(once(onLayer))
			}
			url := srv.URL + "/v2/big/blobs/" + layer + "?ns=registry.example:5000"
			a := get(t, url)
			right := a.StatusCode == 200 && a.err == nil && bytes.Equal(a.body, body)
			switch {
			case c.once && !right:
				t.Errorf("%s, %d bytes, %v %s", a.Status, len(a.body), a.err, a.Header)
			case !c.once && a.StatusCode != 404 && a.err == nil:
				t.Errorf("%s, %d bytes that look whole", a.Status, len(a.body))
			}
			if _, err := os.Stat(file(s, layer)); (err == nil) != right && !c.once {
				t.Errorf("kept: %v", err)
			}
			other := srv.URL + "/v2/big/blobs/" + config + "?ns=registry.example:5000"
			if a := get(t, other); !bytes.Equal(a.body, set.Blob(config)) {
				t.Errorf("another blob: %s %s", a.Status, a.body)
			}
			o.setFault(nil)
			if a := get(t, url); !bytes.Equal(a.body, body) {
				t.Errorf("afterwards: %s, %d bytes %v", a.Status, len(a.body), a.err)
			}
			eventually(t, func() bool { left, _ := filepath.Glob(s.path(dirTmp) + "/*"); return len(left) == 0 })
		})
	}
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// settled waits until all that came in is in the cache: clients do not wait for that.
func settled(t testing.TB, p *puller) {
	t.Helper()
	eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.fills)+len(p.calls) == 0
	})
}

// The body that breaks off is asked for again from where it broke off.
func TestResumeAsksForTheRest(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	o := newOrigin(t, set)
	o.setFault(once(short(set.Blob(layer), 1<<20)))
	_, srv := pullerTo(t, o.URL, testLimits(), nil)
	a := get(t, srv.URL+"/v2/big/blobs/"+layer+"?ns=registry.example:5000")
	if !bytes.Equal(a.body, set.Blob(layer)) {
		t.Fatal(a.Status, len(a.body), a.err)
	}
	diff(t, "ranges", []string{"bytes=1048576-"}, o.ranges)
}

// Manifests that are wrong are not believed.
func TestUpstreamManifestFaults(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	good := set.Blob(web.Digest)
	bad := append(bytes.Clone(good), ' ')
	for name, f := range map[string]func(http.ResponseWriter){
		"corrupt": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", sniffManifest(good))
			w.Header().Set("Docker-Content-Digest", web.Digest)
			w.Write(bad)
		},
		"html":      func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); fmt.Fprint(w, "<html>") },
		"truncated": func(w http.ResponseWriter) { w.Header().Set("Content-Length", "5000"); w.Write(good[:10]) },
		"huge":      func(w http.ResponseWriter) { w.Write(bytes.Repeat([]byte(" "), maxManifest+10)) },
		"schema 1": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			fmt.Fprint(w, `{"schemaVersion":1,"name":"x"}`)
		},
		"500": func(w http.ResponseWriter) { w.WriteHeader(500) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t, set)
			o.setFault(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				f(w)
				return true
			})
			_, srv := pullerTo(t, o.URL, testLimits(), nil)
			for _, ref := range []string{"1.0", web.Digest} {
				if name == "huge" && ref != "1.0" {
					continue
				}
				if a := get(t, srv.URL+"/v2/library/edge-web/manifests/"+ref); a.StatusCode != 404 {
					t.Errorf("%s: %s %s", ref, a.Status, a.body)
				}
			}
			o.setFault(nil)
			if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1.0"); !bytes.Equal(a.body, good) {
				t.Errorf("afterwards: %s", a.Status)
			}
		})
	}
	t.Run("wrong type", func(t *testing.T) { // its content says what it is
		t.Parallel()
		o := newOrigin(t, set)
		o.setFault(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.Header().Set("Content-Type", "application/json")
			w.Write(good)
			return true
		})
		_, srv := pullerTo(t, o.URL, testLimits(), nil)
		if a := get(t, srv.URL+"/v2/library/edge-web/manifests/1.0"); a.Header.Get("Content-Type") != sniffManifest(good) {
			t.Errorf("%s %s", a.Status, a.Header)
		}
	})
}

// However many clients ask for a cold blob at once, it is transferred once; the bytes come while they come in;
// one that is slow and one that leaves hold up nobody.
func TestManyClientsOneTransfer(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	want := set.Blob(layer)
	o := newOrigin(t, set)
	o.hold = make(chan struct{})
	_, srv := pullerTo(t, o.URL, testLimits(), nil)
	url := srv.URL + "/v2/big/blobs/" + layer + "?ns=registry.example:5000"
	half := make(chan struct{}, 20)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
			must(t, err)
			tr := &http.Transport{DisableKeepAlives: true}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Error(err)
				half <- struct{}{}
				return
			}
			defer resp.Body.Close()
			head := make([]byte, 1<<20) // before the upstream has sent the rest
			_, err = io.ReadFull(resp.Body, head)
			half <- struct{}{}
			if i == 0 || err != nil {
				return // leaves, also the one that came first may be this
			}
			rest, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(append(head, rest...), want) {
				t.Errorf("client %d: %d bytes, %v", i, len(head)+len(rest), err)
			}
		})
	}
	for range 20 {
		<-half
	}
	close(o.hold)
	wg.Wait()
	if n := o.count("GET blob " + layer); n != 1 || o.blobBytes() != int64(len(want)) {
		t.Errorf("%d transfers, %d bytes", n, o.blobBytes())
	}
}

// All clients leave; the transfer goes on.
func TestTransferOutlivesItsClients(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	o := newOrigin(t, set)
	o.hold = make(chan struct{})
	s := open(t, tempDir(t))
	p, _ := pullerOf(t, s, o.URL, testLimits(), nil)
	f, err := p.blob(t.Context(), Name{"quay.io", "x/y"}, digest.Digest(layer))
	must(t, err)
	f.leave()
	close(o.hold)
	eventually(t, func() bool { _, err := os.Stat(file(s, layer)); return err == nil })
}

// The tail is held back, also from ranges.
func TestTailOfATransferIsHeldBack(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	size := int64(len(set.Blob(layer)))
	f := newFill(Name{}, digest.Digest(layer))
	tmp, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	f.begin(tmp, size, 0, false)
	f.wrote(int(size))
	if end, err := f.limit(t.Context(), 0); err != nil || end != size-holdBack {
		t.Errorf("%d %v, of %d", end, err, size)
	}
	f.pass()
	if end, err := f.limit(t.Context(), 0); err != nil || end != size {
		t.Errorf("%d %v, of %d", end, err, size)
	}
	f.end(nil)
}

func TestTagPolicy(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	other := set.Images[len(set.Images)-1].Digest
	if other == web.Digest {
		t.Fatal("needs two images")
	}
	o := newOrigin(t, set)
	lim := testLimits()
	lim.answer = 50 * time.Millisecond
	p, srv := pullerTo(t, o.URL, lim, nil)
	url := srv.URL + "/v2/library/edge-web/manifests/1.0"
	stale := func() {
		settled(t, p) // what is being kept is fresh afterwards
		p.fresh = newLRU[Reference, time.Time](maxFresh)
	}
	expect := func(what, d string) {
		t.Helper()
		if a := get(t, url); a.Header.Get("Docker-Content-Digest") != d {
			t.Errorf("%s: %s %s", what, a.Status, a.Header)
		}
	}
	expect("cold", web.Digest)
	n := o.count("")
	expect("fresh", web.Digest)
	if o.count("") != n {
		t.Error("a fresh tag was asked for")
	}
	stale()
	expect("compared", web.Digest)
	if o.count("HEAD manifest") != 1 || o.count("GET manifest 1.0") != 1 {
		t.Errorf("%v", o.gets)
	}
	stale()
	o.setFault(status(404))
	expect("gone upstream", web.Digest)
	o.setFault(status(500))
	expect("upstream broken", web.Digest)
	o.setFault(func(_ http.ResponseWriter, r *http.Request, _ string) bool { <-r.Context().Done(); return true })
	start := time.Now()
	expect("upstream hangs", web.Digest)
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %s", d)
	}
	o.setFault(nil)
	o.mu.Lock()
	o.tags["1.0"] = other
	o.mu.Unlock()
	o.CloseClientConnections()
	eventually(t, func() bool { a := get(t, url); return a.Header.Get("Docker-Content-Digest") == other })
}

// A probe of edgeprep, a mirror without upstream, and one whose cache is read-only.
func TestWhatIsNeverForwarded(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, standard(t))
	_, srv := pullerTo(t, o.URL, testLimits(), nil)
	for _, p := range []string{"/v2/edgeprep-probe/x/manifests/1", "/v2/edgeprep-probe/x/manifests/1?ns=quay.io",
		"/v2/edgeprep-probe/x/blobs/" + o.set.Images[0].Digest, "/v2/edgeprep-probe/x/tags/list"} {
		for _, m := range []string{http.MethodGet, http.MethodHead} {
			if a := request(t, m, srv.URL+p); a.StatusCode != 404 {
				t.Errorf("%s: %s", p, a.Status)
			}
		}
	}
	if n := o.count(""); n != 0 {
		t.Errorf("%d requests: %v", n, o.gets)
	}
}

// A server pulls from a server, as a site's second mirror would; one whose upstream's files are missing serves
// what it has, and says so.
func TestServePullsFromUpstream(t *testing.T) {
	t.Parallel()
	full, set := loaded(t)
	up, stopUp := start(t, Config{Cache: full.Dir(), Listen: "127.0.0.1:0"})
	var named []Upstream
	for _, h := range []string{DefaultRegistry, "ghcr.io", "registry.k8s.io", "quay.io"} {
		named = append(named, Upstream{Host: h, URL: up.URL() + "/" + h})
	}
	dir := tempDir(t)
	s, stop := start(t, Config{Cache: dir, Listen: "127.0.0.1:0", Upstream: &Upstreams{Named: named}})
	pullAll(t, s.URL(), set)
	must(t, stopUp())
	pullAll(t, s.URL(), set)
	must(t, stop())
	named[0].CA = "/nowhere.pem"
	broken, stopBroken := start(t, Config{Cache: dir, Listen: "127.0.0.1:0", Upstream: &Upstreams{Named: named}})
	pullAll(t, broken.URL(), set)
	if h := broken.health(); h.Status != "degraded" || !strings.Contains(strings.Join(h.Notes, " "), "/nowhere.pem") {
		t.Errorf("%+v", h)
	}
	must(t, stopBroken())
}
