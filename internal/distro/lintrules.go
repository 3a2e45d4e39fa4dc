package distro

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
)

var idForm = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

func gateNames() []string {
	return []string{"watch", "recursive", "import_cache", "no_fallback_key", "star_mirror", "partial_index"}
}

func roleNames() []string {
	return []string{"", string(RoleServer), string(RoleAgent), string(RoleUnknown)}
}

// semantics checks what types cannot say.
func (l *linter) semantics() {
	d := l.d
	if !idForm.MatchString(d.ID) {
		l.at("CFG-104", fmt.Sprintf("id %q is not lower case letters, digits and -", d.ID), `write id = "k3s"`, "id")
	} else if want := strings.TrimSuffix(path.Base(l.file), ".toml"); want != d.ID {
		l.at("CFG-104", fmt.Sprintf("id is %q, but the file is called %s", d.ID, path.Base(l.file)), "call the file "+d.ID+".toml", "id")
		l.found[len(l.found)-1].Severity = diag.Warning // it works; people look for it under its id
	}
	l.required(d.Name, "name")
	l.required(d.Summary, "summary")
	l.oneOf(d.Support, []string{"tested", "untested"}, "support")
	for name := range d.Settings {
		l.names[name] = true
	}
	l.detect()
	l.role()
	l.settings()
	l.runtime()
	l.preload()
	l.registries()
	l.sandbox()
	l.images()
	l.gates()
	l.notes()
	l.material()
	l.kubelet()
	l.absolutes(d.Started, "started")
	l.absolute(d.Workload.Manifests, "workload", "manifests")
	l.absolute(d.Workload.StaticPods, "workload", "static_pods")
	l.brings()
	l.absolute(d.Workload.StaticPodsAfter, "workload", "static_pods_after")
	l.listSetting(d.Workload.APIArgs, "workload", "api_args")
	for i, r := range d.Workload.NotLoopback {
		at := []string{"workload", "not_loopback", strconv.Itoa(i)}
		l.required(r.Contains, append(at, "contains")...)
		l.required(r.Setting, append(at, "setting")...)
		l.setting(r.Setting, append(at, "setting")...)
	}
	l.regex(d.Version.Regex, "version", "regex")
	l.setting(d.Config.Setting, "config", "setting")
}

func (l *linter) detect() {
	rule := l.d.Detect
	l.required(rule.Program, "detect", "program")
	if len(rule.Units) == 0 {
		l.at("CFG-103", "detect.unit is missing", "add [[detect.unit]] with the name of a unit", "detect")
	}
	for i, u := range rule.Units {
		p := []string{"detect", "unit", strconv.Itoa(i)}
		if !strings.HasSuffix(u.Name, ".service") || strings.Contains(u.Name, "/") {
			l.at("CFG-104", fmt.Sprintf("%q is not the name of a service", u.Name), `write name = "k3s.service"`, append(p, "name")...)
		}
		l.oneOf(string(u.Role), roleNames(), append(p, "role")...)
	}
	for name, list := range map[string][]string{"binaries": rule.Binaries, "any": rule.Any, "none": rule.None, "traces": rule.Traces} {
		for i, v := range list {
			if !path.IsAbs(v) || strings.Contains(v, "{") {
				l.at("CFG-104", fmt.Sprintf("detect.%s must hold absolute paths without placeholders, not %q", name, v), "begin it with /", "detect", name, strconv.Itoa(i))
			}
		}
	}
}

func (l *linter) role() {
	rule := l.d.Role
	if len(rule.By) == 0 {
		l.at("CFG-103", "role.by is missing", `write by = ["unit"]`, "role")
	}
	for i, way := range rule.By {
		l.oneOf(way, []string{"command", "env", "unit", "files"}, "role", "by", strconv.Itoa(i))
	}
	for command, role := range rule.Commands {
		l.oneOf(string(role), roleNames()[1:], "role", "commands", command)
	}
	if slices.Contains(rule.By, "env") {
		l.required(rule.AgentEnv, "role", "agent_env")
	}
	l.oneOf(string(rule.Default), roleNames(), "role", "default")
	l.absolutes(rule.ServerFiles, "role", "server_files")
	l.absolutes(rule.AgentFiles, "role", "agent_files")
}

func (l *linter) settings() {
	if _, ok := l.d.Settings["data-dir"]; !ok {
		l.at("CFG-103", "settings.data-dir is missing", `add [settings.data-dir] with type = "path"`, "settings")
	}
	for name, s := range l.d.Settings {
		p := []string{"settings", name}
		if placeholder.FindString("{"+name+"}") == "" {
			l.at("CFG-104", fmt.Sprintf("setting %q is not lower case letters, digits and -", name), "call it as its flag is called", p...)
		}
		l.oneOf(s.Type, []string{typePath, typeString, typeBool, typeEndpoint, typeList}, append(p, "type")...)
		if s.Type == typePath {
			l.absolute(s.Default, append(p, "default")...)
		}
		l.template(s.Default, append(p, "default")...)
		for i, src := range s.From {
			l.source(src, append(p, "from", strconv.Itoa(i)))
		}
		if chain := l.cycle(name, nil); len(chain) > 1 && chain[len(chain)-1] == name {
			l.at("CFG-105", "settings depend on each other: "+strings.Join(chain, ", "), "give one of them a default without placeholders", p...)
		}
	}
	for i, src := range l.d.Version.From {
		l.source(src, []string{"version", "from", strconv.Itoa(i)})
	}
}

