package hosttest

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/systemd"
)

// Units is a systemd in memory. Unit files, drop-ins and links are the real ones below the node's root; what
// runs is kept here. Units may also be added without a file.
type Units struct {
	faults  *Faults
	offline *systemd.OfflineUnits
	fs      host.FS

	mu     sync.Mutex
	down   bool
	added  map[string]host.Unit
	active map[string]string
	loaded map[string]string // what of the files systemd has read, of units that run
	hooks  map[string]func() error
}

func newUnits(f *Faults, o *systemd.OfflineUnits, fsys host.FS) *Units {
	return &Units{
		faults: f, offline: o, fs: fsys, added: map[string]host.Unit{}, active: map[string]string{},
		loaded: map[string]string{}, hooks: map[string]func() error{},
	}
}

// Add makes a unit that has no file. Load defaults to "loaded", Active to "inactive", Enabled to "disabled".
func (u *Units) Add(unit host.Unit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if unit.Load == "" {
		unit.Load = "loaded"
	}
	if unit.Enabled == "" {
		unit.Enabled = "disabled"
	}
	if unit.Active != "" {
		u.active[unit.Name] = unit.Active
	}
	u.added[unit.Name] = unit
}

// SetActive sets what a unit is doing: "active", "inactive", "failed", …
func (u *Units) SetActive(name, state string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active[name] = state
	if (host.Unit{Active: state}).Running() {
		u.remember(name)
	}
}

// OnStart is called when a unit starts or restarts; its error makes the job fail.
func (u *Units) OnStart(name string, fn func() error) { u.on("start", name, fn) }

// OnStop is called when a unit stops or restarts.
func (u *Units) OnStop(name string, fn func() error) { u.on("stop", name, fn) }

func (u *Units) on(verb, name string, fn func() error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hooks[verb+" "+name] = fn
}

// SetDown ends systemd: units are then what their files say, as on a mounted image.
func (u *Units) SetDown(down bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.down = down
}

// Unit implements host.UnitReader.
func (u *Units) Unit(ctx context.Context, name string) (host.Unit, error) {
	if err := u.faults.call("units.Unit", name); err != nil {
		return host.Unit{Name: name}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.unit(ctx, name)
}

func (u *Units) unit(ctx context.Context, name string) (host.Unit, error) {
	out, err := u.offline.Unit(ctx, name)
	if err != nil {
		return out, err
	}
	if a, ok := u.added[name]; ok && !out.Exists() {
		out = a
	}
	if u.down {
		out.Active = ""
		return out, nil
	}
	if out.Active = u.active[name]; out.Active == "" {
		out.Active = "inactive"
	}
	if seen, ok := u.loaded[name]; ok {
		out.NeedsReload = seen != u.content(out)
	}
	return out, nil
}

// content is what systemd would read of a unit now.
func (u *Units) content(unit host.Unit) string {
	var b strings.Builder
	for _, p := range append([]string{unit.Fragment}, unit.DropIns...) {
		c, err := u.fs.ReadFile(p, 0)
		fmt.Fprintf(&b, "%s %q %v\n", p, c, err != nil)
	}
	return b.String()
}

func (u *Units) remember(name string) {
	if unit, err := u.offline.Unit(context.Background(), name); err == nil && unit.Exists() {
		u.loaded[name] = u.content(unit)
	}
}

// Reload implements host.UnitControl.
func (u *Units) Reload(ctx context.Context) error {
	if err := u.faults.call("units.Reload"); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down {
		return u.offline.Reload(ctx)
	}
	for name := range u.loaded {
		u.remember(name)
	}
	return nil
}

// Enable implements host.UnitControl.
func (u *Units) Enable(ctx context.Context, name string) error {
	return u.setEnabled(ctx, "units.Enable", name, "enabled", u.offline.Enable)
}

// Disable implements host.UnitControl.
func (u *Units) Disable(ctx context.Context, name string) error {
	return u.setEnabled(ctx, "units.Disable", name, "disabled", u.offline.Disable)
}

func (u *Units) setEnabled(ctx context.Context, op, name, state string, links func(context.Context, string) error) error {
	if err := u.faults.call(op, name); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	onDisk, err := u.offline.Unit(ctx, name)
	if err != nil {
		return err
	}
	if a, ok := u.added[name]; ok && !onDisk.Exists() {
		a.Enabled = state
		u.added[name] = a
		return nil
	}
	return links(ctx, name)
}

// Queue implements host.UnitControl; the job is done at once.
func (u *Units) Queue(ctx context.Context, name string) error {
	return u.job(ctx, "units.Queue", name, "active", "start")
}

// Start implements host.UnitControl.
func (u *Units) Start(ctx context.Context, name string) error {
	return u.job(ctx, "units.Start", name, "active", "start")
}

// Stop implements host.UnitControl. A unit that is not there is not running.
func (u *Units) Stop(ctx context.Context, name string) error {
	return u.job(ctx, "units.Stop", name, "inactive", "stop")
}

// Restart implements host.UnitControl.
func (u *Units) Restart(ctx context.Context, name string) error {
	return u.job(ctx, "units.Restart", name, "active", "stop", "start")
}

func (u *Units) job(ctx context.Context, op, name, state string, verbs ...string) error {
	if err := u.faults.call(op, name); err != nil {
		return err
	}
	hooks, skip, err := u.prepare(ctx, op, name, state, verbs)
	if err != nil || skip {
		return err
	}
	for _, h := range hooks { // without the lock: a hook may ask for units
		if err := h(); err != nil {
			u.SetActive(name, "failed")
			return fmt.Errorf("%s %s: %w; see: journalctl -u %s -n 20", op, name, err, name)
		}
	}
	u.finish(name, state)
	return nil
}

// prepare looks whether the job can be and has to be done.
func (u *Units) prepare(ctx context.Context, op, name, state string, verbs []string) (hooks []func() error, skip bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down {
		return nil, false, fmt.Errorf("%s %s: no systemd is running: %w", op, name, host.ErrUnavailable)
	}
	unit, err := u.unit(ctx, name)
	switch {
	case err != nil:
		return nil, false, err
	case state == "inactive" && !unit.Running():
		return nil, true, nil
	case !unit.Exists():
		return nil, false, fmt.Errorf("%s: unit %s not found", op, name)
	case unit.Load == "masked":
		return nil, false, fmt.Errorf("%s: unit %s is masked", op, name)
	case len(verbs) == 1 && verbs[0] == "start" && unit.Running():
		return nil, true, nil
	}
	for _, v := range verbs {
		if h := u.hooks[v+" "+name]; h != nil && (v == "start" || unit.Running()) {
			hooks = append(hooks, h)
		}
	}
	return hooks, false, nil
}

func (u *Units) finish(name, state string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active[name] = state
	if state == "inactive" {
		delete(u.loaded, name) // systemd drops it and reads it anew
	} else if _, ok := u.loaded[name]; !ok {
		u.remember(name)
	}
}
