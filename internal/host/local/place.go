package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// placement is one Place under way.
type placement struct {
	f      *files
	src    *os.File
	source fileSystem  // that holds the source
	from   string      // real path of the source
	info   fs.FileInfo // of the source, before
	to     string      // real path of the destination
	dir    string      // real path of the staging directory
	path   string      // node path of the destination
	opts   host.PlaceOptions
}

func (f *files) Place(ctx context.Context, src, dst string, opts host.PlaceOptions) (host.PlaceResult, error) {
	p, err := f.placement(ctx, src, dst, opts)
	if err != nil {
		return host.PlaceResult{}, err
	}
	defer p.src.Close()
	res, err := p.run(ctx)
	if err != nil {
		return host.PlaceResult{}, explain("place", dst, err)
	}
	res.Info, err = f.fs.Lstat(dst)
	return res, err
}

func (f *files) placement(ctx context.Context, src, dst string, opts host.PlaceOptions) (*placement, error) {
	to, err := f.entry(ctx, "place", dst)
	if err != nil {
		return nil, err
	}
	from := f.fs
	if opts.Local {
		from = f.machine
	}
	file, err := from.open(src)
	if err != nil {
		return nil, err
	}
	p := &placement{f: f, source: from, src: file, to: to, path: dst, opts: opts}
	if err := p.prepare(ctx, src); err != nil {
		file.Close()
		return nil, err
	}
	return p, nil
}

func (p *placement) prepare(ctx context.Context, src string) (err error) {
	if p.from, err = p.source.root.resolve(src, true); err != nil {
		return err
	}
	if p.from == p.to { // a Move would end with neither
		return &fs.PathError{Op: "place", Path: src, Err: errSamePath}
	}
	if p.info, err = p.src.Stat(); err != nil {
		return named("place", src, err)
	}
	if p.info.Size() != p.opts.Size {
		return sizeFault(src, p.opts.Size, p.info.Size())
	}
	p.dir, err = p.stage(ctx)
	return err
}

var errSamePath = errors.New("source and destination are the same file")

func sizeFault(src string, want, got int64) error {
	return fault("APL-054", src, fmt.Sprintf("the file has %d bytes, expected are %d", got, want),
		"it is cut short, still being copied, or another file than the one that was inspected",
		"ls -l "+diag.Word(src)+"   # copy it again, then: edgeprep apply", nil)
}

// stage is the real path of the staging directory, made if it is missing.
func (p *placement) stage(ctx context.Context) (string, error) {
	dir := p.opts.Stage
	if dir == "" {
		dir = path.Dir(p.path)
	}
	if _, err := p.f.fs.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := p.f.Mkdir(ctx, dir, host.Meta{Mode: 0o700}); err != nil {
			return "", err
		}
	}
	real, err := p.f.root.resolve(dir, true)
	if err != nil {
		return "", explain("place", dir, err)
	}
	p.f.sweep(real)
	return real, nil
}

func (p *placement) allowed(m host.PlaceMethod) bool {
	return p.opts.Allow == nil || p.opts.Allow(m)
}

// run tries the methods from the cheapest on.
func (p *placement) run(ctx context.Context) (host.PlaceResult, error) {
	if done, err := p.rename(); done || err != nil {
		return host.PlaceResult{Method: host.PlaceRename}, err
	}
	if done, err := p.reflink(); done || err != nil {
		return host.PlaceResult{Method: host.PlaceReflink}, errors.Join(err, p.consume(err))
	}
	if done, err := p.link(); done || err != nil {
		return host.PlaceResult{Method: host.PlaceLink}, err
	}
	if !p.allowed(host.PlaceCopy) {
		return host.PlaceResult{}, fault("APL-052", p.path, "the file would have to be copied, which is not allowed here",
			"source and destination are on different file systems, or the file system cannot share content",
			"findmnt -T "+path.Dir(p.path), nil)
	}
	sum, err := p.copy(ctx)
	return host.PlaceResult{Method: host.PlaceCopy, SHA256: sum}, errors.Join(err, p.consume(err))
}

// consume removes the source after its content has arrived.
func (p *placement) consume(err error) error {
	if err != nil || !p.opts.Move {
		return nil //nolint:nilerr // the caller reports it
	}
	return p.f.w.Remove(p.from)
}

// trusted says whether nobody but this process's user can change the source's bytes later; without that an
// inode must not be shared.
func (p *placement) trusted() bool {
	st, ok := p.info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && p.info.Mode().Perm()&0o022 == 0
}

