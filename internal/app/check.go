package app

import (
	"context"
	"os"
	"path/filepath"

	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// CheckOptions say which checks to run and how.
type CheckOptions struct {
	IDs     []string
	Profile check.Profile // empty: [checklist] profile
	Deep    bool
	Strict  bool
	Waivers []config.Waiver // besides those of the site file
	Person  string          // who runs it, for the record
	// Against is an earlier record of the node, read from AgainstName; nil: none.
	Against     *check.Report
	AgainstName string

	mirror string // a mirror that answers although the node does not run; empty: none
}

// Check runs the checklist. It changes nothing.
func (a *App) Check(ctx context.Context, o CheckOptions) (check.Report, error) {
	d, err := a.desired(ctx, reading{lenient: true})
	if err != nil {
		return check.Report{}, err
	}
	if o.Profile == "" {
		o.Profile = check.Profile(d.Site.Checklist.Profile)
	}
	r, err := check.Run(ctx, a.checkEnv(d, o), check.Options{IDs: o.IDs, Profile: o.Profile, Deep: o.Deep, Strict: o.Strict,
		Waivers: o.Waivers, Sink: a.sink()})
	r.Person = o.Person
	a.record(ctx, d, &r)
	if o.Against != nil {
		r.Against, r.Drift = o.AgainstName, check.Compare(*o.Against, r)
	}
	return r, err
}

// ColdStart lays out what waits for what when this node is switched on. It changes nothing.
func (a *App) ColdStart(ctx context.Context) (*coldstart.Graph, error) {
	d, err := a.desired(ctx, reading{lenient: true})
	if err != nil {
		return nil, err
	}
	return check.ColdStart(ctx, a.checkEnv(d, CheckOptions{}))
}

func (a *App) checkEnv(d Desired, o CheckOptions) check.Env {
	env := check.Env{Reader: a.reader, Node: d.Node, Site: d.Site, Platform: d.Platform, Required: required(d),
		Resources: d.Resources, Recorded: recorded(d), MirrorImage: d.MirrorImage, MirrorsRun: o.mirror != "", Environ: os.Environ()}
	if !o.Deep {
		env.Known = ledgerKnown{d.Ledger}
	}
	env.Archives = d.Paths
	for _, e := range d.Endpoints {
		m := check.Mirror{URL: e, CA: d.Site.Mirror.TLS.CA, ClientCert: d.Site.Registries.ClientCert, ClientKey: d.Site.Registries.ClientKey}
		if own := d.Site.HasMirror(d.Self) && cachesHere(d.Site) && e == ownURL(d.Site, d.Self); own {
			m.Admin = adminPath(d.Site)
			env.Cache = filepath.Join(absolute(a.opts.Root), d.Site.Mirror.Cache)
		}
		env.Mirrors = append(env.Mirrors, m)
	}
	return env
}

// absolute is a root directory as it is seen from elsewhere too: --root may be relative.
func absolute(root string) string {
	if abs, err := filepath.Abs(root); root != "" && err == nil {
		return abs
	}
	return "/"
}

func ownURL(s config.Site, self config.Node) string {
	scheme := "http://"
	if s.Mirror.TLS.Cert != "" {
		scheme = "https://"
	}
	return scheme + s.Listen(self)
}

// required is the list of the site; a site without one means every image that it ships.
func required(d Desired) []preload.Ref {
	if len(d.Required) > 0 {
		return d.Required
	}
	var out []preload.Ref
	for _, n := range names(d.Archives) {
		if r, err := preload.ParseReference(n); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// recorded gives the digests of what was placed, for files that are as the run left them.
func recorded(d Desired) func(string, host.FileInfo) (string, bool) {
	placed := map[string]plan.State{}
	for _, r := range d.Ledger.Records {
		placed[r.Path] = r.State
	}
	known := ledgerKnown{d.Ledger}
	return func(p string, fi host.FileInfo) (string, bool) {
		if s, ok := placed[p]; ok && s.Stamp != nil && *s.Stamp == plan.StampOf(fi) {
			return s.SHA256, true
		}
		x, ok := known.Known(p, fi)
		return x.SHA256, ok
	}
}
