package hosttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/host"
)

// FilesConformance tests what package host promises of files. Each host is of its own and has an empty root,
// or one in which /conformance does not exist.
func FilesConformance(t *testing.T, open func(t *testing.T) host.Host) {
	for name, test := range map[string]func(*testing.T, filesTest){
		"Write":            filesWrite,
		"WriteNoParent":    filesNoParent,
		"WriteOverDir":     filesOverDir,
		"Append":           filesAppend,
		"Mkdir":            filesMkdir,
		"Symlink":          filesSymlink,
		"Remove":           filesRemove,
		"SetMeta":          filesSetMeta,
		"ReadDir":          filesReadDir,
		"ReadFileLimit":    filesLimit,
		"OpenOnlyFiles":    filesOpen,
		"Links":            filesLinks,
		"Loop":             filesLoop,
		"Relative":         filesRelative,
		"Space":            filesSpace,
		"Label":            filesLabel,
		"Place":            filesPlace,
		"PlaceMethods":     filesPlaceMethods,
		"PlaceWrongSize":   filesPlaceSize,
		"PlaceWrongHash":   filesPlaceHash,
		"PlaceCancelled":   filesPlaceCancelled,
		"PlaceOverItself":  filesPlaceSelf,
		"Lock":             filesLock,
		"Cancelled":        filesCancelled,
		"ReadOnlyHasNoWay": filesReadOnly,
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			f := filesTest{FS: h.FS(), FileWriter: h.Files(), host: h}
			f.check(t, f.Mkdir(context.Background(), top, host.Meta{Mode: 0o755}))
			test(t, f)
			f.noTemps(t, top)
		})
	}
}

const top = "/conformance"

// filesTest is the host under test.
type filesTest struct {
	host.FS
	host.FileWriter
	host host.Host
}

func (f filesTest) check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f filesTest) want(t *testing.T, p, content string) {
	t.Helper()
	b, err := f.ReadFile(p, 0)
	if err != nil || string(b) != content {
		t.Errorf("%s: %q, %v; want %q", p, b, err, content)
	}
}

func (f filesTest) put(t *testing.T, p, content string) {
	t.Helper()
	f.check(t, f.Write(context.Background(), p, []byte(content), host.Meta{Mode: 0o644}))
}

// noTemps: whatever happened, nothing half-made is left.
func (f filesTest) noTemps(t *testing.T, dir string) {
	t.Helper()
	entries, err := f.ReadDir(dir)
	f.check(t, err)
	for _, e := range entries {
		if atomicfile.IsTemp(path.Base(e.Path)) {
			t.Errorf("left behind: %s", e.Path)
		}
		if e.Type == host.TypeDir {
			f.noTemps(t, e.Path)
		}
	}
}

func filesWrite(t *testing.T, f filesTest) {
	ctx, p := context.Background(), top+"/file"
	for i, mode := range []fs.FileMode{0o600, 0o644, 0o444, 0o755} {
		content := strings.Repeat("x", i)
		f.check(t, f.Write(ctx, p, []byte(content), host.Meta{Mode: mode}))
		f.want(t, p, content)
		info, err := f.Lstat(p)
		if err != nil || info.Mode != mode || info.Type != host.TypeFile || info.Size != int64(i) || info.Path != p {
			t.Errorf("%+v, %v; want mode %v", info, err, mode)
		}
	}
	f.check(t, f.Symlink(ctx, top+"/link", p))
	f.put(t, top+"/link", "new")
	if info, err := f.Lstat(top + "/link"); err != nil || info.Type != host.TypeFile {
		t.Errorf("a link is replaced, not followed: %+v, %v", info, err)
	}
	f.want(t, p, "xxx")
	f.put(t, top+"/"+strings.Repeat("n", 255), "the longest name")
}

func filesNoParent(t *testing.T, f filesTest) {
	ctx, p := context.Background(), top+"/no/such"
	m := host.Meta{Mode: 0o644}
	for name, err := range map[string]error{
		"write": f.Write(ctx, p, nil, m), "append": f.Append(ctx, p, nil, m),
		"mkdir": f.Mkdir(ctx, p, m), "symlink": f.Symlink(ctx, p, "/x"), "meta": f.SetMeta(ctx, p, m),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s without parent: %v", name, err)
		}
	}
	f.check(t, f.Remove(ctx, p))
}

