package hosttest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host"
)

// UnitsUnderTest are the units that UnitsConformance works on. It makes the unit
// "edgeprep-conformance.service" below /etc/systemd/system and removes it in the end.
type UnitsUnderTest struct {
	Reader  host.UnitReader
	Control host.UnitControl
	FS      host.FS
	Files   host.FileWriter
	Running bool // a systemd runs that can start units
}

const (
	testUnit     = "edgeprep-conformance.service"
	testUnitFile = "/etc/systemd/system/" + testUnit
	testWants    = "/etc/systemd/system/multi-user.target.wants/" + testUnit
)

// UnitsConformance tests what package host promises of units.
func UnitsConformance(t *testing.T, open func(t *testing.T) UnitsUnderTest) {
	for name, test := range map[string]func(*testing.T, UnitsUnderTest){
		"NotFound":       unitsNotFound,
		"EnableDisable":  unitsEnable,
		"NotInstallable": unitsStatic,
		"Masked":         unitsMasked,
		"DropIns":        unitsDropIns,
		"Jobs":           unitsJobs,
		"FailedJob":      unitsFailedJob,
		"NeedsReload":    unitsNeedsReload,
		"NotNow":         unitsNotNow,
	} {
		t.Run(name, func(t *testing.T) {
			u := open(t)
			t.Cleanup(func() { u.clean(t) })
			test(t, u)
		})
	}
}

