package distro

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// The types of a setting.
const (
	typePath     = "path"
	typeString   = "string"
	typeBool     = "bool"
	typeEndpoint = "endpoint"
	typeList     = "list"
)

const fromDefault = "default"

// setting is what a setting turned out to be.
type setting struct {
	Value  string
	Source string
	Set    bool // not by default
	Others []other
}

// other is a place that lost and says something else.
type other struct {
	Value  string
	Source string
	Env    bool // the environment
}

// resolver finds settings on one node, each once.
type resolver struct {
	d      *Descriptor
	fs     host.FS
	unit   *unit
	units  map[string]*unit // others that sources name
	vars   map[string]string
	fixed  map[string]setting // what edgeprep.toml says
	config configValues
	read   bool // config was read
	known  map[string]setting
	busy   []string
}

func newResolver(ctx context.Context, r host.Reader, d *Descriptor, u *unit) (*resolver, error) {
	x := &resolver{d: d, fs: r.FS(), unit: u, units: map[string]*unit{}, fixed: map[string]setting{}, known: map[string]setting{},
		vars: map[string]string{"unit": strings.TrimSuffix(u.Name, ".service")}}
	for _, s := range d.Settings {
		for _, src := range s.From {
			if src.Unit == "" || x.units[src.Unit] != nil {
				continue
			}
			other, ok, err := readUnit(ctx, r, src.Unit)
			if err != nil {
				return nil, err
			}
			if !ok {
				other = &unit{Name: src.Unit}
			}
			x.units[src.Unit] = other
		}
	}
	return x, nil
}

// get resolves a setting.
func (x *resolver) get(name string) (setting, error) {
	if s, ok := x.known[name]; ok {
		return s, nil
	}
	if slices.Contains(x.busy, name) {
		return setting{}, fmt.Errorf("%s: settings depend on each other: %s", x.d.Origin, strings.Join(append(x.busy, name), ", "))
	}
	x.busy = append(x.busy, name)
	s, err := x.resolve(name)
	x.busy = x.busy[:len(x.busy)-1]
	if err != nil {
		return setting{}, err
	}
	x.known[name] = s
	return s, nil
}

func (x *resolver) resolve(name string) (setting, error) {
	rule := x.d.Settings[name]
	if rule.Type == typeList {
		return x.list(rule)
	}
	s, fixed := x.fixed[name]
	for _, src := range rule.From {
		value, source, ok, err := x.from(src, rule.Type)
		if err != nil {
			return s, err
		}
		value = normal(value, rule.Type)
		switch {
		case !ok || value == "" && rule.Type != typeString:
		case !s.Set:
			s.Value, s.Source, s.Set = value, source, true
		case value != s.Value:
			s.Others = append(s.Others, other{value, source, src.Env != ""})
		}
	}
	if s.Set || fixed {
		return s, nil
	}
	value, err := x.expand(rule.Default)
	return setting{Value: normal(value.Value, rule.Type), Source: fromDefault}, err
}

// from reads one source.
func (x *resolver) from(src Source, kind string) (value, source string, ok bool, err error) {
	u := x.unit
	if src.Unit != "" {
		u = x.units[src.Unit]
	}
	switch {
	case len(src.Flags) > 0:
		w, ok := u.flag(src.Flags, kind == typeBool)
		return w.Text, w.Source, ok, nil
	case src.Env != "":
		v, ok := u.Env[src.Env]
		return v.Value, v.Source, ok && v.Value != "", nil
	case len(src.Keys) > 0:
		if err := x.readConfig(); err != nil {
			return "", "", false, err
		}
		value, source, ok = x.config.last(src.Keys)
		return value, source, ok, nil
	case src.File != "":
		file, err := x.expand(src.File)
		if err != nil {
			return "", "", false, err
		}
		return fileValue(x.fs, file.Value, src.Key)
	}
	for _, p := range src.Exists {
		if _, err := x.fs.Stat(p); err == nil {
			return p, p + " exists", true, nil
		}
	}
	return "", "", false, nil
}

