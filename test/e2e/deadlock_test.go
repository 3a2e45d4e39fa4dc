package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

const podSite = `version = 1
[images]
archives = ["/opt/edgeprep/images/*.tar"]
[mirror]
mode = "workload"
upstream = "never"
[mirror.workload]
form = "static-pod"
[apply]
allow = ["restart"]
`

// TestDeadlockOfAMirrorInAPod: the mirror is a static pod. Its node's first boot works, because its image is
// preloaded. Without that image a cold boot is the classic deadlock, for real: the mirror's pod waits for an
// image that only the mirror could serve, and every other pod waits for the mirror. apply heals it, and the next
// cold boot brings the mirror up by itself, and through it a pod that was never there before.
func TestDeadlockOfAMirrorInAPod(t *testing.T) {
	need(t)
	tools := buildTools(t)
	n := prepared(t, tools, "edge-pod")
	n.Write(t, "/etc/edgeprep/edgeprep.toml", podSite)
	const next = "quay.io/edge/next:1"
	fillCache(t, n, tools, runnable(t, next, 8<<20))
	runPod(t, n, "late", onMirror, "Always")

	n.Boot(t)
	mirror := untilRunning(t, n, "edgeprep-mirror", 2*time.Minute)
	late := untilRunning(t, n, "late", 3*time.Minute)
	t.Logf("first boot: the mirror's pod runs after %.1f s, the pod that needs it %.1f s later", mirror.Seconds(), late.Seconds())

	// A node whose images are gone, and where nothing brings them back.
	n.Must(t, "systemctl stop kubelet && cri stop && ctr -n k8s.io images ls -q | xargs ctr -n k8s.io images rm --sync && mv /etc/edgeprep/edgeprep.toml /etc/edgeprep/kept")
	n.PowerOff(t)
	n.Boot(t)
	untilReady(t, n)
	pods := []string{"edgeprep-mirror", "late"}
	until(t, n, 2*time.Minute, "kubelet reports that it cannot make a sandbox", func() (bool, string) {
		log := n.Sh(t, "journalctl -b --no-pager -o cat -u kubelet | grep -m 1 CreatePodSandboxError")
		return log.Code == 0, log.Stdout
	})
	for start := time.Now(); time.Since(start) < 20*time.Second; {
		for _, p := range pods {
			if s := pod(t, n, p); s.Running {
				t.Fatalf("pod %s runs without an image", p)
			}
		}
	}
	t.Logf("deadlock without any image: %s", n.Must(t, "journalctl -b --no-pager -o cat -u kubelet | grep -m 1 CreatePodSandboxError | cut -c1-400"))

	// The sandbox image alone does not help: now it is the mirror's own image that nobody has.
	n.Must(t, "ctr -n k8s.io images import /opt/edgeprep/images/preload.tar >/dev/null")
	until(t, n, 3*time.Minute, "the mirror's pod lacks its image", func() (bool, string) {
		s := pod(t, n, "edgeprep-mirror")
		return strings.HasPrefix(s.Why, "ErrImage"), s.Why
	})
	until(t, n, 3*time.Minute, "the other pod lacks the mirror", func() (bool, string) {
		s := pod(t, n, "late")
		return s.Why == "ErrImagePull" || s.Why == "ImagePullBackOff", s.Why
	})
	for _, p := range pods {
		s := pod(t, n, p)
		t.Logf("deadlock without the mirror's image: pod %s: %s: %s", p, s.Why, s.Message)
	}

	n.Must(t, "mv /etc/edgeprep/kept /etc/edgeprep/edgeprep.toml")
	r := n.Sh(t, "edgeprep check COLD-01 COLD-02 COLD-03 COLD-04")
	t.Logf("what the checklist says of it (exit %d):\n%s", r.Code, r.Stdout)
	if r.Code != 3 || !regexp.MustCompile(`(?s)FAIL +COLD-02 .*edgeprep\.local/mirror:.*COLD-03`).MatchString(r.Stdout) {
		t.Errorf("COLD-02 does not name the mirror's image: exit %d", r.Code)
	}
	healed := n.Sh(t, "edgeprep apply")
	if healed.Code != 0 {
		t.Fatalf("apply: exit %d\n%s", healed.Code, healed.Stderr)
	}
	for _, p := range pods {
		untilRunning(t, n, p, 6*time.Minute) // kubelet's back-off grows to five
	}

	runPod(t, n, "next", next, "IfNotPresent") // a pod that this node never had an image for
	n.Must(t, "systemctl stop kubelet && sync")
	n.PowerCut(t)
	n.Boot(t)
	mirror = untilRunning(t, n, "edgeprep-mirror", 2*time.Minute)
	after := untilRunning(t, n, "next", 3*time.Minute)
	t.Logf("cold boot: the mirror's pod runs %.1f s after systemd is up, the new pod %.1f s later", mirror.Seconds(), after.Seconds())
}
