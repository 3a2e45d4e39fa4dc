package systemd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/host/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running gives the host of the running systemd. Only a machine that may be changed says so by its environment.
func running(t *testing.T) *local.Host {
	t.Helper()
	if !systemd.Running() || os.Geteuid() != 0 || os.Getenv("EDGEPREP_TEST_SYSTEMD") == "" {
		t.Skip("needs root, a running systemd, and EDGEPREP_TEST_SYSTEMD=1 to say that its units may be changed")
	}
	h, err := local.New(local.Options{Units: func(fsys host.FS, w host.FileWriter) local.Units { return systemd.Units(fsys, w) }})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestUnitsConformanceLive(t *testing.T) {
	h := running(t)
	hosttest.UnitsConformance(t, func(*testing.T) hosttest.UnitsUnderTest {
		return hosttest.UnitsUnderTest{Reader: h.Units(), Control: h.UnitControl(), FS: h.FS(), Files: h.Files(), Running: true}
	})
}

// TestJobGivenUp: a job that does not end is given up with the context, and the error says where to look.
func TestJobGivenUp(t *testing.T) {
	h := running(t)
	const file, name = "/run/systemd/system/edgeprep-slow.service", "edgeprep-slow.service"
	bg := context.Background()
	text := "[Service]\nType=oneshot\nTimeoutStartSec=60\nExecStart=/bin/sleep 60\n"
	if err := h.Files().Write(bg, file, []byte(text), host.Meta{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(h.UnitControl().Stop(bg, name), h.Files().Remove(bg, file), h.UnitControl().Reload(bg)); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(bg)
	done := make(chan error, 1)
	go func() { done <- h.UnitControl().Start(ctx, name) }()
	for {
		u, err := h.Units().Unit(bg, name)
		if err != nil {
			t.Error(err)
		}
		if err != nil || u.Active == "activating" {
			if !u.Running() {
				t.Errorf("a starting unit counts as idle: %+v", u)
			}
			break
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), "systemctl") {
		t.Errorf("a job that does not end: %v", err)
	}
}

// TestDependencyFails: the error of a job tells a failed requirement from a failure of its own.
func TestDependencyFails(t *testing.T) {
	h := running(t)
	bg := context.Background()
	files := map[string]string{
		"/run/systemd/system/edgeprep-needs.service":  "[Unit]\nRequires=edgeprep-broken.service\nAfter=edgeprep-broken.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
		"/run/systemd/system/edgeprep-broken.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
	}
	for p, text := range files {
		if err := h.Files().Write(bg, p, []byte(text), host.Meta{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(h.UnitControl().Stop(bg, filepath.Base(p)), h.Files().Remove(bg, p), h.UnitControl().Reload(bg)); err != nil {
				t.Error(err)
			}
		})
	}
	if err := h.UnitControl().Start(bg, "edgeprep-needs.service"); !isFault(err, "APL-071", "edgeprep-needs.service") {
		t.Errorf("a failed requirement: %v", err)
	}
	if err := h.UnitControl().Start(bg, "edgeprep-broken.service"); !isFault(err, "APL-070", "edgeprep-broken.service") {
		t.Errorf("a failed unit: %v", err)
	}
}

// isFault says whether err is a diagnostic about a unit, with a fix that names it.
func isFault(err error, id, unit string) bool {
	ds := diag.Of(err)
	return len(ds) == 1 && ds[0].ID == id && ds[0].Where.Unit == unit && strings.Contains(ds[0].Fix, unit)
}

func TestFaultsOffline(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/systemd/system/static.service", "[Service]\nExecStart=/bin/true\n")
	n.Symlink("/etc/systemd/system/masked.service", "/dev/null")
	units, _ := offline(t, n.Dir)
	for unit, id := range map[string]string{"static.service": "APL-072", "masked.service": "APL-073", "none.service": "APL-074"} {
		if err := units.Enable(context.Background(), unit); !isFault(err, id, unit) {
			t.Errorf("%s: %v, want %s", unit, err, id)
		}
	}
}

func TestUnitsWithoutSystemd(t *testing.T) {
	t.Parallel()
	if systemd.Running() {
		t.Skip("a systemd runs here")
	}
	h, err := local.New(local.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := systemd.Units(h.FS(), h.Files()).Reload(context.Background()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("reload: %v", err)
	}
	if _, err := systemd.Live(h.FS(), h.Files()).Unit(context.Background(), "a.service"); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("no bus: %v", err)
	}
}