func (x *resolver) readConfig() error {
	if x.read || x.d.Config.Setting == "" {
		return nil
	}
	file, err := x.get(x.d.Config.Setting)
	if err != nil {
		return err
	}
	if !isURL(file.Value) {
		x.config, err = readConfig(x.fs, file.Value)
	}
	x.read = err == nil
	return err
}

// list joins the values of all sources by spaces: what may be given several times counts each time.
func (x *resolver) list(rule Setting) (setting, error) {
	out := setting{Value: rule.Default, Source: fromDefault}
	var values []string
	for _, src := range rule.From {
		found, source, err := x.all(src)
		if err != nil {
			return out, err
		}
		if len(found) > 0 && !out.Set {
			out.Source, out.Set = source, true
		}
		values = append(values, found...)
	}
	if out.Set {
		out.Value = strings.Join(values, " ")
	}
	return out, nil
}

// all are the values of one source.
func (x *resolver) all(src Source) (values []string, source string, err error) {
	u := x.unit
	if src.Unit != "" {
		u = x.units[src.Unit]
	}
	switch {
	case len(src.Flags) > 0:
		for _, w := range u.flags(src.Flags, false) {
			values, source = append(values, w.Text), w.Source
		}
		return values, source, nil
	case len(src.Keys) > 0:
		if err := x.readConfig(); err != nil {
			return nil, "", err
		}
		for _, k := range src.Keys {
			if v, ok := x.config[k]; ok {
				values, source = append(values, v.Values...), v.Source
			}
		}
		return values, source, nil
	}
	value, source, ok, err := x.from(src, typeString)
	if ok {
		values = []string{value}
	}
	return values, source, err
}

// isURL says whether a configuration comes from a server: k3s accepts that, and nothing on the node tells
// what is in it.
func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// normal brings a value into the one form that is compared and used.
func normal(v, kind string) string {
	switch kind {
	case typePath:
		if v == "" || isURL(v) {
			return v
		}
		return path.Join("/", v) // a service's working directory is /
	case typeEndpoint:
		v = strings.TrimPrefix(v, "unix://")
		if rest, ok := strings.CutPrefix(v, "/var/run/"); ok { // a link to /run wherever systemd is
			return "/run/" + rest
		}
		return v
	case typeBool:
		switch strings.ToLower(v) {
		case "":
			return ""
		case "true", "1", "t", "yes", "on":
			return "true"
		}
		return "false"
	}
	return v
}

var placeholder = regexp.MustCompile(`\{([a-z][a-z0-9-]*)\}`)

// expand fills a template; the result is set when a setting in it is.
func (x *resolver) expand(template string) (setting, error) {
	out := setting{Source: fromDefault}
	var failed error
	out.Value = placeholder.ReplaceAllStringFunc(template, func(m string) string {
		name := m[1 : len(m)-1]
		if v, ok := x.vars[name]; ok {
			return v
		}
		s, err := x.get(name)
		if err != nil {
			failed = err
		}
		if s.Set && !out.Set {
			out.Source, out.Set = s.Source, true
		}
		return s.Value
	})
	if strings.HasPrefix(out.Value, "//") { // "{base-dir}/run" below a base directory that is /
		out.Value = out.Value[1:]
	}
	return out, failed
}

// text is expand for where only the value counts.
func (x *resolver) text(template string) (string, error) {
	s, err := x.expand(template)
	return s.Value, err
}

// anyExists finds the first of some templates that is there.
func (x *resolver) anyExists(templates []string) (string, bool, error) {
	for _, t := range templates {
		p, err := x.text(t)
		if err != nil {
			return "", false, err
		}
		if _, err := x.fs.Stat(p); err == nil {
			return p, true, nil
		}
	}
	return "", false, nil
}
