package distro

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func TestUnitFile(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/systemd/system/a.service", "[Unit]\nAfter=x.target y.target\nAfter=z.target\n[Service]\nRestart=no\nExecStart=/bin/a serve --listen 127.0.0.1:5000\n")
	n.WriteFile("/etc/systemd/system/a.service.d/1.conf", "[Unit]\nAfter=\nAfter=n.target\n[Service]\nRestart=always\n")
	u, ok, err := ReadUnitFile(t.Context(), n, "a.service")
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	if v, _ := u.Last("Service", "Restart"); v.Value != "always" || v.Source != "/etc/systemd/system/a.service.d/1.conf:5" {
		t.Errorf("%+v", v)
	}
	if d := cmp.Diff([]UnitValue{{"n.target", "/etc/systemd/system/a.service.d/1.conf:3"}}, u.Values("Unit", "After")); d != "" {
		t.Error(d)
	}
	if _, ok := u.Names("Unit", "After", "y.target"); ok {
		t.Error("y.target was taken back")
	}
	if _, ok := u.Names("Unit", "After", "n.target"); !ok {
		t.Error("n.target is named")
	}
	if v, ok := u.Flag("listen"); !ok || v.Value != "127.0.0.1:5000" {
		t.Errorf("%+v", v)
	}
	if _, ok := u.Last("Service", "User"); ok {
		t.Error("nothing says User")
	}
	if _, ok, err := ReadUnitFile(t.Context(), n, "none.service"); ok || err != nil {
		t.Error(ok, err)
	}
}
