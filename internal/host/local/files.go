package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/host"
)

// files implements host.FileWriter.
type files struct {
	root root
	fs   fileSystem
	// machine is the file system of this machine: edgeprep's own program lies there, not on the node.
	machine fileSystem
	w       atomicfile.Writer

	mu    sync.Mutex
	swept map[string]bool
}

// entry finds a path for writing: its real directory, which is cleaned of what a killed run left, and the
// real path of the entry itself.
func (f *files) entry(ctx context.Context, op, path string) (real string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	dir, base, err := f.root.split(path)
	if err != nil {
		return "", explain(op, path, err)
	}
	if base == "" {
		return "", explain(op, path, &fs.PathError{Op: op, Path: path, Err: syscall.EISDIR})
	}
	f.sweep(dir)
	return filepath.Join(dir, base), nil
}

// sweep removes a killed run's temporary entries once per directory. Runs exclude each other by Lock, so that
// nobody else's are there; a failure shows in the write that follows.
func (f *files) sweep(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.swept[dir] {
		return
	}
	if f.swept == nil {
		f.swept = map[string]bool{}
	}
	if _, err := atomicfile.Sweep(dir); err == nil {
		f.swept[dir] = true
	}
}

func (f *files) Write(ctx context.Context, path string, content []byte, m host.Meta) error {
	real, err := f.entry(ctx, "write", path)
	if err != nil {
		return err
	}
	return explain("write", path, f.w.Write(real, content, meta(m)))
}

func (f *files) Append(ctx context.Context, path string, content []byte, m host.Meta) error {
	real, err := f.entry(ctx, "append", path)
	if err != nil {
		return err
	}
	return explain("append", path, f.w.Append(real, content, meta(m)))
}

func (f *files) Mkdir(ctx context.Context, path string, m host.Meta) error {
	real, err := f.entry(ctx, "mkdir", path)
	if err != nil {
		return err
	}
	// A link to a directory is one; where it points is for the root to say, not for the kernel.
	if info, err := f.fs.Lstat(path); err == nil && info.Type == host.TypeSymlink {
		if real, err = f.root.resolve(path, true); err != nil {
			return explain("mkdir", path, err)
		}
		if _, err := os.Lstat(real); err != nil {
			return explain("mkdir", path, err)
		}
	}
	return explain("mkdir", path, f.w.Mkdir(real, meta(m)))
}

func (f *files) Symlink(ctx context.Context, path, target string) error {
	real, err := f.entry(ctx, "symlink", path)
	if err != nil {
		return err
	}
	return explain("symlink", path, f.w.Symlink(real, target))
}

func (f *files) Remove(ctx context.Context, path string) error {
	real, err := f.entry(ctx, "remove", path)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = f.w.Remove(real)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		// Perhaps only by what a killed run left.
		if gone, sweepErr := atomicfile.Sweep(real); sweepErr == nil && len(gone) > 0 {
			err = f.w.Remove(real)
		}
	}
	return explain("remove", path, err)
}

func (f *files) SetMeta(ctx context.Context, path string, m host.Meta) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	real, err := f.root.resolve(path, true)
	if err != nil {
		return explain("set mode and owner", path, err)
	}
	return explain("set mode and owner", path, f.w.SetMeta(real, meta(m)))
}

func meta(m host.Meta) atomicfile.Meta {
	return atomicfile.Meta{Mode: m.Mode, UID: m.UID, GID: m.GID}
}
