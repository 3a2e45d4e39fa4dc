package distro

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// builder resolves a candidate into a Node, one part after the other; later parts use the earlier ones.
type builder struct {
	r host.Reader
	c candidate
	d *Descriptor
	x *resolver
	o Options
	n Node
	// containerd's unit and configuration
	runtimeUnit *unit
	config      containerdConfig
}

func build(ctx context.Context, r host.Reader, c candidate, o Options) (Node, error) {
	x, err := newResolver(ctx, r, c.d, c.units[0])
	if err != nil {
		return Node{}, err
	}
	if o.DataDir != "" {
		x.fixed["data-dir"] = setting{Value: path.Clean(o.DataDir), Source: "edgeprep.toml (distro.data_dir)", Set: true}
	}
	b := &builder{r: r, c: c, d: c.d, x: x, o: o,
		n: Node{ID: c.d.ID, Name: c.d.Name, Installed: c.binary != "", Evidence: c.evidence}}
	steps := []func(context.Context) error{b.identity, b.role, b.version, b.runtimeProgram, b.runtimeConfig,
		b.external, b.gates, b.preload, b.registries, b.workload, b.kubelet, b.sandbox, b.images, b.material, b.notes}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return Node{}, err
		}
	}
	b.n.Fingerprint, err = fingerprint(b.n)
	return b.n, err
}

