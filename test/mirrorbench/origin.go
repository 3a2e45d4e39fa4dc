package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shape is how slow an origin answers.
type shape struct {
	delay  time.Duration // before each answer, and once more before the first of a connection
	stream int64         // bytes per second of one answer; 0: no limit
	link   int64         // bytes per second of all answers together; 0: no limit
}

// origin is the upstream registry, in this process: it counts what is asked of it.
type origin struct {
	img      *image
	shape    shape
	l        net.Listener
	srv      *http.Server
	requests atomic.Int64
	bytes    atomic.Int64
	link     limiter
}

type freshConn struct{}

func newOrigin(img *image, s shape) (*origin, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{img: img, shape: s, l: l, link: limiter{rate: s.link}}
	o.srv = &http.Server{Handler: o, ReadHeaderTimeout: time.Minute, ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, freshConn{}, new(atomic.Bool))
	}}
	go o.srv.Serve(l) // it ends with close
	return o, nil
}

func (o *origin) addr() string { return o.l.Addr().String() }
func (o *origin) close()       { o.srv.Close() }

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.requests.Add(1)
	o.wait(r)
	_, ref, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"+repository), "/")
	kind, ref, _ := strings.Cut(ref, "/")
	hd := w.Header()
	switch {
	case r.URL.Path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case kind == "manifests" && (ref == tag || ref == o.img.manifest.digest.String()):
		hd.Set("Content-Type", ocispec.MediaTypeImageManifest)
		o.send(w, r, o.img.manifest)
	case kind == "blobs":
		for _, b := range o.img.blobs {
			if ref == b.digest.String() {
				hd.Set("Content-Type", "application/octet-stream")
				o.send(w, r, b)
				return
			}
		}
		http.NotFound(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (o *origin) wait(r *http.Request) {
	d := o.shape.delay
	if used, ok := r.Context().Value(freshConn{}).(*atomic.Bool); ok && !used.Swap(true) {
		d *= 2
	}
	time.Sleep(d)
}

func (o *origin) send(w http.ResponseWriter, r *http.Request, f file) {
	w.Header().Set("Docker-Content-Digest", f.digest.String())
	in, err := os.Open(f.path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer in.Close()
	if r.Method == http.MethodGet {
		o.bytes.Add(f.size)
	}
	if o.shape.stream == 0 && o.shape.link == 0 || r.Method == http.MethodHead {
		http.ServeContent(w, r, "", time.Time{}, in)
		return
	}
	w.Header().Set("Content-Length", itoa(f.size))
	own := limiter{rate: o.shape.stream}
	for pos := int64(0); pos < f.size; {
		n, err := io.CopyN(w, in, min(64<<10, f.size-pos))
		if err != nil {
			return
		}
		pos += n
		own.took(n)
		o.link.took(n)
	}
}

// limiter spreads bytes over time.
type limiter struct {
	rate int64
	mu   sync.Mutex
	next time.Time
}

func (l *limiter) took(n int64) {
	if l.rate == 0 {
		return
	}
	l.mu.Lock()
	if late := time.Now().Add(-100 * time.Millisecond); l.next.Before(late) { // sleeps that took too long are made up for
		l.next = late
	}
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	wait := time.Until(l.next)
	l.mu.Unlock()
	time.Sleep(wait)
}