func (u UnitsUnderTest) clean(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	if u.Running {
		_ = u.Control.Stop(ctx, testUnit)
	}
	_ = u.Control.Disable(ctx, testUnit)
	for _, p := range []string{testUnitFile + ".d/10-test.conf", testUnitFile + ".d", testUnitFile} {
		if err := u.Files.Remove(ctx, p); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
	if u.Running {
		_ = u.Control.Reload(ctx)
	}
}

const serviceText = "[Unit]\nDescription=test\n[Service]\nType=exec\nExecStart=/bin/sleep 1000\n"

func (u UnitsUnderTest) write(t *testing.T, content string) {
	t.Helper()
	ctx := context.Background()
	for _, d := range []string{"/etc", "/etc/systemd", "/etc/systemd/system"} {
		if _, err := u.FS.Stat(d); err == nil {
			continue
		}
		if err := u.Files.Mkdir(ctx, d, host.Meta{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Files.Write(ctx, testUnitFile, []byte(content), host.Meta{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	u.reload(t)
}

func (u UnitsUnderTest) reload(t *testing.T) {
	t.Helper()
	if !u.Running {
		return
	}
	if err := u.Control.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (u UnitsUnderTest) unit(t *testing.T) host.Unit {
	t.Helper()
	got, err := u.Reader.Unit(context.Background(), testUnit)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func unitsNotFound(t *testing.T, u UnitsUnderTest) {
	got, err := u.Reader.Unit(context.Background(), "edgeprep-no-such.service")
	if err != nil || got.Load != "not-found" || got.Exists() || got.IsEnabled() || got.Running() {
		t.Errorf("a unit that is not there: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "../x.service", "x", "x@.service", "a/b.service"} {
		if _, err := u.Reader.Unit(context.Background(), bad); err == nil {
			t.Errorf("the name %q is accepted", bad)
		}
	}
	if err := u.Control.Enable(context.Background(), "edgeprep-no-such.service"); err == nil {
		t.Error("a unit that is not there was enabled")
	}
}

func unitsEnable(t *testing.T, u UnitsUnderTest) {
	ctx := context.Background()
	u.write(t, serviceText+"[Install]\nWantedBy=multi-user.target\n")
	if got := u.unit(t); got.Enabled != "disabled" || got.Load != "loaded" || got.Fragment != testUnitFile {
		t.Fatalf("before: %+v", got)
	}
	for range 2 {
		if err := u.Control.Enable(ctx, testUnit); err != nil {
			t.Fatal(err)
		}
	}
	link, err := u.FS.Lstat(testWants)
	if got := u.unit(t); err != nil || link.Type != host.TypeSymlink || !got.IsEnabled() {
		t.Fatalf("enabled: %+v, link %+v, %v", got, link, err)
	}
	for range 2 {
		if err := u.Control.Disable(ctx, testUnit); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := u.FS.Lstat(testWants); err == nil || u.unit(t).IsEnabled() {
		t.Error("disabled, but the link is there")
	}
	if _, err := u.FS.Lstat(testUnitFile); err != nil {
		t.Errorf("disabling removed the unit: %v", err)
	}
}

func unitsStatic(t *testing.T, u UnitsUnderTest) {
	u.write(t, serviceText)
	if got := u.unit(t); got.Enabled != "static" {
		t.Errorf("without [Install]: %+v", got)
	}
	if err := u.Control.Enable(context.Background(), testUnit); err == nil {
		t.Error("a unit without [Install] was enabled in silence")
	}
}

func unitsMasked(t *testing.T, u UnitsUnderTest) {
	u.write(t, serviceText)
	if err := u.Files.Symlink(context.Background(), testUnitFile, "/dev/null"); err != nil {
		t.Fatal(err)
	}
	u.reload(t)
	if got := u.unit(t); got.Load != "masked" || got.Enabled != "masked" {
		t.Errorf("masked: %+v", got)
	}
	if err := u.Control.Enable(context.Background(), testUnit); err == nil {
		t.Error("a masked unit was enabled")
	}
}

func unitsDropIns(t *testing.T, u UnitsUnderTest) {
	ctx := context.Background()
	u.write(t, serviceText)
	if err := u.Files.Mkdir(ctx, testUnitFile+".d", host.Meta{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	file := testUnitFile + ".d/10-test.conf"
	if err := u.Files.Write(ctx, file, []byte("[Install]\nWantedBy=multi-user.target\n"), host.Meta{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	u.reload(t)
	got := u.unit(t)
	if diff := cmp.Diff([]string{file}, got.DropIns); diff != "" || got.Enabled != "disabled" {
		t.Errorf("enabled %q, drop-ins %s", got.Enabled, diff)
	}
}

func unitsJobs(t *testing.T, u UnitsUnderTest) {
	if !u.Running {
		t.Skip("no systemd runs here")
	}
	ctx := context.Background()
	u.write(t, serviceText)
	for _, step := range []struct {
		do   func(context.Context, string) error
		want string
	}{
		{u.Control.Start, "active"}, {u.Control.Start, "active"}, {u.Control.Restart, "active"},
		{u.Control.Stop, "inactive"}, {u.Control.Stop, "inactive"}, {u.Control.Restart, "active"}, {u.Control.Stop, "inactive"},
		{func(ctx context.Context, name string) error { // the queued job is joined by one that is waited for
			return errors.Join(u.Control.Queue(ctx, name), u.Control.Start(ctx, name))
		}, "active"},
	} {
		if err := step.do(ctx, testUnit); err != nil {
			t.Fatal(err)
		}
		if got := u.unit(t); got.Active != step.want {
			t.Errorf("active %q, want %q", got.Active, step.want)
		}
	}
	if err := u.Control.Stop(ctx, "edgeprep-no-such.service"); err != nil {
		t.Errorf("stop of a unit that is not there: %v", err)
	}
	if err := u.Control.Start(ctx, "edgeprep-no-such.service"); err == nil {
		t.Error("start of a unit that is not there succeeded")
	}
}

func unitsFailedJob(t *testing.T, u UnitsUnderTest) {
	if !u.Running {
		t.Skip("no systemd runs here")
	}
	u.write(t, "[Service]\nType=oneshot\nExecStart=/bin/false\n")
	if n, ok := u.Control.(*Units); ok { // nothing is executed in memory
		n.OnStart(testUnit, func() error { return errors.New("exit status 1") })
	}
	if err := u.Control.Start(context.Background(), testUnit); err == nil {
		t.Error("a failing job is no error")
	}
	if got := u.unit(t); got.Active != "failed" {
		t.Errorf("after a failed job: %+v", got)
	}
}

func unitsNeedsReload(t *testing.T, u UnitsUnderTest) {
	if !u.Running {
		t.Skip("no systemd runs here")
	}
	ctx := context.Background()
	u.write(t, serviceText)
	if err := u.Control.Start(ctx, testUnit); err != nil {
		t.Fatal(err)
	}
	if u.unit(t).NeedsReload {
		t.Error("needs a reload without a change")
	}
	if err := u.Files.Write(ctx, testUnitFile, []byte(serviceText+"# changed\n"), host.Meta{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if !u.unit(t).NeedsReload {
		t.Error("a changed file is not seen")
	}
	u.reload(t)
	if u.unit(t).NeedsReload {
		t.Error("still needs a reload after one")
	}
}

func unitsNotNow(t *testing.T, u UnitsUnderTest) {
	if u.Running {
		t.Skip("a systemd runs here")
	}
	ctx := context.Background()
	u.write(t, serviceText)
	for name, err := range map[string]error{
		"reload": u.Control.Reload(ctx), "start": u.Control.Start(ctx, testUnit),
		"stop": u.Control.Stop(ctx, testUnit), "restart": u.Control.Restart(ctx, testUnit),
	} {
		if !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
	if got := u.unit(t); got.Active != "" {
		t.Errorf("active %q although nothing runs", got.Active)
	}
}
