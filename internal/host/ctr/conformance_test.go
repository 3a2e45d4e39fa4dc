package ctr_test

import (
	"testing"

	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

// The namespace is one that CRI does not watch: it would add labels in its own time.
func TestConformance(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		hosttest.RuntimeConformance(t, func(t *testing.T) hosttest.RuntimeUnderTest {
			ep := d.Endpoint()
			ep.Namespace = "conformance"
			r := ctr.New(ep, ctr.Options{})
			t.Cleanup(func() { _ = r.Close() })
			return hosttest.RuntimeUnderTest{Control: r, Platform: platform, Snapshotter: d.Snapshotter}
		})
	})
}
