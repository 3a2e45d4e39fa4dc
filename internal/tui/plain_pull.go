package tui

import (
	"fmt"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// missing says which required references are nowhere on board, and offers to pull them, as often as some are.
func (q *questions) missing() error {
	if q.draft.site.Images.Required == "" {
		return nil
	}
	for again := true; again; {
		q.say("\nStep 3 of 9, images: what is required and on board.")
		c, err := q.prog.Images(q.ctx, q.draft.file, progress.NewText(q.out, progress.TextOptions{}))
		if err != nil {
			return err
		}
		if again, err = q.judge(c); err != nil {
			return err
		}
	}
	return nil
}

// judge says what is on board and offers to pull the rest; again: it has to be looked at again.
func (q *questions) judge(c app.Coverage) (again bool, err error) {
	if c.NoList != nil {
		q.tell(diag.Of(c.NoList), c.NoList)
		return false, nil //nolint:nilerr // said; the review refuses the plan for it
	}
	if n := len(cachedOnly(c)); n > 0 {
		q.say("%d of %d required references are in the mirror's cache, %s.", n, len(c.Refs), c.Pull.Cache)
	}
	refs := missing(c)
	if len(refs) == 0 {
		q.say("All %d required references are on board.", len(c.Refs))
		return false, nil
	}
	q.say("%d of %d required references are MISSING, in no archive and not in the mirror's cache:", len(refs), len(c.Refs))
	for _, r := range refs {
		q.say("   %s", r)
	}
	if c.Pull.No != nil {
		q.say("They cannot be pulled now:")
		q.tell(diag.Of(c.Pull.No), c.Pull.No)
		return false, nil //nolint:nilerr // said; the review refuses the plan for what is missing
	}
	return q.offer(refs, c.Pull.Cache, fillCommand(c.Pull, refs))
}

// offer pulls references if that is wanted; again: what is on board has to be looked at again.
func (q *questions) offer(refs []string, cache, command string) (again bool, err error) {
	options := []string{"go on without them", "pull them now: this writes the mirror's cache, " + cache + ", and nothing else; control-C stops it, what came in is kept"}
	q.say("The same without questions, once the plan is saved: %s", command)
	err = q.choose(fmt.Sprintf("What to do about %s", count(len(refs), "missing image")), options, 0, func(i int) error {
		if i == 0 {
			return nil
		}
		again = true
		r, err := q.prog.Pull(q.ctx, q.draft.file, refs, progress.NewText(q.out, progress.TextOptions{}))
		if q.ctx.Err() != nil {
			return err
		}
		if err != nil {
			q.tell(diag.Of(err), err)
			return nil
		}
		q.say("Pulled %s, %s.", count(len(r.Images), "image"), progress.Bytes(r.Bytes))
		return nil
	})
	return again, err
}
