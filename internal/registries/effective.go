package registries

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
)

// Effective is what the runtime of a node would really do for a pull.
type Effective struct {
	ConfigPath string     // as configured; empty: not set
	Dirs       []string   // the registry directories that are really looked into
	Source     diag.Where // where that is said
	Pending    []Note     // what is written but not taken in
	// Problems are all findings, of the configuration and of every registry's file.
	Problems []*diag.Diagnostic
	// Registries are the registries that have a file or entry of their own; "*" is the one for all others.
	Registries map[string]Lookup
	// Written is what registries.yaml says, also where something else was rendered of it; nil: there is none.
	Written *Written

	byDir map[string]Lookup // containerd: by directory
}

// Lookup is where pulls of one registry go.
type Lookup struct {
	Registry  string     // "*": every registry without its own
	File      string     // hosts.toml or registries.yaml; empty: there is none for this registry
	Line      int        // in registries.yaml
	Endpoints []Endpoint // tried in this order
	Server    string     // tried last; empty: the registry itself
	// Upstream: the registry itself is tried when the endpoints have no answer.
	Upstream bool
	// Hosts are Endpoints with their settings; ServerHost are those of Server.
	Hosts      []HostEntry
	ServerHost HostEntry
	Problems   []*diag.Diagnostic
}

// Mirrors says whether every endpoint of list is tried before anything else.
func (l Lookup) Mirrors(list []Endpoint) bool {
	for i, e := range list {
		if i >= len(l.Endpoints) || !l.Endpoints[i].Same(e) {
			return false
		}
	}
	return true
}

// ReadEffective evaluates the registries configuration of a node. The error is about reading, not about
// what was read: that is in Problems.
func ReadEffective(_ context.Context, r host.Reader, n distro.Node) (Effective, error) {
	switch n.Registries.Format {
	case FormatYAML:
		return effectiveYAML(r.FS(), n)
	case FormatCertsD:
		return effectiveContainerd(r.FS(), n)
	}
	return Effective{}, unknownFormat(n)
}

// For is where pulls of a registry host go: "docker.io", "registry.local:5000".
func (e Effective) For(registry string) Lookup {
	// containerd: core/remotes/docker/config/config_unix.go; the first directory that exists wins in each root.
	for _, root := range e.Dirs {
		for _, name := range []string{dirOf(registry), registry, defaultDir} {
			if l, ok := e.byDir[path.Join(root, name)]; ok {
				l.Registry = registry
				return l.forRegistry(registry)
			}
		}
	}
	if len(e.Dirs) == 0 {
		for _, name := range []string{registry, "*"} {
			if l, ok := e.Registries[name]; ok {
				l.Registry = registry
				return l
			}
		}
	}
	return Lookup{Registry: registry, Upstream: true}
}

// forRegistry takes into account that a server may be the registry itself.
func (l Lookup) forRegistry(registry string) Lookup {
	own := []string{registry}
	if registry == "docker.io" {
		own = append(own, "registry-1.docker.io")
	}
	if slices.Contains(own, Endpoint{URL: l.Server}.Host()) {
		l.Upstream = true
	}
	return l
}

// Names are the registries that have something of their own, sorted.
func (e Effective) Names() []string { return sortedKeys(e.Registries) }

// readDirs reads every hosts.toml below the directories. fork: k3s's containerd, where a server that is not
// named means that there is none.
func (e *Effective) readDirs(f host.FS, r release, fork bool) error {
	e.byDir = map[string]Lookup{}
	for _, root := range e.Dirs {
		names, err := registryDirs(f, root)
		if err != nil {
			return err
		}
		if info, err := f.Stat(path.Join(root, defaultDir)); err == nil && info.Type == host.TypeDir {
			names = append(names, defaultDir)
		}
		for _, name := range names {
			l := readDir(f, path.Join(root, name), r, fork)
			e.byDir[path.Join(root, name)] = l
			e.Problems = append(e.Problems, l.Problems...)
			if _, ok := e.Registries[l.Registry]; !ok {
				e.Registries[l.Registry] = l.forRegistry(l.Registry)
			}
		}
	}
	return nil
}

// readDir reads one registry directory.
func readDir(f host.FS, dir string, r release, fork bool) Lookup {
	l := Lookup{Registry: registryOf(path.Base(dir)), File: path.Join(dir, hostsFile), Upstream: true}
	data, err := read(f, l.File)
	if err != nil {
		l.Problems = append(l.Problems, diag.Of(err)...)
		return l
	}
	if len(data) == 0 {
		if !loopback(l.Registry) {
			l.Problems = append(l.Problems, newDiag(idHostsEmpty, diag.Where{File: dir}, "there is no hosts.toml in it, or an empty one",
				"containerd uses this directory for "+l.Registry+", and not "+defaultDir+": it pulls from upstream", "remove the directory, or run: edgeprep apply"))
		}
		l.File = ""
		return l
	}
	h, problems := ParseHosts(l.File, data)
	l.Problems = forRelease(problems, r)
	if fork {
		l.Problems = slices.DeleteFunc(l.Problems, isRewrite)
	}
	for _, file := range h.files() {
		if _, err := f.Stat(file); err != nil {
			l.Problems = append(l.Problems, newDiag(idHostsCA, diag.Where{File: l.File}, file+" cannot be read: "+err.Error(),
				"containerd then fails every pull of "+l.Registry+", also from its other hosts", "restore the file or remove the line"))
		}
	}
	if h.Ignored || len(h.Hosts) == 0 && !r.readsServerOnly() {
		return l
	}
	l.Endpoints, l.Server = h.Endpoints(), h.Server.URL
	l.Hosts, l.ServerHost = h.Hosts, h.Server
	l.Upstream = l.Server == "" && (h.HasServer || !fork)
	return l
}

// isRewrite: k3s renders rewrites as tables of their hosts, which only its own containerd knows.
// k3s: pkg/agent/templates/templates.go HostsTomlTemplate.
func isRewrite(d *diag.Diagnostic) bool {
	return d.ID == idHostsKey && strings.HasSuffix(d.Where.Key, ".rewrite")
}

func (h Hosts) files() []string {
	out := slices.Clone(h.Server.Files)
	for _, e := range h.Hosts {
		out = append(out, e.Files...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// readsServerOnly says whether a hosts.toml without a [host] table is understood.
func (r release) readsServerOnly() bool {
	return r.atLeast(2, 0, 0) || r.major == 1 && r.atLeast(1, 7, 32)
}

// forRelease drops or weakens findings that this containerd is not subject to.
func forRelease(list []*diag.Diagnostic, r release) []*diag.Diagnostic {
	var out []*diag.Diagnostic
	for _, d := range list {
		switch {
		case d.ID == idHostsServer && r.readsServerOnly():
			d = warning(d)
		case d.ID == idHostsValue && d.Severity == diag.Warning && r.atLeast(2, 2, 0):
			continue // referrers is known there
		}
		out = append(out, d)
	}
	return out
}