// fingerprint changes when anything that was found does.
func fingerprint(n Node) (string, error) {
	data, err := json.Marshal(n)
	if err != nil {
		return "", fmt.Errorf("encode the node: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

func (b *builder) evidence(fact, value, source string) {
	b.n.Evidence = append(b.n.Evidence, Evidence{fact, value, source})
}

func (b *builder) note(text string) { b.n.Notes = append(b.n.Notes, text) }

// identity finds platform, data directory and whether it has run.
func (b *builder) identity(ctx context.Context) error {
	facts, err := b.r.Facts(ctx)
	if err != nil {
		return fmt.Errorf("ask for the node's identity: %w", err)
	}
	b.n.Platform = facts.OS + "/" + facts.Arch
	b.x.vars["arch"] = facts.Arch
	data, err := b.x.get("data-dir")
	if err != nil {
		return err
	}
	b.n.DataDir = data.Value
	b.evidence("data-dir", data.Value, data.Source)
	if b.o.DataDir != "" && len(data.Others) > 0 {
		o := data.Others[0]
		b.note(fmt.Sprintf("edgeprep.toml says data_dir %s, but %s says %s: that is what %s itself uses", data.Value, o.Source, o.Value, b.d.Name))
	}
	p, ok, err := b.x.anyExists(b.d.Started)
	if ok {
		b.n.Started = true
		b.evidence("started", "true", p)
	}
	switch {
	case b.d.Local:
		b.n.Untested = "its descriptor is this node's own, " + b.d.Origin
	case b.d.Support != "tested":
		b.n.Untested = "edgeprep has not been tested with " + b.d.Name
	}
	for _, u := range b.c.units {
		b.n.Units = append(b.n.Units, u.Name)
		b.n.Notes = append(b.n.Notes, u.Notes...)
		if p := u.program(); path.Base(p) != b.d.Detect.Program {
			b.note(fmt.Sprintf("%s runs %q, not %s itself: flags that a script adds are not seen", u.Name, p, b.d.Detect.Program))
		}
	}
	return err
}

// role goes through the ways in order.
func (b *builder) role(context.Context) error {
	for _, way := range b.d.Role.By {
		role, source, err := b.roleBy(way)
		if err != nil {
			return err
		}
		if role != "" {
			b.n.Role = role
			b.evidence("role", string(role), source)
			return nil
		}
	}
	b.n.Role = RoleUnknown
	if b.d.Role.Default != "" {
		b.n.Role = b.d.Role.Default
	}
	b.evidence("role", string(b.n.Role), fromDefault)
	return nil
}

func (b *builder) roleBy(way string) (Role, string, error) {
	rule, u := b.d.Role, b.c.units[0]
	single := len(b.c.units) == 1 // of several units that all lie idle none tells
	switch {
	case way == "command" && single:
		w := u.subcommand()
		return rule.Commands[w.Text], w.Source, nil
	case way == "env" && single && u.Env[rule.AgentEnv].Value != "":
		return RoleAgent, u.Env[rule.AgentEnv].Source, nil
	case way == "unit" && single:
		return b.c.roles[u.Name], u.Path, nil
	case way == "files":
		if p, ok, err := b.x.anyExists(rule.ServerFiles); ok || err != nil {
			return RoleServer, p, err
		}
		if p, ok, err := b.x.anyExists(rule.AgentFiles); ok || err != nil {
			return RoleAgent, p, err
		}
	}
	return "", "", nil
}

// version asks the program, then the other sources; what edgeprep.toml says fills a gap.
func (b *builder) version(ctx context.Context) error {
	v, source, why := b.askVersion(ctx, b.c.binary, b.d.Version.Args, b.d.Version.Regex)
	for _, src := range b.d.Version.From {
		if v != "" {
			break
		}
		text, at, ok, err := b.x.from(src, typeString)
		if err != nil {
			return err
		}
		if ok {
			v, source = extract(text, b.d.Version.Regex), at
		}
	}
	switch {
	case v == "" && b.o.Version != "":
		v, source = b.o.Version, "edgeprep.toml (distro.version)"
	case v != "" && b.o.Version != "" && strings.TrimPrefix(v, "v") != strings.TrimPrefix(b.o.Version, "v"):
		b.note(fmt.Sprintf("edgeprep.toml says version %s, %s says %s: that is what counts", b.o.Version, source, v))
	}
	b.n.Version = v
	if v != "" {
		b.evidence("version", v, source)
		return nil
	}
	b.note("the version is not known" + why + ": edgeprep uses nothing that an old version lacks; set [distro] version to change that")
	return nil
}

// askVersion asks a program. why says what went wrong, as the end of a sentence.
func (b *builder) askVersion(ctx context.Context, program string, args []string, regex string) (v, source, why string) {
	if program == "" {
		return "", "", ""
	}
	text, err := b.r.BinaryVersion(ctx, program, args...)
	if err != nil {
		return "", "", fmt.Sprintf(" (%s: %v)", program, err)
	}
	return extract(text, regex), strings.Join(append([]string{program}, args...), " "), ""
}

// extract finds a version in what a program says.
func extract(text, regex string) string {
	re, err := regexp.Compile(regex) // lint has compiled it before
	if err != nil {
		return ""
	}
	m := re.FindStringSubmatch(text)
	switch {
	case len(m) > 1:
		return m[1]
	case len(m) == 1:
		return m[0]
	}
	return ""
}

// gates opens what the version allows.
func (b *builder) gates(context.Context) error {
	rules := b.d.Gates
	open := func(g *Gate) bool {
		if g != nil && g.Of == "runtime" {
			return g.open(b.n.Runtime.Version)
		}
		return g.open(b.n.Version)
	}
	b.n.Gates = Gates{
		Watch:         open(rules.Watch),
		Recursive:     open(rules.Recursive),
		ImportCache:   open(rules.ImportCache),
		NoFallbackKey: open(rules.NoFallbackKey),
		StarMirror:    open(rules.StarMirror),
		PartialIndex:  open(rules.PartialIndex),
	}
	return nil
}

// named is the state of a gate by its name in a descriptor.
func (g Gates) named(name string) bool {
	switch name {
	case "watch":
		return g.Watch
	case "recursive":
		return g.Recursive
	case "import_cache":
		return g.ImportCache
	case "no_fallback_key":
		return g.NoFallbackKey
	case "partial_index":
		return g.PartialIndex
	}
	return g.StarMirror
}

// fill expands templates into fields.
func (b *builder) fill(fields map[*string]string) error {
	for field, template := range fields {
		v, err := b.x.text(template)
		if err != nil {
			return err
		}
		*field = v
	}
	return nil
}

func (b *builder) preload(context.Context) error {
	rule, p := b.d.Preload, &b.n.Preload
	*p = Preload{Method: rule.Method, Extensions: rule.Extensions, MaxWindow: rule.MaxWindow, Sentinel: rule.Sentinel,
		CacheFile: rule.CacheFile, PullLists: rule.PullLists, LoaderPin: rule.LoaderPin}
	p.Restart = rule.Method == "directory" && !b.n.Gates.Watch
	return b.fill(map[*string]string{&p.Dir: rule.Dir, &p.Stage: rule.Stage})
}

func (b *builder) registries(context.Context) error {
	rule, g := b.d.Registries, &b.n.Registries
	*g = Registries{Format: rule.Format, NoFallback: rule.NoFallback}
	if err := b.fill(map[*string]string{&g.File: rule.File, &g.CertsD: rule.CertsD, &g.DropIn: rule.DropIn}); err != nil {
		return err
	}
	switch {
	case rule.Restart == "distribution":
		g.Restart = append(g.Restart, b.distributionUnits()...)
	case rule.Restart == "runtime" && b.n.Runtime.Unit != "":
		g.Restart = []string{b.n.Runtime.Unit}
	}
	if dir, source := b.config.certsD(); dir != "" && rule.Format == "certs.d" {
		g.CertsD = dir
		b.evidence("registries", dir, source)
	}
	if g.File != "" {
		s, err := b.x.expand(rule.File)
		if err != nil {
			return err
		}
		b.evidence("registries", s.Value, s.Source)
	}
	return b.configFile()
}

// distributionUnits are the units without that of a runtime of its own.
func (b *builder) distributionUnits() []string {
	var out []string
	for _, u := range b.c.units {
		out = append(out, u.Name)
	}
	return out
}

// configFile notes where the distribution's configuration is. One that is fetched from a server has no
// drop-ins, and nothing here tells what it says.
func (b *builder) configFile() error {
	if b.d.Config.Setting == "" {
		return nil
	}
	file, err := b.x.get(b.d.Config.Setting)
	if err != nil {
		return err
	}
	b.evidence("config", file.Value, file.Source)
	if isURL(file.Value) {
		b.n.Registries.DropIn, b.n.Registries.NoFallback = "", ""
		b.note("the configuration comes from " + file.Value + ": what it says of data-dir and private-registry cannot be seen here; set [distro] data_dir if it moves it")
	}
	return nil
}

func (b *builder) brings(r BringRule) (bool, error) {
	if r.Role != "" && r.Role != b.n.Role {
		return false, nil
	}
	if r.Setting == "" {
		return true, nil
	}
	s, err := b.x.get(r.Setting)
	return s.Value != r.Unless, err
}

// notes adds the traps whose conditions hold.
func (b *builder) notes(context.Context) error {
	for _, rule := range b.d.Notes {
		ok, err := b.applies(rule)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		text, err := b.x.text(rule.Text)
		if err != nil {
			return err
		}
		b.note(text)
	}
	return nil
}

// applies says whether all conditions of a rule hold, and sets {value} and {other} for its text. A version that
// is not known has a note of its own: what the gates would say is then no more than a guess.
func (b *builder) applies(rule NoteRule) (bool, error) {
	switch {
	case rule.Role != "" && rule.Role != b.n.Role, rule.NotStarted && b.n.Started:
		return false, nil
	case rule.Gate != "" && (b.n.Version == "" || b.n.Gates.named(rule.Gate)):
		return false, nil
	case rule.Exists != "":
		if _, ok, err := b.x.anyExists([]string{rule.Exists}); !ok || err != nil {
			return false, err
		}
	}
	if rule.Shadowed == "" {
		return true, nil
	}
	s, err := b.x.get(rule.Shadowed)
	i := slices.IndexFunc(s.Others, func(o other) bool { return o.Env })
	if err != nil || i < 0 {
		return false, err
	}
	b.x.vars["value"], b.x.vars["other"] = s.Value, s.Others[i].Value+" ("+s.Others[i].Source+")"
	return true, nil
}
