package registries

import (
	"path"
	"slices"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
)

// effectiveYAML reads what k3s or RKE2 rendered at its last start; before the first, what registries.yaml says.
func effectiveYAML(f host.FS, n distro.Node) (Effective, error) {
	e := Effective{Registries: map[string]Lookup{}, Source: diag.Where{File: n.Registries.File}}
	written, err := e.readYAML(f, n)
	if err != nil {
		return e, err
	}
	dir := n.Runtime.CertsD
	if dir == "" {
		dir = n.Registries.CertsD
	}
	info, err := f.Stat(path.Join(dir, defaultDir))
	rendered := dir != "" && err == nil && info.Type == host.TypeDir
	if !rendered && dir != "" {
		names, err := registryDirs(f, dir)
		rendered = err == nil && len(names) > 0
	}
	if !rendered {
		e.Registries = written
		e.Pending = append(e.Pending, Note{Text: "read from " + n.Registries.File + ": " + n.Name + " makes containerd's configuration of it when it starts", Where: e.Source})
		return e, nil
	}
	e.ConfigPath, e.Dirs = dir, []string{dir}
	if err := e.readDirs(f, parseRelease(n.Runtime.Version), true); err != nil {
		return e, err
	}
	e.compare(written, n)
	return e, nil
}

// readYAML gives the registries as registries.yaml has them.
func (e *Effective) readYAML(f host.FS, n distro.Node) (map[string]Lookup, error) {
	out := map[string]Lookup{}
	data, err := readYAML(f, resolve(f, n.Registries.File))
	if err == nil && data == nil {
		return out, nil
	}
	var d *yamlDoc
	if found := diag.Of(err); len(found) > 0 {
		e.Problems = append(e.Problems, found...)
		return out, nil
	} else if err != nil {
		return nil, err
	}
	d, bad := parseYAML(n.Registries.File, data)
	if bad != nil {
		e.Problems = append(e.Problems, bad)
		return out, nil
	}
	e.Problems = append(e.Problems, d.lint()...)
	e.Written = d.written()
	off, _ := fallbackOff(f, n.Registries.DropIn, n.Registries.NoFallback)
	off = off && n.Gates.NoFallbackKey
	for _, kv := range slices.Concat(pairs(child(d.root(), "configs")), pairs(child(d.root(), "mirrors"))) {
		name := kv[0].Value
		c, configured := d.body.Configs[name]
		// k3s: pkg/agent/containerd/config.go getHostConfigs takes the default endpoint away only where configs has no entry
		l := Lookup{Registry: name, File: n.Registries.File, Line: kv[0].Line, Upstream: !off || configured}
		for _, s := range d.body.Mirrors[name].Endpoints {
			if ep, ok := k3sEndpoint(s); ok {
				h := d.host(ep)
				l.Endpoints, l.Hosts = append(l.Endpoints, h.Endpoint), append(l.Hosts, h)
			}
		}
		if len(l.Endpoints) > 0 || c.Auth != nil || c.TLS != nil {
			out[name] = l
		}
	}
	return out, nil
}

// compare finds registries whose rendered file does not say what registries.yaml says now.
func (e *Effective) compare(written map[string]Lookup, n distro.Node) {
	for _, name := range sortedKeys(written) {
		w := written[name]
		have, ok := e.Registries[name]
		if ok && have.renderedFrom(w) {
			continue
		}
		where := diag.Where{File: w.File, Line: w.Line, Key: name}
		e.Problems = append(e.Problems, warning(newDiag(idInactive, where, "what it says of "+quoted(name)+" is not in containerd's configuration",
			n.Name+" reads it only when it starts", "systemctl restart "+firstOf(n.Registries.Restart, n.ID))))
	}
}

// renderedFrom says whether a rendered file is what k3s makes of an entry. It folds an endpoint that is the
// registry itself, in last place, into server.
func (l Lookup) renderedFrom(w Lookup) bool {
	list, upstream := w.Endpoints, w.Upstream
	if n := len(list); n > 0 && len(l.Endpoints) < n && l.Server != "" && list[n-1].Same(Endpoint{URL: l.Server}) {
		list, upstream = list[:n-1], l.Upstream
	}
	return slices.EqualFunc(withoutSpegel(l.Endpoints, list), list, Endpoint.Same) && l.Upstream == upstream
}

// withoutSpegel takes off the distribution's own embedded registry, which is put first when it is switched on.
func withoutSpegel(have, written []Endpoint) []Endpoint {
	if len(have) == len(written)+1 && loopback(have[0].Host()) && !containsEndpoint(written, have[0]) {
		return have[1:]
	}
	return have
}

func firstOf(list []string, otherwise string) string {
	if len(list) == 0 {
		return otherwise
	}
	return list[0]
}
