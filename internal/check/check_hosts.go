package check

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/registries"
)

func inlineCheck() Check {
	return Check{
		ID: "REG-03", Title: "no inline mirrors stand beside config_path",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "containerd runs and looks healthy, kubelet says \"unknown service runtime.v1.RuntimeService\"",
			Cause:   "with registry.mirrors or registry.configs.*.tls next to config_path the CRI plugin does not load",
			Look:    "config.toml and its imports, in the tables that count",
			Fix:     "move the inline settings to hosts.toml files and delete the tables",
			Sources: []string{"containerd: internal/cri/config/config.go", "failure-modes: REG-03, CRI-08"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-03", func(e *Env, eff registries.Effective) []Finding {
				if e.Node.Registries.Format != registries.FormatCertsD {
					return []Finding{skip("inline mirrors", "the distribution writes config.toml itself")}
				}
				return []Finding{pass("inline mirrors", "none", eff.Source.String())}
			})
		},
	}
}

func yamlCheck() Check {
	return Check{
		ID: "REG-06", Title: "the distribution can read its registries file",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the distribution's unit stays in \"activating\" for ever: \"Waiting to retrieve agent configuration\"",
			Cause:   "registries.yaml is not YAML (an unquoted *, a tab), is of another shape, or is a directory",
			Look:    "registries.yaml, parsed with the types of the distribution",
			Fix:     "correct the line that is named; keep a copy of the last good file",
			Sources: []string{"rancher/wharfie: pkg/registries/registries.go", "k3s: pkg/agent/config/config.go", "kairos-io/kairos#3738"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-06", func(e *Env, eff registries.Effective) []Finding {
				switch {
				case e.Node.Registries.Format != registries.FormatYAML:
					return []Finding{skip("registries.yaml", "this distribution has none")}
				case eff.Written == nil:
					return []Finding{skip(e.Node.Registries.File, "there is none")}
				}
				return []Finding{pass(eff.Written.File, fmt.Sprintf("%s, %s", plural(len(eff.Written.Mirrors), "mirror"), plural(len(eff.Written.Configs), "config")), eff.Written.File)}
			})
		},
	}
}

func registryNameCheck() Check {
	return Check{
		ID: "REG-07", Title: "registry entries are named as references name the registry",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-01", "REG-02", "REG-06"},
		Story: Story{
			Seen:    "one registry is mirrored, another goes upstream",
			Cause:   "the directory or entry is looked up by the registry as references have it: docker.io, not registry-1.docker.io or index.docker.io; with the port, without scheme and path",
			Look:    "every directory of certs.d and every entry of registries.yaml against the registries of the required references",
			Fix:     "rename the entry, or remove it and run edgeprep apply",
			Sources: []string{"containerd: core/remotes/docker/config/config_unix.go, docs/hosts.md"},
		},
		Run: runRegistryNames,
	}
}

func runRegistryNames(_ context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	names := slices.DeleteFunc(eff.Names(), func(n string) bool { return n == "*" })
	var out []Finding
	for _, name := range names {
		meant := e.meant(name, names)
		if meant == "" {
			continue
		}
		l := eff.Registries[name]
		f := Finding{Status: StatusFail, Subject: name, Expected: meant, Observed: "no reference has the registry " + name, Source: at(l.File, l.Line),
			Remedy: Remedy{Text: "rename the entry to " + meant + ", or remove it, then", Command: "edgeprep apply"}}
		if eff.For(meant).Mirrors(e.wanted()) {
			f.Status, f.Observed = StatusWarn, f.Observed+"; "+meant+" itself goes to the mirrors"
		}
		out = append(out, f)
	}
	if len(names) == 0 {
		return []Finding{skip("registry entries", "there is none but for all registries")}
	}
	if len(out) == 0 {
		out = append(out, pass("registry entries", strings.Join(names, ", "), eff.Source.String()))
	}
	return out
}

// meant is the registry for which an entry was probably written; empty: it is one.
func (e *Env) meant(name string, names []string) string {
	_, bare, found := strings.Cut(name, "://")
	if !found {
		bare = name
	}
	bare, _, _ = strings.Cut(bare, "/")
	bare = strings.ToLower(bare)
	if slices.Contains([]string{"registry-1.docker.io", "index.docker.io", "registry.hub.docker.com", "hub.docker.com"}, bare) {
		return "docker.io"
	}
	if bare != name {
		return bare
	}
	required := e.requiredHosts()
	for _, h := range required {
		if strings.HasPrefix(h, name+":") && !slices.Contains(required, name) && !slices.Contains(names, h) {
			return h
		}
	}
	return ""
}

