package systemd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// link is a symbolic link below a configuration directory that has to do with a unit.
type link struct {
	dir    string // the directory that it is in
	name   string
	target string
}

// enables says whether it makes the unit start: a link in a .wants directory, or one of another name.
func (l link) enables(unit string) bool {
	return l.name != unit || isPull(l.dir)
}

// isPull says whether a directory makes one unit pull in others.
func isPull(dir string) bool {
	switch path.Ext(dir) {
	case ".wants", ".requires", ".upholds":
		return true
	}
	return false
}

// linksTo finds the links in dir and the directories in it that have the unit's name or lead to it.
func (o *OfflineUnits) linksTo(dir, unit string) ([]link, error) {
	entries, err := o.fs.ReadDir(dir)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("unit %s: %w", unit, err)
	}
	var out []link
	for _, e := range entries {
		if e.Type == host.TypeDir && isPull(e.Path) {
			sub, err := o.linksTo(e.Path, unit)
			if err != nil {
				return nil, err
			}
			out = append(out, sub...)
		}
		if l := (link{dir: dir, name: path.Base(e.Path), target: e.Target}); e.Type == host.TypeSymlink &&
			(l.name == unit || path.Base(l.target) == unit) {
			out = append(out, l)
		}
	}
	return out, nil
}

// Enable makes the links that `systemctl --root=DIR enable` makes, also for the units of Also=.
func (o *OfflineUnits) Enable(ctx context.Context, name string) error {
	units, err := o.withAlso(ctx, name)
	if err != nil {
		return err
	}
	if !anyLinks(units) {
		return notInstallable(name)
	}
	for _, u := range units {
		if err := o.enable(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

func anyLinks(units []*unitFile) bool {
	for _, u := range units {
		if u.install.links() {
			return true
		}
	}
	return false
}

// withAlso gives the unit and all that its [Install] names by Also=, each once.
func (o *OfflineUnits) withAlso(ctx context.Context, name string) ([]*unitFile, error) {
	var out []*unitFile
	seen := map[string]bool{}
	for todo := []string{name}; len(todo) > 0; todo = todo[1:] {
		if seen[todo[0]] {
			continue
		}
		seen[todo[0]] = true
		if err := errors.Join(ctx.Err(), checkName(todo[0])); err != nil {
			return nil, err
		}
		u, err := o.find(todo[0])
		switch {
		case err != nil:
			return nil, err
		case u.fragment == "":
			return nil, noUnitFile(todo[0])
		case u.masked:
			return nil, masked(todo[0], u.fragment)
		case u.target != "" && strings.Contains(todo[0], "@") == strings.Contains(u.target, "@"):
			return nil, fmt.Errorf("unit %s: it is another name of %s; name that one", todo[0], u.target)
		}
		out = append(out, u)
		for _, a := range u.install.Also {
			if a, err = expand(a, u.name); err != nil {
				return nil, err
			}
			todo = append(todo, a)
		}
	}
	return out, nil
}

func (o *OfflineUnits) enable(ctx context.Context, u *unitFile) error {
	for _, k := range []struct {
		suffix string
		by     []string
	}{{".wants", u.install.WantedBy}, {".requires", u.install.RequiredBy}, {".upholds", u.install.UpheldBy}} {
		for _, by := range k.by {
			if err := o.pull(ctx, u, by, k.suffix); err != nil {
				return err
			}
		}
	}
	for _, a := range u.install.Alias {
		a, err := expand(a, u.name)
		if err != nil {
			return err
		}
		if err := checkName(a); err != nil || path.Ext(a) != path.Ext(u.name) {
			return fmt.Errorf("unit %s: Alias=%s is not a name for it", u.name, a)
		}
		if a == u.name {
			continue
		}
		if err := o.link(ctx, path.Join(configDir, a), u.file); err != nil {
			return err
		}
	}
	return nil
}

// pull makes the unit by want or require u.
func (o *OfflineUnits) pull(ctx context.Context, u *unitFile, by, suffix string) error {
	by, err := expand(by, u.name)
	if err != nil {
		return err
	}
	if err := checkName(by); err != nil {
		return fmt.Errorf("unit %s: [Install]: %w", u.name, err)
	}
	dir := path.Join(configDir, by+suffix)
	for _, d := range []string{"/etc/systemd", configDir, dir} {
		if err := o.mkdir(ctx, d); err != nil {
			return fmt.Errorf("enable %s: %w", u.name, err)
		}
	}
	return o.link(ctx, path.Join(dir, u.name), u.file)
}

func (o *OfflineUnits) mkdir(ctx context.Context, dir string) error {
	if info, err := o.fs.Stat(dir); err == nil && info.Type == host.TypeDir {
		return nil
	}
	return o.files.Mkdir(ctx, dir, host.Meta{Mode: 0o755})
}

// link makes a symbolic link unless it is there. What somebody else put there is left alone.
func (o *OfflineUnits) link(ctx context.Context, p, target string) error {
	switch info, err := o.fs.Lstat(p); {
	case err == nil && info.Type == host.TypeSymlink && path.Base(info.Target) == path.Base(target):
		return nil
	case err == nil && (info.Type != host.TypeSymlink || !isPull(path.Dir(p))):
		return fmt.Errorf("enable %s: %s is there already; look at it and remove it", path.Base(target), p)
	case err != nil && !absent(err):
		return fmt.Errorf("enable %s: %w", path.Base(target), err)
	}
	if err := o.files.Symlink(ctx, p, target); err != nil {
		return fmt.Errorf("enable %s: %w", path.Base(target), err)
	}
	return nil
}

// Disable removes every link that leads to the unit from the configuration directory, as `systemctl
// --root=DIR disable` does, and the directories that get empty by it. A unit without file is no error.
func (o *OfflineUnits) Disable(ctx context.Context, name string) error {
	names := []string{name}
	if units, err := o.withAlso(ctx, name); err == nil {
		names = names[:0]
		for _, u := range units {
			names = append(names, u.name)
		}
	} else if err := checkName(name); err != nil {
		return err
	}
	for _, n := range names {
		if err := o.unlink(ctx, n); err != nil {
			return fmt.Errorf("disable %s: %w", n, err)
		}
	}
	return nil
}

func (o *OfflineUnits) unlink(ctx context.Context, name string) error {
	links, err := o.linksTo(configDir, name)
	if err != nil {
		return err
	}
	for _, l := range links {
		if path.Clean(l.target) == "/dev/null" { // a mask, which is not ours to lift
			continue
		}
		if err := o.files.Remove(ctx, path.Join(l.dir, l.name)); err != nil {
			return err
		}
		if rest, err := o.fs.ReadDir(l.dir); err == nil && len(rest) == 0 && isPull(l.dir) {
			if err := o.files.Remove(ctx, l.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// Reload implements host.UnitControl: there is nothing that would have to read anything again.
func (o *OfflineUnits) Reload(context.Context) error {
	return fmt.Errorf("reload systemd: none is running: %w", host.ErrUnavailable)
}

// Queue implements host.UnitControl.
func (o *OfflineUnits) Queue(_ context.Context, name string) error { return o.notNow("queue", name) }

// Start implements host.UnitControl.
func (o *OfflineUnits) Start(_ context.Context, name string) error { return o.notNow("start", name) }

// Stop implements host.UnitControl.
func (o *OfflineUnits) Stop(_ context.Context, name string) error { return o.notNow("stop", name) }

// Restart implements host.UnitControl.
func (o *OfflineUnits) Restart(_ context.Context, name string) error {
	return o.notNow("restart", name)
}

func (o *OfflineUnits) notNow(verb, name string) error {
	return fmt.Errorf("%s %s: no systemd is running: %w", verb, name, host.ErrUnavailable)
}
