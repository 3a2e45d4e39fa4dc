package mirror

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
)

// spyListener gives out connections that note whether files reach the socket as files: only then does the kernel
// send them, at half the cost.
type spyListener struct {
	net.Listener
	t     *testing.T
	files *atomic.Int64 // bytes of files
}

func (l spyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		l.t.Errorf("the listener gives %T: net/http looks for *net.TCPConn's ReadFrom", c)
		return c, nil
	}
	return &spyConn{tcp, l.files}, nil
}

type spyConn struct {
	*net.TCPConn
	files *atomic.Int64
}

func (c *spyConn) ReadFrom(r io.Reader) (int64, error) {
	src := r
	for {
		l, ok := src.(*io.LimitedReader)
		if !ok {
			break
		}
		src = l.R
	}
	n, err := c.TCPConn.ReadFrom(r)
	if _, ok := src.(*os.File); ok {
		c.files.Add(n)
	}
	return n, err
}

// Large blobs go from the file to the socket through the whole chain that the data port serves: verified, for the
// first time since start, in part, and while they come in.
func TestFilesReachTheSocket(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 12<<20)
	full := open(t, tempDir(t))
	load(t, full, sourceOf(set))
	size := int64(len(set.Blob(layer)))
	for name, c := range map[string]struct {
		cache  string
		header []string
		again  bool
		want   int64
	}{
		"first time":          {cache: full.Dir(), want: size},
		"verified":            {cache: full.Dir(), again: true, want: size},
		"resumed":             {cache: full.Dir(), again: true, header: []string{"Range", "bytes=1000-"}, want: size - 1000},
		"resumed, first time": {cache: full.Dir(), header: []string{"Range", "bytes=1000-"}, want: size - 1000},
		"a part":              {cache: full.Dir(), again: true, header: []string{"Range", "bytes=1000-2999999"}, want: 2999000},
		"while it comes in":   {cache: tempDir(t), want: size},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var files atomic.Int64
			origin, _ := serveStore(t, full)
			s, err := Listen(t.Context(), Config{Cache: c.cache, Listen: "127.0.0.1:0",
				Upstream: &Upstreams{Named: []Upstream{{Host: "registry.example:5000", URL: origin.URL}}}})
			must(t, err)
			s.data = spyListener{s.data, t, &files}
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx) }()
			url := s.URL() + "/v2/big/blobs/" + layer + "?ns=registry.example:5000"
			if c.again {
				get(t, url) // its end is held back until all is verified
				files.Store(0)
			}
			a := get(t, url, c.header...)
			if a.err != nil || int64(len(a.body)) != c.want || a.StatusCode != http.StatusOK && a.StatusCode != http.StatusPartialContent {
				t.Fatalf("%s, %d bytes, %v", a.Status, len(a.body), a.err)
			}
			stop()
			must(t, <-served)
			// net/http copies the first 512 bytes itself when it has not sent the header yet.
			if got := files.Load(); got < c.want-512 {
				t.Errorf("%d of %d bytes went from the file to the socket", got, c.want)
			}
		})
	}
}
