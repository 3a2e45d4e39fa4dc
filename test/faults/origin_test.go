package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/ports"
)

// origin is a registry with faults, on a port that it keeps while it is down.
type origin struct {
	set  *imagetest.Set
	addr string

	mu    sync.Mutex
	srv   *http.Server
	fault fault
	token int // bearer tokens that were issued; -1: none is needed
	uses  int // of the last one
	seen  []string
	sent  int64         // bytes of blobs
	at    int64         // when so many are sent,
	ready chan struct{} // this is closed; nil: nobody waits
	gone  chan struct{} // closed when the fault is
}

// fault answers a request instead of the registry. false: it has no objection.
type fault func(o *origin, w http.ResponseWriter, r *http.Request, ref string) bool

func newOrigin(t testing.TB, set *imagetest.Set) *origin {
	t.Helper()
	o := &origin{set: set, token: -1, gone: make(chan struct{})}
	l := ports.Listen(t) // it goes down and up again
	o.addr = l.Addr().String()
	o.serve(l)
	t.Cleanup(o.down)
	return o
}

func (o *origin) serve(l net.Listener) {
	o.srv = &http.Server{Handler: o, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		c.(*net.TCPConn).SetWriteBuffer(16 << 10) // what is sent is soon what was received
		return ctx
	}}
	go o.srv.Serve(l)
}

// down refuses connections and cuts those that there are.
func (o *origin) down() {
	o.srv.Close()
}

func (o *origin) up(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	o.serve(l)
}

// breaks sets a fault, or with nil ends the one that there is.
func (o *origin) breaks(f fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f == nil {
		close(o.gone)
		o.gone = make(chan struct{})
	}
	o.fault = f
}

func (o *origin) over() chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gone
}

// after gives a channel that is closed when n bytes of blobs were sent from now on.
func (o *origin) after(n int64) chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.at, o.ready = o.sent+n, make(chan struct{})
	return o.ready
}

func (o *origin) count(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sent += int64(n); o.ready != nil && o.sent >= o.at {
		close(o.ready)
		o.ready = nil
	}
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		o.mu.Lock()
		o.token, o.uses = o.token+1, 0
		fmt.Fprintf(w, `{"token":"t%d","expires_in":300}`, o.token)
		o.mu.Unlock()
		return
	}
	ref := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	o.mu.Lock()
	f := o.fault
	o.seen = append(o.seen, r.Header.Get("Range"))
	o.mu.Unlock()
	switch {
	case ref == "":
		w.WriteHeader(http.StatusOK)
	case !o.authorized(r):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
	case f != nil && f(o, w, r, ref):
	case strings.Contains(r.URL.Path, "/manifests/"):
		o.manifest(w, r, ref)
	default:
		o.blob(w, r, o.set.Blob(ref))
	}
}

// authorized lets each token be used twice.
func (o *origin) authorized(r *http.Request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.token < 0 {
		return true
	}
	o.uses++
	return o.uses <= 2 && r.Header.Get("Authorization") == fmt.Sprintf("Bearer t%d", o.token)
}

func (o *origin) manifest(w http.ResponseWriter, r *http.Request, ref string) {
	for _, img := range o.set.Images {
		if strings.HasSuffix(img.Names[0], ":"+ref) || img.Digest == ref {
			w.Header().Set("Content-Type", img.MediaType)
			w.Header().Set("Docker-Content-Digest", img.Digest)
			if r.Method == http.MethodGet {
				w.Write(o.set.Blob(img.Digest))
			}
			return
		}
	}
	http.NotFound(w, r)
}

// blob sends a blob, also from the middle.
func (o *origin) blob(w http.ResponseWriter, r *http.Request, b []byte) {
	if b == nil {
		http.NotFound(w, r)
		return
	}
	status := http.StatusOK
	if s, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		from, _ := strconv.Atoi(strings.TrimSuffix(s, "-"))
		if from >= len(b) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		b, status = b[from:], http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	for len(b) > 0 && r.Method == http.MethodGet {
		n, err := w.Write(b[:min(len(b), 16<<10)])
		if err != nil {
			return
		}
		w.(http.Flusher).Flush()
		o.count(n)
		b = b[n:]
	}
}

// on is a fault of one blob or tag.
func on(ref string, f fault) fault {
	return func(o *origin, w http.ResponseWriter, r *http.Request, got string) bool {
		return got == ref && f(o, w, r, got)
	}
}

// once is a fault that happens to one request.
func once(f fault) fault {
	var done sync.Once
	return func(o *origin, w http.ResponseWriter, r *http.Request, ref string) (hit bool) {
		done.Do(func() { hit = f(o, w, r, ref) })
		return hit
	}
}

func status(code int, header ...string) fault {
	return func(_ *origin, w http.ResponseWriter, _ *http.Request, _ string) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		return true
	}
}

func reset(_ *origin, w http.ResponseWriter, _ *http.Request, _ string) bool {
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return true
}

// short sends n bytes of a body under its whole length.
func short(n int) fault {
	return func(o *origin, w http.ResponseWriter, _ *http.Request, ref string) bool {
		b := o.set.Blob(ref)
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.Write(b[:n])
		panic(http.ErrAbortHandler)
	}
}

// altered sends a body with one byte flipped.
func altered(o *origin, w http.ResponseWriter, r *http.Request, ref string) bool {
	if strings.Contains(r.URL.Path, "/manifests/") {
		img := o.set.Images[0]
		w.Header().Set("Content-Type", img.MediaType)
		w.Header().Set("Docker-Content-Digest", img.Digest)
		w.Write(flipped(o.set.Blob(img.Digest)))
		return true
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(o.set.Blob(ref))))
	w.Write(flipped(o.set.Blob(ref)))
	return true
}

func flipped(b []byte) []byte {
	out := append([]byte(nil), b...)
	out[len(out)/3] ^= 1
	return out
}

// hang sends n bytes of a body and then nothing; -1: not even a header. The connection stays silent also when
// the fault is over, as one does whose other end is gone.
func hang(n int) fault {
	return func(o *origin, w http.ResponseWriter, r *http.Request, ref string) bool {
		if n >= 0 {
			b := o.set.Blob(ref)
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			w.Write(b[:n])
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
		return true
	}
}

// slow sends 10 kB a second, until the fault is over.
func slow(o *origin, w http.ResponseWriter, _ *http.Request, ref string) bool {
	b := o.set.Blob(ref)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	over := o.over()
	for len(b) > 0 {
		n := min(len(b), 1000)
		select {
		case <-tick.C:
		case <-over:
			n = len(b)
		}
		if _, err := w.Write(b[:n]); err != nil {
			return true
		}
		w.(http.Flusher).Flush()
		b = b[n:]
	}
	return true
}

// images is a set of two: one that faults happen to, and another one.
func images(t testing.TB) (set *imagetest.Set, layer string) {
	t.Helper()
	spec := func(name string, size int64) imagetest.ImageSpec {
		return imagetest.ImageSpec{Names: []string{name}, Platforms: []string{"linux/amd64"},
			Layers: []imagetest.LayerSpec{{Seed: name, Size: size, Random: 1}}}
	}
	set, err := imagetest.Build(spec("up.test/team/app:1", 5<<20), spec("up.test/team/other:2", 100<<10))
	if err != nil {
		t.Fatal(err)
	}
	return set, set.Images[0].Platforms[0].Layers[0]
}
