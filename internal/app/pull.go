package app

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// Pull is what brings required references that no archive has into the mirror's cache on this node, before there
// is a mirror.
type Pull struct {
	Cache string   // the cache, as a path of this machine; empty: this node has none
	Args  []string // of edgeprep: the command that does the same, but for the references
	List  string   // the required list, as a path of this machine
	No    error    // why it cannot be done here; nil: it can
}

// PullMissing brings references completely into the mirror's cache on this node, and writes nothing else. What came
// in is kept when it is stopped.
func (a *App) PullMissing(ctx context.Context, refs []string) (mirror.FillReport, error) {
	site, err := a.Site()
	if err != nil {
		return mirror.FillReport{}, err
	}
	platform, _ := a.aim(ctx, site)
	p := a.pull(ctx, site, platform)
	if p.No != nil {
		return mirror.FillReport{}, &diag.Refused{Err: p.No}
	}
	r := FillRequest{Cache: p.Cache, References: refs, Platforms: []string{platform}}
	if r.Upstreams, err = upstreams(site, os.Getenv("CREDENTIALS_DIRECTORY")); err != nil {
		return mirror.FillReport{}, err
	}
	return FillCache(ctx, r, progress.NewStream("", "", nil, a.opts.Sinks...))
}

// pull says how missing references may be brought in, or why not.
func (a *App) pull(ctx context.Context, site config.Site, platform string) Pull {
	cache, err := a.cacheHere(ctx, site)
	if err != nil {
		return Pull{No: err}
	}
	p := Pull{Cache: cache}
	file, err := a.configPath()
	if err != nil {
		p.No = err
		return p
	}
	if site.Images.Required != "" {
		if p.List, err = a.pathHere(site.Images.Required); err != nil {
			p.No = err
			return p
		}
	}
	p.Args = []string{"mirror", "fill", "-c", file, "--cache", cache, "--platform", platform}
	if p.No = mayWrite(cache); site.Mirror.Upstream == config.UpstreamNever {
		p.No = &diag.Diagnostic{ID: "MER-095", Severity: diag.Error, What: "this site's mirror asks no registry", Where: diag.Where{File: a.ConfigName(), Key: "mirror.upstream"},
			Why: `upstream = "never" in the plan: nothing is pulled over a network`,
			Fix: `set it to "connected" (step 4) while there is a network, pull, and set it back`}
	}
	return p
}

// cacheHere is the cache of this node's mirror as a path of this machine.
func (a *App) cacheHere(ctx context.Context, site config.Site) (string, error) {
	facts, err := a.reader.Facts(ctx)
	if err != nil {
		return "", err
	}
	self, err := site.Self(a.opts.Node, facts)
	if err != nil {
		return "", err
	}
	if site.HasMirror(self) && cachesHere(site) {
		return a.pathHere(site.Mirror.Cache)
	}
	why, key := `mode = "none": the mirrors are others'`, "mirror.mode"
	switch {
	case inKubernetes(site) && !cachesHere(site):
		why, key = "a deployment keeps its cache in a volume of the cluster", "mirror.workload.form"
	case site.Mirror.Mode != string(config.ModeNone):
		why, key = "another node has it", "node.mirror"
	}
	return "", &diag.Diagnostic{ID: "MER-094", Severity: diag.Error, What: "this node has no mirror cache to pull into", Where: diag.Where{File: a.ConfigName(), Key: key},
		Why: why, Fix: "bring an archive: on a machine with a network, edgeprep mirror fill --cache DIR and edgeprep mirror export --cache DIR --out images.tar"}
}

// pathHere is a path of the node as one of this machine, also where it, or directories above it, are missing still.
func (a *App) pathHere(name string) (string, error) {
	below := ""
	for {
		at, err := a.host.RealPath(name)
		if !errors.Is(err, fs.ErrNotExist) || name == "/" {
			return filepath.Join(at, below), err
		}
		below, name = filepath.Join(filepath.Base(name), below), filepath.Dir(name)
	}
}

// mayWrite says why this user cannot write a cache, which may be missing still.
func mayWrite(cache string) error {
	me := os.Geteuid()
	if me == 0 {
		return nil
	}
	at := cache
	fi, err := os.Stat(at)
	for ; errors.Is(err, fs.ErrNotExist) && at != "/"; fi, err = os.Stat(at) {
		at = filepath.Dir(at)
	}
	if err == nil {
		err = unix.Access(at, unix.W_OK)
	}
	if st, ok := sysOf(fi); err == nil && at == cache && ok && int(st.Uid) != me { // the cache is written by root and its owner only
		err = fs.ErrPermission
	}
	if err == nil {
		return nil
	}
	return &diag.Diagnostic{ID: "MER-096", Severity: diag.Error, What: "this user may not write the mirror's cache: " + cause(err), Where: diag.Where{File: cache},
		Why: "only root and the cache's owner may", Fix: "leave, and begin again as root: sudo edgeprep"}
}

func sysOf(fi fs.FileInfo) (*syscall.Stat_t, bool) {
	if fi == nil {
		return nil, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return st, ok
}

// cached tells which references a cache has whole for a platform. One that cannot be read has none.
func cached(ctx context.Context, cache, platform string) (has func(ref string) bool, done func()) {
	s, err := mirror.Open(cache, mirror.Options{ReadOnly: true})
	if err != nil {
		return func(string) bool { return false }, func() {}
	}
	return func(ref string) bool {
		ok, err := s.Has(ctx, ref, platform)
		return ok && err == nil
	}, func() { _ = s.Close() } // read only: nothing to lose
}

// inCache says of required references whether this node's mirror has them already.
func (a *App) inCache(ctx context.Context, d *Desired) (has func(preload.Ref) bool, done func()) {
	cache, err := a.pathHere(d.Site.Mirror.Cache)
	if err != nil {
		return nil, func() {}
	}
	name, done := cached(ctx, cache, d.Platform)
	return func(r preload.Ref) bool { return name(r.Name) }, done
}
