package plan_test

import (
	"testing"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// A pod's user is a number that no account of the node stands for.
func TestAnOwnerMayBeANumber(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.Mkdir("/var")
	p := build(t, n, plan.Ledger{}, resource.Resource{ID: "dir:/var/cache", Kind: resource.KindDir, Dir: &resource.Dir{Path: "/var/cache", Mode: 0o750, Owner: "65532"}})
	if len(p.Changes) != 1 || p.Changes[0].After.UID != 65532 || p.Changes[0].After.GID != 65532 {
		t.Errorf("%+v", p.Changes)
	}
}
