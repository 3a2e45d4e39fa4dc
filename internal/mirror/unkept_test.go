package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const atBig = "?ns=registry.example:5000"

// ranged asks for parts of a blob and compares; a mirror may answer a range with all of it.
func ranged(t testing.TB, url string, want []byte) {
	t.Helper()
	n := len(want)
	for _, c := range []struct {
		rg       string
		from, to int
	}{{"", 0, n}, {"bytes=0-99", 0, 100}, {"bytes=100-", 100, n}, {"bytes=-50", n - 50, n}, {"bytes=5-9,20-30", 0, n},
		{"bytes=70000-300000", 70000, 300001}, {"bytes=7-99999999999", 7, n}, {fmt.Sprintf("bytes=%d-", n-1), n - 1, n}} {
		a := get(t, url, "Range", c.rg)
		if a.err != nil || !bytes.Equal(a.body, want[c.from:c.to]) {
			t.Errorf("range %q: %s, %d bytes, %v", c.rg, a.Status, len(a.body), a.err)
		}
	}
	if a := get(t, url, "Range", fmt.Sprintf("bytes=%d-", n)); a.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("behind the end: %s", a.Status)
	}
	if a := get(t, url, "Range", "bytes=0-1", "If-Range", `"other"`); a.StatusCode != http.StatusOK || !bytes.Equal(a.body, want) {
		t.Errorf("If-Range: %s", a.Status)
	}
}

// What cannot be kept is passed on, whole and right; nothing of it is left; and it is kept once it can be.
func TestPassedOnWhenItCannotBeKept(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	body := set.Blob(layer)
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string, p *puller) (mend func())
		note  string
	}{
		"disk full": {func(t *testing.T, dir string, _ *puller) func() { return fillUp(t, dir) }, "MER-002"},
		"no room": {func(_ *testing.T, _ string, p *puller) func() {
			p.minFree = 1 << 60
			return func() { p.minFree = 0 }
		}, "MER-002"},
		"max_cache": {func(_ *testing.T, _ string, p *puller) func() {
			p.used = newCacheSize(p.store, 1<<20)
			return func() { p.used.max = 4 << 20 }
		}, "MER-050"},
		"read-only file system": {func(t *testing.T, dir string, _ *puller) func() {
			must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
			return func() { must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, "")) }
		}, "MER-003"},
		"opened read-only": {func(_ *testing.T, _ string, p *puller) func() {
			p.store.readOnly = true
			return func() { p.store.readOnly = false }
		}, "MER-003"},
		"directory missing": {func(t *testing.T, _ string, p *puller) func() {
			dir := p.store.dir
			p.store.dir += "/later"
			return func() { p.store.dir = dir }
		}, "later"},
		"a file in the way": {func(t *testing.T, dir string, _ *puller) func() {
			must(t, os.WriteFile(dir+"/"+dirBlobs, nil, 0o600))
			return func() { must(t, os.Remove(dir+"/"+dirBlobs)) }
		}, "MER-005"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tmpfs(t, "20m")
			o := newOrigin(t, set)
			p, srv := pullerOf(t, open(t, dir), o.URL, testLimits(), nil)
			url := srv.URL + "/v2/big/blobs/" + layer + atBig
			mend := c.spoil(t, dir, p)
			ranged(t, url, body)
			if notes := fmt.Sprint(p.notes()); !strings.Contains(notes, c.note) {
				t.Errorf("health says %s", notes)
			}
			wrong := bytes.Clone(body)
			wrong[1<<20] ^= 1
			o.setFault(func(w http.ResponseWriter, _ *http.Request, ref string) bool {
				if ref == layer {
					w.Write(wrong)
				}
				return ref == layer
			})
			for _, rg := range []string{"", "bytes=0-99", "bytes=2097152-"} {
				if a := get(t, url, "Range", rg); a.err == nil && a.StatusCode != 404 {
					t.Errorf("a wrong byte, range %q: %s, %d bytes that look whole", rg, a.Status, len(a.body))
				}
			}
			o.setFault(nil)
			if name == "disk full" || name == "no room" {
				if _, err := os.Stat(dir + "/" + blobPath(digest.Digest(layer))); err == nil {
					t.Error("it is in the cache")
				}
			}
			mend()
			if a := get(t, url); !bytes.Equal(a.body, body) {
				t.Errorf("mended: %s, %v", a.Status, a.err)
			}
			eventually(t, func() bool { _, err := os.Stat(file(p.store, layer)); return err == nil && len(p.notes()) == 0 })
			noTemp(t, p.store)
		})
	}
}

// fillUp takes all space that a small file system has.
func fillUp(t testing.TB, dir string) (mend func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	must(t, err)
	io.Copy(f, endless{})
	must(t, f.Close())
	return func() { must(t, os.Remove(name)) }
}

