package distro

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// containerdVersionForm finds the version in "containerd github.com/containerd/containerd/v2 v2.4.2 HASH" and
// in Debian's "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3".
const containerdVersionForm = `\bv?([0-9]+\.[0-9]+\.[0-9]+(?:-(?:alpha|beta|rc)[0-9A-Za-z.]*)?)`

// runtimeProgram finds containerd itself: unit, program, version.
func (b *builder) runtimeProgram(ctx context.Context) error {
	rule, rt := b.d.Runtime, &b.n.Runtime
	if rule.Unit != "" {
		if err := b.findRuntimeUnit(ctx); err != nil {
			return err
		}
	}
	if rt.Binary == "" {
		p, ok, err := b.x.anyExists(rule.Binaries)
		if err != nil {
			return err
		}
		if ok {
			rt.Binary = p
		}
	}
	v, source, _ := b.askVersion(ctx, rt.Binary, []string{"--version"}, containerdVersionForm)
	if v == "" {
		v, source = b.askDaemon(ctx)
	}
	if bundled, ok := valueFor(rule.Bundled, b.n.Version); v == "" && ok {
		v, source = bundled, b.d.Origin
	}
	if v != "" {
		rt.Version = v
		b.evidence("containerd-version", v, source)
	}
	return nil
}

func (b *builder) findRuntimeUnit(ctx context.Context) error {
	name := b.d.Runtime.Unit
	u, ok, err := readUnit(ctx, b.r, name)
	if err != nil {
		return err
	}
	if !ok {
		return nil
	}
	b.runtimeUnit = u
	b.n.Notes = append(b.n.Notes, u.Notes...)
	b.n.Runtime.Unit = name
	if !slices.Contains(b.n.Units, name) {
		b.n.Units = append([]string{name}, b.n.Units...)
	}
	b.evidence("runtime-unit", name+" ("+state(u)+")", u.Path)
	if p := u.program(); path.IsAbs(p) {
		if info, err := b.r.FS().Stat(p); err == nil && info.Type == host.TypeFile {
			b.n.Runtime.Binary = p
		}
	}
	return nil
}

// askDaemon asks a running containerd, where its socket is known without its configuration.
func (b *builder) askDaemon(ctx context.Context) (v, source string) {
	socket, err := b.x.text(b.d.Runtime.Socket)
	if err != nil {
		return "", ""
	}
	if _, err := b.r.FS().Stat(socket); err != nil {
		return "", ""
	}
	text, err := b.r.Runtime(host.Endpoint{Socket: socket, Namespace: b.d.Runtime.Namespace}).Version(ctx)
	if err != nil {
		return "", "" // not running now: the version stays unknown
	}
	return extract(text, containerdVersionForm), socket
}

// runtimeConfig finds socket, root, snapshotter and registry directory: a flag or setting of the
// distribution wins over config.toml, that over the default.
func (b *builder) runtimeConfig(context.Context) error {
	rule, rt := b.d.Runtime, &b.n.Runtime
	file, err := b.x.expand(rule.Config)
	if err != nil {
		return err
	}
	rt.Config = file.Value
	b.evidence("runtime-config", file.Value, file.Source)
	b.config = readContainerdConfig(b.r.FS(), rt.Config, b.isContainerd1())
	if b.config.Problem != "" {
		b.note(b.config.Problem + ": containerd does not start with it, and what it says is not known")
	}
	rt.Endpoint.Namespace = rule.Namespace
	picks := []struct {
		fact     string
		field    *string
		template string
		from     fact
	}{
		{"runtime", &rt.Endpoint.Socket, rule.Socket, b.config.Address},
		{"runtime-root", &rt.Endpoint.Root, rule.Root, b.config.Root},
		{"snapshotter", &rt.Endpoint.Snapshotter, rule.Snapshotter, b.config.Snapshotter},
	}
	for _, p := range picks {
		s, err := b.x.expand(p.template)
		if err != nil {
			return err
		}
		if !s.Set && p.from.Value != "" {
			s = setting{Value: p.from.Value, Source: p.from.Source}
		}
		*p.field = s.Value
		if s.Value != "" {
			b.evidence(p.fact, s.Value, s.Source)
		}
	}
	return b.certsD()
}