func (l *linter) source(src Source, p []string) {
	kinds := 0
	for _, set := range []bool{len(src.Flags) > 0, src.Env != "", len(src.Keys) > 0, src.File != "", len(src.Exists) > 0} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		l.at("CFG-104", strings.Join(p, ".")+" must have exactly one of flags, env, keys, file, exists", `write { flags = ["--data-dir"] }`, p...)
	}
	if len(src.Keys) > 0 && l.d.Config.Setting == "" {
		l.at("CFG-104", strings.Join(p, ".")+" names keys, but there is no configuration file", "add [config] with setting", p...)
	}
	if src.Key != "" && src.File == "" {
		l.at("CFG-104", strings.Join(p, ".")+" has a key without a file", "add file", p...)
	}
	l.absolute(src.File, append(p, "file")...)
	l.absolutes(src.Exists, append(p, "exists")...)
}

// cycle finds a way from a setting back to itself. The configuration file's keys depend on its setting.
func (l *linter) cycle(name string, chain []string) []string {
	if slices.Contains(chain, name) {
		return append(chain, name)
	}
	chain = append(slices.Clone(chain), name)
	s := l.d.Settings[name]
	templates := s.Default
	for _, src := range s.From {
		templates += src.File
		if len(src.Keys) > 0 && l.d.Config.Setting != "" {
			templates += "{" + l.d.Config.Setting + "}"
		}
	}
	for _, m := range placeholder.FindAllStringSubmatch(templates, -1) {
		if _, ok := l.d.Settings[m[1]]; !ok {
			continue
		}
		if c := l.cycle(m[1], chain); c != nil {
			return c
		}
	}
	return nil
}

func (l *linter) runtime() {
	rt := l.d.Runtime
	for key, v := range map[string]string{"socket": rt.Socket, "root": rt.Root, "config": rt.Config} {
		l.required(v, "runtime", key)
		l.absolute(v, "runtime", key)
	}
	l.required(rt.Namespace, "runtime", "namespace")
	l.template(rt.Snapshotter, "runtime", "snapshotter")
	l.absolute(rt.CertsD, "runtime", "certs_d")
	l.absolutes(rt.Binaries, "runtime", "binaries")
	l.names["socket"] = true
	for i, e := range rt.External {
		p := []string{"runtime", "external", strconv.Itoa(i)}
		l.required(e.Setting, append(p, "setting")...)
		l.setting(e.Setting, append(p, "setting")...)
		l.required(e.Note, append(p, "note")...)
		l.template(e.Note, append(p, "note")...)
		l.template(e.Unless, append(p, "unless")...)
	}
	l.versionValues(rt.Bundled, "runtime", "bundled")
}

func (l *linter) versionValues(values []VersionValue, p ...string) {
	for i, v := range values {
		at := append(slices.Clone(p), strconv.Itoa(i))
		l.versions(v.Since, true, append(at, "since")...)
		l.required(v.Value, append(at, "value")...)
	}
}

// preload also holds the rule about staging: a watcher that takes every path that begins with the directory's
// name would import what is only half there.
func (l *linter) preload() {
	rule := l.d.Preload
	l.oneOf(rule.Method, []string{"directory", "import"}, "preload", "method")
	l.absolute(rule.Dir, "preload", "dir")
	l.absolute(rule.Stage, "preload", "stage")
	if rule.Method != "directory" {
		return
	}
	l.required(rule.Dir, "preload", "dir")
	l.required(rule.Stage, "preload", "stage")
	if rule.Dir != "" && strings.HasPrefix(rule.Stage, rule.Dir) {
		l.at("CFG-104", fmt.Sprintf("preload.stage %q begins with preload.dir", rule.Stage), "stage beside it, under a name that begins differently", "preload", "stage")
	}
	if len(rule.Extensions) == 0 {
		l.at("CFG-103", "preload.extensions is missing", `write extensions = [".tar"]`, "preload")
	}
	for i, e := range rule.Extensions {
		if !strings.HasPrefix(e, ".") {
			l.at("CFG-104", fmt.Sprintf("extension %q does not begin with a dot", e), "write ."+e, "preload", "extensions", strconv.Itoa(i))
		}
	}
	if rule.PullLists != "" && !strings.HasPrefix(rule.PullLists, ".") {
		l.at("CFG-104", fmt.Sprintf("extension %q does not begin with a dot", rule.PullLists), "write ."+rule.PullLists, "preload", "pull_lists")
	}
	if rule.MaxWindow < 0 {
		l.at("CFG-104", "preload.max_window is negative", "write the number of bytes, or leave it out", "preload", "max_window")
	}
	for key, v := range map[string]string{"sentinel": rule.Sentinel, "cache_file": rule.CacheFile} {
		if strings.Contains(v, "/") {
			l.at("CFG-104", fmt.Sprintf("preload.%s is a file name in dir, not %q", key, v), "leave out the directory", "preload", key)
		}
	}
}

