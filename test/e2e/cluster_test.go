package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/test/nspawn"
)

// The node's address: of an interface that leads nowhere.
const address = "203.0.113.254"

// clusterUnits are a whole control plane on one node, as kubeadm would make it, but as services and with one token
// for everybody: what is tested is the order at power-on, not access.
var clusterUnits = map[string]string{
	"etcd": "etcd --data-dir /var/lib/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379" +
		" --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380",
	"kube-apiserver": "kube-apiserver --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=AlwaysAllow" +
		" --token-auth-file=/etc/kubernetes/tokens.csv --cert-dir=/var/lib/kubernetes --advertise-address=" + address + " --allow-privileged=true" +
		" --service-account-key-file=/etc/kubernetes/sa.key --service-account-signing-key-file=/etc/kubernetes/sa.key" +
		" --service-account-issuer=https://kubernetes.default.svc",
	"kube-controller-manager": "kube-controller-manager --kubeconfig=/etc/kubernetes/admin.conf --leader-elect=false" +
		" --service-account-private-key-file=/etc/kubernetes/sa.key --root-ca-file=/var/lib/kubernetes/apiserver.crt",
	"kube-scheduler": "kube-scheduler --kubeconfig=/etc/kubernetes/admin.conf --leader-elect=false",
	// kube-proxy may not write the settings that are not of its network namespace.
	"kube-proxy": "kube-proxy --kubeconfig=/etc/kubernetes/admin.conf --proxy-mode=iptables --iptables-localhost-nodeports=false" +
		" --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s",
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- {name: edge, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}
users:
- {name: admin, user: {token: edge}}
contexts:
- {name: edge, context: {cluster: edge, user: admin}}
current-context: edge
`

const cni = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
`

const storage = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: mirror}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: /srv/mirror}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [edge-cluster]}]}]}}
`

// workloadSite is the site file of a mirror in the cluster, of the form that [mirror.workload] says.
func workloadSite(workload string) string {
	return `version = 1
[images]
archives = ["/opt/edgeprep/images/*.tar"]
[mirror]
mode = "workload"
[mirror.workload]
` + workload + `[[upstream]]
host = "quay.io"
url = "http://` + address + `:5001"
insecure = true
[apply]
allow = ["restart", "plain-http"]
[[node]]
name = "edge-cluster"
address = "` + address + `"
`
}

// clusterNode is a node with a control plane of its own.
func clusterNode(t *testing.T, tools string) *nspawn.Node {
	t.Helper()
	n := kubeadmNode(t, tools, "edge-cluster", "iptables", "conntrack", "openssl")
	kubernetes, tooling := programs(t, "kubernetes"), programs(t, "cluster")
	n.Bind(t, filepath.Join(tooling, "etcd"), "/usr/local/bin/etcd")
	for _, p := range []string{"bridge", "host-local", "loopback"} {
		n.Bind(t, filepath.Join(tooling, p), "/opt/cni/bin/"+p)
	}
	n.Bind(t, filepath.Join(kubernetes, "kubectl"), "/usr/local/bin/kubectl")
	for name, command := range clusterUnits {
		if name != "etcd" {
			n.Bind(t, filepath.Join(kubernetes, name), "/usr/local/bin/"+name)
		}
		n.Write(t, "/lib/systemd/system/"+name+".service", fmt.Sprintf("[Unit]\nAfter=network.target default-route.service etcd.service\n"+
			"[Service]\nExecStart=/usr/local/bin/%s\nRestart=always\nRestartSec=2\n[Install]\nWantedBy=multi-user.target\n", command))
		enable(t, n, name+".service")
	}
	for file, text := range map[string]string{"/etc/kubernetes/tokens.csv": "edge,admin,admin,system:masters\n", "/etc/kubernetes/admin.conf": kubeconfig,
		"/etc/kubernetes/kubelet.conf": kubeconfig, "/etc/kubernetes/sa.key": newKey(t), "/etc/cni/net.d/10-pods.conflist": cni,
		"/root/storage.yaml": storage, "/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=--kubeconfig=/etc/kubernetes/kubelet.conf\n"} {
		n.Write(t, file, text)
	}
	mkdir(t, n, "/srv/mirror")
	return n
}

func newKey(t *testing.T) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
}

const kubectl = "KUBECONFIG=/etc/kubernetes/admin.conf kubectl "

// untilSays runs a command on the node until it succeeds and prints what is wanted.
func untilSays(t *testing.T, n *nspawn.Node, within time.Duration, command, want string) {
	t.Helper()
	until(t, n, within, command, func() (bool, string) {
		r := n.Sh(t, command)
		return r.Code == 0 && strings.Contains(r.Stdout, want), r.Stdout + r.Stderr
	})
}

// transcript runs commands on a node and keeps what they print for docs/cluster.md.
type transcript struct {
	t *testing.T
	n *nspawn.Node
	b strings.Builder
}

func (tr *transcript) heading(text string) { fmt.Fprintf(&tr.b, "\n## %s\n", text) }

// run is a command of which the exit code is wanted.
func (tr *transcript) run(code int, command string) string {
	tr.t.Helper()
	r := tr.n.Sh(tr.t, "export KUBECONFIG=/etc/kubernetes/admin.conf; ("+command+") 2>&1")
	fmt.Fprintf(&tr.b, "\n```console\n# %s\n%s```\n", command, r.Stdout)
	tr.t.Logf("# %s\n%s(exit %d)", command, r.Stdout, r.Code)
	if r.Code != code {
		tr.t.Fatalf("# %s: exit %d, not %d\n%s", command, r.Code, code, r.Stdout)
	}
	return r.Stdout
}

