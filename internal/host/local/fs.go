package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
)

// defaultLimit is ReadFile's when none is given.
const defaultLimit = 16 << 20

type fileSystem struct{ root root }

func (f fileSystem) Lstat(p string) (host.FileInfo, error) {
	real, err := f.root.resolve(p, false)
	if err != nil {
		return host.FileInfo{}, err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return host.FileInfo{}, named("lstat", p, err)
	}
	return describe(p, real, info)
}

func (f fileSystem) Stat(p string) (host.FileInfo, error) {
	real, err := f.root.resolve(p, true)
	if err != nil {
		return host.FileInfo{}, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return host.FileInfo{}, named("stat", p, err)
	}
	return describe(p, real, info)
}

// describe makes the node's view of an entry.
func describe(p, real string, info fs.FileInfo) (host.FileInfo, error) {
	out := host.FileInfo{
		Path: path.Clean(p), Type: typeOf(info.Mode()), Size: info.Size(), ModTime: info.ModTime(),
		Mode: info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		out.UID, out.GID = int(st.Uid), int(st.Gid)
		out.Dev, out.Inode = uint64(st.Dev), st.Ino //nolint:unconvert // Dev is 32 bits wide on some platforms
		out.Changed = time.Unix(st.Ctim.Unix())
	}
	if out.Type == host.TypeSymlink {
		target, err := os.Readlink(real)
		if err != nil {
			return out, named("readlink", p, err)
		}
		out.Target = target
	}
	return out, nil
}

func typeOf(m fs.FileMode) host.FileType {
	switch {
	case m.IsRegular():
		return host.TypeFile
	case m.IsDir():
		return host.TypeDir
	case m&fs.ModeSymlink != 0:
		return host.TypeSymlink
	}
	return host.TypeOther
}

var errNotRegular = errors.New("not a regular file")

func (f fileSystem) Open(p string) (host.File, error) {
	file, err := f.open(p)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// open looks before it opens, because opening some devices does things, and again afterwards, because the
// entry may have been replaced; O_NONBLOCK keeps a FIFO from hanging in between.
func (f fileSystem) open(p string) (*os.File, error) {
	real, err := f.root.resolve(p, true)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(real); err != nil {
		return nil, named("open", p, err)
	} else if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: p, Err: errNotRegular}
	}
	file, err := os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, named("open", p, err)
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, &fs.PathError{Op: "open", Path: p, Err: errNotRegular}
	}
	return file, nil
}

func (f fileSystem) ReadFile(p string, limit int64) ([]byte, error) {
	if limit <= 0 {
		limit = defaultLimit
	}
	file, err := f.open(p)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, named("read", p, err)
	}
	if int64(len(b)) > limit {
		return nil, &fs.PathError{Op: "read", Path: p, Err: fmt.Errorf("larger than the %d bytes expected at most", limit)}
	}
	return b, nil
}

func (f fileSystem) ReadDir(p string) ([]host.FileInfo, error) {
	real, err := f.root.resolve(p, true)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil, named("readdir", p, err)
	}
	out := make([]host.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // went away in between
			continue
		}
		if err != nil {
			return nil, named("readdir", path.Join(p, e.Name()), err)
		}
		d, err := describe(path.Join(p, e.Name()), filepath.Join(real, e.Name()), info)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (f fileSystem) Space(p string) (host.Space, error) {
	for dir := path.Clean(p); ; dir = path.Dir(dir) {
		real, err := f.root.resolve(dir, true)
		if err == nil {
			_, err = os.Stat(real)
		}
		if err == nil {
			return space(p, real)
		}
		if !missing(err) || dir == "/" {
			return host.Space{}, named("statfs", p, err)
		}
	}
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func space(p, real string) (host.Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(real, &st); err != nil {
		return host.Space{}, &fs.PathError{Op: "statfs", Path: p, Err: err}
	}
	info, err := os.Stat(real)
	if err != nil {
		return host.Space{}, named("statfs", p, err)
	}
	size := st.Frsize
	if size == 0 {
		size = st.Bsize
	}
	out := host.Space{
		Total: int64(st.Blocks) * size, Free: int64(st.Bavail) * size,
		Inodes: int64(st.Files), FreeInodes: int64(st.Ffree),
		ReadOnly: st.Flags&unix.ST_RDONLY != 0,
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		out.Dev = uint64(sys.Dev) //nolint:unconvert // 32 bits wide on some platforms
	}
	return out, nil
}
