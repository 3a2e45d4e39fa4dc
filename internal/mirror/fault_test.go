package mirror

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// damage are the ways in which a file may be wrong.
var damage = map[string]func(testing.TB, string){
	"flipped":   func(t testing.TB, p string) { flip(t, p, 100) },
	"last byte": func(t testing.TB, p string) { fi, _ := os.Stat(p); flip(t, p, fi.Size()-1) },
	"truncated": func(t testing.TB, p string) { must(t, os.Truncate(p, 100)) },
	"longer":    func(t testing.TB, p string) { must(t, appendTo(p)) },
	"zero":      func(t testing.TB, p string) { must(t, os.Truncate(p, 0)) },
	"deleted":   func(t testing.TB, p string) { must(t, os.Remove(p)) },
	"directory": func(t testing.TB, p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o755)) },
	"fifo":      func(t testing.TB, p string) { must(t, os.Remove(p)); must(t, syscall.Mkfifo(p, 0o644)) },
	"link":      func(t testing.TB, p string) { must(t, os.Rename(p, p+".x")); must(t, os.Symlink(p+".x", p)) },
	"parent": func(t testing.TB, p string) {
		d := filepath.Dir(p)
		must(t, os.RemoveAll(d))
		must(t, os.WriteFile(d, nil, 0o644))
	},
	"unreadable": func(t testing.TB, p string) { must(t, os.Chmod(filepath.Dir(p), 0)) },
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func appendTo(p string) error {
	f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close())
}

// A damaged blob is never answered with a body that looks whole, other images are served meanwhile, and the
// good file is served when it is back, without a restart.
func TestDamagedBlob(t *testing.T) {
	t.Parallel()
	small := standard(t)
	web, _ := small.Image(imagetest.WebName)
	big, layer := large(t, 5<<20)
	for _, c := range []struct {
		name   string
		set    *imagetest.Set
		digest string
		path   string
	}{
		{"layer", small, web.Platforms[0].Layers[1], "/v2/x/blobs/"},
		{"manifest", small, web.Digest, "/v2/library/edge-web/manifests/"},
		{"large", big, layer, "/v2/x/blobs/"},
	} {
		for how, spoil := range damage {
			for _, served := range []bool{false, true} {
				t.Run(c.name+"/"+how+"/"+map[bool]string{false: "first", true: "served"}[served], func(t *testing.T) {
					t.Parallel()
					if how == "unreadable" && os.Geteuid() == 0 {
						t.Skip("needs a user other than root: root reads everything")
					}
					damaged(t, c.set, c.digest, c.path, spoil, served)
				})
			}
		}
	}
}

func damaged(t *testing.T, set *imagetest.Set, d, path string, spoil func(testing.TB, string), served bool) {
	t.Helper()
	s := open(t, tempDir(t))
	s.settle = 0
	load(t, s, sourceOf(set))
	srv, _ := serveStore(t, s)
	p, want := file(s, d), set.Blob(d)
	age(t, p)
	if served {
		if a := get(t, srv.URL+path+d); !bytes.Equal(a.body, want) {
			t.Fatalf("before: %s", a.Status)
		}
	}
	spoil(t, p)
	for _, rg := range []string{"", "bytes=5-", "bytes=0-99", "bytes=-50"} {
		a := get(t, srv.URL+path+d, "Range", rg)
		if a.StatusCode != 404 && a.err == nil {
			t.Errorf("range %q: %s, %d bytes, whole", rg, a.Status, len(a.body))
		}
	}
	other := set.Images[len(set.Images)-1].Platforms[0].Config
	if a := get(t, srv.URL+"/v2/x/blobs/"+other); !bytes.Equal(a.body, set.Blob(other)) {
		t.Errorf("another blob: %s", a.Status)
	}
	os.Chmod(filepath.Dir(p), 0o755)
	os.RemoveAll(p)
	if fi, err := os.Lstat(filepath.Dir(p)); err == nil && !fi.IsDir() {
		must(t, os.Remove(filepath.Dir(p)))
	}
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, want, 0o644))
	if a := get(t, srv.URL+path+d); a.StatusCode != 200 || !bytes.Equal(a.body, want) || a.err != nil {
		t.Errorf("after: %s, %d bytes, %v", a.Status, len(a.body), a.err)
	}
}

