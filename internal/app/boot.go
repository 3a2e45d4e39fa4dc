package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// UnitOptions say how the boot units are installed or removed.
type UnitOptions struct {
	For      []string // descriptors of distributions that wait for apply; empty: what [distro] kind or the node says
	Degraded bool     // the distribution starts also when apply failed
	Start    bool     // queue the unit now, for a node that boots
	Allow    []string
	WaitLock time.Duration
	Confirm  func(plan.Plan) error
}

// bootKey is the ledger's name for how the boot units were installed; no path begins like it.
const bootKey = "boot:"

// bootChoice is what apply has to know to keep the boot units as they were installed.
type bootChoice struct {
	Units    []string `json:"units,omitempty"` // named by --for, also of a distribution that is not installed yet
	Runtime  string   `json:"runtime,omitempty"`
	Degraded bool     `json:"degraded,omitempty"`
}

// UnitInstall puts the units on the node that prepare it at every start.
func (a *App) UnitInstall(ctx context.Context, o UnitOptions) (apply.Report, error) {
	choice, err := a.bootChoice(ctx, o)
	if err != nil {
		return apply.Report{}, err
	}
	r, err := a.runUnits(ctx, o, "unit install", func(ctx context.Context, l plan.Ledger) ([]resource.Resource, map[string]plan.Source, error) {
		data, err := json.Marshal(choice)
		if err != nil {
			return nil, nil, fmt.Errorf("remember how the units were installed: %w", err)
		}
		d := Desired{Ledger: l, Sources: maps.Clone(l.Sources)}
		d.Sources[bootKey] = plan.Source{Data: data}
		b, err := a.boot(ctx, &d, choice)
		return b.Resources(), d.Sources, err
	})
	if err != nil || !o.Start || !live(a.opts.Root) {
		return r, err
	}
	return r, apply.QueueStart(ctx, a.host, deploy.ApplyUnit)
}

// UnitRemove takes them away again; what apply prepared stays.
func (a *App) UnitRemove(ctx context.Context, o UnitOptions) (apply.Report, error) {
	o.Allow = append(slices.Clone(o.Allow), string(plan.RiskRemove)) // of what edgeprep itself put there; it was asked for
	return a.runUnits(ctx, o, "unit remove", func(_ context.Context, l plan.Ledger) ([]resource.Resource, map[string]plan.Source, error) {
		sources := maps.Clone(l.Sources)
		delete(sources, bootKey)
		return nil, sources, nil
	})
}

type unitWish func(context.Context, plan.Ledger) ([]resource.Resource, map[string]plan.Source, error)

// runUnits carries out a plan that is about the boot units alone.
func (a *App) runUnits(ctx context.Context, o UnitOptions, verb string, wish unitWish) (apply.Report, error) {
	confirmed := o.Confirm == nil
	build := func(ctx context.Context) (plan.Plan, error) {
		l, err := plan.ReadLedger(a.reader.FS())
		if err != nil {
			return plan.Plan{}, err
		}
		rs, sources, err := wish(ctx, l)
		if err != nil {
			return plan.Plan{}, err
		}
		p, err := plan.Build(ctx, a.reader, rs, l, plan.Options{Sources: sources, Orphans: bootOrphans(l), Verb: verb})
		if err != nil || confirmed {
			return p, err
		}
		if err := p.Refusals(risks(o.Allow)); err != nil {
			return p, err
		}
		confirmed = true
		return p, o.Confirm(p)
	}
	return a.engine(risks(o.Allow), o.WaitLock).Run(ctx, build)
}

// bootOrphans are the records that a plan about the boot units may remove: theirs, the drop-in directories in
// which nothing else of edgeprep is, and the program unless the mirror runs it.
func bootOrphans(l plan.Ledger) func(string) bool {
	_, mirror := l.Records[resource.ID(resource.KindUnit, deploy.UnitName)]
	return func(id string) bool {
		if deploy.BootOwns(id) {
			return true
		}
		if id == deploy.ProgramID() {
			return !mirror
		}
		rec := l.Records[id]
		return rec.Kind == resource.KindDir && strings.HasSuffix(rec.Path, ".service.d") && !othersWithin(l, rec.Path)
	}
}

