package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// partPrefix marks the files of transfers that the next one goes on with: part-<algorithm>-<hex>-<boot>.
const partPrefix = "part-"

const (
	// partMin is what is worth being kept of a transfer that broke off.
	partMin = 1 << 20
	// partAge is how long it is kept.
	partAge = 24 * time.Hour
)

// partial is the temporary file of one transfer.
type partial struct {
	w      *writer
	digest digest.Digest
	own    string   // the name that a new file gets, below the cache's root
	name   string   // the name that the file has
	file   *os.File // locked; nil: not made yet
	hash   hash.Hash
	size   int64 // bytes in the file, which hash has seen
	// doubt says that what was there before may never have reached the disk: another boot wrote it. Readers
	// get nothing of it before all is verified.
	doubt bool
}

// partial finds what an earlier transfer of a blob left, or makes an empty one. It is nobody else's: when
// another process has it, this one writes a file of its own.
func (w *writer) partial(ctx context.Context, d digest.Digest, boot string) *partial {
	p := &partial{w: w, digest: d, hash: d.Algorithm().Hash(), own: partName(d, boot)}
	for _, name := range w.parts(d) {
		if p.take(name) != nil {
			continue
		}
		p.doubt = name != p.own || boot == ""
		if err := p.read(ctx); err != nil || p.size == 0 {
			p.remove()
		}
		break
	}
	return p
}

func partName(d digest.Digest, boot string) string {
	return dirTmp + "/" + partPrefix + d.Algorithm().String() + "-" + d.Encoded() + "-" + boot
}

// partDigest is the blob that a partial file is of.
func partDigest(name string) (digest.Digest, bool) {
	f := strings.Split(strings.TrimPrefix(name, partPrefix), "-")
	if len(f) != 3 {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(f[0]), f[1])
	return d, d.Validate() == nil
}

// parts are the partial files of a blob.
func (w *writer) parts(d digest.Digest) []string {
	dir, err := w.root.Open(dirTmp)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range names {
		if got, ok := partDigest(n); ok && strings.HasPrefix(n, partPrefix) && got == d {
			out = append(out, dirTmp+"/"+n)
		}
	}
	return out
}

// errTaken says that another writer has a partial file.
var errTaken = errors.New("another process writes it")

// take opens a file and locks it. The cache may belong to an unprivileged user: what is not a plain file of
// one name is left alone.
func (p *partial) take(name string) error {
	f, err := p.w.root.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := p.w.lock(f, name); err != nil {
		f.Close()
		return err
	}
	p.file, p.name = f, name
	return nil
}

// lock locks a file that still has its name.
func (w *writer) lock(f *os.File, name string) error {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil { //nolint:gosec // a descriptor fits
		return errTaken
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := w.root.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() || !os.SameFile(fi, now) || st.Nlink != 1 {
		return errTaken
	}
	return nil
}

// read hashes what is there. Its end is left out: a request for what follows must not ask for nothing.
func (p *partial) read(ctx context.Context) error {
	fi, err := p.file.Stat()
	if err != nil {
		return err
	}
	n := fi.Size() - holdBack
	if n < partMin-holdBack {
		return nil
	}
	buf := make([]byte, hashBuffer)
	for p.size < n {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := p.file.ReadAt(buf[:min(hashBuffer, n-p.size)], p.size)
		if got == 0 {
			return err
		}
		p.hash.Write(buf[:got])
		p.size += int64(got)
	}
	return nil
}

// cut ends the file where the hash ends, and writes on from there.
func (p *partial) cut() error {
	if err := p.file.Truncate(p.size); err != nil {
		return err
	}
	_, err := p.file.Seek(p.size, io.SeekStart)
	return err
}

// restart begins with nothing.
func (p *partial) restart() error {
	p.hash, p.size, p.doubt = p.digest.Algorithm().Hash(), 0, false
	if p.file == nil {
		return nil
	}
	return p.cut()
}

// create makes the file unless there is one.
func (p *partial) create() error {
	if _, err := p.w.clear(path.Dir(blobPath(p.digest))); err != nil {
		return err
	}
	if p.file != nil { // not before there is something to write: an upstream that is away must not cost any of it
		return p.cut()
	}
	if err := p.w.ensureTmp(); err != nil {
		return err
	}
	p.w.step("create")
	name := p.own
	f, err := p.w.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil && p.w.lock(f, name) != nil {
		f.Close()
		err = errTaken
	}
	if errors.Is(err, fs.ErrExist) || errors.Is(err, errTaken) { // another process is at the same blob
		f, name, err = p.w.temp()
	}
	if err != nil {
		return err
	}
	p.file, p.name = f, name
	p.w.step("fill")
	return p.w.adopt(f, p.w.mode&0o666) // now, so that the cache's owner can go on with it
}

// reader gives a descriptor of its own to read the file by. It does not share the lock.
func (p *partial) reader() (*os.File, error) {
	f, err := p.w.root.Open(p.name)
	if err != nil {
		return nil, fmt.Errorf("read what comes in: %w", err)
	}
	return f, nil
}

// write adds to the file what the caller hashes.
func (p *partial) write(b []byte) error {
	if _, err := p.file.Write(b); err != nil {
		return err
	}
	p.size += int64(len(b))
	return nil
}

// right says whether the content is the blob.
func (p *partial) right() bool {
	return digest.NewDigest(p.digest.Algorithm(), p.hash) == p.digest
}

// commit makes it the blob, durably.
func (p *partial) commit() error {
	p.w.step("sync")
	if err := p.file.Sync(); err != nil {
		return err
	}
	rel := blobPath(p.digest)
	if err := p.w.ensureDir(path.Dir(rel)); err != nil { // only now: nobody waits for the disk any more
		return err
	}
	p.w.step("rename " + rel)
	if err := p.w.root.Rename(p.name, rel); err != nil {
		return err
	}
	p.close() // the name is free: it may be another's from now on
	return p.w.syncDir(path.Dir(rel))
}

// leave keeps the file for the next transfer if that is worth it.
func (p *partial) leave() {
	if p.file != nil && (p.size < partMin || !strings.HasPrefix(path.Base(p.name), partPrefix)) {
		p.remove()
	}
	p.close()
}

// remove removes the file; a next create makes a new one.
func (p *partial) remove() {
	if p.file == nil {
		return
	}
	p.w.root.Remove(p.name) //nolint:errcheck // sweep removes it later
	p.close()
	p.hash, p.size, p.doubt = p.digest.Algorithm().Hash(), 0, false
}

// close releases the lock.
func (p *partial) close() {
	if p.file != nil {
		// A program that is being started just now holds what is open until its exec: unlock at once.
		unix.Flock(int(p.file.Fd()), unix.LOCK_UN) //nolint:errcheck,gosec // closing unlocks too; a descriptor fits
		p.file.Close()
		p.file = nil
	}
}

// stale says whether a partial file is of no more use.
func (w *writer) stale(rel string) bool {
	d, ok := partDigest(path.Base(rel))
	fi, err := w.root.Lstat(rel)
	if !ok || err != nil || !fi.Mode().IsRegular() || fi.Size() < partMin || time.Since(fi.ModTime()) > partAge {
		return true
	}
	_, err = w.root.Lstat(blobPath(d))
	return err == nil
}

// bootID names this boot; empty if the system does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	id, _, _ := strings.Cut(string(b), "-") // enough to tell one from another
	return strings.TrimSpace(id)
}