// certsD is where containerd is pointed at.
func (b *builder) certsD() error {
	dir, source := b.config.certsD()
	if b.d.Runtime.CertsD != "" {
		s, err := b.x.expand(b.d.Runtime.CertsD)
		if err != nil {
			return err
		}
		dir, source = s.Value, s.Source
	}
	b.n.Runtime.CertsD = dir
	if dir != "" {
		b.evidence("runtime-certs", dir, source)
	}
	return nil
}

// isContainerd1 says whether containerd is a 1.x, which reads its configuration in its own way. Where the version
// is not known that of 2.x is assumed.
func (b *builder) isContainerd1() bool { return strings.HasPrefix(b.n.Runtime.Version, "1.") }

// external recognises a runtime other than the one described.
func (b *builder) external(context.Context) error {
	b.x.vars["socket"] = b.n.Runtime.Endpoint.Socket
	for _, rule := range b.d.Runtime.External {
		s, err := b.x.get(rule.Setting)
		if err != nil {
			return err
		}
		unless, err := b.x.text(rule.Unless)
		if err != nil {
			return err
		}
		if !s.Set || s.Value == "" || s.Value == "false" || s.Value == unless || !strings.Contains(s.Value, rule.Contains) {
			continue
		}
		b.n.Runtime.External = rule.Name
		if rule.Name == "" {
			b.n.Runtime.External = s.Value
		}
		b.evidence("external-runtime", b.n.Runtime.External, s.Source)
		text, err := b.x.text(rule.Note)
		b.note(text)
		return err
	}
	if b.d.Runtime.Unit != "" && b.n.Runtime.Unit == "" {
		b.note(fmt.Sprintf("%s is not installed: there is no containerd to bring images into", b.d.Runtime.Unit))
	}
	return nil
}

// sandbox finds the pause image: a setting wins, then containerd's configuration, then the default of the
// version.
func (b *builder) sandbox(context.Context) error {
	if s, err := b.sandboxSetting(); err != nil || s.Set {
		return err
	}
	if f := b.config.Sandbox; f.Value != "" {
		b.n.Sandbox = f.Value
		b.evidence("sandbox", f.Value, f.Source)
		return nil
	}
	v, of := b.n.Version, b.d.ID
	if b.d.Sandbox.Of == "runtime" {
		v, of = b.n.Runtime.Version, "containerd"
	}
	image, ok := valueFor(b.d.Sandbox.Defaults, v)
	if !ok {
		b.note("the pause image is not known: no file names it and the version of " + of + " is not known")
		return nil
	}
	return b.setSandbox(image, "default of "+of+" "+v)
}

func (b *builder) sandboxSetting() (setting, error) {
	if b.d.Sandbox.Setting == "" {
		return setting{}, nil
	}
	s, err := b.x.get(b.d.Sandbox.Setting)
	if err != nil || !s.Set {
		return s, err
	}
	return s, b.setSandbox(s.Value, s.Source)
}

// setSandbox puts the registry prefix before the image, unless it is there (k3s:pkg/agent/config/config.go).
func (b *builder) setSandbox(image, source string) error {
	if b.d.Sandbox.Prefix != "" {
		prefix, err := b.x.get(b.d.Sandbox.Prefix)
		if err != nil {
			return err
		}
		if prefix.Value != "" && !strings.HasPrefix(image, prefix.Value) {
			image, source = strings.TrimSuffix(prefix.Value, "/")+"/"+image, source+", "+prefix.Source
		}
	}
	b.n.Sandbox = image
	b.evidence("sandbox", image, source)
	return nil
}