func TestBadBlobGoesToQuarantine(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{64 << 10, 5 << 20} {
		set, layer := large(t, size)
		s := open(t, tempDir(t))
		load(t, s, sourceOf(set))
		srv, _ := serveStore(t, s)
		flip(t, file(s, layer), 9)
		get(t, srv.URL+"/v2/x/blobs/"+layer)
		if _, err := os.Lstat(file(s, layer)); err != nil {
			t.Error("it may still be being copied; it must stay for a while")
		}
		s = open(t, s.Dir())
		s.settle = 0
		srv, _ = serveStore(t, s)
		age(t, file(s, layer))
		get(t, srv.URL+"/v2/x/blobs/"+layer) // a large one is hashed in the background of the first answer
		if a := get(t, srv.URL+"/v2/x/blobs/"+layer); a.StatusCode != 404 {
			t.Errorf("%s", a.Status)
		}
		if _, err := os.Lstat(s.path(badPath(digest.Digest(layer)))); err != nil {
			t.Errorf("%d: not in quarantine: %v", size, err)
		}
		v, err := s.Verify(t.Context(), false, nil)
		if err != nil || len(v.Foreign) != 1 || v.Foreign[0].Kind != Aside || v.OK() {
			t.Errorf("%+v %+v %v", v.Foreign, v.Problems, err)
		}
		load(t, s, sourceOf(set))
		if a := get(t, srv.URL+"/v2/x/blobs/"+layer); !bytes.Equal(a.body, set.Blob(layer)) {
			t.Errorf("healed: %s", a.Status)
		}
	}
}

// What other programs leave in the cache affects nothing else and is reported.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	tags := s.path("refs/docker.io/library/edge-web/_tags")
	good, err := os.ReadFile(filepath.Join(tags, "1.0"))
	must(t, err)
	hex := digest.Digest(web.Digest).Encoded()
	foreign := map[string][]byte{
		tags + "/.syncthing.1.0.tmp":                        good,
		tags + "/1.sync-conflict-20260101-120000-ABCDEF7.0": good,
		tags + "/copy":                         good,
		tags + "/zero":                         nil,
		tags + "/garbage":                      []byte("{"),
		tags + "/two":                          append(good, good...),
		tags + "/huge":                         bytes.Repeat([]byte("x"), 1<<20),
		tags + "/../stray":                     good,
		s.path("refs/docker.io/UPPER/_tags/1"): good,
		s.path("refs/docker.io/library/a/_digests/sha256/zz"): good,
		s.path("refs/x"):                                       nil,
		s.path("blobs/sha256/" + hex):                          nil,
		s.path("blobs/sha256/ff/" + hex):                       nil,
		s.path("blobs/sha256/" + hex[:2] + "/" + hex + ".bad"): nil,
		s.path("blobs/.stfolder/x"):                            nil,
		s.path("lost+found/x"):                                 nil,
	}
	for p, b := range foreign {
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, b, 0o644))
	}
	must(t, os.Symlink("1.0", tags+"/link"))
	before := snapshot(t, s.Dir())
	srv, _ := serveStore(t, s)
	for _, tag := range []string{"zero", "garbage", "two", "huge", "copy", "link", "1.sync-conflict-20260101-120000-ABCDEF7.0"} {
		if a := get(t, srv.URL+"/v2/library/edge-web/manifests/"+tag); a.StatusCode != 404 {
			t.Errorf("%s: %s", tag, a.Status)
		}
	}
	if a := get(t, srv.URL+"/v2/library/edge-web/tags/list"); !strings.Contains(string(a.body), `["1.0","stable"]`) {
		t.Errorf("tags: %s", a.body)
	}
	v, err := s.Verify(t.Context(), true, nil)
	if err != nil || !v.OK() || len(v.Foreign) != len(foreign)+1 || len(v.Entries) != 5 {
		t.Errorf("%d foreign of %d, %d entries, %+v, %v", len(v.Foreign), len(foreign)+1, len(v.Entries), v.Problems, err)
		for _, f := range v.Foreign {
			t.Log(f)
		}
	}
	if h := s.Health(); h.Status != "degraded" || len(h.Unused) < 5 {
		t.Errorf("%+v", h)
	}
	diff(t, "files changed by reading", len(before), len(snapshot(t, s.Dir())))
}

// Files that appear while it runs are served, as soon as they are whole.
func TestFilesAppear(t *testing.T) {
	t.Parallel()
	full, set := loaded(t)
	s := open(t, tempDir(t))
	s.settle = time.Hour
	srv, _ := serveStore(t, s)
	url := srv.URL + "/v2/library/edge-web/manifests/1.0"
	if a := get(t, url); a.StatusCode != 404 {
		t.Fatal(a.Status)
	}
	web, _ := set.Image(imagetest.WebName)
	half := set.Blob(web.Digest)[:50]
	must(t, os.MkdirAll(filepath.Dir(file(s, web.Digest)), 0o755))
	must(t, os.WriteFile(file(s, web.Digest), half, 0o644))
	must(t, os.CopyFS(s.path("refs"), os.DirFS(full.path("refs"))))
	if a := get(t, url); a.StatusCode != 404 {
		t.Errorf("half copied: %s", a.Status)
	}
	must(t, os.WriteFile(file(s, web.Digest), set.Blob(web.Digest), 0o644))
	if a := get(t, url); a.StatusCode != 200 || !bytes.Equal(a.body, set.Blob(web.Digest)) {
		t.Errorf("copied: %s", a.Status)
	}
}

