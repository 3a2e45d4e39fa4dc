package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/edgeprep/edgeprep/internal/host"
)

// The directories that enabling works on.
const (
	configDir  = "/etc/systemd/system"
	runtimeDir = "/run/systemd/system"
)

// searchPath is where units are, the first wins (systemd.unit(5), "unit search path"). /lib is a directory of
// its own on systems without a merged /usr.
var searchPath = []string{
	"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
	"/run/systemd/generator.early", configDir, "/etc/systemd/system.attached", runtimeDir,
	"/run/systemd/system.attached", "/run/systemd/generator", "/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
}

const maxUnitFile = 1 << 20

// OfflineUnits are units as their files and links say: what systemd will find at the next boot.
type OfflineUnits struct {
	fs    host.FS
	files host.FileWriter
}

// Offline reads and enables units by files and links, with no systemd running. files may be nil where nothing
// is to be enabled.
func Offline(fsys host.FS, files host.FileWriter) *OfflineUnits {
	return &OfflineUnits{fs: fsys, files: files}
}

// unitFile is a unit as found on disk.
type unitFile struct {
	name     string
	fragment string // path in the search path; empty: not found
	target   string // name that the fragment links to, when it is another than its own
	file     string // what links to the unit name: the fragment, or where it was linked from
	masked   bool
	dropIns  []string
	install  install
}

// Unit implements host.UnitReader. Active is not known.
func (o *OfflineUnits) Unit(ctx context.Context, name string) (host.Unit, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return host.Unit{Name: name}, err
	}
	u, err := o.find(name)
	if err != nil {
		return host.Unit{Name: name}, err
	}
	out := host.Unit{Name: name, Load: "loaded", Fragment: u.fragment, DropIns: u.dropIns}
	switch {
	case u.fragment == "":
		out.Load, out.DropIns = "not-found", nil
		return out, nil
	case u.masked:
		out.Load, out.Fragment = "masked", ""
	}
	out.Enabled, err = o.state(u)
	return out, err
}

// find looks a unit up and reads its [Install].
func (o *OfflineUnits) find(name string) (*unitFile, error) {
	u := &unitFile{name: name}
	for _, file := range fragmentNames(name) {
		for _, dir := range searchPath {
			info, err := o.fs.Lstat(path.Join(dir, file))
			if absent(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("unit %s: %w", name, err)
			}
			u.fragment, u.file = info.Path, info.Path
			return u, o.load(u, info)
		}
	}
	return u, nil
}

// fragmentNames are the unit's own file and, for an instance, its template's.
func fragmentNames(name string) []string {
	prefix, rest, ok := strings.Cut(name, "@")
	if !ok {
		return []string{name}
	}
	return []string{name, prefix + "@" + path.Ext(rest)}
}

func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func (o *OfflineUnits) load(u *unitFile, info host.FileInfo) error {
	if info.Type == host.TypeSymlink {
		if path.Clean(info.Target) == "/dev/null" {
			u.masked = true
			return nil
		}
		if path.Base(info.Target) != u.name {
			u.target = path.Base(info.Target)
		}
		if u.file = info.Target; !path.IsAbs(u.file) {
			u.file = path.Join(path.Dir(u.fragment), info.Target)
		}
	}
	content, err := o.fs.ReadFile(u.fragment, maxUnitFile)
	if err != nil {
		return fmt.Errorf("unit %s: %w", u.name, err)
	}
	if len(content) == 0 { // systemd.unit(5): an empty file masks, too
		u.masked = true
		return nil
	}
	u.install.parse(content)
	if u.dropIns, err = o.dropIns(u.name); err != nil {
		return err
	}
	for _, d := range u.dropIns {
		if !ownDropIn(u.name, d) {
			continue
		}
		content, err := o.fs.ReadFile(d, maxUnitFile)
		if err != nil {
			return fmt.Errorf("unit %s: %w", u.name, err)
		}
		u.install.parse(content)
	}
	return nil
}

// dropIns are the files that add to a unit, in the order in which they are read: by file name, and of one
// name only the first.
func (o *OfflineUnits) dropIns(name string) ([]string, error) {
	found := map[string]string{}
	for _, d := range dropInDirs(name) {
		for _, dir := range searchPath {
			entries, err := o.fs.ReadDir(path.Join(dir, d))
			if absent(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("unit %s: %w", name, err)
			}
			for _, e := range entries {
				base := path.Base(e.Path)
				if _, seen := found[base]; !seen && strings.HasSuffix(base, ".conf") {
					found[base] = e.Path
				}
			}
		}
	}
	return o.readable(found), nil
}

// readable sorts the drop-ins and leaves out those that are masked or point nowhere.
func (o *OfflineUnits) readable(found map[string]string) []string {
	var out []string
	for _, p := range found {
		if info, err := o.fs.Stat(p); err == nil && info.Type == host.TypeFile {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return out
}

// ownDropIn says whether a drop-in's [Install] counts: only those of the unit or its template do, as far as
// systemd 252 goes.
func ownDropIn(name, file string) bool {
	dir := path.Base(path.Dir(file))
	for _, f := range fragmentNames(name) {
		if dir == f+".d" {
			return true
		}
	}
	return false
}

// dropInDirs are the names of a unit's drop-in directories, the most specific first: a-b.service.d,
// a-.service.d, service.d.
func dropInDirs(name string) []string {
	ext := path.Ext(name)
	prefix := strings.TrimSuffix(name, ext)
	dirs := []string{name + ".d"}
	if p, _, ok := strings.Cut(prefix, "@"); ok {
		dirs = append(dirs, p+"@"+ext+".d")
	}
	for p := strings.TrimSuffix(prefix, "-"); ; {
		i := strings.LastIndexByte(p, '-')
		if i <= 0 {
			break
		}
		dirs = append(dirs, p[:i+1]+ext+".d")
		p = p[:i]
	}
	return append(dirs, strings.TrimPrefix(ext, ".")+".d")
}

// state is what `systemctl is-enabled` says.
func (o *OfflineUnits) state(u *unitFile) (string, error) {
	switch {
	case u.masked && strings.HasPrefix(u.fragment, "/run/"):
		return "masked-runtime", nil
	case u.masked:
		return "masked", nil
	case u.target != "" && u.target != fragmentNames(u.name)[len(fragmentNames(u.name))-1]:
		return "alias", nil
	case strings.HasPrefix(u.fragment, "/run/systemd/generator"):
		return "generated", nil
	case strings.HasPrefix(u.fragment, "/run/systemd/transient"):
		return "transient", nil
	}
	for _, in := range []struct{ dir, state string }{{configDir, "enabled"}, {runtimeDir, "enabled-runtime"}} {
		links, err := o.linksTo(in.dir, u.name)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(links, func(l link) bool { return l.enables(u.name) }) {
			return in.state, nil
		}
	}
	return o.idle(u), nil
}

// idle is the state of a unit that nothing starts at boot.
func (o *OfflineUnits) idle(u *unitFile) string {
	info, err := o.fs.Lstat(u.fragment)
	switch {
	case err == nil && info.Type == host.TypeSymlink && path.Dir(u.fragment) == configDir:
		return "linked"
	case u.install.links():
		return "disabled"
	case len(u.install.Also) > 0:
		return "indirect"
	}
	return "static"
}
