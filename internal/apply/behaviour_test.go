package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

const registries = "/etc/rancher/k3s/registries.yaml"

var errBroken = errors.New("broken on purpose")

func (w *world) rollback(run string) (Report, error) {
	w.t.Helper()
	return w.engine().Rollback(context.Background(), run)
}

// ids are the ids of the diagnostics in err.
func ids(err error) []string {
	var out []string
	for _, d := range diag.Of(err) {
		out = append(out, d.ID)
	}
	return out
}

func wantID(t *testing.T, err error, id string) {
	t.Helper()
	if !slices.Contains(ids(err), id) {
		t.Errorf("error %v, want one with %s", err, id)
	}
}

// merge makes the wish for the shared file as internal/registries does: from what is there now.
func (w *world) merge() {
	for i := range w.want {
		if f := w.want[i].File; f != nil && f.Shared {
			now := w.n.ReadFile(f.Path)
			f.Base = plan.Sum([]byte(now))
			if !strings.Contains(now, "ours") {
				now = strings.ReplaceAll(now, "mirrors: {}", "mirrors: {ours: {}}")
			}
			f.Content = []byte(now)
		}
	}
}

func TestRestartNeedsPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow = nil
	before := w.snapshot()
	r, err := w.apply()
	if _, refused := errors.AsType[*diag.Refused](err); !refused || r.Outcome != OutcomeRefused {
		t.Errorf("%v, %+v", err, r)
	}
	wantID(t, err, "APL-001")
	equal(t, "a refused run", before, w.snapshot())
}

func TestAFileEditedByOthersIsNotOverwritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	const conf = "/etc/sysusers.d/edgeprep.conf"
	w.n.WriteFile(conf, "theirs\n")
	_, err := w.apply()
	wantID(t, err, "APL-002")
	if got := w.n.ReadFile(conf); got != "theirs\n" {
		t.Fatalf("overwritten: %q", got)
	}
	w.allow = append(w.allow, plan.RiskOverwrite)
	w.mustApply()
	w.allow = w.allow[:1]
	r, err := w.rollback("")
	if !errors.Is(err, ErrKept) || r.Outcome != OutcomeKept {
		t.Errorf("%v, %+v", err, r.Outcome)
	}
	if got := w.n.ReadFile(conf); got != "theirs\n" {
		t.Errorf("their edit is gone: %q", got)
	}
	w.allow = append(w.allow, plan.RiskOverwrite)
	if _, err := w.rollback(""); err != nil {
		t.Fatal(err)
	}
	if w.n.Exists(conf) {
		t.Error("the file is still there")
	}
}

func TestASharedFileKeepsWhatOthersAddBetweenRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	edited := strings.Replace(sharedV1, "# theirs\n", "# theirs\n# added\n", 1)
	w.n.WriteMode(registries, edited, 0o600)
	w.merge()
	w.mustApply() // their addition is no reason to do or to refuse anything
	if got := w.n.ReadFile(registries); got != edited {
		t.Errorf("got %q", got)
	}
	w.n.WriteMode(registries, "# theirs\n# added\nmirrors: {}\n", 0o600)
	w.merge()
	w.mustApply()
	if got := w.n.ReadFile(registries); got != edited {
		t.Errorf("got %q", got)
	}
	r, err := w.rollback("")
	if !errors.Is(err, ErrKept) {
		t.Errorf("%v %+v", err, r)
	}
	if got := w.n.ReadFile(registries); got != "# theirs\n# added\nmirrors: {}\n" {
		t.Errorf("after the rollback: %q", got)
	}
}

