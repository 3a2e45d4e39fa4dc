package distro

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// KindAuto is the kind that stands for detection.
const KindAuto = "auto"

// Options say what is known beforehand: the [distro] table of edgeprep.toml.
type Options struct {
	Kind    string // descriptor id; empty or "auto": detect
	DataDir string // wins over what is found
	Version string // for where no program can be asked
}

// candidate is a distribution that the node may run.
type candidate struct {
	d        *Descriptor
	units    []*unit // one, or several of which none is enabled or active
	roles    map[string]Role
	binary   string
	present  bool // it is installed
	evidence []Evidence
	traces   []string // what is there of it although it is not installed
}

// Detect finds out which distribution a node runs and where everything of it is. None, or more than one, is
// a *diag.Refused.
func Detect(ctx context.Context, r host.Reader, set Descriptors, o Options) (Node, error) {
	if o.Kind != "" && o.Kind != KindAuto {
		d, ok := set.Get(o.Kind)
		if !ok {
			return Node{}, unknownKind(o.Kind, set)
		}
		set = Descriptors{d}
	}
	var found, not []candidate
	for _, d := range set {
		c, err := look(ctx, r, d)
		if err != nil {
			return Node{}, err
		}
		if c.present {
			found = append(found, c)
		} else {
			not = append(not, c)
		}
	}
	switch {
	case len(found) > 1:
		return Node{}, ambiguous(found)
	case len(found) == 0:
		return Node{}, missing(not, o.Kind)
	}
	return build(ctx, r, found[0], o)
}

// look gathers the evidence for one distribution.
func look(ctx context.Context, r host.Reader, d *Descriptor) (candidate, error) {
	c := candidate{d: d, roles: map[string]Role{}}
	fsys := r.FS()
	for _, p := range d.Detect.Traces {
		if _, err := fsys.Lstat(p); err == nil {
			c.traces = append(c.traces, p)
		}
	}
	for _, p := range d.Detect.None {
		if _, err := fsys.Lstat(p); err == nil {
			c.traces = append(c.traces, "but not counted because of "+p)
			return c, nil
		}
	}
	units, err := c.candidates(ctx, r)
	if err != nil {
		return c, err
	}
	c.binary = c.program(fsys, units)
	if c.binary != "" {
		c.traces = append(c.traces, c.binary)
	}
	if len(units) == 0 || !c.anyOf(fsys) {
		return c, nil
	}
	if c.units, err = strongest(d, units); err != nil {
		return c, err
	}
	u := c.units[0]
	c.present = u.Enabled || u.Active || c.binary != ""
	for _, u := range c.units {
		c.add("unit", u.Name+" ("+state(u)+")", u.Path)
		c.traces = append(c.traces, u.Path)
	}
	return c, nil
}

func (c *candidate) add(fact, value, source string) {
	c.evidence = append(c.evidence, Evidence{fact, value, source})
}

func state(u *unit) string {
	s := "not enabled"
	if u.Enabled {
		s = "enabled"
	}
	if u.Active {
		s += ", active"
	}
	return s
}

// candidates reads the units that the descriptor names. Units of user-given names count when they run the
// program in one of its roles.
func (c *candidate) candidates(ctx context.Context, r host.Reader) ([]*unit, error) {
	var out []*unit
	for _, rule := range c.d.Detect.Units {
		names := []string{rule.Name}
		custom := strings.ContainsAny(rule.Name, "*?[")
		if custom {
			names = unitsLike(r.FS(), rule.Name)
		}
		for _, name := range names {
			if _, seen := c.roles[name]; seen {
				continue
			}
			u, ok, err := readUnit(ctx, r, name)
			if err != nil {
				return nil, err
			}
			if !ok || custom && !c.runs(u) {
				continue
			}
			c.roles[name] = rule.Role
			out = append(out, u)
		}
	}
	return out, nil
}

// runs says whether a unit runs the distribution's program in one of its roles.
func (c *candidate) runs(u *unit) bool {
	_, known := c.d.Role.Commands[u.subcommand().Text]
	return path.Base(u.program()) == c.d.Detect.Program && known
}

