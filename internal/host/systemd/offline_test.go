package systemd_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/host/systemd"
)

func offline(t *testing.T, dir string) (*systemd.OfflineUnits, *local.Host) {
	t.Helper()
	h, err := local.New(local.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return systemd.Offline(h.FS(), h.Files()), h
}

func TestUnitsConformanceOffline(t *testing.T) {
	t.Parallel()
	hosttest.UnitsConformance(t, func(t *testing.T) hosttest.UnitsUnderTest {
		u, h := offline(t, t.TempDir())
		return hosttest.UnitsUnderTest{Reader: u, Control: u, FS: h.FS(), Files: h.Files()}
	})
}

// trees are unit files and links; every unit named in the first file is enabled, in order.
var trees = map[string]string{
	"vendor unit": `
-- usr/lib/systemd/system/a.service --
[Service]
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
`,
	"everything": `
-- usr/lib/systemd/system/a.service --
# comment
[Unit]
WantedBy=not.target
[Install]
WantedBy=multi-user.target \
; a comment in between
  foo.target
WantedBy="bar.target"
RequiredBy=k3s.service
Alias=b.service c.service
Also=d.service e.service
-- etc/systemd/system/d.service --
[Install]
WantedBy=%p.target %N-x.target
Also=a.service
-- usr/local/lib/systemd/system/e.service --
[Service]
ExecStart=/bin/true
`,
	"list emptied": `
-- etc/systemd/system/a.service --
[Install]
WantedBy=one.target
WantedBy=
WantedBy=two.target
`,
	"etc before usr": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=vendor.target
-- etc/systemd/system/a.service --
[Install]
WantedBy=local.target
`,
	"drop-ins": `
-- usr/lib/systemd/system/a-b.service --
[Install]
WantedBy=one.target
-- usr/lib/systemd/system/a-b.service.d/10-x.conf --
[Install]
WantedBy=vendor.target
-- etc/systemd/system/a-b.service.d/10-x.conf --
[Install]
WantedBy=local.target
-- etc/systemd/system/a-.service.d/20-y.conf --
[Install]
WantedBy=prefix.target
-- etc/systemd/system/service.d/30-z.conf --
[Install]
WantedBy=type.target
-- etc/systemd/system/a-b.service.d/not-a-conf --
[Install]
WantedBy=no.target
`,
	"linked": `
-- opt/a.service --
[Install]
WantedBy=multi-user.target
-- etc/systemd/system/a.service -> /opt/a.service --
`,
	"linked only": `
-- opt/a.service --
[Service]
-- etc/systemd/system/a.service -> /opt/a.service --
`,
	"static": `
-- usr/lib/systemd/system/a.service --
[Service]
`,
	"enabled before, by a relative link": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=multi-user.target
-- etc/systemd/system/multi-user.target.wants/a.service -> ../../../../usr/lib/systemd/system/a.service --
`,
	"enabled at run time": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=multi-user.target
-- run/systemd/system/multi-user.target.wants/a.service -> /usr/lib/systemd/system/a.service --
`,
	"others beside": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=multi-user.target
-- usr/lib/systemd/system/z.service --
[Install]
WantedBy=multi-user.target
-- etc/systemd/system/multi-user.target.wants/z.service -> /usr/lib/systemd/system/z.service --
-- etc/systemd/system/empty.target.wants/ --
`,
	"masked": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=multi-user.target
-- etc/systemd/system/a.service -> /dev/null --
`,
	"vendor wants": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=multi-user.target
-- usr/lib/systemd/system/multi-user.target.wants/a.service -> ../a.service --
`,
	"missing": `
-- usr/lib/systemd/system/b.service --
[Install]
WantedBy=multi-user.target
`,
	"bad names": `
-- usr/lib/systemd/system/a.service --
[Install]
WantedBy=50%%.target
`,
	"unit in two ways": `
-- usr/lib/systemd/system/a.timer --
[Install]
WantedBy=timers.target
-- usr/lib/systemd/system/a.service --
[Install]
Also=a.timer
`,
}

// TestLikeSystemctl compares Enable, Disable and the state with what the real systemctl makes of a copy.
func TestLikeSystemctl(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemctl")
	if err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal("needs systemctl")
		}
		t.Skip("needs systemctl")
	}
	for name, tree := range trees {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unit := "a.service"
			if name == "drop-ins" {
				unit = "a-b.service"
			}
			compare(t, tool, tree, unit)
		})
	}
}

func compare(t *testing.T, tool, tree, unit string) {
	t.Helper()
	ctx := context.Background()
	real, ours := hosttest.New(t), hosttest.New(t)
	for _, n := range []*hosttest.Node{real, ours} {
		n.Add(txtar.Parse([]byte(tree)))
		n.Mkdir("/etc/systemd/system")
	}
	units, _ := offline(t, ours.Dir)
	run := func(verb string) (string, error) {
		out, err := exec.Command(tool, "--root="+real.Dir, verb, unit).Output() //nolint:gosec // a fixed table
		return strings.TrimSpace(string(out)), err
	}
	same := func(step string) {
		t.Helper()
		if diff := cmp.Diff(hosttest.Tree(t, real.Dir), hosttest.Tree(t, ours.Dir)); diff != "" {
			t.Errorf("%s: systemctl (-) and we (+) differ:\n%s", step, diff)
		}
		state, _ := run("is-enabled")
		got, err := units.Unit(ctx, unit)
		if err != nil || got.Enabled != state {
			t.Errorf("%s: systemctl says %q, we %q, %v", step, state, got.Enabled, err)
		}
	}
	same("before")
	for _, step := range []struct {
		verb string
		do   func(context.Context, string) error
	}{{"enable", units.Enable}, {"enable", units.Enable}, {"disable", units.Disable}, {"disable", units.Disable}} {
		_, theirs := run(step.verb)
		err := step.do(ctx, unit)
		// Two are stricter by intent: nothing to enable is an error, nothing to disable is none.
		if (theirs != nil) != (err != nil) && !strings.Contains(errText(err), "has no [Install]") && step.verb != "disable" {
			t.Errorf("%s: systemctl %v, we %v", step.verb, theirs, err)
		}
		same(step.verb)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
