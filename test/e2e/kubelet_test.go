package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/test/nspawn"
)

const site = `version = 1
[images]
archives = ["/opt/edgeprep/images/*.tar"]
[mirror]
upstream = "never"
[apply]
allow = ["restart"]
`

// prepared is a node as it leaves the workshop: the site file, the archives, a filled cache and the boot unit
// are on its disk, and it was never on.
func prepared(t *testing.T, tools, name string) *nspawn.Node {
	t.Helper()
	n := kubeadmNode(t, tools, name)
	n.Write(t, "/etc/edgeprep/edgeprep.toml", site)
	archive(t, n, "/opt/edgeprep/images/preload.tar", runnable(t, pause, 0), runnable(t, onNode, 1<<20))
	fillCache(t, n, tools, runnable(t, onMirror, 8<<20))
	bootUnit(t, n, tools)
	return n
}

// TestKubeletWithASystemdMirror: the node's first boot has no network and nobody typing. The boot unit
// prepares it before kubelet starts, and kubelet's static pod comes from an image that only the mirror has. The
// second boot does the same, and its apply has nothing to do.
func TestKubeletWithASystemdMirror(t *testing.T) {
	need(t)
	n := prepared(t, buildTools(t), "edge-systemd")
	runPod(t, n, "late", onMirror, "Always")
	for _, boot := range []string{"first", "second"} {
		n.Boot(t)
		ready := untilReady(t, n)
		untilRunning(t, n, "late", 2*time.Minute)
		applied := since(t, n, "edgeprep-apply.service", "ExecMainExit")
		started := since(t, n, "kubelet.service", "ExecMainStart")
		mirror := since(t, n, "edgeprep-mirror.service", "ActiveEnter")
		if applied == 0 || started < applied || started < mirror {
			t.Errorf("%s boot: apply ended at %.2f s, the mirror was up at %.2f s, kubelet started at %.2f s", boot, applied, mirror, started)
		}
		took := applied - since(t, n, "edgeprep-apply.service", "ExecMainStart")
		t.Logf("%s boot, seconds after systemd: mirror up %.2f, apply ended %.2f (took %.2f), kubelet started %.2f, healthy %.2f, pod runs %.2f",
			boot, mirror, applied, took, started, ready, up(t, n))
		log := n.Must(t, "journalctl -b --no-pager -o cat -u edgeprep-apply.service")
		t.Logf("%s", log)
		if boot == "second" && !strings.Contains(log, "Nothing to do") {
			t.Errorf("the second boot's apply did something\n%s", log)
		}
		if boot == "first" {
			n.PowerOff(t)
		}
	}
	if out := n.Must(t, "edgeprep mirror verify --cache "+cache); strings.Contains(out, "bad") {
		t.Errorf("%s", out)
	}
}

// TestMirrorKilledWhileServing: the mirror dies in the middle of a layer that kubelet's pull is waiting for. It
// is back within two seconds, the pull completes without anybody's help, and nothing in the cache is torn.
func TestMirrorKilledWhileServing(t *testing.T) {
	need(t)
	tools := buildTools(t)
	n := prepared(t, tools, "edge-killed")
	const large = 256 << 20
	images := []string{"quay.io/edge/large:1", "quay.io/edge/large:2"}
	for _, image := range images {
		fillCache(t, n, tools, runnable(t, image, large))
	}
	n.Boot(t)
	untilReady(t, n)
	for i, image := range images {
		pid := outside(t, strings.TrimSpace(n.Must(t, "systemctl show --value -p MainPID edgeprep-mirror.service")))
		name := fmt.Sprintf("large-%d", i)
		runPod(t, n, name, image, "IfNotPresent")
		arrived := untilArriving(t, n, large/16)
		// From outside: until a shell in the node has come to it, all may have arrived.
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := monotonic(t)
		if got := arriving(t, n); got == 0 || got >= large {
			t.Fatalf("killed too late to matter: %d bytes had arrived, %d before the kill", got, arrived)
		}
		until(t, n, 30*time.Second, "the mirror is back", func() (bool, string) {
			at := n.Must(t, "systemctl show --value -p ActiveEnterTimestampMonotonic edgeprep-mirror.service")
			return micros(t, at) > killed, at
		})
		back := micros(t, n.Must(t, "systemctl show --value -p ActiveEnterTimestampMonotonic edgeprep-mirror.service")) - killed
		if back > 2e6 {
			t.Errorf("the mirror was away for %.2f s", float64(back)/1e6)
		}
		runs := untilRunning(t, n, name, 2*time.Minute)
		t.Logf("killed with %d MiB of %d arrived; back after %.2f s, the pod ran %.1f s after that", arrived>>20, large>>20, float64(back)/1e6, runs.Seconds())
	}
	t.Logf("%s", n.Must(t, "edgeprep mirror verify --cache "+cache))
	n.Must(t, "test -z \"$(ls "+cache+"/quarantine 2>/dev/null)\"")
}

