package mirror

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/go-digest"
)

// PruneOptions say what is removed. Without Match, UnusedFor and Only no reference is: only what none reaches.
type PruneOptions struct {
	Match     Patterns      // only these references; none: all
	UnusedFor time.Duration // only those that nobody asked for, and that came, longer ago; 0: whenever
	Only      bool          // all but Keep
	Keep      Patterns      // never these, whatever else says
	Uses      []Use         // when references were last asked for
	// Grace is how old what no reference reaches must be: it may belong to a copy that is still going on.
	Grace time.Duration
	// Apply removes; without it the report says what would be.
	Apply bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// PruneReport says what was removed, or would be.
type PruneReport struct {
	Applied    bool     `json:"applied"`
	References []Pruned `json:"references"`
	Kept       int      `json:"kept"` // references that stay
	Blobs      int      `json:"blobs"`
	Bytes      int64    `json:"bytes"` // of blobs, quarantine included
	Quarantine int      `json:"quarantine"`
	Young      int      `json:"young"` // blobs that no reference reaches and that stay because they are new
	YoungBytes int64    `json:"youngBytes"`
	Idle       []string `json:"idle,omitempty"` // patterns that select nothing
	Notes      []string `json:"notes,omitempty"`
}

// Pruned is a reference that goes.
type Pruned struct {
	Reference string    `json:"reference"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"` // of all that it reaches; others may reach it too
	LastUse   time.Time `json:"lastUse,omitzero"`
	Time      time.Time `json:"time,omitzero"` // when it came
}

// Prune removes references, then what no reference reaches any more. It may run beside a mirror that serves the
// cache: what is being sent is sent to its end. A load or fill that runs makes it give up. Killed at any
// instant, no reference leads to something that is gone: references go first, durably.
func (s *Store) Prune(ctx context.Context, opts PruneOptions) (PruneReport, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	m := &marker{s: s, opts: opts, report: PruneReport{References: []Pruned{}}, uses: map[string]time.Time{}, keep: map[string]bool{}, gone: map[string]bool{}, blobs: map[digest.Digest]bool{}}
	for _, u := range opts.Uses {
		m.uses[u.Reference] = u.Last
	}
	if opts.Apply {
		if s.readOnly {
			return PruneReport{}, fail("MER-003", s.dir, "the cache was opened read-only", "", "", nil)
		}
		unlock, err := s.lock(ctx, unix.LOCK_EX, lockRemove)
		if err != nil {
			return PruneReport{}, err
		}
		defer unlock()
	}
	plan, err := m.mark(ctx)
	if err == nil && opts.Apply {
		err = s.sweepCache(ctx, plan)
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("prune the cache %s: %w", s.dir, err)
	}
	return m.report, err
}

// sweeping is what goes, as paths.
type sweeping struct{ tags, digests, blobs, quarantine []string }

// sweepCache removes what was marked, in an order that never leaves a reference without what it leads to: tags,
// then what is served by digest, and blobs only when the references are durably gone.
func (s *Store) sweepCache(ctx context.Context, plan sweeping) error {
	w, err := s.writer()
	if err != nil {
		return err
	}
	defer w.close()
	for _, list := range [][]string{plan.tags, plan.digests} {
		if err := w.removeDurably(ctx, list); err != nil {
			return writeError(s.dir, "references", err)
		}
	}
	for _, rel := range slices.Concat(plan.blobs, plan.quarantine) {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.step("remove " + rel)
		if err := ignoreMissing(w.root.Remove(rel)); err != nil {
			return writeError(s.dir, rel, err)
		}
	}
	return w.sweep()
}

// removeDurably removes reference files and makes that durable, then the directories that it leaves empty. The
// directories of blobs stay: somebody may be about to rename a blob into one.
func (w *writer) removeDurably(ctx context.Context, list []string) error {
	dirs := map[string]bool{}
	for _, rel := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.step("remove " + rel)
		if err := ignoreMissing(w.root.Remove(rel)); err != nil {
			return err
		}
		dirs[path.Dir(rel)] = true
	}
	for dir := range dirs {
		if err := ignoreMissing(w.syncDir(dir)); err != nil {
			return err
		}
		w.prune(dir)
	}
	return nil
}
