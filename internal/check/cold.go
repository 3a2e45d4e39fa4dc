package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/manifest"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// PendingManifests holds manifests that wait for somebody to hand them to the API.
const PendingManifests = deploy.StateDir + "/manifests"

// Bounds of what is read of manifests that are not edgeprep's.
const (
	maxManifestFile  = 4 << 20
	maxManifestFiles = 2000
	maxManifestBytes = 64 << 20
	maxManifestDepth = 4
)

// coldStart is the proof on paper, and what could not be read for it.
type coldStart struct {
	graph *coldstart.Graph
	units []coldUnit
	bad   []Finding
}

// coldUnit is one unit of the distribution and whether it comes after the mirror's.
type coldUnit struct {
	coldstart.Unit
	after  bool
	source string
}

// ColdStart lays out what waits for what at power-on.
func ColdStart(ctx context.Context, env Env) (*coldstart.Graph, error) {
	e, err := env.prepared(ctx, Options{}.filled())
	if err != nil {
		return nil, err
	}
	return e.memo.cold().graph, nil
}

func (e *Env) coldStart(ctx context.Context) coldStart {
	var c coldStart
	cached, done := e.cached(ctx)
	defer done()
	in := coldstart.Input{Brings: e.Node.Workload.Brings, Bootstrap: fullNames(e.Site.Mirror.Workload.Bootstrap), Mirror: e.coldMirror(ctx),
		HasAPI: e.Node.Role == distro.RoleServer, Image: e.holding(cached)}
	if e.Node.Sandbox != "" {
		in.Sandbox = fullName(e.Node.Sandbox)
	}
	for _, name := range e.startUnits() {
		u := e.coldUnit(ctx, name)
		c.units = append(c.units, u)
		in.Units = append(in.Units, u.Unit)
	}
	m := e.memo.manifests()
	in.Objects, c.bad = m.cold, slices.Clone(m.bad)
	for _, r := range e.Required {
		in.Required = append(in.Required, r.Name)
	}
	c.graph = coldstart.Build(in)
	return c
}

// startUnits are the runtime's unit, where it has one, and the distribution's, in start order.
func (e *Env) startUnits() []string {
	var out []string
	if u := e.Node.Runtime.Unit; u != "" {
		out = append(out, u)
	}
	for _, u := range e.Node.Units {
		if !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}

func (e *Env) coldMirror(ctx context.Context) coldstart.Mirror {
	own := slices.ContainsFunc(e.Mirrors, func(m Mirror) bool { return m.Admin != "" })
	workload := e.Site.Mirror.Mode == string(config.ModeWorkload)
	switch {
	case len(e.Mirrors) == 0:
		return coldstart.Mirror{None: true}
	case workload && e.MirrorImage != "":
		return coldstart.Mirror{Image: fullName(e.MirrorImage), NodePort: e.Site.Mirror.Workload.Form == "deployment"}
	case workload || !own:
		return coldstart.Mirror{Elsewhere: "it runs on another node, where this has to be proven too"}
	}
	u := e.coldUnit(ctx, deploy.UnitName)
	return coldstart.Mirror{Unit: &u.Unit}
}

// coldUnit looks whether a unit starts at boot, and whether it comes after the mirror's.
func (e *Env) coldUnit(ctx context.Context, name string) coldUnit {
	out := coldUnit{Unit: coldstart.Unit{Name: name}}
	u, err := e.Reader.Units().Unit(ctx, name)
	switch {
	case err != nil:
		out.Unknown = "its state cannot be read: " + err.Error()
	case !u.Exists():
		out.Problem = "there is no such unit"
	case u.Enabled == "masked" || u.Load == "masked":
		out.Problem = "it is masked"
	case !u.IsEnabled() && u.Enabled != "static" && u.Enabled != "indirect" && u.Enabled != "generated" && u.Enabled != "alias":
		out.Problem = "it is not enabled"
	}
	for _, f := range append([]string{u.Fragment}, u.DropIns...) {
		if f != "" && orderedAfter(e.Reader.FS(), f, deploy.UnitName) {
			out.after, out.source = true, f
		}
	}
	return out
}

// orderedAfter says whether a unit file or drop-in has After= with a unit.
func orderedAfter(f host.FS, file, unit string) bool {
	data, err := f.ReadFile(file, 1<<20)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(key) == "After" && slices.Contains(strings.Fields(value), unit) {
			return true
		}
	}
	return false
}

// parsedManifests is what the manifests on this disk say.
type parsedManifests struct {
	cold    []coldstart.Object
	objects []manifest.Object
	static  map[string]bool // files that kubelet reads by itself
	bad     []Finding
}

// manifests reads every static pod and every manifest that the distribution applies by itself. A file that
// cannot be understood is a finding, not an end: others are read all the same.
func (e *Env) manifests() parsedManifests {
	out := parsedManifests{static: map[string]bool{}}
	budget := int64(maxManifestBytes)
	for _, dir := range []struct {
		path   string
		static bool
	}{{e.Node.Workload.StaticPods, true}, {e.Node.Workload.Manifests, false}, {PendingManifests, false}} {
		if dir.path == "" {
			continue
		}
		files, err := manifestFiles(e.Reader.FS(), dir.path, dir.static)
		if err != nil {
			out.bad = append(out.bad, couldNotRun(dir.path, err))
		}
		for _, f := range files {
			if budget <= 0 {
				out.bad = append(out.bad, unproven(f, "not read: there are more than "+bytesText(maxManifestBytes)+" of manifests"))
				break
			}
			n, err := out.add(e.Reader.FS(), f, dir.static)
			budget -= n
			if err != nil {
				out.bad = append(out.bad, unproven(f, err.Error()))
			}
		}
	}
	return out
}

