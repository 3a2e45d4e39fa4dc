package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Options say how Build looks.
type Options struct {
	// Verify reads placed archives again instead of trusting size, time and inode, and asks the containerd
	// for every blob.
	Verify bool
	// Cache opens a mirror's cache by its node path; nil: what the ledger says of it is believed.
	Cache func(ctx context.Context, root string) (Cache, error)
	// Sources are the inspected archives, kept in the ledger for the next run.
	Sources map[string]Source
	// Orphans says which records of the ledger are removed when they are not wanted; nil: all of them. A plan
	// that is about a part of the node must leave the rest alone.
	Orphans func(id string) bool
	// Verb is the command that the plan is for, as it is typed; empty: "apply".
	Verb string
}

// Cache answers what a mirror's cache holds.
type Cache interface {
	// Has says whether name ("docker.io/library/busybox:1.36") is there, complete, with that digest.
	Has(ctx context.Context, name, digest string) (bool, error)
}

// Build says what has to be done to make the node what rs describes.
func Build(ctx context.Context, r host.Reader, rs []resource.Resource, l Ledger, opts Options) (Plan, error) {
	b, err := newBuilder(ctx, r, l, opts)
	if err != nil {
		return Plan{}, err
	}
	wanted, err := unique(rs)
	if err != nil {
		return Plan{}, err
	}
	items, err := order(b.withRemovals(wanted))
	if err != nil {
		return Plan{}, err
	}
	b.restarts = restartsOf(wanted)
	for _, it := range items {
		if err := ctx.Err(); err != nil {
			return Plan{}, err
		}
		if err := b.add(it); err != nil {
			return Plan{}, err
		}
	}
	b.dropIdleGates()
	b.plan.Resources = len(wanted)
	return b.plan, b.plan.seal()
}

// builder holds what is known while a plan is made.
type builder struct {
	ctx      context.Context
	r        host.Reader
	fs       host.FS
	facts    host.Facts
	ledger   Ledger
	opts     Options
	plan     Plan
	restarts map[string][]string // resource id -> units
	needs    map[string][]string // resource id -> nearest changes at or before it
	changed  map[string]bool
}

func newBuilder(ctx context.Context, r host.Reader, l Ledger, opts Options) (*builder, error) {
	facts, err := r.Facts(ctx)
	if err != nil {
		return nil, fmt.Errorf("identify the node: %w", err)
	}
	l.fill()
	if opts.Verb == "" {
		opts.Verb = "apply"
	}
	return &builder{ctx: ctx, r: r, fs: r.FS(), facts: facts, ledger: l, opts: opts,
		needs: map[string][]string{}, changed: map[string]bool{},
		plan: Plan{Schema: Schema, Verb: opts.Verb, Node: facts.Hostname, Changes: []Change{}, Pending: []Pending{},
			Refresh: map[string]Record{}, Sources: opts.Sources}}, nil
}

// restartsOf turns RestartOn round.
func restartsOf(items []item) map[string][]string {
	out := map[string][]string{}
	for _, it := range items {
		if it.res.Unit == nil {
			continue
		}
		for _, id := range it.res.Unit.RestartOn {
			out[id] = append(out[id], it.res.Unit.Name)
		}
	}
	return out
}

// withRemovals appends what the ledger owns and nobody wants any more, last written first, and makes units
// that must take the removal in wait for it.
func (b *builder) withRemovals(items []item) []item {
	at := map[string]int{}
	for i, it := range items {
		at[it.id] = i
	}
	for _, id := range b.orphans(at) {
		items = append(items, item{id: id})
		for _, u := range b.ledger.Records[id].Restarts {
			if i, ok := at[resource.ID(resource.KindUnit, u)]; ok {
				items[i].deps = append(items[i].deps, id)
			}
		}
	}
	return items
}

func (b *builder) orphans(wanted map[string]int) []string {
	var out []string
	for id, rec := range b.ledger.Records {
		if _, ok := wanted[id]; !ok && !rec.Found && removable(rec.Kind) && (b.opts.Orphans == nil || b.opts.Orphans(id)) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(x, y string) int {
		if d := b.ledger.Records[y].Seq - b.ledger.Records[x].Seq; d != 0 {
			return d
		}
		return strings.Compare(x, y)
	})
	return out
}

