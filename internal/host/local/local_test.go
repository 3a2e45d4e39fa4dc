package local_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
)

func open(t *testing.T, opts local.Options) *local.Host {
	t.Helper()
	h, err := local.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// needRoot skips, or fails where a missing real component must not pass.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
		t.Fatal("needs root: " + what)
	}
	t.Skip("needs root: " + what)
}

// mount mounts a tmpfs at a new directory.
func mount(t *testing.T, options string) string {
	t.Helper()
	needRoot(t, "mounts a tmpfs")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestConformanceUnderRoot(t *testing.T) {
	t.Parallel()
	hosttest.FilesConformance(t, func(t *testing.T) host.Host { return open(t, local.Options{Root: t.TempDir()}) })
}

func TestConformanceOnTmpfs(t *testing.T) {
	t.Parallel()
	needRoot(t, "mounts a tmpfs")
	hosttest.FilesConformance(t, func(t *testing.T) host.Host { return open(t, local.Options{Root: mount(t, "size=64m")}) })
}

// TestConformanceLive lets the kernel resolve paths, in a mount namespace with an empty tmpfs for /conformance.
func TestConformanceLive(t *testing.T) {
	t.Parallel()
	needRoot(t, "changes its root")
	if os.Getenv("EDGEPREP_TEST_CHROOT") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestConformanceLive$", "-test.count=1") //nolint:gosec // itself
		cmd.Env = append(os.Environ(), "EDGEPREP_TEST_CHROOT="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv("EDGEPREP_TEST_CHROOT")
	if err := errors.Join(syscall.Chroot(dir), os.Chdir("/"), os.Mkdir("/tmp", 0o777)); err != nil { //nolint:gosec // as on a node
		t.Fatal(err)
	}
	hosttest.FilesConformance(t, func(t *testing.T) host.Host {
		if err := os.RemoveAll("/conformance"); err != nil {
			t.Fatal(err)
		}
		return open(t, local.Options{})
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "file")} {
		if _, err := local.New(local.Options{Root: root}); err == nil || !strings.Contains(err.Error(), root) {
			t.Errorf("root %s: %v", root, err)
		}
	}
	if err := os.Symlink("/", filepath.Join(dir, "slash")); err != nil {
		t.Fatal(err)
	}
	f, err := open(t, local.Options{Root: filepath.Join(dir, "slash")}).Facts(context.Background())
	if err != nil || !f.Live {
		t.Errorf("a link to / is the running node: %+v %v", f, err)
	}
}

// TestNoEscape: a hostile tree cannot make a write or a read leave the root.
func TestNoEscape(t *testing.T) {
	t.Parallel()
	ctx, base := context.Background(), t.TempDir()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root, outside, filepath.Join(root, "d")} {
		if err := os.Mkdir(d, 0o755); err != nil { //nolint:gosec // as on a node
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{
		"abs": outside, "up": "../outside", "upup": "../../../../../../../../" + outside, "d/up": "../../outside",
		"file": filepath.Join(outside, "secret"), "chain": "up", "proc": "/proc/self/root" + outside,
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	before := hosttest.Tree(t, outside)
	h := open(t, local.Options{Root: root})
	m := host.Meta{Mode: 0o644}
	for name := range links {
		for _, p := range []string{"/" + name, "/" + name + "/secret", "/" + name + "/../../outside/secret", "/../" + name + "/secret"} {
			if b, err := h.FS().ReadFile(p, 0); err == nil && strings.Contains(string(b), "secret") {
				t.Errorf("%s: read %q", p, b)
			}
			_ = h.Files().Append(ctx, p, []byte("x"), m)
			_ = h.Files().SetMeta(ctx, p, host.Meta{Mode: 0o777})
			_ = h.Files().Mkdir(ctx, p, host.Meta{Mode: 0o777})
			_, _ = h.Files().Place(ctx, "/d/none", p, host.PlaceOptions{Stage: "/" + name})
			_, _ = h.Files().Lock(ctx, p, "x", 0)
			_ = h.Files().Remove(ctx, p)
			_ = h.Files().Write(ctx, p, []byte("x"), m)
		}
	}
	if after := hosttest.Tree(t, outside); after != before {
		t.Errorf("outside the root:\n%s\nbefore:\n%s", after, before)
	}
}

func TestOpenDoesNotHang(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("fifo", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	h := open(t, local.Options{Root: root})
	done := make(chan error, 2)
	go func() {
		for _, p := range []string{"/fifo", "/link"} {
			_, err := h.FS().Open(p)
			done <- err
		}
	}()
	for range 2 {
		select {
		case err := <-done:
			if err == nil {
				t.Error("a FIFO was opened")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("open hangs")
		}
	}
}

func TestLiveFilesystems(t *testing.T) {
	t.Parallel()
	h := open(t, local.Options{})
	if b, err := h.FS().ReadFile("/proc/self/comm", 100); err != nil || len(b) == 0 {
		t.Errorf("a file of /proc, whose size is 0: %q %v", b, err)
	}
	if _, err := h.FS().Open("/dev/null"); err == nil {
		t.Error("a device was opened")
	}
	if i, err := h.FS().Lstat("/dev/null"); err != nil || i.Type != host.TypeOther {
		t.Errorf("%+v %v", i, err)
	}
}

// wantDiag checks that err is this diagnostic and still has its cause.
func wantDiag(t *testing.T, what string, err error, id string, cause error) {
	t.Helper()
	ds := diag.Of(err)
	if len(ds) != 1 || ds[0].ID != id || ds[0].Fix == "" || ds[0].Where.File == "" || (cause != nil && !errors.Is(err, cause)) {
		t.Errorf("%s: %v (%+v); want %s with a file, a fix and the cause %v", what, err, ds, id, cause)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	root := mount(t, "size=1m")
	h := open(t, local.Options{Root: root})
	m := host.Meta{Mode: 0o644}
	for _, err := range []error{
		h.Files().Write(ctx, "/file", []byte("old"), m), h.Files().Append(ctx, "/journal", []byte("line\n"), m),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := hosttest.Tree(t, root)
	big := make([]byte, 2<<20)
	wantDiag(t, "write", h.Files().Write(ctx, "/file", big, m), "APL-050", syscall.ENOSPC)
	wantDiag(t, "append", h.Files().Append(ctx, "/journal", big, m), "APL-050", syscall.ENOSPC)
	if after := hosttest.Tree(t, root); after != before {
		t.Errorf("a full disk changed the tree:\n%s\nbefore:\n%s", after, before)
	}
}

// TestNoInodes: a file system can be full with bytes to spare.
func TestNoInodes(t *testing.T) {
	t.Parallel()
	root := mount(t, "size=1m,nr_inodes=2")
	h := open(t, local.Options{Root: root})
	m := host.Meta{Mode: 0o755}
	if err := h.Files().Mkdir(context.Background(), "/one", m); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"write": h.Files().Write(context.Background(), "/two", nil, m), "mkdir": h.Files().Mkdir(context.Background(), "/two", m),
		"symlink": h.Files().Symlink(context.Background(), "/two", "/one"),
	} {
		wantDiag(t, what, err, "APL-050", syscall.ENOSPC)
	}
}

// TestPlaceOnFullDisk: too little space is seen before a byte is copied, and a disk that fills up meanwhile
// ends the copy. Neither leaves anything.
func TestPlaceOnFullDisk(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	root, sources := mount(t, "size=4m"), t.TempDir()
	h := open(t, local.Options{Root: root})
	before := hosttest.Tree(t, root)
	place := func(size int64, sum string, done func(int64)) error {
		if err := os.WriteFile(filepath.Join(sources, "archive.tar"), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := h.Files().Place(ctx, filepath.Join(sources, "archive.tar"), "/placed.tar",
			host.PlaceOptions{Meta: host.Meta{Mode: 0o644}, Size: size, SHA256: sum, Done: done, Local: true})
		return err
	}
	copied := int64(0)
	wantDiag(t, "too large", place(5<<20, "", func(n int64) { copied = n }), "APL-050", syscall.ENOSPC)
	if copied != 0 {
		t.Errorf("%d bytes were copied to a disk that is too small", copied)
	}
	for _, sum := range []string{"", strings.Repeat("0", 64)} {
		filler := filepath.Join(root, "filler")
		filled := false
		fill := func(int64) {
			if !filled {
				filled = true
				_ = os.WriteFile(filler, make([]byte, 4<<20), 0o600) // as much as goes in
			}
		}
		wantDiag(t, "filled up meanwhile", place(3<<20, sum, fill), "APL-050", syscall.ENOSPC)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	if after := hosttest.Tree(t, root); after != before {
		t.Errorf("a full disk changed the tree:\n%s\nbefore:\n%s", after, before)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	root := mount(t, "size=1m")
	h := open(t, local.Options{Root: root})
	m := host.Meta{Mode: 0o644}
	if err := h.Files().Write(ctx, "/file", []byte("old"), m); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, place := h.Files().Place(ctx, "/file", "/other", host.PlaceOptions{Meta: host.Meta{Mode: 0o600}, Size: 3})
	_, lock := h.Files().Lock(ctx, "/lock", "x", 0)
	for what, err := range map[string]error{
		"write": h.Files().Write(ctx, "/file", []byte("new"), m), "append": h.Files().Append(ctx, "/file", []byte("new"), m),
		"mkdir": h.Files().Mkdir(ctx, "/dir", m), "symlink": h.Files().Symlink(ctx, "/link", "/x"),
		"remove": h.Files().Remove(ctx, "/file"), "meta": h.Files().SetMeta(ctx, "/file", host.Meta{Mode: 0o600}),
		"place": place, "lock": lock,
	} {
		wantDiag(t, what, err, "APL-051", syscall.EROFS)
	}
	if s, err := h.FS().Space("/file"); err != nil || !s.ReadOnly {
		t.Errorf("space: %+v %v", s, err)
	}
}

// TestReadOnlyBind: the same through a bind mount, where the file system itself is writable.
func TestReadOnlyBind(t *testing.T) {
	t.Parallel()
	root := mount(t, "size=1m")
	h := open(t, local.Options{Root: root})
	dir := filepath.Join(root, "etc")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // as on a node
		t.Fatal(err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	err := h.Files().Write(context.Background(), "/etc/file", []byte("x"), host.Meta{Mode: 0o644})
	wantDiag(t, "write", err, "APL-051", syscall.EROFS)
	if s, err := h.FS().Space("/etc/file"); err != nil || !s.ReadOnly {
		t.Errorf("space: %+v %v", s, err)
	}
}

// TestPlaceLocal: the same path is one file on this machine and another on the node.
func TestPlaceLocal(t *testing.T) {
	t.Parallel()
	ctx, root := context.Background(), t.TempDir()
	n := hosttest.At(t, root)
	src := filepath.Join(t.TempDir(), "program")
	n.WriteFile(src, "of the node")
	if err := os.WriteFile(src, []byte("of this machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for isLocal, want := range map[bool]string{true: "of this machine", false: "of the node"} {
		_, err := n.Files().Place(ctx, src, "/placed", host.PlaceOptions{Meta: host.Meta{Mode: 0o755}, Size: int64(len(want)), Local: isLocal})
		if err != nil || n.ReadFile("/placed") != want {
			t.Errorf("local %v: %q %v", isLocal, n.ReadFile("/placed"), err)
		}
	}
}

// TestStageElsewhere: a staging directory on another file system is an error that says so.
func TestStageElsewhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	root := mount(t, "size=1m")
	h := open(t, local.Options{Root: root})
	for _, d := range []string{"/stage", "/dst"} {
		if err := h.Files().Mkdir(ctx, d, host.Meta{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(root, "stage"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(root, "stage"), 0) })
	if err := h.Files().Write(ctx, "/src", []byte("content"), host.Meta{Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	before := hosttest.Tree(t, root)
	_, err := h.Files().Place(ctx, "/src", "/dst/file", host.PlaceOptions{Stage: "/stage", Meta: host.Meta{Mode: 0o644}, Size: 7})
	wantDiag(t, "place", err, "APL-052", syscall.EXDEV)
	if after := hosttest.Tree(t, root); after != before {
		t.Errorf("the tree changed:\n%s\nbefore:\n%s", after, before)
	}
	// From there to here a rename and a link cannot work; a move falls back to a copy.
	if err := os.WriteFile(filepath.Join(root, "stage", "src"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := h.Files().Place(ctx, "/stage/src", "/dst/file", host.PlaceOptions{Meta: host.Meta{Mode: 0o644}, Size: 7, Move: true})
	if err != nil || res.Method != host.PlaceCopy {
		t.Errorf("move across file systems: %+v %v", res, err)
	}
	if _, err := h.FS().Lstat("/stage/src"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the source of a move is still there: %v", err)
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	needRoot(t, "changes owners")
	ctx := context.Background()
	h := open(t, local.Options{Root: t.TempDir()})
	m := host.Meta{Mode: 0o640, UID: 1234, GID: 5678}
	src := host.Meta{Mode: 0o644}
	if err := h.Files().Write(ctx, "/src", []byte("x"), src); err != nil {
		t.Fatal(err)
	}
	_, place := h.Files().Place(ctx, "/src", "/placed", host.PlaceOptions{Meta: m, Size: 1})
	for p, err := range map[string]error{
		"/placed": place, "/file": h.Files().Write(ctx, "/file", nil, m), "/journal": h.Files().Append(ctx, "/journal", nil, m),
		"/dir": h.Files().Mkdir(ctx, "/dir", m), "/src": nil,
	} {
		if err != nil {
			t.Fatal(err)
		}
		if info, err := h.FS().Lstat(p); err != nil || (info.UID == 1234 && info.GID == 5678) != (p != "/src") {
			t.Errorf("%s: %+v %v", p, info, err)
		}
	}
	// The owner of an inode that others own must not be able to change what was placed.
	if err := h.Files().SetMeta(ctx, "/src", host.Meta{Mode: 0o644, UID: 1234}); err != nil {
		t.Fatal(err)
	}
	res, err := h.Files().Place(ctx, "/src", "/safe", host.PlaceOptions{Meta: host.Meta{Mode: 0o644}, Size: 1})
	if err != nil || res.Method == host.PlaceLink || res.Info.UID != 0 {
		t.Errorf("a source of another user: %+v %v", res, err)
	}
}
