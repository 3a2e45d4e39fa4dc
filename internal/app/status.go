package app

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

// Status is what edgeprep did on the node, what became of it since, and the mirror.
type Status struct {
	apply.StatusReport
	Mirror MirrorStatus `json:"mirror"`
}

// MirrorStatus is the state of this node's mirror.
type MirrorStatus struct {
	Unit    string         `json:"unit,omitempty"` // "active", "inactive", …; empty: there is no such unit
	Enabled bool           `json:"enabled"`
	Health  *mirror.Health `json:"health,omitempty"` // nil: it does not answer on its admin socket
}

// Status reads the ledger and the node.
func (a *App) Status(ctx context.Context) (Status, error) {
	r, err := apply.ReadStatus(ctx, a.reader)
	if err != nil {
		return Status{}, err
	}
	s := Status{StatusReport: r}
	u, err := a.reader.Units().Unit(ctx, deploy.UnitName)
	if err != nil || !u.Exists() {
		return s, nil
	}
	s.Mirror = MirrorStatus{Unit: firstOf(u.Active, "unknown"), Enabled: u.IsEnabled()}
	if !live(a.opts.Root) {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if h, err := mirror.AdminClient(deploy.AdminPath).Health(ctx); err == nil {
		s.Mirror.Health = &h
	}
	return s, nil
}

// Text writes the status for people.
func (s Status) Text(w io.Writer) error {
	if err := s.StatusReport.Text(w); err != nil {
		return err
	}
	if s.Mirror.Unit == "" {
		return nil
	}
	at := "disabled"
	if s.Mirror.Enabled {
		at = "enabled"
	}
	_, err := fmt.Fprintf(w, "mirror: %s, %s\n", s.Mirror.Unit, at)
	return err
}
