package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzResolve compares the resolution with the kernel's own, openat2(2) with RESOLVE_IN_ROOT, in a tree of
// hostile links: one for each line of links, "name target".
func FuzzResolve(f *testing.F) {
	for _, seed := range [][2]string{
		{"", "/d/e/file"}, {"l /d", "/l/e/file"}, {"l ../../d", "/l/e/../e/file"}, {"d/l ../../../..", "/d/l/d/file"},
		{"a b\nb a", "/a"}, {"l /", "/l/d/e"}, {"l d/e/file", "/l"}, {"l d/e/file", "/l/"}, {"l .", "/l/l/l/d"},
		{"l nowhere", "/l"}, {"l nowhere", "/l/x"}, {"d/e/l ..//../d/./e/", "/d/e/l/file"}, {"l /l/x", "/l"},
		{"", "/file/.."}, {"", "/d/e/file/"}, {"", "//"}, {"", "/.."}, {"l /d/e/file/", "/l"}, {"", "/file/x"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, links, path string) {
		root := t.TempDir()
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "d/e"), 0o755), os.WriteFile(filepath.Join(root, "file"), nil, 0o600), //nolint:gosec // as on a node
			os.WriteFile(filepath.Join(root, "d/e/file"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(links) {
			name, target, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if ok && filepath.IsLocal(name) {
				_ = os.Symlink(target, filepath.Join(root, name)) // what the kernel does not take is not there
			}
		}
		if !strings.HasPrefix(path, "/") || len(path) > 200 {
			t.Skip()
		}
		for _, follow := range []bool{true, false} {
			want, wantErr := kernel(root, path, follow)
			got, gotErr := ours(root, path, follow)
			if gotErr != nil {
				got = 0
			}
			if errors.Is(wantErr, unix.ENOSYS) || errors.Is(wantErr, unix.EPERM) {
				t.Skip("no openat2 here")
			}
			if (wantErr == nil) != (gotErr == nil) || want != got {
				t.Errorf("%q with links %q, follow %v: we inode %d, %v; the kernel inode %d, %v", path, links, follow, got, gotErr, want, wantErr)
			}
		}
	})
}

func kernel(dir, path string, follow bool) (uint64, error) {
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(base)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if !follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(base, path, how)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Ino, err
}

func ours(dir, path string, follow bool) (uint64, error) {
	real, err := root{dir: dir}.resolve(path, follow)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	err = unix.Lstat(real, &st)
	return st.Ino, err
}
