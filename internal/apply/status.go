package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// StatusReport is what edgeprep did on a node and what became of it since.
type StatusReport struct {
	Schema     int                  `json:"schema"`
	Node       string               `json:"node"`
	Runs       []plan.Run           `json:"runs"`                 // oldest first
	Unfinished string               `json:"unfinished,omitempty"` // a run that was cut off
	Resources  int                  `json:"resources"`            // that edgeprep wrote
	Drift      []Drift              `json:"drift"`
	Owed       map[string]plan.Debt `json:"restarts,omitempty"` // restarts still to be done, by unit
}

// Drift is something that is not as edgeprep left it.
type Drift struct {
	ID   string `json:"id"`
	What string `json:"what"`
}

// ReadStatus compares the ledger with the node. It only reads.
func ReadStatus(ctx context.Context, r host.Reader) (StatusReport, error) {
	facts, err := r.Facts(ctx)
	if err != nil {
		return StatusReport{}, fmt.Errorf("identify the node: %w", err)
	}
	l, err := loadLedger(r.FS())
	if err != nil {
		return StatusReport{}, err
	}
	out := StatusReport{Schema: ReportSchema, Node: facts.Hostname, Runs: l.Runs, Drift: []Drift{}, Owed: owedNow(l, facts)}
	if out.Unfinished, err = unfinished(r.FS()); err != nil {
		return out, err
	}
	ids := make([]string, 0, len(l.Records))
	for id, rec := range l.Records {
		if !rec.Found {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	out.Resources = len(ids)
	for _, id := range ids {
		what, err := drift(ctx, r, facts, l.Records[id])
		if err != nil {
			return out, fmt.Errorf("%s: %w", id, err)
		}
		if what != "" {
			out.Drift = append(out.Drift, Drift{ID: id, What: what})
		}
	}
	return out, nil
}

func owedNow(l plan.Ledger, facts host.Facts) map[string]plan.Debt {
	out := map[string]plan.Debt{}
	for u, d := range l.Owed {
		if d.Boot == facts.BootID {
			out[u] = d
		}
	}
	return out
}

// unfinished is the run without an end. Journals are root's own: for others there is none to be seen.
func unfinished(r host.FS) (string, error) {
	runs, err := readRuns(r)
	if errors.Is(err, errPermission) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, x := range runs {
		if !x.ended {
			return x.id, nil
		}
	}
	return "", nil
}

func drift(ctx context.Context, r host.Reader, facts host.Facts, rec plan.Record) (string, error) {
	switch rec.Kind {
	case resource.KindUnit:
		return unitDrift(ctx, r, facts, rec)
	case resource.KindUser:
		if _, ok, err := r.Account(rec.Path); ok || err != nil {
			return "", err
		}
		return "the account is gone", nil
	case resource.KindImageSet:
		return "", nil // a check's business: it needs the containerd
	}
	got, _, err := plan.Look(r.FS(), rec.Path)
	if errors.Is(err, errPermission) {
		return "", nil
	}
	switch {
	case err != nil:
		return "", err
	case got == nil:
		return "removed", nil
	case !plan.Same(got, &rec.State):
		return "edited", nil
	}
	return "", nil
}

func unitDrift(ctx context.Context, r host.Reader, facts host.Facts, rec plan.Record) (string, error) {
	u, err := r.Units().Unit(ctx, rec.Path)
	if errors.Is(err, host.ErrUnavailable) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	want := rec.State.Unit
	switch {
	case want == nil:
	case want.IsEnabled() && !u.IsEnabled():
		return "no longer enabled", nil
	case facts.Live && want.Running() && !u.Running():
		return "does not run (" + u.Active + ")", nil
	}
	return "", nil
}

// Text writes the status for people.
func (r StatusReport) Text(w io.Writer) error {
	var b strings.Builder
	if len(r.Runs) == 0 && r.Unfinished == "" {
		b.WriteString("edgeprep has changed nothing on this node.\n")
	}
	for _, x := range r.Runs {
		fmt.Fprintf(&b, "run %s  %s: %s", x.ID, x.Verb, x.Outcome)
		if x.Undone != "" && x.Undone != x.ID {
			b.WriteString(", put back by run " + x.Undone)
		}
		b.WriteString("\n")
	}
	if r.Unfinished != "" {
		fmt.Fprintf(&b, "run %s was cut off; edgeprep apply finishes it, edgeprep rollback puts it back\n", r.Unfinished)
	}
	if len(r.Runs) > 0 {
		fmt.Fprintf(&b, "%d resources written, %d changed since\n", r.Resources, len(r.Drift))
	}
	for _, d := range r.Drift {
		fmt.Fprintf(&b, "  %s: %s\n", d.ID, d.What)
	}
	if n := len(r.Runs); n > 0 {
		section(&b, "Pending since the last run:", r.Runs[n-1].Pending)
	}
	for u, d := range r.Owed {
		fmt.Fprintf(&b, "restart owed: %s, to take in %s\n", u, strings.Join(d.IDs, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
