package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/resource"
)

func kubeadmBoot() Boot {
	return Boot{Units: []string{"containerd.service", "kubelet.service"}, Runtime: "containerd.service"}
}

func k3sBoot() Boot { return Boot{Units: []string{"k3s.service", "k3s-agent.service"}} }

// What removes resources takes the last one first: the drop-ins must go before the unit is stopped, else the
// distribution, which requires it, would be stopped with it.
func TestBootDropInsComeAfterTheUnitTheyRequire(t *testing.T) {
	t.Parallel()
	at := map[string]int{}
	rs := k3sBoot().Resources()
	for i, r := range rs {
		at[r.ID] = i
		for _, a := range r.After {
			if _, ok := at[a]; !ok {
				t.Errorf("%s comes after %s, which is not there before it", r.ID, a)
			}
		}
		if n := filepath.Base(r.ID); strings.HasPrefix(n, "rke2-") || strings.HasPrefix(n, "k3s") && !strings.HasSuffix(n, ".service.d") {
			t.Errorf("%s: k3s-killall.sh and rke2-uninstall.sh would take it", r.ID)
		}
		if r.Unit != nil && (!r.Unit.Enabled || r.Unit.Active) {
			t.Errorf("%s: a unit that runs apply is started by the boot alone", r.ID)
		}
	}
	drop := rs[at[resource.ID(resource.KindFile, bootDropInPath("k3s.service"))]]
	if !contains(drop.After, resource.ID(resource.KindUnit, ApplyUnit)) {
		t.Errorf("%v", drop.After)
	}
	if !BootOwns(drop.ID) || BootOwns(resource.ID(resource.KindFile, "/etc/systemd/system/k3s.service.d/10-edgeprep-mirror.conf")) {
		t.Error("what belongs to the boot units")
	}
	if got := BootWaiting([]string{drop.ID, "file:/etc/x"}); len(got) != 1 || got[0] != "k3s.service" {
		t.Errorf("%v", got)
	}
}

// containerd must not wait for apply, which talks to it.
func TestBootDoesNotHoldTheRuntimeBack(t *testing.T) {
	t.Parallel()
	b := kubeadmBoot()
	for _, r := range b.Resources() {
		if strings.Contains(r.ID, "containerd.service.d") {
			t.Errorf("%s", r.ID)
		}
	}
	if u := b.applyUnit(); !strings.Contains(u, "\nBefore=kubelet.service\n") || !strings.Contains(u, " containerd.service\n") {
		t.Errorf("\n%s", u)
	}
}

func TestBootDegraded(t *testing.T) {
	t.Parallel()
	b := k3sBoot()
	if d := b.dropIn("k3s.service"); !strings.Contains(d, "\nRequires="+ApplyUnit+"\nAfter="+ApplyUnit+"\n") {
		t.Errorf("\n%s", d)
	}
	b.Degraded = true
	if d := b.dropIn("k3s.service"); !strings.Contains(d, "\nWants="+ApplyUnit+"\nAfter="+ApplyUnit+"\n") {
		t.Errorf("\n%s", d)
	}
}

// TestBootOrderWithCloudInit asks systemd itself whether it can order a boot: with cloud-init's real units, with
// the distribution's, the mirror's and the boot units all enabled. The orderings that look obvious, apply after
// cloud-init.target or the distribution after cloud-final.service, make systemd delete a start job; that the
// same question finds them shows that it is a question.
func TestBootOrderWithCloudInit(t *testing.T) {
	t.Parallel()
	const cloudUnits = "/lib/systemd/system/cloud-init.service"
	analyze, err := exec.LookPath("systemd-analyze")
	if err == nil {
		_, err = os.Stat(cloudUnits)
	}
	if err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs systemd-analyze and cloud-init's units (Debian: systemd, cloud-init): " + err.Error())
	}
	for _, d := range []struct {
		name string
		boot Boot
	}{{"k3s", k3sBoot()}, {"kubeadm", kubeadmBoot()}} {
		for _, c := range []struct{ name, unit, old, new, deleted string }{
			{"as installed", "", "", "", ""},
			{"apply after cloud-init.target", ApplyUnit, "cloud-config.target", "cloud-init.target", "/start deleted"},
			{"distribution after cloud-final", d.boot.Units[len(d.boot.Units)-1], "After=network-online.target", "After=cloud-final.service", "/start deleted"},
			{"apply after the distribution", ApplyUnit, "local-fs.target", d.boot.Units[len(d.boot.Units)-1], "/start deleted"},
		} {
			t.Run(d.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				dir := unitTree(t, d.boot)
				if c.unit != "" {
					edit(t, filepath.Join(dir, c.unit), c.old, c.new)
				}
				cmd := exec.Command(analyze, "--no-pager", "verify", "multi-user.target")
				cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":/lib/systemd/system")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if found := strings.Contains(string(out), "ordering cycle"); found != (c.deleted != "") || !strings.Contains(string(out), c.deleted) {
					t.Errorf("ordering cycle: %v\n%s", found, out)
				}
			})
		}
	}
}

// unitTree is /etc/systemd/system of a node on which cloud-init found a data source and everything is enabled.
func unitTree(t *testing.T, b Boot) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	// k3s' install.sh, rke2's and k0s' units: a notify service without a time-out, after the network.
	const distribution = "[Unit]\nWants=network-online.target\nAfter=network-online.target\n[Service]\nType=notify\nTimeoutStartSec=0\nExecStart=/bin/true\n"
	for _, u := range b.Units {
		put(u, distribution)
		link("../"+u, "multi-user.target.wants/"+u)
	}
	rs := append(b.Resources(), service().Resources(distro.Node{Name: "it", Units: b.Units}, nil)...)
	for _, r := range rs {
		if r.File != nil && strings.HasPrefix(r.File.Path, unitDir) {
			put(strings.TrimPrefix(r.File.Path, unitDir+"/"), strings.ReplaceAll(string(r.File.Content), Binary, "/bin/true"))
		}
		if r.Unit != nil && r.Unit.Enabled {
			link("../"+r.Unit.Name, "multi-user.target.wants/"+r.Unit.Name)
		}
	}
	// cloud-init-generator: systemd/cloud-init-generator.tmpl
	link("/lib/systemd/system/cloud-init.target", "multi-user.target.wants/cloud-init.target")
	for _, u := range []string{"cloud-init-local", "cloud-init", "cloud-config", "cloud-final"} {
		link("/lib/systemd/system/"+u+".service", "cloud-init.target.wants/"+u+".service")
	}
	return dir
}

func edit(t *testing.T, file, old, with string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("no %q in\n%s", old, data)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(data), old, with, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}