// add reads one file; n is its size.
func (p *parsedManifests) add(f host.FS, file string, static bool) (n int64, err error) {
	data, err := f.ReadFile(file, maxManifestFile)
	if err != nil {
		return 0, err
	}
	p.static[file] = static
	objects, err := coldstart.ParseManifest(file, data, static)
	for _, o := range objects {
		if o.Pod == nil {
			continue
		}
		for i, c := range o.Pod.Containers {
			o.Pod.Containers[i].Image = fullName(c.Image)
		}
	}
	p.cold = append(p.cold, objects...)
	named, nameErr := manifest.Parse(file, data)
	p.objects = append(p.objects, named...)
	if err == nil {
		err = nameErr
	}
	return int64(len(data)), err
}

// manifestFiles lists the files of a directory as their readers do: kubelet takes every file that is not
// hidden (kubernetes: pkg/kubelet/config/file.go), k3s and RKE2 go through directories too and leave out what
// has a FILE.skip beside it (k3s: pkg/deploy/controller.go).
func manifestFiles(f host.FS, dir string, static bool) ([]string, error) {
	var out []string
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		entries, err := f.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, x := range entries {
			base := path.Base(x.Path)
			switch {
			case strings.HasPrefix(base, ".") || len(out) >= maxManifestFiles:
			case x.Type == host.TypeDir && !static && depth < maxManifestDepth:
				if err := walk(x.Path, depth+1); err != nil {
					return err
				}
			case x.Type == host.TypeFile && (static || isManifest(base) && !slices.ContainsFunc(entries, func(y host.FileInfo) bool { return y.Path == x.Path+".skip" })):
				out = append(out, x.Path)
			}
		}
		return nil
	}
	err := walk(dir, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return out, err
}

func isManifest(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(name)))
}

// holding says who has an image at power-on.
func (e *Env) holding(cached func(string) (bool, string)) func(string) coldstart.Holding {
	placed := e.placedArchives()
	return func(ref string) coldstart.Holding {
		r, err := preload.ParseReference(ref)
		if err != nil {
			return coldstart.Holding{Unknown: err.Error()}
		}
		var h coldstart.Holding
		if a, ok := placed[r.Name]; ok {
			h.Node = "in " + a + ", which is imported at start"
		}
		switch _, err := e.memo.images(); {
		case err == nil:
			if _, ok := e.record(r); ok {
				h.Node = inContainerd
			}
		case h.Node == "":
			h.Unknown = "containerd does not run, so what it has is not known"
		}
		ok, unknown := cached(r.Name)
		h.Mirror = ok
		if !ok {
			h.Asked = unknown
		}
		return h
	}
}

// placedArchives are the images of archives that the distribution imports by itself, by name.
func (e *Env) placedArchives() map[string]string {
	out := map[string]string{}
	if e.Node.Preload.Method != "directory" {
		return out
	}
	for _, a := range e.memo.archives() {
		at := path.Join(e.Node.Preload.Dir, path.Base(a.path))
		if _, err := e.Reader.FS().Stat(at); a.err != nil || err != nil {
			continue
		}
		for _, n := range a.archive.Names() {
			if r, err := preload.ParseReference(n); err == nil {
				out[r.Name] = at
			}
		}
	}
	return out
}

// cached says whether the mirror has an image completely, or why that is not known. The cache on this node's
// disk is what counts when the node starts; only where there is none is a mirror asked that happens to run.
func (e *Env) cached(ctx context.Context) (has func(string) (bool, string), done func()) {
	done = func() {}
	no := func(why string) func(string) (bool, string) { return func(string) (bool, string) { return false, why } }
	switch {
	case len(e.Mirrors) == 0:
		return no(""), done
	case e.Cache != "":
		store, err := mirror.Open(e.Cache, mirror.Options{ReadOnly: true})
		if err != nil {
			return no(fmt.Sprintf("the mirror's cache cannot be read: %v", err)), done
		}
		return func(ref string) (bool, string) {
			ok, err := store.Has(ctx, ref, e.Platform)
			if err != nil {
				return false, err.Error()
			}
			return ok, ""
		}, func() { _ = store.Close() } // nothing was written
	case !e.memo.facts.Live:
		return no("the mirror's cache is not on this disk"), done
	}
	return e.servedNow(ctx), done
}

// servedNow asks the mirrors as they run.
func (e *Env) servedNow(ctx context.Context) func(string) (bool, string) {
	return func(ref string) (bool, string) {
		why := "no mirror answers"
		for _, m := range e.Mirrors {
			c, err := e.mirrorClient(m)
			if err != nil {
				return false, err.Error()
			}
			r, err := c.Walk(ctx, ref, e.Platform, false)
			c.Close()
			switch {
			case err != nil:
				why = err.Error()
			case r.OK():
				return true, ""
			default:
				why = ""
			}
		}
		return false, why
	}
}

// fullName is a reference as containerd stores it; what is none stays as it is and is reported later.
func fullName(ref string) string {
	if r, err := preload.ParseReference(ref); err == nil {
		return r.Name
	}
	return ref
}

func fullNames(refs []string) []string {
	var out []string
	for _, r := range refs {
		out = append(out, fullName(r))
	}
	return out
}
