package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Temp is a file in the making. It is locked with flock(2) as long as it is open, which is how Sweep tells
// it from one that a killed process left.
type Temp struct {
	File *os.File
	w    Writer
}

// Temp makes a temporary file in dir for what will be named base.
func (w Writer) Temp(dir, base string) (*Temp, error) {
	path := filepath.Join(dir, tempName(base))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	// A file system without flock only loses the protection against a Sweep at the same time.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return &Temp{File: f, w: w}, nil
}

// Commit gives the file its mode and owner, syncs it and renames it to path on the same file system.
func (t *Temp) Commit(path string, m Meta) error { return t.commit(path, m, 0) }

func (t *Temp) commit(path string, m Meta, flags uint) error {
	if t.File == nil {
		return errDone
	}
	tmp := t.File.Name()
	if err := t.finish(m); err != nil {
		return errors.Join(err, t.Abort())
	}
	if err := t.w.rename(tmp, path, flags); err != nil {
		return errors.Join(err, t.Abort())
	}
	err := t.File.Close()
	t.File = nil
	if err != nil {
		return err
	}
	return t.w.syncDirs(tmp, path)
}

func (t *Temp) finish(m Meta) error {
	info, err := t.File.Stat()
	if err != nil {
		return err
	}
	if needsChown(info, m) {
		if err := t.File.Chown(m.UID, m.GID); err != nil {
			return err
		}
	}
	if err := t.File.Chmod(m.Mode); err != nil {
		return err
	}
	return t.w.do(OpFsync, t.File.Name(), t.File.Sync)
}

// Abort removes the file. After Commit or Abort it does nothing.
func (t *Temp) Abort() error {
	if t.File == nil {
		return nil
	}
	name := t.File.Name()
	err := t.File.Close()
	t.File = nil
	return errors.Join(err, os.Remove(name))
}

// Sweep removes the temporary entries in dir that killed processes left and returns their names. A file that
// a living process writes is let be. A missing directory has none.
func Sweep(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var gone []string
	var errs []error
	for _, e := range entries {
		if !IsTemp(e.Name()) || inUse(filepath.Join(dir, e.Name()), e) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		gone = append(gone, e.Name())
	}
	return gone, errors.Join(errs...)
}

func inUse(path string, e fs.DirEntry) bool {
	if !e.Type().IsRegular() {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
