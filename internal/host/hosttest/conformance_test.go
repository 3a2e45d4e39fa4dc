package hosttest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/host"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRuntimeConformance(t *testing.T) {
	t.Parallel()
	RuntimeConformance(t, func(t *testing.T) RuntimeUnderTest {
		return RuntimeUnderTest{
			Control: New(t).RuntimeControl(host.Endpoint{Socket: "/run/x.sock"}), Platform: "linux/amd64", Snapshotter: "overlayfs",
		}
	})
}

func TestUnitsConformance(t *testing.T) {
	t.Parallel()
	for _, live := range []bool{true, false} {
		UnitsConformance(t, func(t *testing.T) UnitsUnderTest {
			n := New(t)
			n.SetLive(live)
			return UnitsUnderTest{Reader: n.Units(), Control: n.UnitControl(), FS: n.FS(), Files: n.Files(), Running: live}
		})
	}
}

func TestFilesConformance(t *testing.T) {
	t.Parallel()
	FilesConformance(t, func(t *testing.T) host.Host { return New(t) })
}