// wanted are the mirrors as endpoints.
func (e *Env) wanted() []registries.Endpoint {
	var out []registries.Endpoint
	for _, m := range e.Mirrors {
		out = append(out, registries.Endpoint{URL: m.URL})
	}
	return out
}

func shadowCheck() Check {
	return Check{
		ID: "REG-08", Title: "no registry's own directory hides the mirrors of _default",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-01", "REG-02", "REG-06"},
		Story: Story{
			Seen:    "all registries are mirrored but those with a folder or entry of their own",
			Cause:   "the first directory that exists wins, also an empty one or one with certificates alone; on k3s and RKE2 an entry below configs: is enough to make one",
			Look:    "every directory of certs.d, or entry of registries.yaml, beside _default or \"*\"",
			Fix:     "remove the stray directory, or let edgeprep apply write the mirror into it",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go HostDirFromRoot", "k3s: pkg/agent/containerd/config.go"},
		},
		Run: func(_ context.Context, e *Env) []Finding { return e.registryFindings("REG-08", (*Env).shadows) },
	}
}

func (e *Env) shadows(eff registries.Effective) []Finding {
	all, ok := eff.Registries["*"]
	if !ok || !all.Mirrors(e.wanted()) || len(e.Mirrors) == 0 {
		return []Finding{skip("_default", "it has no mirror that could be hidden")}
	}
	var out []Finding
	for _, name := range eff.Names() {
		l := eff.Registries[name]
		if name == "*" || isLoopback(hostOnly(name)) || e.isMirror(name) || l.Mirrors(e.wanted()) {
			continue
		}
		f := Finding{Status: StatusWarn, Subject: name, Expected: "first " + urls(e.wanted()), Observed: route(l), Source: at(l.File, l.Line),
			Remedy: Remedy{Text: "write the mirror into it", Command: "edgeprep apply"}}
		if slices.Contains(e.registryHosts(), name) {
			f.Status = StatusFail
		} else {
			f.Reason = "no required reference is of this registry"
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		out = append(out, pass(at(all.File, all.Line), "nothing hides it", at(all.File, all.Line)))
	}
	return out
}

// isMirror says whether a registry name is the host of a mirror.
func (e *Env) isMirror(name string) bool {
	return slices.ContainsFunc(e.wanted(), func(w registries.Endpoint) bool { return w.Host() == name })
}

func resolveCheck() Check {
	return Check{
		ID: "REG-10", Title: "the mirrors may be asked for tags",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-04"},
		Story: Story{
			Seen:    "pulls by digest work, pulls by tag time out",
			Cause:   "a tag is looked up only on hosts that have both pull and resolve among their capabilities; the others are passed over and the registry itself is asked",
			Look:    "the capabilities of every host of every hosts.toml",
			Fix:     `capabilities = ["pull", "resolve"]`,
			Sources: []string{"containerd: core/remotes/docker/resolver.go, docs/hosts.md"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-10", func(e *Env, eff registries.Effective) []Finding {
				var out []Finding
				for _, c := range e.configuredHosts(eff) {
					can := strings.Join(c.Capabilities, ", ")
					if can == "" {
						can = "all"
					}
					out = append(out, pass(c.URL, "capabilities "+can, c.source))
				}
				if len(out) == 0 {
					return []Finding{skip("hosts", "no registry file names one")}
				}
				return out
			})
		},
	}
}

func configsCheck() Check {
	return Check{
		ID: "REG-14", Title: "credentials and TLS settings stand under the host that they are used for",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-06"},
		Story: Story{
			Seen:    "x509 or 401 although configs: has the setting",
			Cause:   "in registries.yaml they are looked up by the host and port of the endpoint, not by the registry that it mirrors",
			Look:    "the keys of configs: against the endpoints of mirrors:",
			Fix:     "give configs: an entry with the endpoint's host:port",
			Sources: []string{"k3s: pkg/agent/containerd/config.go configForHost", "rancher/rke2#9439"},
		},
		Run: runConfigs,
	}
}

func runConfigs(_ context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	if eff.Written == nil || len(eff.Written.Configs) == 0 {
		return []Finding{skip("configs", "no registries file has such entries")}
	}
	var out []Finding
	for _, c := range eff.Written.Configs {
		f := pass("configs: "+c.Host, "its host is the one that is asked", at(eff.Written.File, c.Line))
		if missing := misplaced(eff.Written, c); missing != "" {
			f.Status, f.Expected, f.Observed = StatusFail, "an entry for "+missing, "it is used for "+c.Host+" itself, which stands behind the endpoint "+missing
			f.Remedy = Remedy{Text: "in " + eff.Written.File + " give configs: an entry " + missing + " with the same settings, and restart " + e.Node.Name}
		}
		out = append(out, f)
	}
	return out
}

