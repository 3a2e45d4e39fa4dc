package mirror

import (
	"io"
	"net/http"
	"testing"
)

func benchGet(b *testing.B, url string, size int64) {
	b.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	b.SetBytes(size)
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 1<<20)
		for pb.Next() {
			resp, err := c.Get(url)
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
			resp.Body.Close()
			if err != nil || n != size {
				b.Errorf("%d bytes, %v", n, err)
				return
			}
		}
	})
}

func BenchmarkManifestByTag(b *testing.B) {
	s, set := loaded(b)
	srv, _ := serveStore(b, s)
	benchGet(b, srv.URL+"/v2/library/edge-web/manifests/1.0?ns=docker.io", set.Images[1].Size)
}

func BenchmarkBlob(b *testing.B) {
	set, layer := large(b, 64<<20)
	s := open(b, tempDir(b))
	load(b, s, sourceOf(set))
	srv, _ := serveStore(b, s)
	get(b, srv.URL+"/v2/x/blobs/"+layer) // verified from here on
	benchGet(b, srv.URL+"/v2/x/blobs/"+layer, int64(len(set.Blob(layer))))
}

// BenchmarkManifestHandler is the part of a manifest request that is ours.
func BenchmarkManifestHandler(b *testing.B) {
	s, _ := loaded(b)
	s.hits = newHits(lookAgain)
	h := NewHandler(s, HandlerOptions{uses: newUses()})
	r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "/v2/library/edge-web/manifests/1.0?ns=docker.io", http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(discard{http.Header{}}, r)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func BenchmarkLoad(b *testing.B) {
	set, layer := large(b, 64<<20)
	b.SetBytes(int64(len(set.Blob(layer))))
	for b.Loop() {
		load(b, open(b, tempDir(b)), sourceOf(set))
	}
}
