// Package atomicfile replaces files so that a power cut at any instant leaves the old or the new state.
//
// Everything goes through a temporary entry in a directory of the same file system, gets its owner and mode
// there, is synced, renamed, and the directory is synced after the rename: without that last step the new
// name may be gone after a power cut although the program was told that it is there.
package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The operations that a Hook is told of, each with "before-" or "after-" in front.
const (
	OpFsync   = "fsync"   // a file's content and meta data
	OpRename  = "rename"  // a finished temporary entry takes its name
	OpDirsync = "dirsync" // a directory
	OpAppend  = "append"  // bytes at the end of a file
	OpRemove  = "remove"  // an entry
	OpMeta    = "meta"    // mode and owner of an existing entry
)

// Hook is called around each step that makes something durable. Tests kill the process in it.
type Hook func(op, path string)

// Meta is the mode and owner of an entry. The owner is only set by a process that runs as root.
type Meta struct {
	Mode     fs.FileMode
	UID, GID int
}

// Writer writes durably. The zero value is ready for use.
type Writer struct {
	Hook Hook
}

const (
	tempPrefix = ".edgeprep-"
	// tempSuffix keeps a temporary file from being taken for an image archive: k3s reads dotfiles too when
	// the extension is one of its own.
	tempSuffix = ".tmp"
	// maxBase keeps a temporary name below NAME_MAX (255).
	maxBase = 200
)

// IsTemp says whether a file name is that of a temporary entry of this package.
func IsTemp(name string) bool {
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}

func tempName(base string) string {
	var b [8]byte
	rand.Read(b[:])
	if len(base) > maxBase {
		base = base[:maxBase]
	}
	return tempPrefix + base + "-" + hex.EncodeToString(b[:]) + tempSuffix
}

// do runs one durable step between its two hooks.
func (w Writer) do(op, path string, step func() error) error {
	if w.Hook != nil {
		w.Hook("before-"+op, path)
	}
	err := step()
	if err == nil && w.Hook != nil {
		w.Hook("after-"+op, path)
	}
	return err
}

// Write makes path a regular file with content and meta, whatever non-directory was there. Its directory
// must exist.
func (w Writer) Write(path string, content []byte, m Meta) error {
	t, err := w.Temp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer t.Abort() //nolint:errcheck // after Commit it does nothing
	if _, err := t.File.Write(content); err != nil {
		return err
	}
	return t.Commit(path, m)
}

// Append adds content to the end of path and syncs it; a file that does not exist is made with meta. When
// the disk fills up half-way the file is cut back to what it was.
func (w Writer) Append(path string, content []byte, m Meta) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return w.create(path, content, m)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return w.appendTo(f, content)
}

func (w Writer) appendTo(f *os.File, content []byte) error {
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	if err := w.do(OpAppend, f.Name(), func() error { _, err := f.Write(content); return err }); err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	return w.do(OpFsync, f.Name(), f.Sync)
}

// create is Append for a file that is not there: made as a whole, so that no reader meets it without meta.
func (w Writer) create(path string, content []byte, m Meta) error {
	t, err := w.Temp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer t.Abort() //nolint:errcheck // after Commit it does nothing
	if _, err := t.File.Write(content); err != nil {
		return err
	}
	return t.commit(path, m, unix.RENAME_NOREPLACE)
}

// Symlink makes path a symbolic link to target, whatever non-directory was there.
func (w Writer) Symlink(path, target string) error {
	tmp := filepath.Join(filepath.Dir(path), tempName(filepath.Base(path)))
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := w.rename(tmp, path, 0); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return w.SyncDir(filepath.Dir(path))
}

// Mkdir makes one directory; one that is there, also behind a symbolic link, gets meta.
func (w Writer) Mkdir(path string, m Meta) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		}
		return w.SetMeta(path, m)
	}
	tmp := filepath.Join(filepath.Dir(path), tempName(filepath.Base(path)))
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	err := setMeta(tmp, m)
	if err == nil {
		err = w.rename(tmp, path, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return w.SyncDir(filepath.Dir(path))
}

// Remove removes a file, symbolic link or empty directory; a missing one is no error.
func (w Writer) Remove(path string) error {
	err := w.do(OpRemove, path, func() error { return os.Remove(path) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return w.SyncDir(filepath.Dir(path))
}

// SetMeta changes mode and owner of a file or directory. They are two steps of the kernel's: killed between
// them the owner is new and the mode old, and doing it again finishes it.
func (w Writer) SetMeta(path string, m Meta) error {
	return w.do(OpMeta, path, func() error {
		if err := setMeta(path, m); err != nil {
			return err
		}
		return syncPath(path)
	})
}

// SyncFile makes what is in a file durable, whoever wrote it.
func (w Writer) SyncFile(path string) error {
	return w.do(OpFsync, path, func() error { return syncPath(path) })
}

// SyncDir makes the entries of a directory durable. File systems that cannot sync directories are let pass.
func (w Writer) SyncDir(dir string) error {
	return w.do(OpDirsync, dir, func() error {
		err := syncPath(dir)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
			return nil
		}
		return err
	})
}

// Rename moves an entry of the same file system to a new name, replacing what is there, and syncs both
// directories.
func (w Writer) Rename(from, to string) error {
	if err := w.rename(from, to, 0); err != nil {
		return err
	}
	return w.syncDirs(from, to)
}

// Link gives a file a second, not yet existing name through a temporary one, so that to is replaced at once.
func (w Writer) Link(from, dir, to string) error {
	tmp := filepath.Join(dir, tempName(filepath.Base(to)))
	if err := os.Link(from, tmp); err != nil {
		return err
	}
	// rename(2) does nothing when both names are already the same file, and tmp would stay.
	if err := w.rename(tmp, to, 0); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return w.syncDirs(tmp, to)
}

// syncDirs syncs the directories of two names, the second, which took something in, first.
func (w Writer) syncDirs(from, to string) error {
	if err := w.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return w.SyncDir(filepath.Dir(from))
}

func (w Writer) rename(from, to string, flags uint) error {
	return w.do(OpRename, to, func() error { return rename(from, to, flags) })
}

func rename(from, to string, flags uint) error {
	if flags == 0 {
		return os.Rename(from, to)
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS, old FUSE
		if _, err := os.Lstat(to); err == nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EEXIST}
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// setMeta sets the owner first: chown clears the setuid bits that chmod may have to set.
func setMeta(path string, m Meta) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if needsChown(info, m) {
		if err := os.Chown(path, m.UID, m.GID); err != nil {
			return err
		}
	}
	return os.Chmod(path, m.Mode)
}

func needsChown(info fs.FileInfo, m Meta) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return false
	}
	return int(st.Uid) != m.UID || int(st.Gid) != m.GID
}

// errDone is what a second Commit gets.
var errDone = fmt.Errorf("the temporary file is committed or aborted already: %w", fs.ErrClosed)