func othersWithin(l plan.Ledger, dir string) bool {
	for id, rec := range l.Records {
		if path.Dir(rec.Path) == dir && !deploy.BootOwns(id) {
			return true
		}
	}
	return false
}

// bootChoice finds the units that wait: those of the named distributions, else of the one that the site names
// or the node has.
func (a *App) bootChoice(ctx context.Context, o UnitOptions) (bootChoice, error) {
	c := bootChoice{Degraded: o.Degraded}
	set, err := a.Descriptors()
	if err != nil {
		return c, err
	}
	if len(o.For) > 0 {
		for _, id := range o.For {
			if err := c.named(set, id); err != nil {
				return c, err
			}
		}
		return c, nil
	}
	var site config.Site
	if a.Configured() {
		if site, err = a.Site(); err != nil {
			return c, err
		}
	}
	_, err = a.detect(ctx, site.Distro)
	var refused *diag.Refused
	switch {
	case err == nil:
		return c, nil
	case !errors.As(err, &refused) || !absentDistro(err):
		return c, err
	case site.Distro.Kind != "" && site.Distro.Kind != distro.KindAuto:
		return c, c.named(set, site.Distro.Kind)
	}
	return c, &diag.Refused{Err: &diag.Diagnostic{ID: "APL-030", Severity: diag.Error,
		What: "no distribution is installed yet, and none is named",
		Why:  "the units of the distribution must wait for edgeprep, so their names must be known",
		Fix:  "edgeprep unit install --for " + strings.Join(set.IDs(), "   # or: --for ")}}
}

// absentDistro says whether detection found nothing, as opposed to too much.
func absentDistro(err error) bool {
	return slices.ContainsFunc(diag.Of(err), func(d *diag.Diagnostic) bool { return d.ID == "NOD-002" || d.ID == "NOD-010" })
}

// named adds the units of a descriptor. Units of user-given names are found by apply once they are there.
func (c *bootChoice) named(set distro.Descriptors, id string) error {
	d, ok := set.Get(id)
	if !ok {
		return &diag.Refused{Err: &diag.Diagnostic{ID: "APL-031", Severity: diag.Error, What: fmt.Sprintf("no descriptor is called %q", id),
			Where: diag.Where{Key: "--for"}, Fix: "use one of: " + strings.Join(set.IDs(), ", ")}}
	}
	for _, u := range d.Detect.Units {
		if !strings.ContainsAny(u.Name, "*?[") && !slices.Contains(c.Units, u.Name) {
			c.Units = append(c.Units, u.Name)
		}
	}
	c.Runtime = firstOf(d.Runtime.Unit, c.Runtime)
	return nil
}

// boot are the boot units for a choice and what is installed now.
func (a *App) boot(ctx context.Context, d *Desired, c bootChoice) (deploy.Boot, error) {
	n := d.Node
	if n.ID == "" {
		var site config.Site
		if s, err := a.Site(); err == nil {
			site = s
		}
		if found, err := a.detect(ctx, site.Distro); err == nil {
			n = found
		}
	}
	bin, err := a.program(ctx, d, false)
	return deploy.Boot{Units: union(c.Units, n.Units), Runtime: firstOf(n.Runtime.Unit, c.Runtime), Degraded: c.Degraded, Binary: bin}, err
}

// installedBoot adds the boot units to what apply wants, where they are installed: they follow what is detected
// and which edgeprep runs.
func (a *App) installedBoot(ctx context.Context, d *Desired) error {
	if rec, ok := d.Ledger.Records[deploy.BootInstalled()]; !ok || rec.Found {
		return nil
	}
	s, ok := d.Ledger.Sources[bootKey]
	var c bootChoice
	if ok && json.Unmarshal(s.Data, &c) == nil && d.Sources != nil {
		d.Sources[bootKey] = s
	}
	b, err := a.boot(ctx, d, c)
	if err != nil {
		return err
	}
	d.take(b.Resources(), nil)
	return nil
}
