package mirror

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// tmpPrefix marks the temporary files that a writer may sweep.
const tmpPrefix = "put-"

// writer writes into a cache. It goes through os.Root: the cache may belong to an unprivileged user while
// root loads it, and a link that this user planted must not lead a write out of it.
type writer struct {
	root *os.Root
	dir  string
	uid  int
	gid  int
	mode fs.FileMode // of directories; files have it without the execute bits
	made map[string]bool
	step func(string) // failpoint before each change on disk
}

// writer opens the cache for writing. New files take owner, group and mode of the cache's root.
func (s *Store) writer() (*writer, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, writeError(s.dir, "the directory", err)
	}
	w := &writer{root: root, dir: s.dir, made: map[string]bool{}, step: s.hook}
	if err := w.takeOwner(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *writer) takeOwner() error {
	fi, err := w.root.Stat(".")
	if err != nil {
		return writeError(w.dir, "the directory", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("owner of %s: not known on this system", w.dir)
	}
	w.uid, w.gid = int(st.Uid), int(st.Gid)
	w.mode = fi.Mode() & (fs.ModePerm | fs.ModeSetgid)
	if me := os.Geteuid(); me != 0 && me != w.uid {
		return writeError(w.dir, "the directory", fmt.Errorf("it belongs to user %d, this is user %d: %w", w.uid, me, fs.ErrPermission))
	}
	return nil
}

func (w *writer) close() { _ = w.root.Close() } // a directory; nothing is lost

// put writes a file durably: temporary file, sync, rename, sync of the directory. What fill returns stops it
// before the rename. Killed at any instant, the old file or the new one is there.
func (w *writer) put(rel string, fill func(io.Writer) error) error {
	if err := w.ensureDir(path.Dir(rel)); err != nil {
		return err
	}
	f, tmp, err := w.temp()
	if err != nil {
		return err
	}
	defer f.Close() // releases the lock; only after the rename, so that nobody sweeps the file
	err = w.fillTemp(f, fill)
	if err == nil {
		w.step("rename " + rel)
		err = w.root.Rename(tmp, rel)
	}
	if err != nil {
		return errors.Join(err, w.root.Remove(tmp))
	}
	return w.syncDir(path.Dir(rel))
}

func (w *writer) fillTemp(f *os.File, fill func(io.Writer) error) error {
	w.step("fill")
	if err := fill(f); err != nil {
		return err
	}
	if err := w.adopt(f, w.mode&0o666); err != nil {
		return err
	}
	w.step("sync")
	return f.Sync()
}

// adopt gives a file or directory the owner and mode of the cache.
func (w *writer) adopt(f *os.File, mode fs.FileMode) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != w.uid || int(st.Gid) != w.gid) {
		if err := f.Chown(w.uid, w.gid); err != nil {
			return err
		}
	}
	return f.Chmod(mode) // after chown, which clears setgid
}

// temp makes a locked temporary file. The lock says that its writer lives: see sweep.
func (w *writer) temp() (*os.File, string, error) {
	if err := w.ensureTmp(); err != nil {
		return nil, "", err
	}
	for {
		name := dirTmp + "/" + tmpPrefix + rand.Text()
		w.step("create")
		f, err := w.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, "", err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { //nolint:gosec // a descriptor fits
			f.Close()
			return nil, "", fmt.Errorf("lock %s: %w", name, err)
		}
		if _, err := w.root.Lstat(name); err == nil {
			return f, name, nil
		}
		f.Close() // swept between its creation and its lock
	}
}

