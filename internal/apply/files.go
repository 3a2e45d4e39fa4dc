package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"syscall"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// small is the size up to which a file's bytes are handled in memory; plan.Look reads as much.
const small = 16 << 20

func meta(s plan.State) host.Meta {
	return host.Meta{Mode: s.Mode, UID: max(s.UID, 0), GID: max(s.GID, 0)}
}

// put makes a path what goal says; nil is nothing. kept says why a directory stays.
func (s *session) put(p string, got, goal *plan.State, content func(plan.State) ([]byte, error)) (kept string, err error) {
	switch {
	case goal == nil:
		return s.remove(p, got)
	case goal.Type == host.TypeDir:
		return "", s.files.Mkdir(s.ctx, p, meta(*goal))
	case goal.Type == host.TypeSymlink:
		return "", s.files.Symlink(s.ctx, p, goal.Target)
	case goal.Type != host.TypeFile:
		return "", fmt.Errorf("%s: a %s cannot be made", p, goal.Type)
	case goal.Size > small && got != nil && got.SHA256 == goal.SHA256 && got.Size == goal.Size:
		return "", s.files.SetMeta(s.ctx, p, meta(*goal))
	case goal.Size > small:
		return "", s.putLarge(p, *goal)
	}
	data, err := content(*goal)
	if err != nil {
		return "", err
	}
	return "", s.files.Write(s.ctx, p, data, meta(*goal))
}

