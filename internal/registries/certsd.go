package registries

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

const (
	defaultDir = "_default"
	hostsFile  = "hosts.toml"
)

// tree wants a hosts.toml in _default, for each host of the policy, and in every directory that is there
// already: containerd takes the first directory that exists for a registry, even an empty one, and then does
// not look at _default.
func (b *builder) tree(root string) error {
	b.hosts(path.Join(root, defaultDir))
	siblings, err := registryDirs(b.fs, root)
	if err != nil {
		return err
	}
	for _, name := range siblings {
		registry := registryOf(name)
		switch {
		case b.isMirror(registry):
		case loopback(registry) && !slices.Contains(b.policy.Hosts, registry):
			b.result.note("the registry "+registry+" is on this machine and is left as it is", diag.Where{File: path.Join(root, name)},
				"to mirror it too, add it to [registries] hosts")
		default:
			b.hosts(path.Join(root, name))
		}
	}
	for _, h := range b.policy.Hosts {
		if !slices.Contains(siblings, dirOf(h)) {
			b.hosts(path.Join(root, h))
		}
	}
	return nil
}

// isMirror says whether a registry host is one of the mirrors themselves.
func (b *builder) isMirror(registry string) bool {
	return slices.ContainsFunc(b.policy.Endpoints, func(e Endpoint) bool { return e.Host() == registry })
}

// hosts wants a hosts.toml in dir. One that says the same in other words stays as it is.
func (b *builder) hosts(dir string) {
	p := path.Join(dir, hostsFile)
	f := resource.File{Path: p, Content: RenderHosts(b.policy.Endpoints), Mode: 0o644}
	if old, err := read(b.fs, p); err == nil && old != nil && b.equivalent(p, old) {
		f.Content = old
		if info, err := b.fs.Stat(p); err == nil {
			f.Mode = info.Mode
		}
	}
	b.file(f, "sends pulls of "+registryOf(path.Base(dir))+" to the mirror")
}

// equivalent says whether a hosts.toml sends everything to the same endpoints in the same order.
func (b *builder) equivalent(file string, data []byte) bool {
	h, diags := ParseHosts(file, data)
	if len(diags) > 0 || len(h.Hosts) == 0 || h.Server.URL == "" {
		return false
	}
	same := func(x, y Endpoint) bool { return x.Same(y) && x.sameTLS(y) }
	return slices.EqualFunc(h.Endpoints(), b.policy.Endpoints, same) && h.Server.Same(b.policy.Endpoints[0])
}

// registryDirs are the directories below root that containerd may choose for a registry, without _default.
func registryDirs(f host.FS, root string) ([]string, error) {
	list, err := f.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, refuse(newDiag(idRead, diag.Where{File: root}, "the registry directories cannot be listed: "+err.Error(), "", "ls -ld "+root))
	}
	var out []string
	for _, e := range list {
		name := path.Base(e.Path)
		if e.Type == host.TypeSymlink {
			if e, err = f.Stat(path.Join(root, name)); err != nil {
				continue
			}
		}
		if e.Type == host.TypeDir && name != defaultDir && ValidHost(registryOf(name)) {
			out = append(out, name)
		}
	}
	return out, nil
}

// registryOf is the registry that a directory is for: "h_5000_" means h:5000. For _default it is "*".
func registryOf(dir string) string {
	if dir == defaultDir {
		return "*"
	}
	if rest, ok := strings.CutSuffix(dir, "_"); ok {
		if i := strings.LastIndexByte(rest, '_'); i > 0 {
			return rest[:i] + ":" + rest[i+1:]
		}
	}
	return dir
}

// dirOf is the other name of a registry's directory, the one that containerd looks for first.
func dirOf(registry string) string {
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		return registry[:i] + "_" + registry[i+1:] + "_"
	}
	return registry
}