// outside finds the mirror that has a process id in its node among this machine's processes.
func outside(t *testing.T, inside string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		status, _ := os.ReadFile(file) // gone: not it
		_, ids, _ := strings.Cut(string(status), "\nNSpid:")
		ids, _, _ = strings.Cut(ids, "\n")
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		f := strings.Fields(ids)
		if len(f) < 2 || f[len(f)-1] != inside || !strings.Contains(string(cmdline), "mirror\x00serve") {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("no mirror is process %s of a node", inside)
	return 0
}

// untilReady waits for kubelet and gives the seconds from the start of the node's systemd.
func untilReady(t *testing.T, n *nspawn.Node) float64 {
	t.Helper()
	until(t, n, 2*time.Minute, "kubelet is healthy", func() (bool, string) {
		said := kubeletSays(t, n, 10248, "/healthz")
		return said == "ok", said
	})
	return up(t, n)
}

// up is how many seconds the node's systemd runs.
func up(t *testing.T, n *nspawn.Node) float64 {
	t.Helper()
	return float64(monotonic(t)-micros(t, n.Must(t, "systemctl show --value -p UserspaceTimestampMonotonic"))) / 1e6
}

// arriving is how many bytes of blobs containerd is downloading have come in.
func arriving(t *testing.T, n *nspawn.Node) int64 {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.ContainerdRoot(), "io.containerd.content.v1.content/ingest/*/data"))
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil { // gone: complete
			sum += fi.Size()
		}
	}
	return sum
}

func untilArriving(t *testing.T, n *nspawn.Node, least int64) int64 {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; {
		if got := arriving(t, n); got >= least {
			return got
		}
	}
	t.Fatal("no pull within a minute")
	return 0
}

// monotonic is the clock of systemd's timestamps, which containers share with this machine.
func monotonic(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano() / 1000
}

func micros(t *testing.T, s string) int64 {
	t.Helper()
	v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPowerCutDuringTheFirstApply: the plug is pulled while the first boot prepares the node, at a different
// point each time. The boot after it finishes the job, and kubelet starts what it should.
func TestPowerCutDuringTheFirstApply(t *testing.T) {
	need(t)
	n := prepared(t, buildTools(t), "edge-cut")
	runPod(t, n, "late", onMirror, "Always")
	for _, entries := range []int{1, 8, 8} {
		n.PowerOn(t)
		untilJournal(t, n, entries)
		n.PowerCut(t)
	}
	n.Boot(t)
	untilRunning(t, n, "late", 2*time.Minute)
	log := n.Must(t, "journalctl -b --no-pager -o cat -u edgeprep-apply.service")
	t.Logf("%s", log)
	if r := n.Sh(t, "edgeprep apply"); r.Code != 0 || !strings.Contains(r.Stderr, "Nothing to do") {
		t.Errorf("apply after it: exit %d\n%s", r.Code, r.Stderr)
	}
	n.Must(t, "edgeprep mirror verify --cache "+cache)
}

// untilJournal waits until apply has written so many lines of its journal, and so is at work.
func untilJournal(t *testing.T, n *nspawn.Node, lines int) {
	t.Helper()
	before := journalLines(t, n)
	for start := time.Now(); time.Since(start) < 2*time.Minute; {
		written := 0
		for file, now := range journalLines(t, n) {
			written += max(0, now-before[file])
		}
		if written >= lines {
			return
		}
	}
	console, err := os.ReadFile(n.Console())
	t.Fatalf("apply wrote less than %d lines of its journal\n%s %v", lines, console, err)
}

// journalLines are the lines of each run's journal.
func journalLines(t *testing.T, n *nspawn.Node) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, f := range journals(t, n) {
		if data, err := os.ReadFile(f); err == nil { // gone: that run is over
			out[f] = strings.Count(string(data), "\n")
		}
	}
	return out
}

// TestKubeletWithoutARoute: what a node does that has no default route, and that one to nowhere is enough.
func TestKubeletWithoutARoute(t *testing.T) {
	need(t)
	n := prepared(t, buildTools(t), "edge-no-route")
	if err := os.Remove(filepath.Join(n.Root, "/etc/systemd/system/multi-user.target.wants/default-route.service")); err != nil {
		t.Fatal(err)
	}
	runPod(t, n, "here", onNode, "IfNotPresent")
	n.Boot(t)
	t.Logf("without a route: mirror up %.2f s after systemd", since(t, n, "edgeprep-mirror.service", "ActiveEnter"))
	var line string
	until(t, n, time.Minute, "kubelet misses the route", func() (bool, string) {
		r := n.Sh(t, "journalctl -b --no-pager -o cat -u kubelet.service | grep -m 1 'no default routes found'")
		line = r.Stdout
		return r.Code == 0, line
	})
	t.Logf("without a route: kubelet says after %.2f s: %s", up(t, n), line)
	t.Logf("without a route: the pod: %+v", pod(t, n, "here"))
	r := n.Sh(t, "edgeprep check HST-02")
	if r.Code != 3 || !strings.Contains(r.Stdout, "ip route add default") {
		t.Errorf("edgeprep check HST-02: exit %d, and no fix that can be typed\n%s", r.Code, r.Stdout)
	}
	n.Must(t, "systemctl start default-route.service")
	at := up(t, n)
	t.Logf("with a route to nowhere: kubelet healthy %.2f s later", untilReady(t, n)-at)
	untilRunning(t, n, "here", 2*time.Minute)
	if r := n.Sh(t, "edgeprep check HST-02"); r.Code != 0 {
		t.Errorf("edgeprep check HST-02 with the route: exit %d\n%s", r.Code, r.Stdout)
	}
}
