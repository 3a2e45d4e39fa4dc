package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/test/nspawn"
)

const unattendedSite = `version = 1
[site]
name = "north"
[distro]
kind = "kubeadm"
[images]
archives = ["/opt/edgeprep/images/*.tar"]
[mirror]
upstream = "never"
[apply]
allow = ["restart"] # containerd, before kubelet starts
`

// bareNode is a disk image as a person makes one: containerd, kubeadm's files, cloud-init, archives, a seed. No
// network, no name, no edgeprep.toml.
func bareNode(t *testing.T, tools string, seedArgs ...string) *nspawn.Node {
	t.Helper()
	n := nspawn.With(t, "bare", "cloud-init")
	for file, text := range map[string]string{
		"kubelet.service": kubeletUnit, "kubelet.service.d/10-kubeadm.conf": kubeadmDropIn, "default-route.service": defaultRoute,
	} {
		n.Write(t, "/lib/systemd/system/"+file, text)
	}
	n.Write(t, "/usr/bin/kubelet", kubelet)
	n.Write(t, "/etc/cloud/cloud.cfg.d/99-network.cfg", "network: {config: disabled}\n")
	n.Write(t, "/etc/containerd/config.toml", containerdConfig)
	for _, p := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		n.Bind(t, filepath.Join(programs(t, "containerd-2.4"), p), "/usr/bin/"+p)
	}
	here := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", program, args, err, out)
		}
	}
	here("chmod", "755", filepath.Join(n.Root, "/usr/bin/kubelet"))
	enable(t, n, "kubelet.service")
	enable(t, n, "default-route.service")
	mkdir(t, n, "/opt/edgeprep/images")
	here(filepath.Join(tools, "images"), "-binary", "/bin/busybox", "-pause", pause, "-out", filepath.Join(n.Root, "/opt/edgeprep/images"))
	site := filepath.Join(t.TempDir(), "site.toml")
	if err := os.WriteFile(site, []byte(unattendedSite), 0o600); err != nil {
		t.Fatal(err)
	}
	seeds := t.TempDir()
	here(filepath.Join(tools, "edgeprep"), append([]string{"seed", "-c", site, "--out", seeds, "--node", "edge-1"}, seedArgs...)...)
	for _, f := range []string{"user-data", "meta-data"} {
		n.Copy(t, filepath.Join(seeds, "edge-1", f), "/var/lib/cloud/seed/nocloud/"+f, 0o600)
	}
	return n
}

// TestCloudInit: from a bare image to a prepared node with nobody there, with the power cut in the middle of it;
// then a boot that has nothing to do, one step of which fails, and what a node without a route is told.
func TestCloudInit(t *testing.T) {
	need(t)
	tools := buildTools(t)
	n := bareNode(t, tools)
	bootUnit(t, n, tools)
	runs := countRuns(t, n)

	step(t, "power cut in the first apply", func() {
		n.PowerOn(t)
		untilJournal(t, n, 6)
		n.PowerCut(t)
		if countRuns(t, n) != runs+1 || ended(t, n) {
			t.Fatal("the power was not cut in the middle of the run, so this shows nothing")
		}
	})
	step(t, "the next boot completes it", func() {
		n.Boot(t)
		r := result(t, n)
		if r.Outcome != apply.OutcomeDone || r.Exit != 0 || r.Recovered == "" {
			t.Errorf("%s", n.Must(t, "cat /run/edgeprep/result.json; journalctl -b --no-pager -u edgeprep-apply"))
		}
		for _, line := range []string{
			"test $(hostname) = edge-1", "cloud-init status | grep done", "grep -q capabilities /etc/containerd/certs.d/*/hosts.toml",
			"busybox wget -q -O - http://127.0.0.1:5000/v2/", "ctr -n k8s.io images ls -q | grep docker.io/library/edge-app:1.0",
			"systemctl is-active kubelet edgeprep-mirror edgeprep-apply", "edgeprep unit status",
		} {
			n.Must(t, line)
		}
		inOrder(t, n)
		verdict(t, n)
	})
	before := countRuns(t, n)
	n.PowerOff(t)
	step(t, "a boot with nothing to do", func() {
		n.Boot(t)
		r := result(t, n)
		if r.Outcome != apply.OutcomeNothing || r.Exit != 0 || countRuns(t, n) != before {
			t.Errorf("%s", n.Must(t, "cat /run/edgeprep/result.json; edgeprep plan; journalctl -b --no-pager -u edgeprep-apply"))
		}
		inOrder(t, n)
		ownTimes(t, n)
	})
	step(t, "without a route", func() {
		n.Must(t, "ip route del default")
		out := n.Sh(t, "edgeprep check HST-02 HST-06")
		if out.Code != 3 || !strings.Contains(out.Stdout, "ip route add default") {
			t.Errorf("exit %d\n%s", out.Code, out.Stdout)
		}
	})
	step(t, "a node that is not prepared does not start Kubernetes", func() {
		n.Must(t, "systemctl stop kubelet edgeprep-apply && cp /etc/edgeprep/edgeprep.toml /tmp/ && echo broken >> /etc/edgeprep/edgeprep.toml")
		if n.Sh(t, "systemctl start kubelet").Code == 0 {
			t.Error("kubelet started")
		}
		if r := result(t, n); r.Exit != 65 || r.Outcome != apply.OutcomeRefused || len(r.Errors) == 0 {
			t.Errorf("%+v", r)
		}
		n.Must(t, "cp /tmp/edgeprep.toml /etc/edgeprep/ && edgeprep apply && systemctl start kubelet && systemctl is-active kubelet")
	})
}

