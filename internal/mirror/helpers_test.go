package mirror

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("EDGEPREP_MIRROR_LOAD"); dir != "" {
		os.Exit(loadAndDie(dir))
	}
	if dir := os.Getenv("EDGEPREP_MIRROR_PRUNE"); dir != "" {
		os.Exit(pruneAndDie(dir))
	}
	goleak.VerifyTestMain(m)
}

// memSource is an image source in memory, with faults.
type memSource struct {
	images []host.Image
	blobs  []host.Descriptor
	data   map[string][]byte
	drop   map[string]bool // not in the source
	fail   error           // Each ends with it after failAt blobs
	failAt int
	opened int // blobs streamed
}

func (m *memSource) Images() []host.Image { return m.images }

func (m *memSource) Blobs() []host.Descriptor {
	return slices.DeleteFunc(slices.Clone(m.blobs), func(d host.Descriptor) bool { return m.drop[d.Digest] })
}

func (m *memSource) Open(context.Context, string) (io.ReadCloser, error) {
	return nil, host.ErrNotSeekable
}

func (m *memSource) Each(_ context.Context, want func(host.Descriptor) bool, fn func(host.Descriptor, io.Reader) error) error {
	n := 0
	for _, d := range m.Blobs() {
		if m.fail != nil && n == m.failAt {
			return m.fail
		}
		n++
		if !want(d) {
			continue
		}
		m.opened++
		if err := fn(d, bytes.NewReader(m.data[d.Digest])); err != nil {
			return err
		}
	}
	return nil
}

func (m *memSource) Close() error { return nil }

// without leaves blobs out.
func (m *memSource) without(digests ...string) *memSource {
	if m.drop == nil {
		m.drop = map[string]bool{}
	}
	for _, d := range digests {
		m.drop[d] = true
	}
	return m
}

func sourceOf(set *imagetest.Set) *memSource {
	m := &memSource{data: map[string][]byte{}}
	for _, img := range set.Images {
		for _, n := range img.Names {
			m.images = append(m.images, host.Image{Name: n, Target: host.Descriptor{
				MediaType: img.MediaType, Digest: img.Digest, Size: img.Size}})
		}
	}
	for _, d := range set.Blobs() {
		b := set.Blob(d)
		m.data[d] = bytes.Clone(b)
		m.blobs = append(m.blobs, host.Descriptor{Digest: d, Size: int64(len(b))})
	}
	slices.Reverse(m.blobs) // layers first: an order that archives may have
	return m
}

func standard(t testing.TB) *imagetest.Set {
	t.Helper()
	s, err := imagetest.Standard(imagetest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// large is a set with an image whose layer is too large to be verified in one go.
func large(t testing.TB, size int64) (*imagetest.Set, string) {
	t.Helper()
	s, err := imagetest.Build(imagetest.ImageSpec{
		Names: []string{"registry.example:5000/big:1"}, Platforms: []string{"linux/amd64"},
		Layers: []imagetest.LayerSpec{{Seed: "big", Size: size, Random: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, s.Images[0].Platforms[0].Layers[0]
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	s.hits = newHits(0) // tests look at what the files say now
	t.Cleanup(func() { s.Close() })
	return s
}

func load(t testing.TB, s *Store, src host.ImageSource) LoadReport {
	t.Helper()
	r, err := s.Load(t.Context(), src, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// loaded is a store with the standard set, and what is served from it.
func loaded(t testing.TB) (*Store, *imagetest.Set) {
	t.Helper()
	set := standard(t)
	s := open(t, tempDir(t))
	load(t, s, sourceOf(set))
	return s, set
}

func serveStore(t testing.TB, s *Store) (*httptest.Server, *Misses) {
	t.Helper()
	m := NewMisses()
	srv := httptest.NewServer(NewHandler(s, HandlerOptions{Misses: m}))
	t.Cleanup(srv.Close)
	return srv, m
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
	err  error
}

func request(t testing.TB, method, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, b, err}
}

func get(t testing.TB, url string, header ...string) answer {
	t.Helper()
	return request(t, http.MethodGet, url, header...)
}

// file is the path of a blob.
func file(s *Store, d string) string { return s.path(blobPath(digest.Digest(d))) }

// age makes a file's change look settled: it waits until the clock has moved past the kernel's tick.
func age(t testing.TB, path string) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	for !keyOf(fi).settled(tick) {
		time.Sleep(time.Millisecond) // the file's own clock is what is waited for
	}
}

// flip changes one byte of a file in place.
func flip(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// snapshot is every path below dir with what it is and when it changed.
func snapshot(t testing.TB, dir string) map[string]fileKey {
	t.Helper()
	out := map[string]fileKey{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		out[strings.TrimPrefix(p, dir)] = keyOf(fi)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func diff(t testing.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root: mounts a file system")
}

func descriptorFor(b []byte, mediaType string) host.Descriptor {
	return host.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b).String(), Size: int64(len(b))}
}

func imageFor(name string, d host.Descriptor) host.Image { return host.Image{Name: name, Target: d} }

// tempDir is a directory on a file system where a sync costs nothing, if there is one.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "mirror-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func writeFile(p, text string) error { return os.WriteFile(p, []byte(text), 0o600) }