// ensureTmp makes tmp/. A kill may have left it with the wrong owner, so that is put right each time.
func (w *writer) ensureTmp() error {
	if w.made[dirTmp] {
		return nil
	}
	if err := w.root.Mkdir(dirTmp, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := w.adoptDir(dirTmp); err != nil {
		return err
	}
	w.made[dirTmp] = true
	return nil
}

func (w *writer) adoptDir(rel string) error {
	d, err := w.root.Open(rel)
	if err != nil {
		return err
	}
	defer d.Close()
	return w.adopt(d, w.mode)
}

// ensureDir makes a directory and its parents. Each appears by rename, with its owner: one that a kill left
// behind half made would be closed to the server.
func (w *writer) ensureDir(rel string) error {
	if rel == "." || w.made[rel] {
		return nil
	}
	if err := w.ensureDir(path.Dir(rel)); err != nil {
		return err
	}
	there, err := w.isDir(rel)
	if err == nil && !there {
		err = w.newDir(rel)
	}
	if err == nil {
		w.made[rel] = true
	}
	return err
}

// isDir says whether a directory is there. A file in its place is an error.
func (w *writer) isDir(rel string) (bool, error) {
	fi, err := w.root.Stat(rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err == nil && !fi.IsDir():
		return false, fail("MER-005", w.dir+"/"+rel, "a file is where a directory must be", "", "move it away", nil)
	}
	return err == nil, err
}

// clear finds what would keep ensureDir from making a directory, without waiting for the disk as that does.
func (w *writer) clear(rel string) (there bool, err error) {
	if rel == "." || w.made[rel] {
		return true, nil
	}
	if there, err = w.clear(path.Dir(rel)); !there || err != nil {
		return there, err
	}
	return w.isDir(rel)
}

func (w *writer) newDir(rel string) error {
	if err := w.ensureTmp(); err != nil {
		return err
	}
	tmp := dirTmp + "/" + tmpPrefix + rand.Text()
	if err := w.root.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	w.step("adopt " + rel)
	err := w.adoptDir(tmp)
	if err == nil {
		w.step("rename " + rel)
		err = w.root.Rename(tmp, rel)
	}
	if err == nil {
		return w.syncDir(path.Dir(rel))
	}
	w.root.Remove(tmp) //nolint:errcheck // an empty directory in tmp does no harm
	if fi, statErr := w.root.Stat(rel); statErr == nil && fi.IsDir() {
		return nil // another writer made it
	}
	return err
}

func (w *writer) syncDir(rel string) error {
	w.step("sync " + rel)
	d, err := w.root.Open(rel)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweep removes temporary files whose writer is gone, but for those that a transfer can go on with.
func (w *writer) sweep() error {
	d, err := w.root.Open(dirTmp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	for _, e := range entries {
		rel := dirTmp + "/" + e.Name()
		if strings.HasPrefix(e.Name(), tmpPrefix) || strings.HasPrefix(e.Name(), partPrefix) && w.stale(rel) {
			err = errors.Join(err, w.sweepOne(rel, e.IsDir()))
		}
	}
	return err
}

func (w *writer) sweepOne(rel string, isDir bool) error {
	if !isDir {
		f, err := w.root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return ignoreMissing(err)
		}
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil { //nolint:gosec // a descriptor fits
			return nil // its writer lives
		}
	}
	return ignoreMissing(w.root.Remove(rel))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// quarantine moves a bad blob away, unless another file took its place meanwhile.
func (w *writer) quarantine(d digest.Digest, key fileKey) error {
	fi, err := w.root.Lstat(blobPath(d))
	if err != nil {
		return err
	}
	if keyOf(fi) != key {
		return nil
	}
	if err := w.ensureDir(path.Dir(badPath(d))); err != nil {
		return err
	}
	if err := w.root.Rename(blobPath(d), badPath(d)); err != nil {
		return err
	}
	return w.syncDir(path.Dir(blobPath(d)))
}

// sourceError marks what went wrong while reading what should be written.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// putBlob writes a blob; bytes that are not what digest and size say are a sourceError and leave nothing.
func (w *writer) putBlob(ctx context.Context, d digest.Digest, size int64, r io.Reader, done func(int64)) error {
	return w.put(blobPath(d), func(f io.Writer) error {
		v := d.Verifier()
		n, err := pump(ctx, f, v, io.LimitReader(r, size+1), done)
		switch {
		case err != nil:
			return err
		case n != size:
			return &sourceError{fmt.Errorf("%s is not %d bytes long: %w", d, size, errCorrupt)}
		case !v.Verified():
			return &sourceError{fmt.Errorf("%s: %w", d, errCorrupt)}
		}
		return nil
	})
}

// pump copies to the file and the hash, and tells errors of the source from errors of the disk.
func pump(ctx context.Context, f, h io.Writer, r io.Reader, done func(int64)) (total int64, err error) {
	buf := make([]byte, hashBuffer)
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, rerr := io.ReadFull(r, buf)
		if _, err := f.Write(buf[:n]); err != nil {
			return total, err
		}
		h.Write(buf[:n]) //nolint:errcheck // a hash does not fail
		total += int64(n)
		done(int64(n))
		switch {
		case errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF):
			return total, nil // the caller compares the length
		case rerr != nil:
			return total, &sourceError{rerr}
		}
	}
}
