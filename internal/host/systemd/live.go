// Package systemd reads and changes systemd units: over D-Bus where systemd runs, by files and links where it
// does not (a mounted image, a container).
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Running says whether systemd is this machine's init, as sd_booted(3) does.
func Running() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// LiveUnits are the units of the running systemd. Each call has its own connection: systemd may be
// re-executed between two of them, and calls are few.
type LiveUnits struct {
	offline *OfflineUnits
	dial    func(context.Context) (*sd.Conn, error)
}

// Units is the running systemd, or Offline where none runs.
func Units(fsys host.FS, files host.FileWriter) interface {
	host.UnitReader
	host.UnitControl
} {
	if !Running() {
		return Offline(fsys, files)
	}
	return Live(fsys, files)
}

// Live asks the running systemd; units that it has not loaded are read from their files.
func Live(fsys host.FS, files host.FileWriter) *LiveUnits {
	// Over the system bus, for root also over systemd's private socket: at early boot there is no bus yet.
	return &LiveUnits{offline: Offline(fsys, files), dial: sd.NewWithContext}
}

func (l *LiveUnits) connect(ctx context.Context) (*sd.Conn, error) {
	conn, err := l.dial(ctx)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("connect to systemd: %w", because(ctx, err))
	}
	return nil, fmt.Errorf("connect to systemd: %w: %w", host.ErrUnavailable, err)
}

// because adds the end of the context to an error that came of it: the connection is closed then, and that is
// all that the error says.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return errors.Join(ctx.Err(), err)
}

// Unit implements host.UnitReader.
func (l *LiveUnits) Unit(ctx context.Context, name string) (host.Unit, error) {
	if err := checkName(name); err != nil {
		return host.Unit{Name: name}, err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return host.Unit{Name: name}, err
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return host.Unit{Name: name}, fmt.Errorf("unit %s: %w", name, because(ctx, err))
	}
	u := unitOf(name, p)
	if u.Exists() {
		return u, nil
	}
	// Written since systemd last looked?
	u, err = l.offline.Unit(ctx, name)
	u.NeedsReload = u.Exists()
	if u.Exists() {
		u.Active = "inactive"
	}
	return u, err
}

func unitOf(name string, p map[string]any) host.Unit {
	text := func(key string) string { s, _ := p[key].(string); return s }
	u := host.Unit{
		Name: name, Load: text("LoadState"), Active: text("ActiveState"),
		Enabled: text("UnitFileState"), Fragment: text("FragmentPath"),
	}
	u.DropIns, _ = p["DropInPaths"].([]string)
	u.NeedsReload, _ = p["NeedDaemonReload"].(bool)
	return u
}

// Reload implements host.UnitControl.
func (l *LiveUnits) Reload(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload systemd: %w", because(ctx, err))
	}
	return nil
}

// Enable implements host.UnitControl.
func (l *LiveUnits) Enable(ctx context.Context, name string) error {
	return l.files(ctx, "enable", name, func(conn *sd.Conn) error {
		installable, _, err := conn.EnableUnitFilesContext(ctx, []string{name}, false, false)
		if err == nil && !installable {
			err = notInstallable(name)
		}
		return err
	})
}

// Disable implements host.UnitControl.
func (l *LiveUnits) Disable(ctx context.Context, name string) error {
	return l.files(ctx, "disable", name, func(conn *sd.Conn) error {
		_, err := conn.DisableUnitFilesContext(ctx, []string{name}, false)
		if isBusError(err, "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.FileNotFound") {
			return l.offline.Disable(ctx, name) // the file is gone, links may not be
		}
		return err
	})
}

// files changes links, after which systemd must look again.
func (l *LiveUnits) files(ctx context.Context, verb, name string, change func(*sd.Conn) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := change(conn); err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, because(ctx, err))
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("%s %s: reload systemd: %w", verb, name, because(ctx, err))
	}
	return nil
}

// Queue implements host.UnitControl.
func (l *LiveUnits) Queue(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.StartUnitContext(ctx, name, "replace", nil); err != nil {
		return fmt.Errorf("queue %s: %w", name, because(ctx, err))
	}
	return nil
}

// Start implements host.UnitControl.
func (l *LiveUnits) Start(ctx context.Context, name string) error {
	return l.job(ctx, "start", name, (*sd.Conn).StartUnitContext)
}

// Stop implements host.UnitControl. A unit that systemd does not know is not running. A failed one is
// forgotten as such: left failed, with its file removed and written anew, it cannot be loaded (EBUSY in
// unit_set_slice, systemd 252).
func (l *LiveUnits) Stop(ctx context.Context, name string) error {
	err := l.job(ctx, "stop", name, (*sd.Conn).StopUnitContext)
	if isBusError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return nil
	}
	if err != nil {
		return err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.ResetFailedUnitContext(ctx, name); err != nil && !isBusError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return fmt.Errorf("stop %s: %w", name, because(ctx, err))
	}
	return nil
}

// Restart implements host.UnitControl.
func (l *LiveUnits) Restart(ctx context.Context, name string) error {
	return l.job(ctx, "restart", name, (*sd.Conn).RestartUnitContext)
}

type jobFunc func(c *sd.Conn, ctx context.Context, name, mode string, ch chan<- string) (int, error)

// job queues a job and waits for its end.
func (l *LiveUnits) job(ctx context.Context, verb, name string, queue jobFunc) error {
	if err := checkName(name); err != nil {
		return err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	result := make(chan string, 1)
	if _, err := queue(conn, ctx, name, "replace", result); err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, because(ctx, err))
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s %s: the job is still queued or running: %w; see: systemctl status %s; systemctl list-jobs", verb, name, ctx.Err(), name)
	case r := <-result:
		return jobFault(verb, name, r)
	}
}

func isBusError(err error, names ...string) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range names {
		if strings.EqualFold(e.Name, n) {
			return true
		}
	}
	return false
}
