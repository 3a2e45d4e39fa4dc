package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/registries"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Desired is everything that is known before a plan is made: the configuration, the node, what is in the
// archives, and the resources that follow from them.
type Desired struct {
	Site      config.Site
	Self      config.Node
	Node      distro.Node
	Platform  string
	Paths     []string // of the archives, patterns resolved
	Archives  []preload.Archive
	Required  []preload.Ref
	Endpoints []string
	Resources []resource.Resource
	Pending   []plan.Pending
	Notes     []string
	Sources   map[string]plan.Source
	Ledger    plan.Ledger
	// MirrorImage is the reference of the mirror's own image, where it runs in Kubernetes.
	MirrorImage string
}

// reading says how Desired reads.
type reading struct {
	verify bool // read archives that did not change again
	// lenient goes on where something stands in the way of apply: the checklist reports it.
	lenient bool
}

// Desired reads the configuration and the node and says what should be there. With verify archives that did
// not change are read again.
func (a *App) Desired(ctx context.Context, verify bool) (Desired, error) {
	return a.desired(ctx, reading{verify: verify})
}

func (a *App) desired(ctx context.Context, how reading) (Desired, error) {
	var d Desired
	var err error
	if d.Site, err = a.Site(); err != nil {
		return d, err
	}
	if err := built(d.Site); err != nil {
		return d, err
	}
	if d.Node, err = a.detect(ctx, d.Site.Distro); err != nil {
		return d, err
	}
	facts, err := a.reader.Facts(ctx)
	if err != nil {
		return d, fmt.Errorf("identify the node: %w", err)
	}
	if d.Self, err = d.Site.Self(a.opts.Node, facts); err != nil {
		return d, err
	}
	if d.Ledger, err = plan.ReadLedger(a.reader.FS()); err != nil {
		return d, err
	}
	d.Platform = firstOf(d.Site.Images.Platform, d.Node.Platform)
	d.Node.Platform = d.Platform
	if err := addressed(&d, facts); err != nil && !how.lenient {
		return d, err
	}
	if err := a.images(ctx, &d, how); err != nil {
		return d, err
	}
	if err := a.resources(ctx, &d, how); err != nil && !how.lenient {
		return d, err
	}
	return d, a.installedBoot(ctx, &d)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// built refuses what this version of edgeprep does not do yet, before anything is touched.
func built(s config.Site) error {
	var found diag.Report
	add := func(key, what, fix string) {
		found.Add(&diag.Diagnostic{ID: "CFG-030", Severity: diag.Error, What: what + " is not in this version of edgeprep",
			Where: diag.Where{Key: key}, Why: "it would be left out without a word", Fix: fix})
	}
	if s.Replication.Engine != "none" {
		add("replication.engine", "replication", `engine = "none", and copy the cache folder: it is plain files`)
	}
	if s.Images.Bundle != "" {
		add("images.bundle", "a bundle", "name its archives in [images] archives")
	}
	if len(found) == 0 {
		return nil
	}
	return &diag.Refused{Err: found}
}

// resources composes what preload, mirror and registries want, in the order of rule 4: images, then the
// mirror, proven, then what makes the node depend on it.
func (a *App) resources(ctx context.Context, d *Desired, how reading) error {
	o := preload.Options{AllowMissing: how.lenient, Preload: d.Site.Images.Preload, Consume: d.Site.Images.Consume, Platform: d.Platform, FS: a.reader.FS()}
	mirrored := d.Site.HasMirror(d.Self)
	var self own
	if mirrored && cachesHere(d.Site) {
		o.MirrorCache, o.MirrorOwner, o.MirrorAfter = d.Site.Mirror.Cache, cacheOwner(d.Site), deploy.CacheOwner(d.Site.Mirror.Cache)
		var done func()
		o.Cached, done = a.inCache(ctx, d)
		defer done()
	}
	if runsHere(d.Site, d.Self) {
		var err error
		if self, err = a.ownImage(ctx, d, how); err != nil {
			return err
		}
		o.Own, o.OwnAfter = []preload.Archive{self.archive}, ids(self.stage)
		d.take(self.stage, nil)
	}
	d.Endpoints = d.Site.Endpoints(d.Self, peersAllowed(d.Site, d.Node))
	images, err := preload.Desired(d.Node, d.Archives, d.Required, o)
	if err != nil && !how.lenient {
		return refusedUnless(err)
	}
	d.take(images.Resources, nil)
	for _, n := range images.Notes {
		d.Notes = append(d.Notes, n.Text)
	}
	for _, n := range images.Pending {
		d.Pending = append(d.Pending, plan.Pending{ID: "images", What: n.Text, Why: firstOf(n.Fix, n.Where.String())})
	}
	before := ids(d.Resources)
	switch {
	case runsHere(d.Site, d.Self):
		var held bool
		if before, held, err = a.workload(ctx, d, self, how); err != nil || held {
			return err
		}
	case mirrored:
		service, err := a.service(ctx, d, how.verify)
		if err != nil {
			return err
		}
		d.take(service.Resources(d.Node, cacheSets(d.Resources)), nil)
		before = append(before, deploy.GateID())
	}
	if !d.Site.Registries.Write {
		return nil
	}
	return a.registries(ctx, d, before)
}

func refusedUnless(err error) error {
	if len(diag.Of(err)) > 0 {
		return &diag.Refused{Err: err}
	}
	return err
}

func (a *App) registries(ctx context.Context, d *Desired, before []string) error {
	policy := registries.Policy{Hosts: registryHosts(*d), Former: a.formerEndpoints(d), Upstream: d.Site.Mirror.Upstream != config.UpstreamNever}
	for _, e := range d.Endpoints {
		policy.Endpoints = append(policy.Endpoints, registries.Endpoint{URL: e, CA: caFor(e, d.Site.Mirror.TLS.CA),
			ClientCert: d.Site.Registries.ClientCert, ClientKey: d.Site.Registries.ClientKey})
	}
	r, err := registries.Desired(ctx, a.reader, d.Node, policy)
	if err != nil {
		return refusedUnless(err)
	}
	d.take(r.Resources, before)
	for _, n := range r.Notes {
		d.Notes = append(d.Notes, n.Text)
	}
	for _, n := range r.Pending {
		d.Pending = append(d.Pending, plan.Pending{ID: d.Node.Registries.Format, What: n.Text, Why: firstOf(n.Fix, n.Where.String())})
	}
	if u := d.Node.Runtime.Unit; u != "" && slices.Contains(ids(d.Resources), resource.ID(resource.KindUnit, u)) {
		d.take([]resource.Resource{criGate(d.Node)}, nil)
	}
	return nil
}

// endpointsKey is the ledger's name for the endpoints that were written last; no path begins like it.
const endpointsKey = "endpoints:"

// formerEndpoints are the mirrors that the run before wrote; those of this one are remembered for the next.
func (a *App) formerEndpoints(d *Desired) []registries.Endpoint {
	var urls []string
	if s, ok := d.Ledger.Sources[endpointsKey]; ok {
		_ = json.Unmarshal(s.Data, &urls) // an unreadable list is as good as none
	}
	if data, err := json.Marshal(d.Endpoints); err == nil && d.Sources != nil {
		d.Sources[endpointsKey] = plan.Source{Data: data}
	}
	theirs := a.beforeEdgeprep(d)
	var out []registries.Endpoint
	for _, u := range urls {
		if !bytes.Contains(theirs, []byte(u)) {
			out = append(out, registries.Endpoint{URL: u})
		}
	}
	return out
}

// beforeEdgeprep is the registries file as it was before edgeprep first touched it: what it names is its
// owner's, also when edgeprep wrote the same.
func (a *App) beforeEdgeprep(d *Desired) []byte {
	for _, r := range d.Ledger.Records {
		if r.Path == d.Node.Registries.File && r.Previous != nil && r.Previous.SHA256 != "" {
			data, _ := a.reader.FS().ReadFile(path.Join(plan.BackupDir, r.Previous.SHA256), 0) // gone: nothing to spare
			return data
		}
	}
	return nil
}

func caFor(url, ca string) string {
	if strings.HasPrefix(url, "https://") {
		return ca
	}
	return ""
}

// criGate: a config.toml that containerd starts with may still have cost it its CRI plugin, and the unit
// looks healthy then.
func criGate(n distro.Node) resource.Resource {
	return resource.Resource{ID: resource.ID(resource.KindGate, "cri"), Kind: resource.KindGate,
		After: []string{resource.ID(resource.KindUnit, n.Runtime.Unit)}, Why: "containerd must still answer CRI",
		Gate: &resource.Gate{CRI: &resource.CRIGate{Endpoint: n.Runtime.Endpoint}, Within: criWithin}}
}

// take adds resources; what comes twice is united. before is what each of them comes after, but for what is among
// them again: a unit that restarts for images and for these comes after both.
func (d *Desired) take(rs []resource.Resource, before []string) {
	again := ids(rs)
	for _, r := range rs {
		for _, b := range before {
			if !slices.Contains(again, b) && !slices.Contains(r.After, b) && r.Kind != resource.KindDir {
				r.After = append(r.After, b)
			}
		}
		i := slices.IndexFunc(d.Resources, func(x resource.Resource) bool { return x.ID == r.ID })
		if i < 0 {
			d.Resources = append(d.Resources, r)
			continue
		}
		d.Resources[i] = unite(d.Resources[i], r)
	}
}

func unite(a, b resource.Resource) resource.Resource {
	a.After = union(a.After, b.After)
	if a.Unit != nil && b.Unit != nil {
		u := *a.Unit
		u.RestartOn = union(u.RestartOn, b.Unit.RestartOn)
		a.Unit = &u
	}
	return a
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func ids(rs []resource.Resource) []string {
	var out []string
	for _, r := range rs {
		out = append(out, r.ID)
	}
	return out
}

func cacheSets(rs []resource.Resource) []string {
	var out []string
	for _, r := range rs {
		if r.ImageSet != nil && r.ImageSet.Target == resource.TargetCache {
			out = append(out, r.ID)
		}
	}
	return out
}

// registryHosts are the registries of every reference that this node may pull, each once, sorted.
func registryHosts(d Desired) []string {
	hosts := slices.Clone(d.Site.Registries.Hosts)
	hosts = slices.DeleteFunc(hosts, func(h string) bool { return h == "*" })
	for _, r := range d.Required {
		hosts = append(hosts, r.Host)
	}
	for _, n := range names(d.Archives) {
		if r, err := preload.ParseReference(n); err == nil {
			hosts = append(hosts, r.Host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func names(archives []preload.Archive) []string {
	var out []string
	for _, a := range archives {
		out = append(out, a.Names()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
