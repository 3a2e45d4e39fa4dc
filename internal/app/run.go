package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// ApplyOptions say how to plan and apply.
type ApplyOptions struct {
	Allow    []string              // risks that are accepted, besides [apply] allow
	Verify   bool                  // read what is otherwise believed by size and time
	WaitLock time.Duration         // for another run to end
	Confirm  func(plan.Plan) error // asked before the first change; nil: nobody

	lookUp bool // record where upstreams are
}

// Plan says what apply would do.
func (a *App) Plan(ctx context.Context, o ApplyOptions) (plan.Plan, error) {
	d, err := a.Desired(ctx, o.Verify)
	if err != nil {
		return plan.Plan{}, err
	}
	return a.build(ctx, d, o)
}

func (a *App) build(ctx context.Context, d Desired, o ApplyOptions) (plan.Plan, error) {
	if err := a.egress(ctx, &d, false); err != nil {
		return plan.Plan{}, err
	}
	opts := plan.Options{Verify: o.Verify, Cache: a.cacheFor(d.Platform), Sources: d.Sources}
	p, err := plan.Build(ctx, a.reader, d.Resources, d.Ledger, opts)
	if err == nil && o.lookUp && live(a.opts.Root) && !p.Empty() { // a run that has nothing to do asks no resolver
		if err = a.egress(ctx, &d, true); err == nil {
			p, err = plan.Build(ctx, a.reader, d.Resources, d.Ledger, opts)
		}
	}
	if err != nil {
		return p, err
	}
	p.Pending = append(p.Pending, d.Pending...)
	if !p.Empty() {
		a.unnamedRisks(&p, d, append(slices.Clone(o.Allow), d.Site.Apply.Allow...))
	}
	return p, nil
}

// unnamedRisks adds the risks of the site that no single change carries.
func (a *App) unnamedRisks(p *plan.Plan, d Desired, allow []string) {
	if d.Site.PlainHTTPOffLoopback(d.Self) && !slices.Contains(allow, string(plan.RiskPlainHTTP)) {
		p.Problems.Add(&diag.Diagnostic{ID: "APL-060", Severity: diag.Error, What: "images would cross the network as plain http",
			Why: "whoever is on that network could read the images; digests still protect what they hold, tags do not",
			Fix: "set [mirror.tls], or: edgeprep apply --allow plain-http"})
	}
	if d.Node.Untested != "" && !slices.Contains(allow, string(plan.RiskUntestedDistro)) {
		p.Problems.Add(&diag.Diagnostic{ID: "APL-061", Severity: diag.Error, What: d.Node.Name + " is not tested with edgeprep: " + d.Node.Untested,
			Why: "what its descriptor says of paths and formats may be wrong for this node", Fix: "edgeprep apply --allow untested-distro"})
	}
}

// cacheFor opens the mirror's cache for the planner.
func (a *App) cacheFor(platform string) func(context.Context, string) (plan.Cache, error) {
	return func(_ context.Context, root string) (plan.Cache, error) {
		dir, err := a.host.RealPath(root)
		if err != nil {
			return nil, err
		}
		s, err := mirror.Open(dir, mirror.Options{ReadOnly: true})
		if err != nil {
			return nil, err
		}
		return cacheView{s, platform}, nil
	}
}

// cacheView answers whether a reference is there, with the digest that is wanted, for the node to run.
type cacheView struct {
	s        *mirror.Store
	platform string
}

// Has implements plan.Cache.
func (c cacheView) Has(ctx context.Context, name, digest string) (bool, error) {
	e, err := c.s.Stat(ctx, name)
	if err != nil {
		return false, nil //nolint:nilerr // a reference that cannot be read is loaded again
	}
	return e.Digest == digest && e.Usable(c.platform), nil
}

// Apply makes the node what the configuration says.
func (a *App) Apply(ctx context.Context, o ApplyOptions) (apply.Report, error) {
	o.lookUp = true
	confirmed := o.Confirm == nil
	build := func(ctx context.Context) (plan.Plan, error) {
		a.openRun() // under the lock
		d, err := a.Desired(ctx, o.Verify)
		if err != nil {
			return plan.Plan{}, err
		}
		p, err := a.build(ctx, d, o)
		if err != nil || confirmed {
			return p, err
		}
		if err := p.Refusals(risks(o.Allow, d.Site.Apply.Allow)); err != nil {
			return p, err
		}
		confirmed = true
		return p, o.Confirm(p)
	}
	var allowed []string
	if site, err := a.Site(); err == nil {
		allowed = site.Apply.Allow
	}
	return a.engine(risks(o.Allow, allowed), o.WaitLock).Run(ctx, build)
}

func risks(lists ...[]string) []plan.Risk {
	var out []plan.Risk
	for _, l := range lists {
		for _, r := range l {
			out = append(out, plan.Risk(r))
		}
	}
	return out
}

func (a *App) engine(allow []plan.Risk, wait time.Duration) *apply.Engine {
	return &apply.Engine{Host: a.host, Sink: a.runSink(), Allow: allow, Wait: wait, Open: a.openArchive, Load: a.load, Make: a.makeImage}
}

func (a *App) openArchive(ctx context.Context, file string) (host.ImageSource, error) {
	return preload.Open(ctx, a.reader.FS(), file)
}

// load brings images into the mirror's cache.
func (a *App) load(ctx context.Context, root string, src host.ImageSource, progress func(done, total int64)) error {
	dir, err := a.host.RealPath(root)
	if err != nil {
		return err
	}
	s, err := mirror.Open(dir, mirror.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Load(ctx, src, mirror.LoadOptions{Progress: func(p mirror.Progress) { progress(p.Done, p.Total) }})
	return err
}

// RollbackOptions say what to put back.
type RollbackOptions struct {
	Run      string // empty: all runs
	Allow    []string
	WaitLock time.Duration
	Confirm  func(plan.Plan) error
}

// RollbackPlan says what Rollback would put back.
func (a *App) RollbackPlan(ctx context.Context, o RollbackOptions) (plan.Plan, error) {
	return apply.RollbackPlan(ctx, a.reader, o.Run, risks(o.Allow))
}

// Rollback puts back what runs changed.
func (a *App) Rollback(ctx context.Context, o RollbackOptions) (apply.Report, error) {
	if o.Confirm != nil {
		p, err := a.RollbackPlan(ctx, o)
		if err != nil {
			return apply.Report{}, err
		}
		if err := o.Confirm(p); err != nil {
			return apply.Report{}, err
		}
	}
	return a.engine(risks(o.Allow), o.WaitLock).Rollback(ctx, o.Run)
}

// Runs are the ids of the runs that changed this node, newest first.
func (a *App) Runs(context.Context) []string {
	l, err := plan.ReadLedger(a.reader.FS())
	if err != nil {
		return nil
	}
	var out []string
	for _, r := range slices.Backward(l.Runs) {
		out = append(out, r.ID)
	}
	return out
}

func sum(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("hash the own program: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
	}
}

// WriteNew writes a text file that must not exist yet.
func (a *App) WriteNew(file, text string) error {
	abs, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return writeNew(abs, text)
}
