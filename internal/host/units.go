package host

import "context"

// UnitReader reads systemd units.
type UnitReader interface {
	// Unit is the state of a unit, "k3s.service". A unit that does not exist has Load "not-found" and no error.
	Unit(ctx context.Context, name string) (Unit, error)
}

// UnitControl changes unit states. Without a running systemd (--root) Enable and Disable work on links, and
// the rest returns ErrUnavailable: the caller records it as pending.
type UnitControl interface {
	// Reload makes systemd read its unit files again.
	Reload(ctx context.Context) error
	Enable(ctx context.Context, name string) error
	Disable(ctx context.Context, name string) error
	// Queue asks for a start and does not wait: for a unit that waits for the one that asks.
	Queue(ctx context.Context, name string) error
	// Start, Stop and Restart wait for the job's end and fail when it failed.
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Restart(ctx context.Context, name string) error
}

// Unit is what is known of a systemd unit.
type Unit struct {
	Name     string   `json:"name"`
	Load     string   `json:"load"`    // "loaded", "not-found", "masked", …
	Enabled  string   `json:"enabled"` // "enabled", "disabled", "static", "masked", "" (not found)
	Active   string   `json:"active"`  // "active", "inactive", "activating", "failed", …; "" when unknown
	Fragment string   `json:"fragment,omitempty"`
	DropIns  []string `json:"dropIns,omitempty"`
	// NeedsReload: files changed since systemd read them.
	NeedsReload bool `json:"needsReload,omitempty"`
}

// Exists says whether there is such a unit.
func (u Unit) Exists() bool { return u.Load != "" && u.Load != "not-found" }

// Running says whether a change would disturb it.
func (u Unit) Running() bool {
	return u.Active == "active" || u.Active == "activating" || u.Active == "reloading"
}

// IsEnabled says whether it starts at boot.
func (u Unit) IsEnabled() bool { return u.Enabled == "enabled" || u.Enabled == "enabled-runtime" }