const clusterIntro = `# A mirror that runs in the cluster it serves

Every command below is run by ` + "`make e2e-cluster`" + ` (root, Debian; some minutes of building Kubernetes the first time)
on a node that it boots: Debian 12 with systemd, containerd 2.4, kubelet, etcd and a control plane, kube-proxy, a bridge
as pod network, and a default route to nowhere. The mirror is a Deployment with a volume and a NodePort.
` + "`EDGEPREP_UPDATE=1`" + ` writes this file anew. ` + "`cri`" + ` (from test/cri) asks containerd what kubelet asks.
`

// TestMirrorInItsOwnCluster is the mission's first way, with everything in it real: a Deployment on a persistent
// volume behind a NodePort, filled while there is an uplink, switched off, switched on at the site. Without its
// preloaded image it deadlocks.
func TestMirrorInItsOwnCluster(t *testing.T) {
	need(t)
	if os.Getenv("EDGEPREP_E2E_CLUSTER") != "1" {
		t.Skip("builds a whole Kubernetes: make e2e-cluster")
	}
	tools := buildTools(t)
	n := clusterNode(t, tools)
	n.Write(t, "/etc/edgeprep/edgeprep.toml", workloadSite("form = \"deployment\"\nstorage_class = \"local\"\nsize = \"1GiB\"\n"))
	archive(t, n, "/opt/edgeprep/images/preload.tar", runnable(t, pause, 0))
	archive(t, n, "/root/upstream.tar", runnable(t, onMirror, 8<<20))
	n.Boot(t)
	tr := &transcript{t: t, n: n}
	tr.b.WriteString(clusterIntro)
	untilSays(t, n, 3*time.Minute, kubectl+"get nodes --no-headers", " Ready ")

	tr.heading("Staging, with an uplink")
	tr.run(0, "kubectl get nodes; kubectl apply -f /root/storage.yaml")
	tr.run(0, "edgeprep apply")
	tr.run(0, "kubectl apply -f /var/lib/edgeprep/manifests/edgeprep-mirror.yaml")
	available(t, n)
	tr.run(0, "kubectl -n edgeprep get pods,pvc,services")
	tr.run(0, "edgeprep apply && edgeprep unit install")
	n.Must(t, "edgeprep mirror load --cache /root/upstream /root/upstream.tar && systemd-run --unit upstream edgeprep mirror serve --cache /root/upstream --listen "+address+":5001 --upstream never --default-registry quay.io")
	untilSays(t, n, time.Minute, "exec 3<>/dev/tcp/"+address+"/5001 && echo up", "up")
	tr.run(0, "kubectl -n edgeprep exec deploy/edgeprep-mirror -- /usr/local/bin/edgeprep mirror fill --cache /var/lib/edgeprep/mirror --config /etc/edgeprep/mirror/edgeprep.toml "+onMirror)

	tr.heading("Switched off, and on again at the site")
	n.Must(t, "systemctl stop upstream && rm -r /root/upstream /root/upstream.tar")
	n.PowerOff(t)
	n.Boot(t)
	const list = "kubectl -n edgeprep exec deploy/edgeprep-mirror -- /usr/local/bin/edgeprep mirror ls --cache /var/lib/edgeprep/mirror"
	// What the API server has of before is no proof: the pod has to answer.
	untilSays(t, n, 5*time.Minute, "export KUBECONFIG=/etc/kubernetes/admin.conf; "+list, "on-mirror")
	t.Logf("cold boot: the mirror's pod answers %.1f s after systemd was up", up(t, n))
	tr.run(0, "kubectl -n edgeprep get pods")
	tr.run(0, list)
	tr.run(0, "cri pull "+onMirror)
	tr.run(0, "edgeprep check COLD-01 COLD-02 COLD-03 COLD-04; true")

	tr.heading("Without its own image")
	tr.run(0, "systemctl stop kubelet && cri stop && (ctr -n k8s.io images ls -q | grep edgeprep.local/mirror; echo "+onMirror+") 2>/dev/null | xargs ctr -n k8s.io images rm --sync 2>/dev/null && systemctl start kubelet")
	untilSays(t, n, 3*time.Minute, kubectl+"-n edgeprep get pods --no-headers", "ErrImage")
	tr.run(0, "kubectl -n edgeprep get pods")
	tr.run(1, "cri pull "+onMirror)
	tr.run(3, "edgeprep check COLD-02")
	tr.run(0, "edgeprep apply")
	available(t, n)
	tr.run(0, "cri pull "+onMirror)

	tr.heading("A volume that does not survive")
	tr.run(69, `sed -i 's/storage_class = "local"/storage_class = "emptyDir"/' /etc/edgeprep/edgeprep.toml && edgeprep apply`)
	if os.Getenv("EDGEPREP_UPDATE") == "1" {
		if err := os.WriteFile("../../docs/cluster.md", []byte(tr.b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func available(t *testing.T, n *nspawn.Node) {
	t.Helper()
	untilSays(t, n, 5*time.Minute, kubectl+"-n edgeprep get deployment edgeprep-mirror -o jsonpath='{.status.availableReplicas}'", "1")
}
