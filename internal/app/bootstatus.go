package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// UnitStatus is what the boot units are and did.
type UnitStatus struct {
	Installed bool          `json:"installed"`
	Degraded  bool          `json:"degraded"`
	Units     []host.Unit   `json:"units"`   // edgeprep's own
	Waiting   []host.Unit   `json:"waiting"` // the distribution's, that wait for them
	Result    *apply.Result `json:"result,omitempty"`
}

// UnitStatus reads the boot units and the last result.
func (a *App) UnitStatus(ctx context.Context) (UnitStatus, error) {
	l, err := plan.ReadLedger(a.reader.FS())
	if err != nil {
		return UnitStatus{}, err
	}
	rec, ok := l.Records[deploy.BootInstalled()]
	s := UnitStatus{Installed: ok && !rec.Found, Units: []host.Unit{}, Waiting: []host.Unit{}}
	var c bootChoice
	if json.Unmarshal(l.Sources[bootKey].Data, &c) == nil {
		s.Degraded = c.Degraded
	}
	if s.Units, err = a.units(ctx, []string{deploy.ApplyUnit, deploy.CheckUnit}); err != nil {
		return s, err
	}
	if s.Waiting, err = a.units(ctx, deploy.BootWaiting(slices.Collect(maps.Keys(l.Records)))); err != nil {
		return s, err
	}
	if r, err := apply.ReadResult(a.reader.FS()); err == nil {
		s.Result = &r
	}
	return s, nil
}

func (a *App) units(ctx context.Context, names []string) ([]host.Unit, error) {
	out := []host.Unit{}
	for _, n := range names {
		u, err := a.reader.Units().Unit(ctx, n)
		if err != nil && !errors.Is(err, host.ErrUnavailable) {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// Text writes the status for people.
func (s UnitStatus) Text(w io.Writer) error {
	var b strings.Builder
	if !s.Installed {
		b.WriteString("The boot units are not installed: edgeprep unit install\n")
	}
	for _, u := range slices.Concat(s.Units, s.Waiting) {
		if !u.Exists() {
			continue
		}
		fmt.Fprintf(&b, "%-24s %s", u.Name, firstOf(u.Enabled, "-"))
		if u.Active != "" {
			fmt.Fprintf(&b, ", %s", u.Active)
		}
		if slices.ContainsFunc(s.Waiting, func(x host.Unit) bool { return x.Name == u.Name }) {
			how := "only when apply succeeded"
			if s.Degraded {
				how = "also when apply failed"
			}
			fmt.Fprintf(&b, "; starts after apply, %s", how)
		}
		b.WriteString("\n")
	}
	if s.Result != nil {
		fmt.Fprintf(&b, "last run: %s %s, exit %d\n", s.Result.Verb, s.Result.Outcome, s.Result.Exit)
		if c := s.Result.Check; c != nil {
			fmt.Fprintf(&b, "checklist: %s, exit %d\n", c.Verdict, c.Exit)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