// step is a part of a test without which the rest of it means nothing. It is no subtest: a node that is booted in
// one ends with it.
func step(t *testing.T, name string, f func()) {
	t.Helper()
	t.Log(name)
	if f(); t.Failed() {
		t.FailNow()
	}
}

// TestCloudInitBootcmd: an image with edgeprep and an enabled distribution and no units of edgeprep. They are
// installed while systemd is in the middle of the boot, and the distribution waits for them all the same.
func TestCloudInitBootcmd(t *testing.T) {
	need(t)
	tools := buildTools(t)
	n := bareNode(t, tools, "--bootcmd")
	n.Copy(t, filepath.Join(tools, "edgeprep"), "/usr/bin/edgeprep", 0o755)
	for _, boot := range []string{"first", "second"} {
		n.Boot(t)
		n.Must(t, "systemctl is-active kubelet edgeprep-mirror edgeprep-apply")
		inOrder(t, n)
		if r := result(t, n); r.Exit != 0 || r.Outcome == apply.OutcomeNothing == (boot == "first") {
			t.Errorf("%s boot: %s", boot, n.Must(t, "cat /run/edgeprep/result.json; journalctl -b --no-pager -u edgeprep-apply"))
		}
		n.PowerOff(t)
	}
}

func journals(t *testing.T, n *nspawn.Node) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Root, "/var/lib/edgeprep/journal/*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func countRuns(t *testing.T, n *nspawn.Node) int { return len(journals(t, n)) }

// ended says whether the newest run came to its end.
func ended(t *testing.T, n *nspawn.Node) bool {
	t.Helper()
	files := journals(t, n)
	data, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(data), `"type":"end"`)
}

func result(t *testing.T, n *nspawn.Node) apply.Result {
	t.Helper()
	var r apply.Result
	if err := json.Unmarshal([]byte(n.Must(t, "cat /run/edgeprep/result.json")), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// inOrder: user-data was written, then the node was prepared, then kubelet was started; and systemd had no cycle
// to break.
func inOrder(t *testing.T, n *nspawn.Node) {
	t.Helper()
	written, begun := since(t, n, "cloud-config.target", "ActiveEnter"), since(t, n, "edgeprep-apply.service", "InactiveExit")
	ready, kubelet := since(t, n, "edgeprep-apply.service", "ActiveEnter"), since(t, n, "kubelet.service", "InactiveExit")
	mirror := since(t, n, "edgeprep-mirror.service", "ActiveEnter")
	t.Logf("after systemd started: cloud-config.target %.2f s, mirror ready %.2f s, apply %.2f-%.2f s, kubelet started %.2f s", written, mirror, begun, ready, kubelet)
	if written > begun || ready > kubelet || mirror > kubelet {
		t.Error("out of order")
	}
	if out := n.Sh(t, "journalctl -b --no-pager | grep -i 'ordering cycle'"); out.Code == 0 {
		t.Errorf("%s", out.Stdout)
	}
}

// ownTimes: no unit of edgeprep adds more than a second to a boot with nothing to do. The time is printed; what
// fails the test is far above, for a machine under load.
func ownTimes(t *testing.T, n *nspawn.Node) {
	t.Helper()
	for _, u := range []string{"edgeprep-apply.service", "edgeprep-mirror.service", "edgeprep-check.service"} {
		took := since(t, n, u, "ActiveEnter") - since(t, n, u, "InactiveExit")
		t.Logf("%s: %.2f s", u, took)
		if took > 10 {
			t.Errorf("%s took %.2f s", u, took)
		}
	}
	t.Logf("%s", n.Must(t, "systemd-analyze critical-chain --no-pager kubelet.service; systemd-analyze blame --no-pager | head"))
}

// verdict waits for the checklist that the boot does not wait for.
func verdict(t *testing.T, n *nspawn.Node) {
	t.Helper()
	until(t, n, 2*time.Minute, "the checklist's verdict", func() (bool, string) {
		return result(t, n).Check != nil, n.Sh(t, "journalctl -b --no-pager -u edgeprep-check").Stdout
	})
	c := result(t, n).Check
	t.Logf("checklist: %s, exit %d", c.Verdict, c.Exit)
	if c.Exit != 0 || c.Profile != "running" || n.Sh(t, "test -s "+c.Report).Code != 0 {
		t.Errorf("%+v\n%s", *c, n.Must(t, "journalctl -b --no-pager -u edgeprep-check"))
	}
}