func (p *placement) rename() (bool, error) {
	if !p.opts.Move || !p.trusted() || !p.allowed(host.PlaceRename) || !p.sameDevice() {
		return false, nil
	}
	if err := p.f.w.SetMeta(p.from, meta(p.opts.Meta)); err != nil { // syncs the content, too
		return false, err
	}
	err := p.f.w.Rename(p.from, p.to)
	if errors.Is(err, syscall.EXDEV) { // a bind mount in between
		return false, nil
	}
	return err == nil, err
}

func (p *placement) reflink() (bool, error) {
	if !p.allowed(host.PlaceReflink) {
		return false, nil
	}
	t, err := p.temp()
	if err != nil {
		return false, err
	}
	defer t.Abort() //nolint:errcheck // after Commit it does nothing
	if err := unix.IoctlFileClone(int(t.File.Fd()), int(p.src.Fd())); err != nil {
		return false, nil // whatever the reason, a copy says it better
	}
	if info, err := t.File.Stat(); err != nil || info.Size() != p.opts.Size {
		return false, errors.Join(err, p.changed())
	}
	return true, p.commit(t)
}

// link shares the inode, so the source must already look as the destination must, and be nobody else's.
func (p *placement) link() (bool, error) {
	if p.opts.Move || !p.trusted() || !p.allowed(host.PlaceLink) || !p.sameDevice() || !p.looksRight() {
		return false, nil
	}
	if err := p.f.w.SyncFile(p.from); err != nil { // its writer may not have
		return false, err
	}
	err := p.f.w.Link(p.from, p.dir, p.to)
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EPERM) {
		return false, nil
	}
	return err == nil, err
}

func (p *placement) looksRight() bool {
	st, ok := p.info.Sys().(*syscall.Stat_t)
	if !ok || p.info.Mode() != p.opts.Meta.Mode {
		return false
	}
	return os.Geteuid() != 0 || (int(st.Uid) == p.opts.Meta.UID && int(st.Gid) == p.opts.Meta.GID)
}

func (p *placement) sameDevice() bool {
	dir, err := os.Stat(filepath.Dir(p.to))
	if err != nil {
		return false
	}
	a, aok := p.info.Sys().(*syscall.Stat_t)
	b, bok := dir.Sys().(*syscall.Stat_t)
	return aok && bok && a.Dev == b.Dev
}

func (p *placement) temp() (*atomicfile.Temp, error) {
	return p.f.w.Temp(p.dir, filepath.Base(p.to))
}

func (p *placement) commit(t *atomicfile.Temp) error {
	err := t.Commit(p.to, meta(p.opts.Meta))
	if errors.Is(err, syscall.EXDEV) {
		return fault("APL-052", p.path, "the staging directory "+p.opts.Stage+" is on another file system",
			"a file can only be renamed within one file system", "findmnt -T "+path.Dir(p.path)+"; findmnt -T "+p.opts.Stage, err)
	}
	return err
}

func (p *placement) copy(ctx context.Context) (string, error) {
	if err := p.room(); err != nil {
		return "", err
	}
	t, err := p.temp()
	if err != nil {
		return "", err
	}
	defer t.Abort() //nolint:errcheck // after Commit it does nothing
	sum, err := p.transfer(ctx, t.File)
	if err != nil {
		return "", err
	}
	if want := strings.ToLower(p.opts.SHA256); want != "" && sum != want {
		return "", fault("APL-055", p.path, "the copied bytes have SHA-256 "+sum+", expected is "+want,
			"the source is damaged or was replaced after it was inspected", "sha256sum "+p.src.Name(), nil)
	}
	if err := p.changed(); err != nil {
		return "", err
	}
	return sum, p.commit(t)
}

// room looks for space first: filling a node's disk for minutes to learn that it is too small hurts what runs.
func (p *placement) room() error {
	s, err := space(p.path, p.dir)
	if err != nil {
		return err
	}
	if s.Free >= p.opts.Size {
		return nil
	}
	return &causedError{
		diag: &diag.Diagnostic{
			ID: "APL-050", Severity: diag.Error, Where: diag.Where{File: p.path},
			What: fmt.Sprintf("place: no space left: %d bytes are needed, %d are free", p.opts.Size, s.Free),
			Why:  "the file would not fit; nothing was changed",
			Fix:  "df -h " + diag.Word(path.Dir(p.path)),
		},
		cause: syscall.ENOSPC,
	}
}

// changed is an error when the source is no longer what it was at the start.
func (p *placement) changed() error {
	now, err := p.src.Stat()
	if err != nil {
		return err
	}
	if now.Size() == p.info.Size() && now.ModTime().Equal(p.info.ModTime()) {
		return nil
	}
	return fault("APL-056", p.path, "the source "+p.src.Name()+" changed while it was read",
		"something else is writing it", "wait until it is complete, then: edgeprep apply", nil)
}