// The disk fills while a blob comes in: those who read it get all of it, and what comes after it is kept.
func TestDiskFillsWhileABlobComesIn(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 6<<20)
	want := set.Blob(layer)
	for name, early := range map[string]bool{"early": true, "in the tail": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tmpfs(t, "16m")
			o := newOrigin(t, set)
			o.hold = make(chan struct{})
			if !early { // all but the last 10,000 bytes
				o.cut = 10_000
			}
			p, srv := pullerOf(t, open(t, dir), o.URL, testLimits(), nil)
			url := srv.URL + "/v2/big/blobs/" + layer + atBig
			var wg sync.WaitGroup
			for i := range 4 {
				resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(mustRequest(t, url))
				must(t, err)
				wg.Go(func() {
					defer resp.Body.Close()
					got := make([]byte, i<<20) // they are at different places
					if _, err := io.ReadFull(resp.Body, got); err != nil {
						t.Error(err)
					}
					rest, err := io.ReadAll(resp.Body)
					if err != nil || !bytes.Equal(append(got, rest...), want) {
						t.Errorf("client %d: %d bytes, %v", i, len(got)+len(rest), err)
					}
				})
			}
			eventually(t, func() bool { f := p.running(layer); return f != nil && f.arrived() >= o.half(want) })
			mend := fillUp(t, dir)
			close(o.hold)
			wg.Wait()
			if len(p.notes()) != 1 {
				t.Error(p.notes())
			}
			eventually(t, func() bool { left, _ := filepath.Glob(dir + "/tmp/*"); return len(left) == 0 })
			mend()
			if a := get(t, url); !bytes.Equal(a.body, want) {
				t.Error(a.Status, a.err)
			}
			eventually(t, func() bool { _, err := os.Stat(file(p.store, layer)); return err == nil })
		})
	}
}

func (p *puller) running(d string) *fill {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fills[digest.Digest(d)]
}

func (f *fill) arrived() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

func mustRequest(t testing.TB, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	must(t, err)
	return req
}

// Many transfers at once take room for each other: together they must not take what has to stay free.
func TestTransfersLeaveRoomForEachOther(t *testing.T) {
	t.Parallel()
	p := &puller{store: open(t, tempDir(t)), fills: map[digest.Digest]*fill{}}
	free, err := freeSpace(p.store.dir)
	must(t, err)
	for i := range 3 {
		f := newFill(Name{}, digest.Digest(strconv.Itoa(i)))
		p.fills[f.digest] = f
		if err := p.room(t.Context(), f, 0, free*2/5); (err == nil) != (i < 2) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// An upstream that does not say how long a blob is, and a cache that cannot keep it.
func TestPassedOnWithoutALength(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 1<<20)
	o := newOrigin(t, set)
	body := bytes.Clone(set.Blob(layer))
	o.setFault(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		w.Write(body[:1000])
		w.(http.Flusher).Flush()
		w.Write(body[1000:])
		return true
	})
	p, srv := pullerTo(t, o.URL, testLimits(), nil)
	p.store.readOnly = true
	url := srv.URL + "/v2/big/blobs/" + layer + atBig
	if a := get(t, url, "Range", "bytes=5-9"); a.err != nil || !bytes.Equal(a.body, body) {
		t.Errorf("%s, %d bytes, %v", a.Status, len(a.body), a.err)
	}
	body[500_000] ^= 1
	if a := get(t, url); a.err == nil {
		t.Errorf("a wrong byte: %s, %d bytes that look whole", a.Status, len(a.body))
	}
}

// However a body comes and whatever is asked for, direct gives just that.
func TestDirectGivesWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	all := make([]byte, 400_000)
	for i := range all {
		all[i] = byte(rnd.Uint32())
	}
	for range 300 {
		b := all[:rnd.IntN(len(all))]
		pos := rnd.Int64N(int64(len(b)) + 1)
		end := pos + rnd.Int64N(int64(len(b))-pos+1)
		d := &direct{digest: digest.FromBytes(b), size: int64(len(b)), end: end, pos: pos, buf: make([]byte, 2*holdBack), hash: digest.SHA256.Hash()}
		d.body = io.TeeReader(&jerky{bytes.NewReader(b), rnd}, d.hash)
		got, err := io.ReadAll(&jerky{d, rnd})
		if err != nil || !bytes.Equal(got, b[pos:end]) {
			t.Fatalf("%d-%d of %d: %d bytes, %v", pos, end, len(b), len(got), err)
		}
	}
}

// jerky reads as much as it likes.
type jerky struct {
	r   io.Reader
	rnd *rand.Rand
}

func (j *jerky) Read(p []byte) (int, error) {
	return j.r.Read(p[:min(len(p), 1+j.rnd.IntN(100_000))])
}

// A client that takes nothing is cut, one that is slow is not.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	l, err := listenTCP(t.Context(), "127.0.0.1:0")
	must(t, err)
	must(t, limitStalls(l, limit))
	ended := make(chan error, 2)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.CopyN(w, endless{}, 256<<20)
		ended <- err
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	dial := func() net.Conn {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		must(t, err)
		return c
	}
	dial()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended well")
		}
	case <-ctx.Done():
		t.Error("it was not cut")
	}
	slow := dial()
	buf := make([]byte, 4<<20)
	for start := time.Now(); time.Since(start) < 2*limit; time.Sleep(limit / 4) { // the client's own speed
		if _, err := io.ReadFull(slow, buf); err != nil {
			t.Fatalf("a slow one was cut: %v", err)
		}
	}
}
