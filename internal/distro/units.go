package distro

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// unitDirs are where systemd looks for units, strongest first: systemd.unit(5).
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// unit is a service as its files describe it.
type unit struct {
	Name    string
	Path    string
	Enabled bool
	Active  bool
	Command []word // the effective ExecStart, variables replaced
	Env     map[string]envVar
	Notes   []string
}

// program is the path of what the unit runs; wrappers such as env are looked through.
func (u *unit) program() string {
	for i, w := range u.Command {
		if i > 0 && (strings.Contains(w.Text, "=") || strings.HasPrefix(w.Text, "-")) {
			continue
		}
		if path.Base(w.Text) != "env" {
			return w.Text
		}
	}
	return ""
}

// args are what follows the program.
func (u *unit) args() []word {
	p := u.program()
	for i, w := range u.Command {
		if w.Text == p {
			return u.Command[i+1:]
		}
	}
	return nil
}

// subcommand is the first argument that is no flag.
func (u *unit) subcommand() word {
	for _, w := range u.args() {
		if !strings.HasPrefix(w.Text, "-") {
			return w
		}
	}
	return word{}
}

// flag finds the last of some flags in the command line. A flag without a value is "true" when it is a
// switch. One dash or two are the same, as in Go's flag packages.
func (u *unit) flag(names []string, isSwitch bool) (value word, ok bool) {
	all := u.flags(names, isSwitch)
	if len(all) == 0 {
		return word{}, false
	}
	return all[len(all)-1], true
}

// flags are the values of every such flag, in order.
func (u *unit) flags(names []string, isSwitch bool) []word {
	var out []word
	args := u.args()
	for i := 0; i < len(args); i++ {
		name, v, has := strings.Cut(args[i].Text, "=")
		if !isFlag(name, names) {
			continue
		}
		switch {
		case has:
			out = append(out, word{v, args[i].Source})
		case isSwitch:
			out = append(out, word{"true", args[i].Source})
		case i+1 < len(args):
			out = append(out, args[i+1])
			i++
		}
	}
	return out
}

func isFlag(s string, names []string) bool {
	if !strings.HasPrefix(s, "-") {
		return false
	}
	s = strings.TrimLeft(s, "-")
	return slices.ContainsFunc(names, func(n string) bool { return strings.TrimLeft(n, "-") == s })
}

// readUnit reads a unit with its drop-ins and state; ok is false when there is none or it is masked.
func readUnit(ctx context.Context, r host.Reader, name string) (u *unit, ok bool, err error) {
	state, err := r.Units().Unit(ctx, name)
	if err != nil && !errors.Is(err, host.ErrUnavailable) {
		return nil, false, fmt.Errorf("ask for the unit %s: %w", name, err)
	}
	fragment, err := findFragment(r.FS(), name, state.Fragment)
	if err != nil || fragment == "" {
		return nil, false, err
	}
	data, err := r.FS().ReadFile(fragment, 0)
	if err != nil {
		return nil, false, unreadable(fragment, err)
	}
	if len(strings.TrimSpace(string(data))) == 0 { // an empty file masks a unit
		return nil, false, nil
	}
	u = &unit{Name: name, Path: fragment, Active: state.Running(), Enabled: state.IsEnabled()}
	if !u.Enabled && !state.Exists() {
		u.Enabled = wanted(r.FS(), name)
	}
	directives := parseUnit(fragment, data)
	for _, f := range dropIns(r.FS(), name) {
		more, err := r.FS().ReadFile(f, 0)
		if err != nil {
			return nil, false, unreadable(f, err)
		}
		directives = append(directives, parseUnit(f, more)...)
	}
	return u, true, u.interpret(r.FS(), directives)
}

// findFragment is the unit's file, "" when there is none or it is masked.
func findFragment(fsys host.FS, name, loaded string) (string, error) {
	for _, dir := range unitDirs() {
		p := path.Join(dir, name)
		link, err := fsys.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("look at the unit %s: %w", p, err)
		}
		if link.Type == host.TypeSymlink && path.Clean(link.Target) == "/dev/null" {
			return "", nil
		}
		info, err := fsys.Stat(p)
		if err == nil && info.Type == host.TypeFile {
			return p, nil
		}
	}
	if info, err := fsys.Stat(loaded); loaded != "" && err == nil && info.Type == host.TypeFile {
		return loaded, nil // a generator made it
	}
	return "", nil
}

// wanted says whether a link makes something start the unit: the state of a unit that systemd was not asked
// about.
func wanted(fsys host.FS, name string) bool {
	for _, dir := range unitDirs() {
		entries, err := fsys.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			base := path.Base(e.Path)
			if !strings.HasSuffix(base, ".wants") && !strings.HasSuffix(base, ".requires") {
				continue
			}
			if _, err := fsys.Lstat(path.Join(dir, base, name)); err == nil {
				return true
			}
		}
	}
	return false
}