func filesOverDir(t *testing.T, f filesTest) {
	ctx := context.Background()
	f.check(t, f.Mkdir(ctx, top+"/d", host.Meta{Mode: 0o755}))
	if err := f.Write(ctx, top+"/d", []byte("x"), host.Meta{Mode: 0o644}); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if err := f.Symlink(ctx, top+"/d", "/x"); err == nil {
		t.Error("a directory was replaced by a link")
	}
	f.put(t, top+"/f", "x")
	if err := f.Mkdir(ctx, top+"/f", host.Meta{Mode: 0o755}); err == nil {
		t.Error("a file was replaced by a directory")
	}
	if err := f.Write(ctx, "/", nil, host.Meta{Mode: 0o644}); err == nil {
		t.Error("the root was written")
	}
}

func filesAppend(t *testing.T, f filesTest) {
	ctx, p := context.Background(), top+"/journal"
	for _, s := range []string{"a\n", "", "b\n"} {
		f.check(t, f.Append(ctx, p, []byte(s), host.Meta{Mode: 0o600}))
	}
	f.want(t, p, "a\nb\n")
	if info, err := f.Lstat(p); err != nil || info.Mode != 0o600 {
		t.Errorf("%+v, %v", info, err)
	}
	f.check(t, f.Symlink(ctx, top+"/link", p))
	if err := f.Append(ctx, top+"/link", []byte("x"), host.Meta{Mode: 0o600}); err == nil {
		t.Error("appended through a link")
	}
}

func filesMkdir(t *testing.T, f filesTest) {
	ctx, p := context.Background(), top+"/dir"
	for _, mode := range []fs.FileMode{0o700, 0o755, 0o755} {
		f.check(t, f.Mkdir(ctx, p, host.Meta{Mode: mode}))
		if info, err := f.Lstat(p); err != nil || info.Mode != mode || info.Type != host.TypeDir {
			t.Errorf("%+v, %v", info, err)
		}
	}
	f.put(t, p+"/kept", "x")
	f.check(t, f.Symlink(ctx, top+"/link", "dir"))
	f.check(t, f.Mkdir(ctx, top+"/link", host.Meta{Mode: 0o711}))
	f.want(t, p+"/kept", "x")
	if info, err := f.Lstat(p); err != nil || info.Mode != 0o711 {
		t.Errorf("through a link: %+v, %v", info, err)
	}
}

func filesSymlink(t *testing.T, f filesTest) {
	ctx, p := context.Background(), top+"/link"
	for _, target := range []string{"/nowhere", "relative/one", "../x"} {
		f.check(t, f.Symlink(ctx, p, target))
		info, err := f.Lstat(p)
		if err != nil || info.Type != host.TypeSymlink || info.Target != target {
			t.Errorf("%+v, %v; want target %s", info, err, target)
		}
	}
}

