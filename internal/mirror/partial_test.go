package mirror

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// brokenOff leaves what a transfer that was cut off at a byte leaves.
func brokenOff(t testing.TB, dir string, layer string, body []byte, boot string) string {
	t.Helper()
	p := filepath.Join(dir, partName(digest.Digest(layer), boot))
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, body, 0o644))
	return p
}

// What a killed transfer left is not asked for again, unless it is wrong.
func TestGoesOnFromWhatWasLeft(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 4<<20)
	body := set.Blob(layer)
	bad := bytes.Clone(body[:3<<20])
	bad[1000] ^= 1
	boot := bootID()
	if boot == "" {
		t.Fatal("no boot id")
	}
	from := func(n int) []string { return []string{fmt.Sprintf("bytes=%d-", n-holdBack)} }
	for name, c := range map[string]struct {
		left   []byte
		boot   string
		ranges []string
		first  bool // the first pull is right
	}{
		"half":                     {body[:3<<20], boot, from(3 << 20), true},
		"all":                      {body, boot, from(len(body)), true},
		"of another boot":          {body[:3<<20], "0badb007", from(3 << 20), true},
		"wrong":                    {bad, boot, from(3 << 20), false},
		"wrong, of another boot":   {bad, "0badb007", from(3 << 20), true},
		"zeros, of another boot":   {make([]byte, 3<<20), "0badb007", from(3 << 20), true},
		"longer":                   {append(bytes.Clone(body), make([]byte, 1<<20)...), boot, from(len(body) + 1<<20), true},
		"little":                   {body[:1000], boot, nil, true},
		"empty":                    {nil, boot, nil, true},
		"longer, of another boot":  {append(bytes.Clone(body), make([]byte, 10)...), "0badb007", from(len(body) + 10), true},
		"longer by what is cut":    {append(bytes.Clone(body), make([]byte, holdBack)...), boot, from(len(body) + holdBack), true},
		"longer by some of it":     {append(bytes.Clone(body), make([]byte, holdBack/2)...), boot, from(len(body) + holdBack/2), true},
		"a file of no known state": {body[:3<<20], "", from(3 << 20), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t, set)
			s := open(t, tempDir(t))
			brokenOff(t, s.Dir(), layer, c.left, c.boot)
			w, err := s.writer()
			must(t, err)
			must(t, w.sweep())
			w.close()
			_, srv := pullerOf(t, s, o.URL, testLimits(), nil)
			url := srv.URL + "/v2/big/blobs/" + layer + atBig
			a := get(t, url)
			if right := a.err == nil && bytes.Equal(a.body, body); right != c.first {
				t.Errorf("right %v: %s, %d bytes, %v", right, a.Status, len(a.body), a.err)
			}
			diff(t, "ranges", c.ranges, o.ranges)
			asked := o.count("GET blob")
			if a := get(t, url); a.err != nil || !bytes.Equal(a.body, body) {
				t.Errorf("again: %s, %d bytes, %v", a.Status, len(a.body), a.err)
			}
			if n := o.count("GET blob") - asked; n > 0 && c.first {
				t.Errorf("asked %d times more for what is there", n)
			}
			eventually(t, func() bool { _, err := os.Stat(file(s, layer)); return err == nil })
			noTemp(t, s)
		})
	}
}

// A transfer whose upstream goes away is gone on with when it is back, by a fill too, and each byte comes once.
func TestFillGoesOnInTheMiddleOfABlob(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 4<<20)
	body := set.Blob(layer)
	o := newOrigin(t, set)
	o.setFault(func(w http.ResponseWriter, r *http.Request, ref string) bool {
		if ref != layer || r.Header.Get("Range") != "" {
			if ref == layer {
				w.WriteHeader(http.StatusNotFound)
			}
			return ref == layer
		}
		return short(body, 3<<20)(w, r, ref)
	})
	s := open(t, tempDir(t))
	p, _ := pullerOf(t, s, o.URL, testLimits(), nil)
	if r, err := p.fillAll(t.Context(), references(t, set), FillOptions{}); err == nil {
		t.Fatalf("%+v", r)
	}
	fi, err := os.Stat(s.path(partName(digest.Digest(layer), bootID())))
	must(t, err)
	left := fi.Size()
	o.setFault(nil)
	before := o.blobBytes()
	s2 := open(t, s.Dir()) // as a new process
	p2, _ := pullerOf(t, s2, o.URL, testLimits(), nil)
	if r, err := p2.fillAll(t.Context(), references(t, set), FillOptions{}); err != nil {
		t.Fatalf("%v %+v", err, r)
	}
	if came := o.blobBytes() - before; left < 2<<20 || came > int64(len(body))-left+holdBack+1 {
		t.Errorf("%d bytes were there, %d of %d came again", left, came, len(body))
	}
	noTemp(t, s)
}

// An upstream that is away costs nothing of what is there, however often it is asked for.
func TestWhatWasLeftIsNotWornDown(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 4<<20)
	o := newOrigin(t, set)
	o.setFault(status(404))
	s := open(t, tempDir(t))
	name := brokenOff(t, s.Dir(), layer, set.Blob(layer)[:2<<20], bootID())
	_, srv := pullerOf(t, s, o.URL, testLimits(), nil)
	for range 5 {
		if a := get(t, srv.URL+"/v2/big/blobs/"+layer+atBig); a.StatusCode != 404 {
			t.Error(a.Status)
		}
	}
	if fi, err := os.Stat(name); err != nil || fi.Size() != 2<<20 {
		t.Errorf("%v %v", fi, err)
	}
}

