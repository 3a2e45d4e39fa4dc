package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorder keeps the hook calls, with paths cut to what does not change.
type recorder struct{ calls []string }

func (r *recorder) hook(op, path string) {
	name := filepath.Base(path)
	if IsTemp(name) {
		name = "TEMP"
	}
	if !strings.Contains(op, "after-") {
		r.calls = append(r.calls, strings.TrimPrefix(op, "before-")+" "+name)
	}
}

// TestOrder: what makes a replacement durable is the order of its steps.
func TestOrder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "DIR")
	other := filepath.Join(t.TempDir(), "OTHER")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(other, 0o700)); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	m := Meta{Mode: 0o644, UID: os.Getuid(), GID: os.Getgid()}
	for _, step := range []struct {
		name string
		do   func(Writer) error
		want []string
	}{
		{"write", func(w Writer) error { return w.Write(at("f"), []byte("1"), m) }, []string{"fsync TEMP", "rename f", "dirsync DIR"}},
		{"append to it", func(w Writer) error { return w.Append(at("f"), []byte("2"), m) }, []string{"append f", "fsync f"}},
		{"append to a new one", func(w Writer) error { return w.Append(at("g"), nil, m) }, []string{"fsync TEMP", "rename g", "dirsync DIR"}},
		{"mkdir", func(w Writer) error { return w.Mkdir(at("d"), m) }, []string{"rename d", "dirsync DIR"}},
		{"mkdir again", func(w Writer) error { return w.Mkdir(at("d"), m) }, []string{"meta d"}},
		{"symlink", func(w Writer) error { return w.Symlink(at("l"), "x") }, []string{"rename l", "dirsync DIR"}},
		{"rename", func(w Writer) error { return w.Rename(at("g"), filepath.Join(other, "g")) }, []string{"rename g", "dirsync OTHER", "dirsync DIR"}},
		{"remove", func(w Writer) error { return w.Remove(at("l")) }, []string{"remove l", "dirsync DIR"}},
		{"remove nothing", func(w Writer) error { return w.Remove(at("l")) }, []string{"remove l"}},
	} {
		var r recorder
		if err := step.do(Writer{Hook: r.hook}); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.want, r.calls); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
	}
}

func TestTempNames(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"config.yaml", "images.tar.zst", strings.Repeat("x", 255), ".hidden"} {
		name := tempName(base)
		// k3s imports dotfiles, too, by their extension; containerd takes directories of certs.d for hosts.
		if !IsTemp(name) || !strings.HasPrefix(name, ".") || filepath.Ext(name) != ".tmp" || len(name) > 255 {
			t.Errorf("%s", name)
		}
		if name == tempName(base) {
			t.Errorf("the same twice: %s", name)
		}
	}
	for _, name := range []string{"x.tmp", ".edgeprep", ".edgeprep-x", "edgeprep-x.tmp", ""} {
		if IsTemp(name) {
			t.Errorf("%q is not ours", name)
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	living, err := Writer{}.Temp(dir, "living")
	if err != nil {
		t.Fatal(err)
	}
	dead, link, sub := tempName("dead"), tempName("link"), tempName("sub")
	err = errors.Join(os.WriteFile(filepath.Join(dir, dead), nil, 0o600), os.Symlink("x", filepath.Join(dir, link)),
		os.Mkdir(filepath.Join(dir, sub), 0o700), os.WriteFile(filepath.Join(dir, "mine.tmp"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Sweep(dir)
	want := []string{dead, link, sub}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if err := living.Commit(filepath.Join(dir, "done"), Meta{Mode: 0o600}); err != nil {
		t.Errorf("a file in the making was swept: %v", err)
	}
	if got, err := Sweep(filepath.Join(dir, "none")); err != nil || got != nil {
		t.Errorf("a missing directory: %v %v", got, err)
	}
}

func TestTempTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tmp, err := Writer{}.Temp(dir, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tmp.Abort(), tmp.Abort()); err != nil {
		t.Fatal(err)
	}
	if err := tmp.Commit(filepath.Join(dir, "x"), Meta{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("commit after abort: %v", err)
	}
	if rest, err := os.ReadDir(dir); err != nil || len(rest) > 0 {
		t.Errorf("left: %v %v", rest, err)
	}
}

// TestFailureLeavesNothing: a rename that cannot be leaves the old state and no temporary entry.
func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := filepath.Join(dir, "dir")
	if err := os.MkdirAll(filepath.Join(target, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := Writer{}
	file := filepath.Join(dir, "file")
	if err := w.Write(file, []byte("x"), Meta{Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"write": w.Write(target, nil, Meta{Mode: 0o600}), "symlink": w.Symlink(target, "x"), "mkdir": w.Mkdir(file, Meta{Mode: 0o700}),
		"link": w.Link(file, dir, target), "append": w.Append(target, []byte("x"), Meta{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	rest, err := os.ReadDir(dir)
	if err != nil || len(rest) != 2 {
		t.Errorf("left: %v %v", rest, err)
	}
}

// TestConcurrentWrites: readers see one of the contents, whole.
func TestConcurrentWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	whole := []string{strings.Repeat("a", 70000), strings.Repeat("b", 90000)}
	if err := (Writer{}).Write(path, []byte(whole[0]), Meta{Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for _, content := range whole {
		writers.Go(func() {
			for range 20 {
				if err := (Writer{}).Write(path, []byte(content), Meta{Mode: 0o600}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { writers.Wait(); close(stop) }()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		if b, err := os.ReadFile(path); err != nil || !slices.Contains(whole, string(b)) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, mode := range []fs.FileMode{0, 0o400, 0o777, 0o755 | fs.ModeSetuid, 0o770 | fs.ModeSetgid} {
		m := Meta{Mode: mode, UID: os.Getuid(), GID: os.Getgid()}
		f, d := filepath.Join(dir, "f"), filepath.Join(dir, "d")
		if err := errors.Join(Writer{}.Write(f, []byte("x"), m), Writer{}.Mkdir(d, m)); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{f, d} {
			if info, err := os.Lstat(p); err != nil || info.Mode()&^fs.ModeDir != mode {
				t.Errorf("%s: %v %v, want %v", p, info.Mode(), err, mode)
			}
		}
		_ = os.Remove(d)
	}
}