func TestRollbackLeavesWhatWasEditedSince(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	w.n.WriteMode(registries, "mirrors: {theirs: {}}\n", 0o600)
	p, err := RollbackPlan(context.Background(), asRoot(w.n), "", w.allow)
	if err != nil || len(p.Kept) != 1 || p.Kept[0].What != registries {
		t.Fatalf("%v, kept %+v", err, p.Kept)
	}
	r, err := w.rollback("")
	if !errors.Is(err, ErrKept) || len(r.Kept) != 1 {
		t.Errorf("%v, kept %+v", err, r.Kept)
	}
	if w.n.Exists("/etc/systemd/system/edgeprep-mirror.service") {
		t.Error("the rest was not put back")
	}
	if got := w.n.ReadFile(registries); got != "mirrors: {theirs: {}}\n" {
		t.Errorf("%q", got)
	}
}

func TestAFailedGateStopsWhatDependsOnIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ask = func(context.Context, resource.HTTPGate, GateFiles) error { return errBroken }
	r, err := w.apply()
	wantID(t, err, "APL-012")
	if r.Outcome != OutcomeFailed || r.Count(StatusSkipped) != 2 {
		t.Errorf("%+v", r)
	}
	if got := w.n.ReadFile(registries); got != sharedV0 {
		t.Errorf("the node depends on a mirror that does not answer: %q", got)
	}
	if calls := w.n.CallLog("units.Restart"); calls != "" {
		t.Errorf("restarted: %s", calls)
	}
	w.ask = func(context.Context, resource.HTTPGate, GateFiles) error { return nil }
	w.mustApply()
	if got := w.n.ReadFile(registries); got != sharedV1 {
		t.Errorf("%q", got)
	}
}

func TestARestartIsOwedUntilItIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.n.FailOn("units.Restart", 0, errBroken)
	if _, err := w.apply(); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	w.n.ClearFaults()
	st, err := ReadStatus(context.Background(), asRoot(w.n))
	if err != nil || len(st.Owed["k3s.service"].IDs) != 1 {
		t.Errorf("status: %v %+v", err, st.Owed)
	}
	w.n.ResetCalls()
	w.mustApply()
	if n := len(w.n.Calls("units.Restart")); n != 1 {
		t.Errorf("%d restarts", n)
	}
	if r := w.mustApply(); r.Outcome != OutcomeNothing {
		t.Errorf("%+v", r)
	}
}

func TestAReboodPaysADebt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.n.FailOn("units.Restart", 0, errBroken)
	_, _ = w.apply()
	w.n.ClearFaults()
	w.n.Info.BootID = "99999999-2222-3333-4444-555555555555"
	if r := w.mustApply(); r.Outcome != OutcomeNothing {
		t.Errorf("%+v", r.Changes)
	}
}

func TestWhatNobodyWantsAnyMoreGoesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.outside()
	w.mustApply()
	w.want = nil
	_, err := w.apply()
	wantID(t, err, "APL-003") // the archive may be the only copy
	w.allow = []plan.Risk{plan.RiskRestart, plan.RiskRemove}
	w.mustApply()
	for _, p := range []string{"/etc/systemd/system/edgeprep-mirror.service", "/var/lib/rancher/images", "/etc/edgeprep-link"} {
		if w.n.Exists(p) {
			t.Errorf("%s is still there", p)
		}
	}
	if got := w.n.ReadFile(registries); got != sharedV0 {
		t.Errorf("%q", got)
	}
	if r := w.mustApply(); r.Outcome != OutcomeNothing {
		t.Errorf("%+v", r.Changes)
	}
	w.mustRollback()
	equal(t, "rollback after a removal", before, w.outside())
}

// TestRollbackWithoutJournalIsNoSuccess: the ledger knows of a run whose journal was deleted.
func TestRollbackWithoutJournalIsNoSuccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	if err := os.RemoveAll(filepath.Join(w.n.Dir, plan.JournalDir)); err != nil {
		t.Fatal(err)
	}
	rep, err := w.engine().Rollback(context.Background(), "")
	if !errors.Is(err, ErrKept) || len(rep.Kept) != 1 {
		t.Errorf("%v, kept %v", err, rep.Kept)
	}
}