// dropIns lists the unit's drop-in files in the order in which they apply: by file name; of one name the
// strongest directory's counts.
func dropIns(fsys host.FS, name string) []string {
	chosen := map[string]string{}
	for _, sub := range dropInNames(name) {
		for _, dir := range unitDirs() {
			entries, err := fsys.ReadDir(path.Join(dir, sub))
			if err != nil {
				continue
			}
			for _, e := range entries {
				base := path.Base(e.Path)
				if _, taken := chosen[base]; strings.HasSuffix(base, ".conf") && !taken {
					chosen[base] = path.Join(dir, sub, base)
				}
			}
		}
	}
	var names []string
	for base, p := range chosen {
		if info, err := fsys.Stat(p); err == nil && info.Type == host.TypeFile { // a link to /dev/null hides one
			names = append(names, base)
		}
	}
	slices.Sort(names)
	for i, base := range names {
		names[i] = chosen[base]
	}
	return names
}

// dropInNames are the directories of a unit's drop-ins, most specific first: foo-bar.service.d,
// foo-.service.d, service.d.
func dropInNames(name string) []string {
	stem, suffix, _ := strings.Cut(name, ".")
	out := []string{name + ".d"}
	for i := len(stem) - 1; i > 0; i-- {
		if stem[i] == '-' && i+1 < len(stem) {
			out = append(out, stem[:i+1]+"."+suffix+".d")
		}
	}
	return append(out, suffix+".d")
}

// interpret fills command and environment. An empty assignment takes back the earlier ones.
func (u *unit) interpret(fsys host.FS, directives []directive) error {
	var exec, files []directive
	u.Env = map[string]envVar{}
	for _, d := range directives {
		if d.Section != "Service" {
			continue
		}
		switch d.Key {
		case "ExecStart":
			exec = appendOrReset(exec, d)
		case "EnvironmentFile":
			files = appendOrReset(files, d)
		case "Environment":
			u.setEnv(d)
		}
	}
	for _, d := range files { // they win over Environment=
		if err := u.readEnvFile(fsys, d); err != nil {
			return err
		}
	}
	if len(exec) > 0 { // of several, which only a oneshot unit may have, the first
		d := exec[0]
		u.Command = commandLine(d.Value, fmt.Sprintf("%s:%d (ExecStart)", d.File, d.Line), u.Name, u.Env)
	}
	return nil
}

func appendOrReset(list []directive, d directive) []directive {
	if d.Value == "" {
		return nil
	}
	return append(list, d)
}

func (u *unit) setEnv(d directive) {
	if d.Value == "" {
		clear(u.Env)
	}
	for _, w := range splitWords(specifiers(d.Value, u.Name)) {
		if name, value, ok := strings.Cut(w, "="); ok && isName(name) {
			u.Env[name] = envVar{value, fmt.Sprintf("%s:%d (Environment %s)", d.File, d.Line, name)}
		}
	}
}

func (u *unit) readEnvFile(fsys host.FS, d directive) error {
	pattern, optional := strings.CutPrefix(specifiers(d.Value, u.Name), "-")
	for _, file := range glob(fsys, pattern) {
		data, err := fsys.ReadFile(file, 0)
		if errors.Is(err, fs.ErrNotExist) {
			if !optional {
				u.Notes = append(u.Notes, fmt.Sprintf("%s:%d needs %s, which is not there: %s will not start", d.File, d.Line, file, u.Name))
			}
			continue
		}
		if err != nil {
			return unreadable(file, err)
		}
		for _, v := range parseEnvFile(file, data) {
			u.Env[v.Key] = envVar{v.Value, fmt.Sprintf("%s:%d (%s)", file, v.Line, v.Key)}
		}
	}
	return nil
}

// glob lists the files that a pattern with wildcards in its last element matches, by name; a path without
// wildcards is itself.
func glob(fsys host.FS, pattern string) []string {
	if !strings.ContainsAny(path.Base(pattern), "*?[") {
		return []string{pattern}
	}
	entries, err := fsys.ReadDir(path.Dir(pattern))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		p := path.Join(path.Dir(pattern), path.Base(e.Path))
		if ok, _ := path.Match(pattern, p); ok {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// unitsLike lists the names of unit files that match a glob; aliases (links to another name) do not count.
func unitsLike(fsys host.FS, pattern string) []string {
	var names []string
	for _, dir := range unitDirs() {
		for _, p := range glob(fsys, path.Join(dir, pattern)) {
			info, err := fsys.Lstat(p)
			alias := err == nil && info.Type == host.TypeSymlink && path.Base(info.Target) != path.Base(p)
			if err == nil && !alias && info.Type != host.TypeDir && !slices.Contains(names, path.Base(p)) {
				names = append(names, path.Base(p))
			}
		}
	}
	slices.Sort(names)
	return names
}