// slowWriter lets the test look at what was sent before the verification is done.
type slowWriter struct {
	*httptest.ResponseRecorder
	mu   sync.Mutex
	sent int
	more chan struct{}
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.sent += len(p)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
	return w.ResponseRecorder.Write(p)
}

func (w *slowWriter) total() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

func TestTailIsHeldBack(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 5<<20)
	s := open(t, tempDir(t))
	load(t, s, sourceOf(set))
	want := len(set.Blob(layer))
	for range cap(s.flights.slots) {
		s.flights.slots <- struct{}{} // nothing can be hashed
	}
	w := &slowWriter{ResponseRecorder: httptest.NewRecorder(), more: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		NewHandler(s, HandlerOptions{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/x/blobs/"+layer, http.NoBody))
	}()
	for w.total() < want-holdBack {
		<-w.more
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	select {
	case <-done:
		t.Error("the tail was given away unverified")
	case <-ctx.Done():
	}
	if got := w.total(); got != want-holdBack {
		t.Errorf("%d bytes sent, want %d", got, want-holdBack)
	}
	for range cap(s.flights.slots) {
		<-s.flights.slots
	}
	<-done
	if !bytes.Equal(w.Body.Bytes(), set.Blob(layer)) {
		t.Errorf("%d bytes", w.Body.Len())
	}
}

// A range that does not reach the tail has nothing to hold back, so none of it is given away unverified.
func TestRangeOfABadBlob(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 5<<20)
	dir := tempDir(t)
	load(t, open(t, dir), sourceOf(set))
	flip(t, filepath.Join(dir, blobPath(digest.Digest(layer))), 50)
	for _, rg := range []string{"bytes=0-99", "bytes=10-20,40-60", "bytes=-5242880"} {
		srv, _ := serveStore(t, open(t, dir)) // nothing is known of the blob
		if a := get(t, srv.URL+"/v2/x/blobs/"+layer, "Range", rg); a.StatusCode != 404 {
			t.Errorf("%q: %s, %d bytes, %v", rg, a.Status, len(a.body), a.err)
		}
	}
}

// A reader that leaves does not stop a verification, and closing the store does.
func TestCloseEndsVerification(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 5<<20)
	s := open(t, tempDir(t))
	load(t, s, sourceOf(set))
	for range cap(s.flights.slots) {
		s.flights.slots <- struct{}{}
	}
	b, err := s.openBlob(digest.Digest(layer))
	must(t, err)
	defer b.file.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.flight.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, s.Close())
	if err := b.flight.wait(t.Context()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// FuzzRange compares with net/http on the same bytes, for a verified blob and for one that is not yet.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"", "bytes=0-", "bytes=1-2,5-9", "bytes=-5", "bytes=5", "bytes=9-3", "bytes=99999999-", "x=1-"} {
		f.Add(s)
	}
	set, layer := large(f, 5<<20)
	dir := tempDir(f)
	s := open(f, dir)
	load(f, s, sourceOf(set))
	age(f, file(s, layer))
	want := set.Blob(layer)
	serve := func(h http.Handler, rg string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/v2/x/blobs/"+layer, http.NoBody)
		r.Header.Set("Range", rg)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	oracle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Etag", quote(layer))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(want))
	})
	f.Fuzz(func(t *testing.T, rg string) {
		if strings.Count(rg, ",") > 8 {
			return // many ranges of one blob are only slow
		}
		ref := serve(oracle, rg)
		fresh := open(t, dir)
		for i, h := range []http.Handler{NewHandler(s, HandlerOptions{}), NewHandler(fresh, HandlerOptions{})} {
			got := serve(h, rg)
			if got.Code != ref.Code || got.Header().Get("Content-Range") != ref.Header().Get("Content-Range") || !sameBody(got, ref) {
				t.Errorf("%d: %q: %d %s, want %d %s", i, rg, got.Code, got.Header().Get("Content-Range"), ref.Code, ref.Header().Get("Content-Range"))
			}
		}
	})
}

