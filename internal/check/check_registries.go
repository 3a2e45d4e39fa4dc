package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/registries"
)

func registryChecks() []Check {
	return []Check{
		configPathCheck(), configTableCheck(), inlineCheck(), yamlCheck(), registryNameCheck(), shadowCheck(), hostsCheck(), hostsKeysCheck(),
		resolveCheck(), configsCheck(), rewriteCheck(), ownerCheck(), starCheck(),
	}
}

func configPathCheck() Check {
	return Check{
		ID: "REG-01", Title: "containerd's registry config_path is one directory",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "hosts.toml files are there, crictl and kubelet ignore them, pulls go upstream",
			Cause:   "config_path may be a list joined by a colon, and is one by default since containerd 2.2; the pull path that is used since 2.1 takes the whole string for one directory, which does not exist",
			Look:    "the effective value: main file, imports and drop-ins of config.toml merged as containerd does",
			Fix:     "write one explicit directory: edgeprep apply",
			Sources: []string{"containerd: plugins/cri/images/plugin.go, core/transfer/registry/registry.go, defaults/defaults_unix.go", "containerd/containerd#12636"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-01", (*Env).configPathProof)
		},
	}
}

func configTableCheck() Check {
	return Check{
		ID: "REG-02", Title: "config_path is set in the table that this containerd reads",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the mirror's log stays empty",
			Cause:   "the key's table depends on the version of config.toml: io.containerd.grpc.v1.cri up to 2, io.containerd.cri.v1.images from 3; elsewhere it is ignored, beside inline mirrors the CRI plugin does not load at all",
			Look:    "the effective configuration, disabled plugins and inline mirrors, and the config_path that the running CRI service reports",
			Fix:     "edgeprep apply writes the key where it is read; --allow restart lets containerd take it in",
			Sources: []string{"containerd: docs/hosts.md, internal/cri/config/config.go", "k0s: docs/runtime.md"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-02", (*Env).configTableProof)
		},
	}
}

func hostsCheck() Check {
	return Check{
		ID: "REG-04", Title: "for every required registry a file that parses sends pulls to the mirrors",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-01", "REG-02", "REG-06", "REG-07", "REG-08"},
		Story: Story{
			Seen:    "pulls go to the public registry; one line in containerd's log at most",
			Cause:   "a hosts.toml that does not parse is ignored, an empty one or an empty directory counts as \"no mirror\" and hides _default; k3s and RKE2 do not start with a registries.yaml that is not YAML",
			Look:    "the directory that containerd would use for each required registry and its hosts.toml, parsed by containerd's rules; on k3s and RKE2 registries.yaml, and what was rendered of it",
			Fix:     "remove hand-made files and let edgeprep apply write them",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go", "rancher/wharfie: pkg/registries/registries.go"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-04", (*Env).lookups)
		},
	}
}

func hostsKeysCheck() Check {
	return Check{
		ID: "REG-05", Title: "registry files have no key that is ignored",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "pulls go to the public registry, with no line in any log",
			Cause:   "hosts.toml and registries.yaml are not read strictly: [hosts.\"...\"], capability, mirror:, endpoints: are dropped; containerd 2 sees hosts only as [host.\"URL\"] table headers",
			Look:    "every key of every hosts.toml and of registries.yaml, with line and nearest known key",
			Fix:     "correct the key at the line given, or remove the file and run edgeprep apply",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go getSortedHosts, parseHostsFile", "rancher/wharfie: registries.go"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-05", (*Env).keysProof)
		},
	}
}

// checkOf says which check reports a finding of package registries. What has no check of its own yet is
// reported where the file is judged: nothing found may be lost.
func checkOf(d *diag.Diagnostic) string {
	switch d.ID {
	case "NOD-225", "NOD-228":
		return "REG-01" // a list, or not absolute
	case "NOD-220", "NOD-221", "NOD-222", "NOD-224", "NOD-226", "NOD-227":
		return "REG-02" // config.toml as a whole, the CRI plugin, the key's place
	case "NOD-223":
		return "REG-03" // inline mirrors
	case "NOD-212", "NOD-214", "NOD-231", "NOD-234":
		return "REG-05" // keys and entries that are dropped
	case "NOD-210", "NOD-211", "NOD-213":
		return "REG-06" // registries.yaml as a whole
	case "NOD-237":
		return "REG-08" // a directory that hides _default
	case "NOD-236":
		return "REG-10" // no resolve
	case "NOD-235":
		return "REG-11" // TLS settings on plain http
	case "NOD-238":
		return "REG-12" // certificates that cannot be read
	}
	return "REG-04"
}