func (l *linter) registries() {
	rule := l.d.Registries
	l.oneOf(rule.Format, []string{"registries.yaml", "certs.d"}, "registries", "format")
	l.oneOf(rule.Restart, []string{"distribution", "runtime", "none"}, "registries", "restart")
	switch rule.Format {
	case "registries.yaml":
		l.required(rule.File, "registries", "file")
	case "certs.d":
		l.required(rule.CertsD, "registries", "certs_d")
	}
	if (rule.DropIn == "") != (rule.NoFallback == "") {
		l.at("CFG-103", "registries.drop_in and registries.no_fallback need each other", "give both or neither", "registries")
	}
	l.absolute(rule.File, "registries", "file")
	l.absolute(rule.CertsD, "registries", "certs_d")
	l.absolute(rule.DropIn, "registries", "drop_in")
}

func (l *linter) sandbox() {
	rule := l.d.Sandbox
	l.oneOf(rule.Of, []string{"distribution", "runtime"}, "sandbox", "of")
	l.setting(rule.Setting, "sandbox", "setting")
	l.setting(rule.Prefix, "sandbox", "prefix")
	l.versionValues(rule.Defaults, "sandbox", "default")
}

func (l *linter) images() {
	rule := l.d.Images
	for key, list := range map[string][]string{"lists": rule.Lists, "archives": rule.Archives} {
		for i, v := range list {
			if _, err := path.Match(v, ""); err != nil || v == "" || strings.Contains(v, "/") {
				l.at("CFG-104", fmt.Sprintf("images.%s holds names of files, not %q", key, v), `write "images.txt", without a directory`, "images", key, strconv.Itoa(i))
			}
		}
	}
	for i, v := range rule.Own {
		if !ownImage.MatchString(v) {
			l.at("CFG-104", fmt.Sprintf("images.own holds last parts of names, not %q", v), `write "kube-proxy:{version}" or "coredns"`, "images", "own", strconv.Itoa(i))
		}
	}
	l.setting(rule.Prefix, "images", "prefix")
	for i, o := range rule.Optional {
		p := []string{"images", "optional", strconv.Itoa(i)}
		l.required(o.Image, append(p, "image")...)
		l.required(o.Setting, append(p, "setting")...)
		l.setting(o.Setting, append(p, "setting")...)
		l.required(o.Contains, append(p, "contains")...)
	}
}

var ownImage = regexp.MustCompile(`^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::(?:\{version\}|[A-Za-z0-9_][A-Za-z0-9._-]*))?$`)

// listSetting reports a name that is no setting of several values.
func (l *linter) listSetting(name string, p ...string) {
	l.setting(name, p...)
	if s, ok := l.d.Settings[name]; ok && s.Type != typeList {
		l.at("CFG-104", fmt.Sprintf("%s is a setting of type %q", strings.Join(p, "."), s.Type), `give the setting type = "list"`, p...)
	}
}

func (l *linter) gates() {
	g := l.d.Gates
	for i, gate := range []*Gate{g.Watch, g.Recursive, g.ImportCache, g.NoFallbackKey, g.StarMirror, g.PartialIndex} {
		if gate == nil {
			continue
		}
		p := []string{"gates", gateNames()[i]}
		l.versions(gate.Since, true, append(p, "since")...)
		if gate.Broken != "" {
			l.versions(gate.Broken, false, append(p, "broken")...)
		}
		l.oneOf(gate.Of, []string{"", "distribution", "runtime"}, append(p, "of")...)
	}
}

func (l *linter) brings() {
	for i, r := range l.d.Workload.Brings {
		p := []string{"workload", "brings", strconv.Itoa(i)}
		l.oneOf(r.Part, []string{"api", "network", "proxy"}, append(p, "part")...)
		l.oneOf(string(r.Role), roleNames(), append(p, "role")...)
		l.setting(r.Setting, append(p, "setting")...)
	}
}

func (l *linter) notes() {
	l.names["value"], l.names["other"] = true, true
	for i, n := range l.d.Notes {
		p := []string{"note", strconv.Itoa(i)}
		l.required(n.Text, append(p, "text")...)
		l.template(n.Text, append(p, "text")...)
		l.oneOf(string(n.Role), roleNames(), append(p, "role")...)
		l.oneOf(n.Gate, append(gateNames(), ""), append(p, "gate")...)
		l.setting(n.Shadowed, append(p, "shadowed_env")...)
		l.absolute(n.Exists, append(p, "exists")...)
	}
}
