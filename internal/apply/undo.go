package apply

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// beforeUndo looks at the targets again and makes sure that they are as the plan saw them.
func (st *step) beforeUndo() ([]plan.Target, error) {
	now, err := st.s.lookAll(slices.Clone(st.c.Undo))
	if err != nil {
		return nil, err
	}
	for i, t := range now {
		knownContent(t.Before, st.c.Undo[i].Before)
		if !plan.Same(t.Before, st.c.Undo[i].Before) {
			return nil, raced(t.Name())
		}
	}
	return now, nil
}

// undo puts the targets back, one by one.
func (st *step) undo() error {
	st.s.images = nil
	var used map[string]bool
	for _, t := range st.c.Undo {
		var err error
		switch {
		case t.Unit != "":
			err = st.s.unitSteps(t.Unit, plan.Steps(*unitOf(t.Before), t.After))
		case t.Image != "":
			if used == nil {
				if used, err = st.s.inUse(t.Endpoint); err != nil {
					return err
				}
			}
			err = st.undoImage(t, used)
		default:
			err = st.undoPath(t)
		}
		if err != nil {
			return err
		}
	}
	if st.s.caches[st.c.Path] {
		return st.s.tidyCache(st.c.Path)
	}
	return st.dropIDs(used)
}

// dropIDs removes the records that the CRI plugin made, named by the image's id, of images that have no other
// name any more: they would keep the content for ever.
func (st *step) dropIDs(used map[string]bool) error {
	gone := map[string]host.Endpoint{} // by digest
	for _, t := range st.c.Undo {
		if t.Image != "" && t.After == nil && t.Before != nil && t.Before.Image != nil {
			gone[t.Before.Image.Target.Digest] = t.Endpoint
		}
	}
	for digest, ep := range gone {
		list, err := st.s.r.Runtime(ep).Images(st.s.ctx)
		if err != nil {
			return err
		}
		ids := idRecords(list, digest)
		for _, name := range ids {
			if used[name] || used[digest] {
				continue
			}
			if err := st.s.e.Host.RuntimeControl(ep).RemoveImage(st.s.ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// idRecords are the records of a digest, if all of them are named by an image id and made by the CRI plugin.
func idRecords(list []host.Image, digest string) []string {
	var out []string
	for _, i := range list {
		if i.Target.Digest != digest {
			continue
		}
		if !strings.HasPrefix(i.Name, "sha256:") || i.Labels[plan.CRIManaged] == "" {
			return nil
		}
		out = append(out, i.Name)
	}
	return out
}

func (st *step) undoPath(t plan.Target) error {
	if st.c.Kind == resource.KindArchive && t.After != nil && t.Path != st.c.Path && t.Before == nil {
		return st.moveBack(t)
	}
	if t.After != nil && t.After.Type == host.TypeFile && st.unkept(*t.After) {
		st.keep(t.Path, "its earlier content was an archive of edgeprep's, of which no copy is kept; apply it from its source")
		return nil
	}
	if t.After == nil && st.s.caches[t.Path] {
		if err := st.s.tidyCache(t.Path); err != nil {
			return err
		}
	}
	kept, err := st.s.put(t.Path, t.Before, t.After, st.s.restored)
	st.occupied(t.Path, kept)
	return err
}

// unkept says whether the bytes of an archive or blob were never kept.
func (st *step) unkept(goal plan.State) bool {
	if st.c.Kind != resource.KindArchive && st.c.Kind != resource.KindImageSet {
		return false
	}
	_, err := st.s.fs.Lstat(backupPath(goal.SHA256))
	return errors.Is(err, fs.ErrNotExist)
}

// moveBack returns a consumed archive to where it was taken from.
func (st *step) moveBack(t plan.Target) error {
	_, err := st.s.files.Place(st.s.ctx, st.c.Path, t.Path, host.PlaceOptions{Stage: path.Dir(t.Path), Meta: meta(*t.After), Size: t.After.Size, Move: true})
	return err
}

// inUse are the digests and names of images that containers use.
func (s *session) inUse(ep host.Endpoint) (map[string]bool, error) {
	names, err := s.e.Host.RuntimeControl(ep).InUse(s.ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	list, err := s.r.Runtime(ep).Images(s.ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		used[n] = true
	}
	for _, img := range list {
		if used[img.Name] {
			used[img.Target.Digest] = true
		}
	}
	return used, nil
}

const inUseReason = "a container uses it"

// undoImage puts an image record back. An image that a container uses stays with all its names: taking it
// away would keep the container from being started again.
func (st *step) undoImage(t plan.Target, used map[string]bool) error {
	ctl := st.s.e.Host.RuntimeControl(t.Endpoint)
	if t.Before != nil && t.Before.Image != nil && (used[t.Image] || used[t.Before.Image.Target.Digest]) {
		st.keep(t.Image, inUseReason)
		return nil
	}
	if t.After == nil {
		return ctl.RemoveImage(st.s.ctx, t.Image)
	}
	return ctl.SetImage(st.s.ctx, *t.After.Image)
}

// tidyCache removes directories of a cache that are empty, and with the last of its content what the mirror
// keeps about itself.
func (s *session) tidyCache(cache string) error {
	for _, d := range []string{"refs", "blobs"} {
		left, err := s.prune(path.Join(cache, d), maxDepth)
		if err != nil || left {
			return err
		}
	}
	for _, n := range []string{"tmp", "usage", "quarantine", "misses.jsonl"} {
		if err := s.removeAll(path.Join(cache, n), maxDepth); err != nil {
			return err
		}
	}
	return nil
}

// prune removes a directory and those in it as far as they are empty.
func (s *session) prune(dir string, depth int) (left bool, err error) {
	list, err := s.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || depth == 0 {
		return true, err
	}
	for _, fi := range list {
		more := true
		if fi.Type == host.TypeDir {
			if more, err = s.prune(fi.Path, depth-1); err != nil {
				return true, err
			}
		}
		left = left || more
	}
	if left {
		return true, nil
	}
	return false, s.files.Remove(s.ctx, dir)
}

// maxDepth is deeper than anything in a cache: a reference has at most 255 bytes, but few components.
const maxDepth = 64

func (s *session) removeAll(p string, depth int) error {
	fi, err := s.fs.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || depth == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Type == host.TypeDir {
		list, err := s.fs.ReadDir(p)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := s.removeAll(e.Path, depth-1); err != nil {
				return err
			}
		}
	}
	return s.files.Remove(s.ctx, p)
}

// verifyUndo compares the targets with what they were to be, but for those that were left.
func (st *step) verifyUndo(after []plan.Target) error {
	by := map[string]plan.Target{}
	for _, t := range after {
		by[t.Key()] = t
	}
	for _, t := range st.c.Undo {
		left := slices.ContainsFunc(append(slices.Clone(st.kept), st.inUse...), func(k plan.Pending) bool { return k.What == t.Name() })
		if t.Unit != "" && !st.s.facts.Live {
			continue
		}
		if !left && !sameOrIdle(by[t.Key()], t.After) {
			return mismatch(t.Name())
		}
	}
	return nil
}

// sameOrIdle: a unit whose file is gone is as good as one that is neither enabled nor running.
func sameOrIdle(t plan.Target, want *plan.State) bool {
	if t.Unit != "" {
		return plan.Same(orIdle(t.After), orIdle(want))
	}
	return plan.Same(t.After, want)
}

// purge removes the engine's own state when everything was put back: the node is as if edgeprep had never
// been there. The ledger goes last, so that a kill in between is finished by the next rollback.
func (s *session) purge() error {
	if !s.clean() {
		return nil
	}
	ids, err := runIDs(s.fs)
	if err != nil {
		return err
	}
	var made []string
	for _, id := range ids {
		if x, err := readRun(s.fs, id); err == nil {
			made = append(made, x.head.Made...)
		}
	}
	for _, d := range []string{plan.BackupDir, plan.JournalDir} {
		if err := s.removeAll(d, 2); err != nil {
			return err
		}
	}
	for _, p := range []string{plan.LedgerPath, plan.StateDir} {
		got, _, err := plan.Look(s.fs, p)
		if err == nil && got != nil {
			_, err = s.remove(p, got)
		}
		if err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(made) {
		if _, err := s.remove(d, &plan.State{Type: host.TypeDir}); err != nil {
			return err
		}
	}
	return nil
}

// clean says whether every run was put back.
func (s *session) clean() bool {
	for _, r := range s.ledger.Runs {
		if r.Undone == "" {
			return false
		}
	}
	return true
}
