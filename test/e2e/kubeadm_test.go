package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/binaries"
	"github.com/edgeprep/edgeprep/test/nspawn"
)

const (
	pause     = "registry.k8s.io/pause:3.10.2" // what containerd 2.4 asks for
	onNode    = "registry.example/edge/on-node:1"
	onMirror  = "quay.io/edge/on-mirror:1"
	manifests = "/etc/kubernetes/manifests"
	cache     = "/var/lib/edgeprep/mirror"
)

// kubeadm's drop-in, without the API server's part: this kubelet runs static pods only, as every node of
// kubeadm does until its API server is up. kubeadm: cmd/kubeadm/app/constants, 10-kubeadm.conf of the packages.
const kubeletDropIn = `[Service]
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS
`

const realKubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
`

// kubeletConfig: failCgroupV1 and failSwapOn for machines that run these tests; readOnlyPort so that a test can
// ask what kubelet runs.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: /etc/kubernetes/manifests
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
readOnlyPort: 10255
resolvConf: ""
authentication:
  anonymous: {enabled: true}
  webhook: {enabled: false}
authorization: {mode: AlwaysAllow}
`

const containerdConfig = `version = 3

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
`

const containerdUnit = `[Unit]
Description=containerd container runtime
After=network.target local-fs.target

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
`

const prepareUnit = `[Unit]
Description=What this container lacks for containerd and kubelet
Before=containerd.service kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/node-prepare

[Install]
WantedBy=multi-user.target
`

// defaultRoute is what a node without a cable needs for kubelet to start: a route that leads nowhere.
const defaultRoute = `[Unit]
Description=A default route without a network
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link add dummy0 type dummy || ip link add dummy0 type veth peer name dummy1 && ip link set dummy1 up; ip addr add 203.0.113.254/31 dev dummy0; ip link set dummy0 up; ip route replace default via 203.0.113.255 dev dummy0 metric 1000'

[Install]
WantedBy=multi-user.target
`

// kubeadmNode makes a node on which kubeadm has been: containerd 2.4, kubelet with kubeadm's files, no API
// server, and no network but a dummy default route. It is not booted.
func kubeadmNode(t *testing.T, tools, name string, packages ...string) *nspawn.Node {
	t.Helper()
	n := node(t, name, packages)
	for _, p := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		n.Bind(t, filepath.Join(programs(t, "containerd-2.4"), p), "/usr/bin/"+p)
	}
	n.Bind(t, filepath.Join(programs(t, "kubelet"), "kubelet"), "/usr/bin/kubelet")
	n.Copy(t, filepath.Join(tools, "edgeprep"), "/usr/bin/edgeprep", 0o755)
	n.Copy(t, filepath.Join(tools, "cri"), "/usr/bin/cri", 0o755)
	n.Copy(t, "node-prepare.sh", "/usr/local/sbin/node-prepare", 0o755)
	for file, text := range map[string]string{
		"kubelet.service":                   realKubeletUnit,
		"kubelet.service.d/10-kubeadm.conf": kubeletDropIn,
		"containerd.service":                containerdUnit,
		"node-prepare.service":              prepareUnit,
		"default-route.service":             defaultRoute,
	} {
		n.Write(t, "/lib/systemd/system/"+file, text)
		if !strings.Contains(file, "/") {
			enable(t, n, file)
		}
	}
	n.Write(t, "/etc/containerd/config.toml", containerdConfig)
	n.Write(t, "/var/lib/kubelet/config.yaml", kubeletConfig)
	n.Write(t, "/etc/kubernetes/kubelet.conf", "# kubeadm has been here\n")
	mkdir(t, n, manifests)
	return n
}

func node(t *testing.T, name string, packages []string) *nspawn.Node {
	t.Helper()
	if len(packages) == 0 {
		return nspawn.New(t, name)
	}
	return nspawn.With(t, name, packages...)
}

func enable(t *testing.T, n *nspawn.Node, unit string) {
	t.Helper()
	dir := filepath.Join(n.Root, "/etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/lib/systemd/system/"+unit, filepath.Join(dir, unit)); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, n *nspawn.Node, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(n.Root, dir), 0o755); err != nil {
		t.Fatal(err)
	}
}