// sameBody compares bodies; a multipart one has a random boundary.
func sameBody(a, b *httptest.ResponseRecorder) bool {
	if strings.HasPrefix(a.Header().Get("Content-Type"), "multipart/") {
		return a.Body.Len() == b.Body.Len()
	}
	return bytes.Equal(a.Body.Bytes(), b.Body.Bytes())
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs root: mount: " + err.Error())
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "3m")
	s := open(t, dir)
	set := standard(t)
	load(t, s, sourceOf(set))
	srv, _ := serveStore(t, s)
	big, _ := large(t, 8<<20)
	_, err := s.Load(t.Context(), sourceOf(big), LoadOptions{})
	if ds := diag.Of(err); len(ds) != 1 || ds[0].ID != "MER-002" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("too large: %v", err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	if _, err := io.Copy(filler, endless{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, filler.Close())
	pullAll(t, srv.URL, set)
	mid := sourceOf(mustSet(t, "r.io/new:1", 20<<10))
	if _, err := s.Load(t.Context(), mid, LoadOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full: %v", err)
	}
	pullAll(t, srv.URL, set)
	must(t, os.Remove(filepath.Join(dir, "filler")))
	load(t, s, mid)
	intact(t, s)
}

// The space that statfs promised may be gone when it is written.
func TestDiskFillsWhileLoading(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "2m")
	s := open(t, dir)
	src := sourceOf(mustSet(t, "r.io/new:1", 900<<10))
	s.hook = func(step string) {
		if step == "fill" {
			f, err := os.Create(filepath.Join(dir, "filler"))
			must(t, err)
			io.Copy(f, endless{})
			f.Close()
		}
	}
	_, err := s.Load(t.Context(), src, LoadOptions{})
	if ds := diag.Of(err); len(ds) != 1 || ds[0].ID != "MER-002" {
		t.Errorf("%v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "filler")))
	s.hook = func(string) {}
	intact(t, s)
	load(t, s, src)
	intact(t, s)
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "10m")
	set := standard(t)
	load(t, open(t, dir), sourceOf(set))
	web, _ := set.Image(imagetest.WebName)
	bad := web.Platforms[0].Layers[1]
	s := open(t, dir)
	flip(t, file(s, bad), 5)
	must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	s.settle = 0
	age(t, file(s, bad))
	srv, _ := serveStore(t, s)
	for range 2 {
		if a := get(t, srv.URL+"/v2/x/blobs/"+bad); a.StatusCode != 404 {
			t.Errorf("bad blob: %s", a.Status)
		}
	}
	pullAll(t, srv.URL, set.Select(imagetest.APIName, imagetest.SensorName))
	_, err := s.Load(t.Context(), sourceOf(set), LoadOptions{Verify: true})
	if ds := diag.Of(err); len(ds) != 1 || ds[0].ID != "MER-003" {
		t.Errorf("load: %v", err)
	}
	if h := s.Health(); h.Writable {
		t.Errorf("%+v", h)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func mustSet(t testing.TB, name string, size int64) *imagetest.Set {
	t.Helper()
	s, err := imagetest.Build(imagetest.ImageSpec{
		Names: []string{name}, Platforms: []string{"linux/amd64"},
		Layers: []imagetest.LayerSpec{{Seed: name, Size: size, Random: 100}},
	})
	must(t, err)
	return s
}

// pullAll asks for everything of a set and compares.
func pullAll(t testing.TB, url string, set *imagetest.Set) {
	t.Helper()
	for _, img := range set.Images {
		ref, err := ParseReference(img.Names[0])
		must(t, err)
		for _, p := range img.Platforms {
			for _, d := range append([]string{p.Config}, p.Layers...) {
				pullOne(t, url+requestPath(ref.Name, "blobs", d), set.Blob(d))
			}
			pullOne(t, url+requestPath(ref.Name, "manifests", p.Manifest), set.Blob(p.Manifest))
		}
		pullOne(t, url+requestPath(ref.Name, "manifests", ref.Tag), set.Blob(img.Digest))
	}
}

func pullOne(t testing.TB, url string, want []byte) {
	t.Helper()
	a := get(t, url)
	if a.StatusCode != 200 || a.err != nil || !bytes.Equal(a.body, want) || a.Header.Get("Content-Length") != strconv.Itoa(len(want)) {
		t.Errorf("%s: %s, %d of %d bytes, %v", url, a.Status, len(a.body), len(want), a.err)
	}
}

// A blob that was found bad right after it changed is remembered: else the next client would be cut off, too,
// instead of getting it from the upstream.
func TestBadBlobThatChangedJustNowIsRemembered(t *testing.T) {
	t.Parallel()
	s := open(t, tempDir(t))
	for name, size := range map[string]int{"small": 100, "large": maxManifest + 1000} {
		d := digest.Canonical.FromString(name) // not of the content
		must(t, os.MkdirAll(filepath.Dir(file(s, d.String())), 0o755))
		for range 5 { // a busy machine may let the tick pass by itself
			must(t, os.WriteFile(file(s, d.String()), make([]byte, size), 0o644))
			b, err := s.openBlob(d)
			if err == nil {
				err = b.flight.wait(t.Context())
				b.file.Close()
			}
			if !errors.Is(err, errCorrupt) {
				t.Fatalf("%s: %v", name, err)
			}
			key, err := s.stat(blobPath(d))
			must(t, err)
			if m, known := s.marks.get(d, key); !known || m.good {
				t.Errorf("%s: known %v, good %v", name, known, m.good)
			}
		}
	}
}