func filesRemove(t *testing.T, f filesTest) {
	ctx := context.Background()
	f.put(t, top+"/file", "x")
	f.check(t, f.Symlink(ctx, top+"/link", "file"))
	f.check(t, f.Mkdir(ctx, top+"/dir", host.Meta{Mode: 0o755}))
	f.put(t, top+"/dir/file", "x")
	if err := f.Remove(ctx, top+"/dir"); err == nil {
		t.Error("a directory with something in it was removed")
	}
	f.want(t, top+"/dir/file", "x")
	for _, p := range []string{"/link", "/link", "/dir/file", "/dir", "/dir/none/at/all"} {
		f.check(t, f.Remove(ctx, top+p))
		if _, err := f.Lstat(top + p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
	f.want(t, top+"/file", "x")
}

func filesSetMeta(t *testing.T, f filesTest) {
	f.put(t, top+"/file", "x")
	for _, mode := range []fs.FileMode{0o600, 0o640, 0o755} {
		f.check(t, f.SetMeta(context.Background(), top+"/file", host.Meta{Mode: mode}))
		if info, err := f.Lstat(top + "/file"); err != nil || info.Mode != mode {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

func filesReadDir(t *testing.T, f filesTest) {
	f.put(t, top+"/b", "12")
	f.put(t, top+"/a", "1")
	f.check(t, f.Symlink(context.Background(), top+"/c", "a"))
	all, err := f.ReadDir(top)
	f.check(t, err)
	var got []string
	for _, e := range all {
		l, err := f.Lstat(e.Path)
		f.check(t, err)
		if diff := cmp.Diff(l, e); diff != "" {
			t.Errorf("ReadDir and Lstat differ: %s", diff)
		}
		got = append(got, e.Path+" "+string(e.Type)+" "+e.Target)
	}
	want := []string{top + "/a file ", top + "/b file ", top + "/c symlink a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := f.ReadDir(top + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func filesLimit(t *testing.T, f filesTest) {
	f.put(t, top+"/file", "12345")
	if b, err := f.ReadFile(top+"/file", 5); err != nil || len(b) != 5 {
		t.Errorf("at the limit: %q %v", b, err)
	}
	if b, err := f.ReadFile(top+"/file", 4); err == nil {
		t.Errorf("over the limit: %q", b)
	}
}

func filesOpen(t *testing.T, f filesTest) {
	f.put(t, top+"/file", "12345")
	file, err := f.Open(top + "/file")
	f.check(t, err)
	defer file.Close()
	b := make([]byte, 2)
	if _, err := file.ReadAt(b, 3); err != nil || string(b) != "45" {
		t.Errorf("ReadAt: %q %v", b, err)
	}
	if all, err := io.ReadAll(file); err != nil || string(all) != "12345" {
		t.Errorf("read: %q %v", all, err)
	}
	if _, err := f.Open(top); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := f.Open(top + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func filesLinks(t *testing.T, f filesTest) {
	ctx := context.Background()
	f.check(t, f.Mkdir(ctx, top+"/real", host.Meta{Mode: 0o755}))
	f.check(t, f.Symlink(ctx, top+"/abs", top+"/real"))
	f.check(t, f.Symlink(ctx, top+"/rel", "./real/../real"))
	f.check(t, f.Symlink(ctx, top+"/two", "abs"))
	f.check(t, f.Symlink(ctx, top+"/up", strings.Repeat("../", 40)+strings.TrimPrefix(top, "/")+"/real"))
	for _, via := range []string{"/abs", "/rel", "/two", "/up", "/real/../abs", "/real/.", "//real/"} {
		p := top + via + "/file"
		f.put(t, p, via)
		f.want(t, top+"/real/file", via)
		if info, err := f.Stat(top + via); err != nil || info.Type != host.TypeDir {
			t.Errorf("%s: %+v %v", via, info, err)
		}
		f.check(t, f.Remove(ctx, p))
	}
	f.check(t, f.Symlink(ctx, top+"/dangling", "nowhere"))
	if _, err := f.Stat(top + "/dangling"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dangling: %v", err)
	}
}

func filesLoop(t *testing.T, f filesTest) {
	ctx := context.Background()
	f.check(t, f.Symlink(ctx, top+"/a", "b"))
	f.check(t, f.Symlink(ctx, top+"/b", "a"))
	if _, err := f.Stat(top + "/a"); err == nil {
		t.Error("a loop has an end")
	}
	if err := f.Write(ctx, top+"/a/x", nil, host.Meta{Mode: 0o644}); err == nil {
		t.Error("written through a loop")
	}
	f.put(t, top+"/a", "the end itself is replaced")
	f.put(t, top+"/file", "x")
	if _, err := f.Stat(top + "/file/../file"); err == nil {
		t.Error("a file was passed as a directory")
	}
}

func filesRelative(t *testing.T, f filesTest) {
	for _, p := range []string{"", "x", "./x", "../x", top + "/a\x00b"} {
		if _, err := f.Lstat(p); err == nil {
			t.Errorf("the path %q is accepted", p)
		}
		if err := f.Write(context.Background(), p, nil, host.Meta{Mode: 0o644}); err == nil {
			t.Errorf("the path %q is written", p)
		}
	}
	if err := f.Remove(context.Background(), top+"/.."); err == nil {
		t.Error("`..` is the name of an entry")
	}
}

func filesSpace(t *testing.T, f filesTest) {
	a, err := f.Space(top)
	f.check(t, err)
	b, err := f.Space(top + "/not/there/yet")
	f.check(t, err)
	if a.Total <= 0 || a.Dev != b.Dev || a.Total != b.Total || a.ReadOnly {
		t.Errorf("space: %+v and %+v", a, b)
	}
}

func filesLabel(t *testing.T, f filesTest) {
	f.check(t, f.Write(context.Background(), top+"/f", []byte("x"), host.Meta{Mode: 0o644}))
	f.check(t, f.Symlink(context.Background(), top+"/l", "f"))
	own, err := f.Label(top + "/f")
	f.check(t, err)
	if linked, err := f.Label(top + "/l"); err != nil || linked != own {
		t.Errorf("through a link %q, %v; want %q", linked, err, own)
	}
	if _, err := f.Label(top + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a missing file: %v", err)
	}
}

func filesPlace(t *testing.T, f filesTest) {
	ctx := context.Background()
	content := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.1 MiB: several chunks
	src := top + "/source"
	f.check(t, f.Write(ctx, src, content, host.Meta{Mode: 0o600}))
	hash := sha256.Sum256(content)
	want := hex.EncodeToString(hash[:])
	for name, sum := range map[string]string{"hashed": want, "upper": strings.ToUpper(want), "plain": ""} {
		var last int64
		dst := top + "/placed-" + name
		res, err := f.Place(ctx, src, dst, host.PlaceOptions{
			Stage: top + "/stage", Meta: host.Meta{Mode: 0o640}, Size: int64(len(content)), SHA256: sum,
			Done:  func(n int64) { last = n },
			Allow: func(m host.PlaceMethod) bool { return m == host.PlaceCopy },
		})
		f.check(t, err)
		if res.Method != host.PlaceCopy || res.Info.Size != int64(len(content)) || res.Info.Mode != 0o640 || last != int64(len(content)) {
			t.Errorf("%s: %+v, told of %d bytes", name, res, last)
		}
		if sum != "" && res.SHA256 != want {
			t.Errorf("%s: hash %s", name, res.SHA256)
		}
		got, err := f.ReadFile(dst, 0)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: other bytes, %v", name, err)
		}
	}
	f.noTemps(t, top+"/stage")
}

func filesPlaceMethods(t *testing.T, f filesTest) {
	ctx := context.Background()
	for _, move := range []bool{false, true} {
		for _, mode := range []fs.FileMode{0o644, 0o666} { // others may write: its inode is not shared
			src, dst := top+"/source", top+"/placed"
			f.check(t, f.Write(ctx, src, []byte("content"), host.Meta{Mode: mode}))
			res, err := f.Place(ctx, src, dst, host.PlaceOptions{Meta: host.Meta{Mode: 0o644}, Size: 7, Move: move})
			f.check(t, err)
			f.want(t, dst, "content")
			before, err := f.Lstat(src)
			if errors.Is(err, fs.ErrNotExist) != move {
				t.Errorf("move %v by %s: source: %v", move, res.Method, err)
			}
			if mode == 0o666 && (res.Method == host.PlaceLink || res.Method == host.PlaceRename) {
				t.Errorf("a source that others can write was placed by %s", res.Method)
			}
			if !move && (before.Inode == res.Info.Inode) != (res.Method == host.PlaceLink) {
				t.Errorf("method %s, inodes %d and %d", res.Method, before.Inode, res.Info.Inode)
			}
			if res.Info.Mode != 0o644 {
				t.Errorf("mode %v", res.Info.Mode)
			}
			f.check(t, f.Remove(ctx, dst))
		}
	}
	f.put(t, top+"/source", "content")
	_, err := f.Place(ctx, top+"/source", top+"/placed", host.PlaceOptions{
		Meta: host.Meta{Mode: 0o644}, Size: 7, Allow: func(host.PlaceMethod) bool { return false },
	})
	if err == nil {
		t.Error("placed although no method is allowed")
	}
}

func filesPlaceSize(t *testing.T, f filesTest) {
	f.put(t, top+"/source", "content")
	f.put(t, top+"/placed", "old")
	for _, size := range []int64{0, 6, 8} {
		_, err := f.Place(context.Background(), top+"/source", top+"/placed", host.PlaceOptions{Meta: host.Meta{Mode: 0o644}, Size: size})
		if err == nil {
			t.Errorf("7 bytes for %d", size)
		}
	}
	f.want(t, top+"/placed", "old")
	if _, err := f.Place(context.Background(), top+"/none", top+"/placed", host.PlaceOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
}

func filesPlaceHash(t *testing.T, f filesTest) {
	f.put(t, top+"/source", "content")
	f.put(t, top+"/placed", "old")
	_, err := f.Place(context.Background(), top+"/source", top+"/placed", host.PlaceOptions{
		Meta: host.Meta{Mode: 0o644}, Size: 7, SHA256: strings.Repeat("0", 64), Move: true,
		Allow: func(m host.PlaceMethod) bool { return m == host.PlaceCopy },
	})
	if err == nil {
		t.Error("other bytes than expected were placed")
	}
	f.want(t, top+"/placed", "old")
	f.want(t, top+"/source", "content")
}

func filesPlaceCancelled(t *testing.T, f filesTest) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	content := make([]byte, 3<<20)
	f.check(t, f.Write(ctx, top+"/source", content, host.Meta{Mode: 0o644}))
	_, err := f.Place(ctx, top+"/source", top+"/placed", host.PlaceOptions{
		Meta: host.Meta{Mode: 0o644}, Size: int64(len(content)), SHA256: strings.Repeat("0", 64),
		Done:  func(int64) { cancel() },
		Allow: func(m host.PlaceMethod) bool { return m == host.PlaceCopy },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := f.Lstat(top + "/placed"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is there: %v", err)
	}
}

func filesPlaceSelf(t *testing.T, f filesTest) {
	f.put(t, top+"/source", "content")
	_, err := f.Place(context.Background(), top+"/source", top+"/source", host.PlaceOptions{Meta: host.Meta{Mode: 0o644}, Size: 7, Move: true})
	if err == nil {
		t.Error("a file was moved onto itself")
	}
	f.want(t, top+"/source", "content")
}

func filesLock(t *testing.T, f filesTest) {
	ctx, p := context.Background(), top+"/run/deep/lock"
	unlock, err := f.Lock(ctx, p, "edgeprep apply", 0)
	f.check(t, err)
	var held *host.LockedError
	if _, err := f.Lock(ctx, p, "second", 0); !errors.As(err, &held) || !strings.Contains(held.Holder, "edgeprep apply") {
		t.Errorf("second lock: %v", err)
	}
	if _, err := f.Lock(ctx, p, "second", 50*time.Millisecond); !errors.As(err, &held) {
		t.Errorf("after waiting: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := f.Lock(short, p, "third", time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		unlock, err := f.Lock(ctx, p, "next", time.Minute)
		if err == nil {
			err = unlock()
		}
		done <- err
	}()
	f.check(t, unlock())
	f.check(t, <-done)
	if info, err := f.Lstat(p); err != nil || info.Type != host.TypeFile {
		t.Errorf("the lock file is gone: %v", err)
	}
}

func filesCancelled(t *testing.T, f filesTest) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p, m := top+"/x", host.Meta{Mode: 0o644}
	_, lockErr := f.Lock(ctx, p, "x", 0)
	for name, err := range map[string]error{
		"write": f.Write(ctx, p, nil, m), "append": f.Append(ctx, p, nil, m), "mkdir": f.Mkdir(ctx, p, m),
		"symlink": f.Symlink(ctx, p, "/x"), "remove": f.Remove(ctx, p), "meta": f.SetMeta(ctx, top, m), "lock": lockErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is there: %v", err)
	}
}

func filesReadOnly(t *testing.T, f filesTest) {
	r := NoWrites(f.host)
	ep := host.Endpoint{Socket: "/run/containerd/containerd.sock"}
	for name, v := range map[string]any{
		"host": r, "fs": r.FS(), "units": r.Units(), "runtime": r.Runtime(ep), "cri": r.CRI(ep),
	} {
		switch v.(type) {
		case host.Host, host.FileWriter, host.UnitControl, host.RuntimeControl, interface{ RealPath(string) (string, error) }:
			t.Errorf("%s: %T can write", name, v)
		}
	}
}