// programs builds a target, or finds what was built before.
func programs(t *testing.T, name string) string {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	target, err := binaries.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := target.Build(t.Context(), root, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// runnable is an image whose only program is busybox, with a layer of so many incompressible bytes.
func runnable(t *testing.T, ref string, bytes int64) imagetest.ImageSpec {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	return imagetest.ImageSpec{Names: []string{ref}, Platforms: []string{"linux/" + runtime.GOARCH},
		Cmd: []string{"/bin/sleep", "1000000"}, Layers: []imagetest.LayerSpec{
			{Seed: "busybox", Files: []imagetest.File{{Path: "bin/busybox", Mode: 0o755, Content: program},
				{Path: "bin/sh", Link: "busybox"}, {Path: "bin/sleep", Link: "busybox"}}},
			{Seed: ref, Size: bytes, Random: 100}}}
}

// archive writes images to a file of the node.
func archive(t *testing.T, n *nspawn.Node, file string, specs ...imagetest.ImageSpec) {
	t.Helper()
	set, err := imagetest.Build(specs...)
	if err != nil {
		t.Fatal(err)
	}
	mkdir(t, n, filepath.Dir(file))
	if err := set.WriteArchive(filepath.Join(n.Root, file), imagetest.Form{Layout: imagetest.Combined}); err != nil {
		t.Fatal(err)
	}
}

// fillCache puts images into the mirror's cache while the node is off, as one does who prepares its disk.
func fillCache(t *testing.T, n *nspawn.Node, tools string, specs ...imagetest.ImageSpec) {
	t.Helper()
	archive(t, n, "/tmp/for-the-mirror.tar", specs...)
	file := filepath.Join(n.Root, "/tmp/for-the-mirror.tar")
	out, err := exec.Command(filepath.Join(tools, "edgeprep"), "mirror", "load", "--cache", filepath.Join(n.Root, cache), file).CombinedOutput()
	if err != nil {
		t.Fatalf("mirror load: %v\n%s", err, out)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  hostNetwork: true
  containers:
  - {name: app, image: %q, imagePullPolicy: %s, command: [/bin/sh, -c, "trap exit TERM; sleep 1000000 & wait"]}
`

// runPod is a static pod that kubelet starts by itself.
func runPod(t *testing.T, n *nspawn.Node, name, image, policy string) {
	t.Helper()
	n.Write(t, manifests+"/"+name+".yaml", fmt.Sprintf(staticPod, name, image, policy))
}

// podState is what kubelet says of a pod: "Running", or why not.
type podState struct {
	Running  bool
	Why      string // the container's reason: "ErrImagePull"
	Message  string
	Restarts int
}

// kubeletSays gets a page of kubelet's. (busybox's wget is not reliable: Debian's static one may crash in it.)
func kubeletSays(t *testing.T, n *nspawn.Node, port int, page string) string {
	t.Helper()
	r := n.Sh(t, fmt.Sprintf(`exec 3<>/dev/tcp/127.0.0.1/%d && printf 'GET %s HTTP/1.0\r\n\r\n' >&3 && cat <&3`, port, page))
	_, body, _ := strings.Cut(r.Stdout, "\r\n\r\n")
	return body
}

// pod asks kubelet for a static pod.
func pod(t *testing.T, n *nspawn.Node, name string) podState {
	t.Helper()
	said := kubeletSays(t, n, 10255, "/pods")
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase             string
				Conditions        []struct{ Type, Status string }
				ContainerStatuses []struct {
					RestartCount int
					State        struct {
						Waiting *struct{ Reason, Message string }
						Running *struct{ StartedAt string }
					}
				}
			}
		}
	}
	if json.Unmarshal([]byte(said), &list) != nil {
		return podState{Why: "kubelet does not answer"}
	}
	host, err := os.ReadFile(filepath.Join(n.Root, "/etc/hostname"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Metadata.Name != name+"-"+strings.TrimSpace(string(host)) {
			continue
		}
		if len(p.Status.ContainerStatuses) == 0 {
			return podState{Why: "phase " + p.Status.Phase}
		}
		c := p.Status.ContainerStatuses[0]
		s := podState{Running: c.State.Running != nil, Restarts: c.RestartCount}
		if w := c.State.Waiting; w != nil {
			s.Why, s.Message = w.Reason, w.Message
		}
		return s
	}
	return podState{Why: "kubelet has no such pod"}
}

// until asks again until the answer is yes; a node that never says so fails the test with what it said last.
func until(t *testing.T, n *nspawn.Node, within time.Duration, what string, ask func() (bool, string)) time.Duration {
	t.Helper()
	start := time.Now()
	var said string
	for time.Since(start) < within {
		ok, s := ask()
		if ok {
			return time.Since(start)
		}
		said = s
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Fatalf("not within %s: %s\n%s\n%s", within, what, said, n.Sh(t, "systemctl --failed --no-pager; journalctl -b --no-pager -n 60 -u kubelet -u edgeprep-apply -u edgeprep-mirror -u containerd").Stdout)
	return 0
}

func untilRunning(t *testing.T, n *nspawn.Node, name string, within time.Duration) time.Duration {
	t.Helper()
	return until(t, n, within, "pod "+name+" runs", func() (bool, string) {
		s := pod(t, n, name)
		return s.Running, s.Why + " " + s.Message
	})
}

// since is a time of a unit in seconds after the node's systemd started; 0: it did not happen.
func since(t *testing.T, n *nspawn.Node, unit, property string) float64 {
	t.Helper()
	show := func(args string) int64 { return micros(t, n.Must(t, "systemctl show --value -p "+args)) }
	at := show(property + "TimestampMonotonic " + unit)
	if at == 0 {
		return 0
	}
	return float64(at-show("UserspaceTimestampMonotonic")) / 1e6
}

// bootUnit installs the units that prepare the node at every start, as one does who makes a disk image.
func bootUnit(t *testing.T, n *nspawn.Node, tools string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(tools, "edgeprep"), "unit", "install", "--root", n.Root, "--for", "kubeadm").CombinedOutput()
	if err != nil {
		t.Fatalf("unit install: %v\n%s", err, out)
	}
}
