package e2e

import (
	"os"
	"testing"
	"time"
)

// TestDaemonSetInItsOwnCluster is the mirror on every node: filled while there is an uplink, switched off, switched
// on, and asked before and after. Pod network and service proxy are not in its way: they are off at the site.
func TestDaemonSetInItsOwnCluster(t *testing.T) {
	need(t)
	if os.Getenv("EDGEPREP_E2E_CLUSTER") != "1" {
		t.Skip("builds a whole Kubernetes: make e2e-cluster")
	}
	n := clusterNode(t, buildTools(t))
	n.Write(t, "/etc/edgeprep/edgeprep.toml", workloadSite("form = \"daemonset\"\n"))
	archive(t, n, "/opt/edgeprep/images/preload.tar", runnable(t, pause, 0))
	archive(t, n, "/root/upstream.tar", runnable(t, onMirror, 8<<20))
	n.Boot(t)
	untilSays(t, n, 3*time.Minute, kubectl+"get nodes --no-headers", " Ready ")
	t.Log(n.Must(t, "edgeprep apply 2>&1 && "+kubectl+"apply -f /var/lib/edgeprep/manifests/edgeprep-mirror.yaml"))
	const ready = kubectl + "-n edgeprep get daemonset edgeprep-mirror -o jsonpath='{.status.numberAvailable}'"
	untilSays(t, n, 5*time.Minute, ready, "1")
	t.Log(n.Must(t, "edgeprep apply 2>&1 && edgeprep unit install"))
	n.Must(t, "edgeprep mirror load --cache /root/upstream /root/upstream.tar && systemd-run --unit upstream edgeprep mirror serve --cache /root/upstream --listen "+address+":5001 --upstream never --default-registry quay.io")
	untilSays(t, n, time.Minute, "exec 3<>/dev/tcp/"+address+"/5001 && echo up", "up")
	n.Must(t, "cri pull "+onMirror) // pulled through it: the cache is filled by that
	n.Must(t, "ctr -n k8s.io images rm --sync "+onMirror)
	n.Must(t, "systemctl stop upstream && rm -r /root/upstream /root/upstream.tar && systemctl disable kube-proxy")
	n.PowerOff(t)
	n.Boot(t)
	untilSays(t, n, 5*time.Minute, "cri pull "+onMirror, "")
	t.Logf("cold boot: the first pull %.1f s after systemd was up", up(t, n))
	untilSays(t, n, 5*time.Minute, ready, "1")
	t.Log(n.Must(t, kubectl+"-n edgeprep get pods"))
	t.Log(n.Must(t, "edgeprep check COLD-01 COLD-02 COLD-03 COLD-04; true"))
	if out := n.Must(t, "edgeprep plan --detailed-exitcode 2>&1"); out == "" { // 2 would be: something is to be done
		t.Error("plan says nothing")
	}
}
