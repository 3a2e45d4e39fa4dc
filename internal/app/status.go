package app

import (
	"context"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// Status is what edgeprep did on the node, what became of it since, and the mirror.
type Status struct {
	apply.StatusReport
	Mirror MirrorStatus `json:"mirror"`
}

// MirrorStatus is the state of this node's mirror.
type MirrorStatus struct {
	Unit     string         `json:"unit,omitempty"` // "active", "inactive", …; empty: there is no such unit
	Enabled  bool           `json:"enabled"`
	Manifest string         `json:"manifest,omitempty"` // of a mirror in Kubernetes
	Health   *mirror.Health `json:"health,omitempty"`   // nil: it does not answer on its admin socket
}

// Status reads the ledger and the node.
func (a *App) Status(ctx context.Context) (Status, error) {
	r, err := apply.ReadStatus(ctx, a.reader)
	if err != nil {
		return Status{}, err
	}
	s := Status{StatusReport: r}
	admin := deploy.AdminPath
	u, err := a.reader.Units().Unit(ctx, deploy.UnitName)
	switch {
	case err == nil && u.Exists():
		s.Mirror = MirrorStatus{Unit: firstOf(u.Active, "unknown"), Enabled: u.IsEnabled()}
	default:
		if s.Mirror.Manifest, err = a.manifest(); err != nil || s.Mirror.Manifest == "" {
			return s, err
		}
		admin = deploy.PodAdminPath
	}
	if !live(a.opts.Root) {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if h, err := mirror.AdminClient(admin).Health(ctx); err == nil {
		s.Mirror.Health = &h
	}
	return s, nil
}

// manifest is the mirror's manifest that edgeprep wrote; empty: none.
func (a *App) manifest() (string, error) {
	l, err := plan.ReadLedger(a.reader.FS())
	if err != nil {
		return "", err
	}
	for _, rec := range l.Records {
		if path.Base(rec.Path) == deploy.ManifestName {
			return rec.Path, nil
		}
	}
	return "", nil
}

// Text writes the status for people.
func (s Status) Text(w io.Writer) error {
	if err := s.StatusReport.Text(w); err != nil {
		return err
	}
	if s.Mirror.Manifest != "" {
		answer := "does not answer"
		if s.Mirror.Health != nil {
			answer = s.Mirror.Health.Status
		}
		_, err := fmt.Fprintf(w, "mirror: %s, by %s\n", answer, s.Mirror.Manifest)
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
