package mirror

import (
	"context"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// Remove undoes what loads created: the reference files among the paths, then those blobs that no reference
// reaches any more, then directories that are empty. Paths are LoadReport.Created.
func (s *Store) Remove(ctx context.Context, created []string) error {
	w, err := s.writer()
	if err != nil {
		return err
	}
	defer w.close()
	unlock, err := s.lock(ctx, unix.LOCK_EX, lockRemove)
	if err != nil {
		return err
	}
	defer unlock()
	for _, rel := range created {
		if _, ok := parseRecordPath(rel); ok {
			if err := w.remove(rel); err != nil {
				return writeError(s.dir, rel, err)
			}
		}
	}
	v := &verifier{s: s, blobs: map[string]int64{}, reached: map[string]bool{}}
	if v.refs, _, err = s.scanRefs(ctx); err == nil {
		err = v.walk(ctx)
	}
	if err != nil {
		return fmt.Errorf("remove from the cache %s: %w", s.dir, err)
	}
	for _, rel := range created {
		d, ok := parseBlobPath(rel)
		if !ok || v.reached[d.String()] {
			continue
		}
		if err := w.remove(rel); err != nil {
			return writeError(s.dir, rel, err)
		}
	}
	w.prune(dirTmp)
	return nil
}

// remove removes a file and the directories that it leaves empty.
func (w *writer) remove(rel string) error {
	if err := ignoreMissing(w.root.Remove(rel)); err != nil {
		return err
	}
	w.prune(path.Dir(rel))
	return nil
}

// prune removes empty directories upwards. One that is not empty ends it.
func (w *writer) prune(rel string) {
	for ; rel != "."; rel = path.Dir(rel) {
		if w.root.Remove(rel) != nil {
			return
		}
	}
}