// program is the path of the distribution's program: that of a unit, else the first that is there.
func (c *candidate) program(fsys host.FS, units []*unit) string {
	var paths []string
	for _, u := range units {
		if p := u.program(); path.Base(p) == c.d.Detect.Program && path.IsAbs(p) {
			paths = append(paths, p)
		}
	}
	for _, p := range append(paths, c.d.Detect.Binaries...) {
		if info, err := fsys.Stat(p); err == nil && info.Type == host.TypeFile {
			return p
		}
	}
	return ""
}

// anyOf says whether one of the further signs is there, and keeps it as evidence.
func (c *candidate) anyOf(fsys host.FS) bool {
	if len(c.d.Detect.Any) == 0 {
		return true
	}
	for _, p := range c.d.Detect.Any {
		if _, err := fsys.Stat(p); err == nil {
			c.add("distribution", c.d.ID, p)
			return true
		}
	}
	return false
}

// strongest picks the unit that counts: an active one, else an enabled one. Where neither is, all count.
func strongest(d *Descriptor, units []*unit) ([]*unit, error) {
	rank := func(u *unit) int {
		switch {
		case u.Active:
			return 0
		case u.Enabled:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(units, func(a, b *unit) int { return cmp.Compare(rank(a), rank(b)) })
	best := rank(units[0])
	for i, u := range units {
		if rank(u) != best {
			units = units[:i]
			break
		}
	}
	if best < 2 && len(units) > 1 {
		return nil, severalUnits(d, units)
	}
	return units, nil
}

func refuse(d *diag.Diagnostic) error {
	d.Severity = diag.Error
	return &diag.Refused{Err: d}
}

func unknownKind(kind string, set Descriptors) error {
	fix := "use one of: " + strings.Join(set.IDs(), ", ")
	if near := diag.Nearest(kind, set.IDs()); near != "" {
		fix = fmt.Sprintf("did you mean %q? %s", near, fix)
	}
	return refuse(&diag.Diagnostic{ID: "NOD-010", What: fmt.Sprintf("no descriptor is called %q", kind), Where: diag.Where{Key: "distro.kind"}, Fix: fix})
}

func severalUnits(d *Descriptor, units []*unit) error {
	var names []string
	for _, u := range units {
		names = append(names, u.Name+" ("+state(u)+", "+u.Path+")")
	}
	return refuse(&diag.Diagnostic{ID: "NOD-011", What: fmt.Sprintf("several units run %s: %s", d.Name, strings.Join(names, "; ")),
		Where: diag.Where{Unit: units[0].Name}, Why: "which of them this node is meant to run decides its role and paths",
		Fix: "systemctl disable --now " + units[len(units)-1].Name})
}

func ambiguous(found []candidate) error {
	var what, ids []string
	for _, c := range found {
		var why []string
		for _, e := range c.evidence {
			why = append(why, e.Value+" at "+e.Source)
		}
		what = append(what, c.d.ID+": "+strings.Join(why, ", "))
		ids = append(ids, c.d.ID)
	}
	return refuse(&diag.Diagnostic{ID: "NOD-001", What: "more than one distribution is installed: " + strings.Join(ids, ", "),
		Where: diag.Where{Key: "distro.kind"}, Why: strings.Join(what, "\n"),
		Fix: fmt.Sprintf("name the one that counts in edgeprep.toml: [distro] kind = %q", ids[0])})
}

func missing(not []candidate, kind string) error {
	var why, ids []string
	for _, c := range not {
		ids = append(ids, c.d.ID)
		if len(c.traces) > 0 {
			why = append(why, "of "+c.d.Name+" only this is there: "+strings.Join(c.traces, ", "))
		}
	}
	d := &diag.Diagnostic{ID: "NOD-002", What: "no Kubernetes distribution is installed", Why: strings.Join(why, "\n"),
		Fix: "install one first; it need not be started. Known: " + strings.Join(ids, ", ")}
	if kind != "" && kind != KindAuto {
		d.ID, d.What = "NOD-010", "this node does not run "+kind
		d.Where.Key = "distro.kind"
		d.Fix = fmt.Sprintf("install %s first (it need not be started), or set [distro] kind = %q", kind, KindAuto)
	}
	if len(why) == 0 {
		d.Why = "no unit and no program of one was found"
	}
	return refuse(d)
}