// removable: accounts and images stay until a rollback; files may belong to the one, containers use the other.
func removable(k resource.Kind) bool {
	switch k {
	case resource.KindFile, resource.KindDir, resource.KindSymlink, resource.KindArchive, resource.KindUnit:
		return true
	}
	return false
}

// add compares one item with the node and takes the change into the plan.
func (b *builder) add(it item) error {
	c, err := b.decide(it)
	if err != nil {
		return b.explain(it.id, err)
	}
	needs := b.needsOf(it.deps)
	b.needs[it.id] = needs
	if c == nil || c.Action == ActionNone {
		return nil
	}
	c.ID, c.Needs, c.Resource = it.id, needs, it.res
	c.Restarts = b.restarts[it.id]
	if it.res == nil {
		c.Restarts = b.ledger.Records[it.id].Restarts
	} else if c.Reason == "" {
		c.Reason = it.res.Why
	}
	b.needs[it.id] = []string{it.id}
	b.changed[it.id] = true
	b.plan.Changes = append(b.plan.Changes, *c)
	return nil
}

func (b *builder) decide(it item) (*Change, error) {
	if it.res == nil {
		return b.removal(it.id, b.ledger.Records[it.id])
	}
	switch r := it.res; {
	case r.File != nil:
		return b.file(r.ID, *r.File)
	case r.Dir != nil:
		return b.dir(r.ID, *r.Dir)
	case r.Symlink != nil:
		return b.symlink(r.ID, *r.Symlink)
	case r.Archive != nil:
		return b.archive(r.ID, *r.Archive)
	case r.ImageSet != nil:
		return b.images(r.ID, *r.ImageSet)
	case r.User != nil:
		return b.user(r.ID, *r.User)
	case r.Unit != nil:
		return b.unit(r.ID, *r.Unit)
	case r.Gate != nil:
		return b.gate(r.ID, *r.Gate)
	}
	return nil, fmt.Errorf("%w: %s has no content", ErrGraph, it.id)
}

// needsOf are the nearest changes before something that depends on deps, through what does not change.
func (b *builder) needsOf(deps []string) []string {
	var out []string
	for _, d := range deps {
		for _, n := range b.needs[d] {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// dropIdleGates removes gates with no change before and none after them: they would only cost time.
func (b *builder) dropIdleGates() {
	busy := map[string]bool{} // something real is done at or before it
	for _, c := range b.plan.Changes {
		busy[c.ID] = c.Action != ActionProve || slices.ContainsFunc(c.Needs, func(n string) bool { return busy[n] })
	}
	for _, c := range slices.Backward(b.plan.Changes) {
		if !busy[c.ID] {
			continue
		}
		for _, n := range c.Needs {
			busy[n] = true
		}
	}
	b.plan.Changes = slices.DeleteFunc(b.plan.Changes, func(c Change) bool { return !busy[c.ID] })
}

// later records that something cannot be done now.
func (b *builder) later(id, what, why string) {
	b.plan.Pending = append(b.plan.Pending, Pending{ID: id, What: what, Why: why})
}

// problem records a finding that stops the plan.
func (b *builder) problem(d *diag.Diagnostic) {
	d.Severity = diag.Error
	b.plan.Problems.Add(d)
}

// explain names the resource that could not be read.
func (b *builder) explain(id string, err error) error {
	if len(diag.Of(err)) > 0 || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrGraph) {
		return err
	}
	fix := "edgeprep detect"
	if !b.facts.Root && b.facts.Live {
		fix = "sudo edgeprep plan"
	}
	d := &diag.Diagnostic{ID: "APL-014", Severity: diag.Error, What: "cannot compare " + id + " with the node: " + err.Error(), Fix: fix}
	return &unreadable{d: d, err: err}
}

// unreadable is a diagnostic that keeps its cause.
type unreadable struct {
	d   *diag.Diagnostic
	err error
}

func (u *unreadable) Error() string   { return u.d.Error() }
func (u *unreadable) Unwrap() []error { return []error{u.d, u.err} }