// misplaced is the endpoint's host that a configs entry was meant for, as far as can be told: it names a registry
// that is mirrored, and an endpoint of it that needs settings has none.
func misplaced(w *registries.Written, c registries.WrittenConfig) string {
	for _, m := range w.Mirrors {
		if m.Registry != c.Host {
			continue
		}
		for _, h := range m.Hosts {
			_, has := w.Config(h.Host())
			if !has && h.Host() != c.Host && (h.TLS() || c.Auth) && !isLoopback(hostOnly(h.Host())) {
				return h.Host()
			}
		}
	}
	return ""
}

func ownerCheck() Check {
	return Check{
		ID: "REG-26", Title: "nothing else owns the registry directory",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "edgeprep's hosts.toml files are gone after a DaemonSet has started",
			Cause:   "Spegel moves the files that it finds to certs.d/_backup and writes its own, unless it is told to prepend",
			Look:    "a directory _backup beside the registry directories; Spegel among the manifests on this disk and the required references",
			Fix:     "let one of the two own the files: containerdMirrorAdd=false, or prependExisting=true in Spegel's chart",
			Sources: []string{"spegel: pkg/oci/containerd/mirror.go, charts/spegel/values.yaml"},
		},
		Run: runOwner,
	}
}

func runOwner(_ context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	fix := Remedy{Text: "set containerdMirrorAdd=false or prependExisting=true in Spegel's chart, then", Command: "edgeprep apply"}
	var out []Finding
	for _, dir := range eff.Dirs {
		at := path.Join(dir, "_backup")
		if info, err := e.Reader.FS().Stat(at); err == nil && info.Type == host.TypeDir {
			out = append(out, Finding{Status: StatusWarn, Subject: at, Expected: "not there", Observed: "Spegel has moved files of this directory away", Source: at, Remedy: fix})
		}
	}
	for _, o := range e.memo.manifests().cold { // what cannot be read is IMG-04's
		if isSpegel(o) {
			out = append(out, Finding{Status: StatusWarn, Subject: o.String(), Expected: "one owner of hosts.toml files", Observed: "Spegel is started by a manifest on this disk", Source: o.Source, Remedy: fix})
		}
	}
	for _, r := range e.Required {
		if strings.Contains(r.Name, "/spegel") {
			out = append(out, Finding{Status: StatusWarn, Subject: r.Name, Expected: "one owner of hosts.toml files", Observed: "Spegel is among what this site needs", Source: "required references", Remedy: fix})
		}
	}
	if len(out) == 0 {
		return []Finding{pass("registry directory", "no trace of another owner", strings.Join(append(slices.Clone(eff.Dirs), "manifests on this disk"), ", "))}
	}
	return out
}

func isSpegel(o coldstart.Object) bool {
	if o.Pod == nil {
		return o.Kind == "HelmChart" && strings.Contains(o.Name, "spegel")
	}
	return slices.ContainsFunc(o.Pod.Containers, func(c coldstart.Container) bool { return strings.Contains(c.Image, "/spegel") })
}

func starCheck() Check {
	return Check{
		ID: "REG-28", Title: "a fallback behind the mirror for all registries works on this version",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "404 at once for images that the mirror has not, after an upgrade",
			Cause:   "containerd 2.0.2, and the first k3s releases with hosts.toml, lose the registry itself behind _default",
			Look:    "the version of the runtime, and whether any registry is to fall back from the entry for all",
			Fix:     "name the registries that matter in [registries] hosts, or move to a fixed release",
			Sources: []string{"k3s-io/k3s#11857, #9728, #10351"},
		},
		Run: runStar,
	}
}

func runStar(_ context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	all, ok := eff.Registries["*"]
	switch {
	case !ok || len(all.Endpoints) == 0:
		return []Finding{skip("all registries", "there is no mirror for all of them")}
	case !all.Upstream:
		return []Finding{skip("all registries", "nothing is to be tried behind the mirrors")}
	case e.Node.Gates.StarMirror:
		return []Finding{pass("all registries", e.Node.Name+" "+e.Node.Version+" falls back", "the descriptor's star_mirror")}
	}
	return []Finding{{Status: StatusWarn, Subject: "all registries", Expected: "a release whose fallback works", Source: at(all.File, all.Line),
		Observed: "this release, or one that is not known, may not ask the registry itself", Remedy: Remedy{Text: "name the registries that matter in [registries] hosts, then", Command: "edgeprep apply"}}}
}