// registryFindings are the problems that belong to one check, or without any the proof that it passes.
func (e *Env) registryFindings(id string, proof func(*Env, registries.Effective) []Finding) []Finding {
	eff, err := e.memo.registries()
	if err != nil {
		return []Finding{couldNotRun("registries configuration", err)}
	}
	var out []Finding
	bad := false
	for _, d := range eff.Problems {
		if checkOf(d) == id {
			out = append(out, fromDiagnostic(d))
			bad = bad || d.Severity == diag.Error
		}
	}
	if !bad {
		out = append(out, proof(e, eff)...)
	}
	return out
}

func fromDiagnostic(d *diag.Diagnostic) Finding {
	status := StatusFail
	if d.Severity != diag.Error {
		status = StatusWarn
	}
	return Finding{Status: status, Subject: d.Where.String(), Observed: d.ID + ": " + d.What, Reason: d.Why, Source: d.Where.String(), Remedy: Remedy{Text: d.Fix}}
}

// configPathProof: what containerd really looks into.
func (e *Env) configPathProof(eff registries.Effective) []Finding {
	if fs := e.notRendered(eff, "config_path"); fs != nil {
		return fs
	}
	if len(eff.Dirs) == 0 {
		return []Finding{skip("config_path", "it is not set; REG-02 says so")}
	}
	return []Finding{pass(eff.Dirs[0], "one directory", eff.Source.String())}
}

// notRendered: k3s and RKE2 make containerd's configuration when they start. Until then there is none.
func (e *Env) notRendered(eff registries.Effective, subject string) []Finding {
	if len(eff.Dirs) > 0 || len(eff.Pending) == 0 {
		return nil
	}
	return []Finding{deferred(subject, eff.Pending[0].Text)}
}

// configTableProof compares with the running containerd.
func (e *Env) configTableProof(eff registries.Effective) []Finding {
	if fs := e.notRendered(eff, "config_path"); fs != nil {
		return fs
	}
	if len(eff.Dirs) == 0 {
		return []Finding{skip("config_path", "it is a list or no directory; REG-01 says so")}
	}
	want, source := eff.ConfigPath, eff.Source.String()
	if !e.memo.facts.Live {
		return []Finding{pass(want, "set", source)}
	}
	a, err := e.memo.cri()
	if err != nil || a.status.ConfigPath == "" { // some versions do not report it; REG-16 proves the effect
		return []Finding{pass(want, "set", source)}
	}
	if a.status.ConfigPath != want {
		return []Finding{{Status: StatusFail, Subject: "config_path", Expected: want, Observed: "the running containerd uses " + a.status.ConfigPath,
			Source: "CRI Status; " + source, Remedy: Remedy{Text: "let it take the change in", Command: "systemctl restart " + e.runtimeUnit()}}}
	}
	return []Finding{pass(want, "set, and used by the running containerd", "CRI Status; "+source)}
}

// lookups says for each required registry where its pulls go.
func (e *Env) lookups(eff registries.Effective) []Finding {
	var out []Finding
	want := e.wanted()
	for _, h := range e.registryHosts() {
		out = append(out, judgeLookup(eff.For(h), h, want))
	}
	if len(want) == 0 {
		out = []Finding{skip("mirror endpoints", "no mirror is configured; the files were parsed")}
	}
	return append(out, e.notRendered(eff, "containerd's hosts")...)
}

func judgeLookup(l registries.Lookup, registry string, want []registries.Endpoint) Finding {
	source := l.File
	if l.Line > 0 {
		source = fmt.Sprintf("%s:%d", l.File, l.Line)
	}
	f := pass(registry, route(l), source)
	f.Expected = "first " + urls(want)
	if !l.Mirrors(want) {
		f.Status, f.Remedy = StatusFail, Remedy{Command: "edgeprep apply"}
	}
	return f
}

// route is where pulls go, in words.
func route(l registries.Lookup) string {
	var steps []string
	if len(l.Endpoints) > 0 {
		steps = append(steps, urls(l.Endpoints))
	}
	switch {
	case l.Server != "" && !l.Upstream && !slices.ContainsFunc(l.Endpoints, registries.Endpoint{URL: l.Server}.Same):
		steps = append(steps, l.Server)
	case l.Upstream:
		steps = append(steps, "the registry itself")
	}
	if len(steps) == 0 {
		return "nowhere"
	}
	return strings.Join(steps, ", then ")
}

func urls(list []registries.Endpoint) string {
	var out []string
	for _, e := range list {
		out = append(out, e.URL)
	}
	return strings.Join(out, ", ")
}

// keysProof: nothing is ignored.
func (e *Env) keysProof(eff registries.Effective) []Finding {
	files := map[string]bool{}
	var out []Finding
	for _, name := range eff.Names() {
		if f := eff.Registries[name].File; f != "" && !files[f] {
			files[f] = true
			out = append(out, pass(f, "every key is known", f))
		}
	}
	if len(out) == 0 {
		return []Finding{skip("registry files", "there is none")}
	}
	return out
}
