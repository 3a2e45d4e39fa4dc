package apply

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestApplyAgainAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.snapshot()
	r := w.mustApply()
	if r.Outcome != OutcomeDone || r.Count(StatusDone) != len(r.Changes) {
		t.Fatalf("%+v", r)
	}
	after := w.snapshot()
	if got := w.n.ReadFile("/etc/rancher/k3s/registries.yaml"); got != sharedV1 {
		t.Errorf("registries.yaml: %q", got)
	}
	if r = w.mustApply(); r.Outcome != OutcomeNothing || len(r.Changes) != 0 {
		t.Errorf("second apply: %+v", r)
	}
	if d := cmp.Diff(after, w.snapshot()); d != "" {
		t.Errorf("the second apply changed the node:\n%s", d)
	}
	calls := w.n.CallLog("units.Restart")
	if strings.Count(calls, "k3s.service") != 1 {
		t.Errorf("k3s was not restarted once: %s", calls)
	}
	w.mustRollback()
	if d := cmp.Diff(before, w.snapshot()); d != "" {
		t.Errorf("the rollback left:\n%s", d)
	}
}