// handOver gives the parts of a directory to its new owner, before the directory itself: a run that is killed
// in between starts over. Only what root owns, in directories that root owns, changes hands: nobody else can
// have put a link there.
func (st *step) handOver(d resource.Dir) error {
	goal := st.goal()
	if st.c.Before.UID != 0 || goal.UID <= 0 {
		return nil
	}
	for _, name := range d.Parts {
		fi, err := st.s.fs.Lstat(path.Join(d.Path, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = st.s.handOver(fi, *goal)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) handOver(fi host.FileInfo, to plan.State) error {
	if fi.UID != 0 || fi.Type != host.TypeDir && fi.Type != host.TypeFile {
		return nil
	}
	if fi.Type == host.TypeDir {
		list, err := s.fs.ReadDir(fi.Path)
		if err != nil {
			return err
		}
		for _, below := range list {
			if err := s.handOver(below, to); err != nil {
				return err
			}
		}
	}
	return s.files.SetMeta(s.ctx, fi.Path, host.Meta{Mode: fi.Mode, UID: to.UID, GID: to.GID})
}

// remove removes an entry; a directory that others put something into stays.
func (s *session) remove(p string, got *plan.State) (kept string, err error) {
	if got != nil && got.Type == host.TypeDir {
		if err := s.sweep(p); err != nil {
			return "", err
		}
		list, err := s.fs.ReadDir(p)
		if err == nil && len(list) > 0 {
			return fmt.Sprintf("not empty (%s)", path.Base(list[0].Path)), nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", s.files.Remove(s.ctx, p)
}

// sweep removes what a killed run left half-written in a directory.
func (s *session) sweep(dir string) error {
	list, err := s.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, fi := range list {
		if atomicfile.IsTemp(path.Base(fi.Path)) {
			if err := s.files.Remove(s.durable(), fi.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// putLarge restores a large file from the backups.
func (s *session) putLarge(p string, goal plan.State) error {
	_, err := s.files.Place(s.ctx, backupPath(goal.SHA256), p, host.PlaceOptions{Stage: path.Dir(p), Meta: meta(goal),
		Size: goal.Size, SHA256: goal.SHA256, Allow: noLink})
	return err
}

// noLink keeps a copy from sharing its inode with a file that others may write into.
func noLink(m host.PlaceMethod) bool { return m == host.PlaceReflink || m == host.PlaceCopy }

func backupPath(sha256 string) string { return path.Join(plan.BackupDir, sha256) }

// backup keeps the bytes of a file that is about to be changed, under their hash. An archive that edgeprep
// placed itself is not kept: it is large, and its source is what it comes from.
func (s *session) backup(c plan.Change, t plan.Target) error {
	b := t.Before
	if t.Path == "" || b == nil || b.Type != host.TypeFile || plan.Same(b, t.After) || s.replaceable(c, t) {
		return nil
	}
	if b.SHA256 == "" {
		sum, err := plan.HashFile(s.ctx, s.fs, t.Path)
		if err != nil {
			return fmt.Errorf("read %s before it is changed: %w", t.Path, err)
		}
		b.SHA256 = sum
	}
	if fi, err := s.fs.Lstat(backupPath(b.SHA256)); err == nil && fi.Size == b.Size {
		return nil
	}
	return s.keepBytes(t.Path, *b)
}

func (s *session) keepBytes(p string, b plan.State) error {
	if b.Size > small {
		_, err := s.files.Place(s.ctx, p, backupPath(b.SHA256), host.PlaceOptions{Stage: plan.BackupDir,
			Meta: host.Meta{Mode: 0o600}, Size: b.Size, SHA256: b.SHA256, Allow: noLink})
		return err
	}
	data, err := s.fs.ReadFile(p, small)
	if err != nil {
		return err
	}
	if plan.Sum(data) != b.SHA256 {
		return raced(p)
	}
	return s.files.Write(s.ctx, backupPath(b.SHA256), data, host.Meta{Mode: 0o600})
}

// replaceable: an archive of ours, a source that is moved to where it can be moved back from, a blob of the cache.
func (s *session) replaceable(c plan.Change, t plan.Target) bool {
	switch c.Kind {
	case resource.KindArchive:
		rec, ok := s.ledger.Records[c.ID]
		return (c.Resource != nil && t.Path != c.Path) || (ok && !rec.Found && plan.Same(t.Before, &rec.State))
	case resource.KindImageSet:
		return t.Before.Size > small
	}
	return false
}

// restored reads kept bytes and checks them.
func (s *session) restored(goal plan.State) ([]byte, error) {
	p := backupPath(goal.SHA256)
	data, err := s.fs.ReadFile(p, small)
	if err == nil && plan.Sum(data) == goal.SHA256 {
		return data, nil
	}
	d := &diag.Diagnostic{ID: "APL-016", Severity: diag.Error, What: "the kept bytes are missing or damaged", Where: diag.Where{File: p},
		Why: "somebody changed " + plan.BackupDir + ", or the storage is failing", Fix: "sha256sum " + p + "   # must be its name"}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.Why = err.Error()
	}
	return nil, d
}

// place puts an archive where it is read from.
func (st *step) place(a resource.Archive) error {
	s := st.s
	var allow func(host.PlaceMethod) bool
	if a.Local { // a program that is built again in place would change under the node
		allow = noLink
	}
	source := a.Source
	if a.Made {
		var err error
		if source, err = s.e.Make(s.ctx, a.Source); err != nil {
			return err
		}
	}
	_, err := s.files.Place(s.ctx, source, a.Path, host.PlaceOptions{Allow: allow, Stage: a.Stage, Meta: meta(*st.goal()), Size: a.Size, SHA256: a.SHA256,
		Move: a.Consume, Local: a.Local, Done: func(n int64) {
			s.emit(progress.Event{Type: progress.StepProgress, Step: st.c.ID, Done: n, Total: a.Size})
		}})
	return err
}

// rememberSources keeps the fingerprints of inspected archives. Placing changes them: a hard link changes the
// source's ctime, and a moved one is somewhere else.
func (s *session) rememberSources(p plan.Plan) {
	if p.Sources != nil {
		s.ledger.Sources = maps.Clone(p.Sources)
	}
	for _, c := range p.Changes {
		if c.Resource == nil || c.Resource.Archive == nil {
			continue
		}
		a := *c.Resource.Archive
		src, ok := s.ledger.Sources[a.Source]
		if !ok || a.Local {
			continue
		}
		fi, err := s.fs.Lstat(a.Source)
		if errors.Is(err, fs.ErrNotExist) && a.Consume {
			src.Consumed = a.Path
			s.ledger.Sources[a.Source] = src
		}
		if err == nil && fi.Size == src.Size && fi.ModTime.UnixNano() == src.ModTime && fi.Inode == src.Inode {
			s.ledger.Sources[a.Source] = plan.SourceOf(fi, src.Data)
		}
	}
}