// Two processes at one blob: neither writes what is the other's.
func TestTwoWritersOfOneBlob(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 4<<20)
	body := set.Blob(layer)
	s := open(t, tempDir(t))
	name := brokenOff(t, s.Dir(), layer, body[:2<<20], bootID())
	w, err := s.writer()
	must(t, err)
	defer w.close()
	other := w.partial(t.Context(), digest.Digest(layer), bootID())
	if other.size != 2<<20-holdBack {
		t.Fatal(other.size)
	}
	o := newOrigin(t, set)
	p, srv := pullerOf(t, s, o.URL, testLimits(), nil)
	if a := get(t, srv.URL+"/v2/big/blobs/"+layer+atBig); !bytes.Equal(a.body, body) {
		t.Error(a.Status, a.err)
	}
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, body[:2<<20]) || len(o.ranges) > 0 {
		t.Errorf("%d bytes, %v, %v", len(b), err, o.ranges)
	}
	other.close()
	settled(t, p)
	must(t, w.sweep()) // the blob is there: nobody needs it
	noTemp(t, s)
}

// A program that is being started has copies of all descriptors until its exec: what was closed is free anyway.
func TestClosedPartialIsFreeWhileAProgramStarts(t *testing.T) {
	t.Parallel()
	_, layer := large(t, 1<<20)
	d := digest.Digest(layer)
	s := open(t, tempDir(t))
	w, err := s.writer()
	must(t, err)
	defer w.close()
	p := w.partial(t.Context(), d, "a")
	must(t, p.create())
	forked, err := syscall.Dup(int(p.file.Fd()))
	must(t, err)
	defer syscall.Close(forked)
	name := p.name
	p.close()
	must(t, p.take(name))
	p.remove()
}

func TestSweepKeepsWhatCanBeGoneOnWith(t *testing.T) {
	t.Parallel()
	_, layer := large(t, 1<<20)
	d := digest.Digest(layer)
	big := make([]byte, partMin)
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string)
		kept bool
	}{
		"fresh": {func(t *testing.T, dir string) { brokenOff(t, dir, layer, big, "a") }, true},
		"small": {func(t *testing.T, dir string) { brokenOff(t, dir, layer, big[1:], "a") }, false},
		"old": {func(t *testing.T, dir string) {
			at := time.Now().Add(-partAge - time.Minute)
			must(t, os.Chtimes(brokenOff(t, dir, layer, big, "a"), at, at))
		}, false},
		"from the future": {func(t *testing.T, dir string) {
			at := time.Now().Add(1000 * time.Hour)
			must(t, os.Chtimes(brokenOff(t, dir, layer, big, "a"), at, at))
		}, true},
		"of a blob that is there": {func(t *testing.T, dir string) {
			brokenOff(t, dir, layer, big, "a")
			p := filepath.Join(dir, blobPath(d))
			must(t, os.MkdirAll(filepath.Dir(p), 0o755))
			must(t, os.WriteFile(p, big, 0o644))
		}, false},
		"of no digest": {func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/tmp", 0o755))
			must(t, os.WriteFile(dir+"/tmp/"+partPrefix+"sha256-xyz-a", big, 0o644))
		}, false},
		"fifo": {func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/tmp", 0o755))
			must(t, syscall.Mkfifo(filepath.Join(dir, partName(d, "a")), 0o644))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, tempDir(t))
			c.make(t, s.Dir())
			w, err := s.writer()
			must(t, err)
			defer w.close()
			must(t, w.sweep())
			left, _ := filepath.Glob(s.path(dirTmp) + "/*")
			if (len(left) == 1) != c.kept {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// The cache may belong to an unprivileged user: a link or a pipe in the place of a partial file leads nowhere.
func TestPartialThatIsNoPlainFile(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 4<<20)
	body := set.Blob(layer)
	victim := filepath.Join(t.TempDir(), "victim")
	for name, plant := range map[string]func(string) error{
		"link":      func(p string) error { return os.Symlink(victim, p) },
		"hard link": func(p string) error { return os.Link(strings.Replace(p, partPrefix, "other-", 1), p) },
		"pipe":      func(p string) error { return syscall.Mkfifo(p, 0o644) },
		"directory": func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, tempDir(t))
			p := brokenOff(t, s.Dir(), layer, body[:2<<20], bootID())
			must(t, os.Rename(p, strings.Replace(p, partPrefix, "other-", 1)))
			must(t, plant(p))
			o := newOrigin(t, set)
			_, srv := pullerOf(t, s, o.URL, testLimits(), nil)
			if a := get(t, srv.URL+"/v2/big/blobs/"+layer+atBig); !bytes.Equal(a.body, body) {
				t.Error(a.Status, a.err)
			}
			if b, err := os.ReadFile(strings.Replace(p, partPrefix, "other-", 1)); err != nil || !bytes.Equal(b, body[:2<<20]) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if _, err := os.Stat(victim); err == nil {
				t.Error("written through a link")
			}
		})
	}
}
