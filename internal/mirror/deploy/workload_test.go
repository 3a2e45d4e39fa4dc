package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// workloads are the mirrors of the goldens. test/helm decodes those into Kubernetes' own types.
func workloads() map[string]Workload {
	plain := Workload{Service: service(), Form: StaticPod, Image: "edgeprep.local/mirror:0123456789ab"}
	full := plain
	full.Listen, full.Upstream, full.DefaultRegistry, full.AccessLog = "10.0.0.11:5443", "connected", "quay.io", true
	full.TLSCert, full.TLSKey, full.Upstreams.Config = "/etc/edgeprep/tls.crt", "/etc/edgeprep/tls.key", "/etc/edgeprep/edgeprep.toml"
	full.Cache = `/srv/a "quoted": {cache} #1`
	full.Files = []HandedFile{{ConfigName, []byte("version = 1\n")}, {"tls.crt", []byte("c")}, {"tls.key", []byte("k")}}
	daemon, daemonFull := plain, full
	daemon.Form, daemonFull.Form = DaemonSet, DaemonSet
	deployed := plain
	deployed.Form, deployed.Listen, deployed.NodePort, deployed.Size = Deployment, "10.0.0.11:31080", 31080, 40<<30
	deployedFull := full
	deployedFull.Form, deployedFull.NodePort, deployedFull.Size, deployedFull.StorageClass = Deployment, 31443, 1500<<20, "local-path"
	return map[string]Workload{"static-pod": plain, "static-pod-full": full, "daemonset": daemon, "daemonset-full": daemonFull,
		"deployment": deployed, "deployment-full": deployedFull}
}

func TestManifestsAreAsTheirGoldens(t *testing.T) {
	t.Parallel()
	for name, w := range workloads() {
		got, err := w.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".yaml")
		if os.Getenv("EDGEPREP_UPDATE") == "1" {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got); EDGEPREP_UPDATE=1 writes it:\n%s", file, d)
		}
	}
}

// Another file in the pod's directory must restart the pod: kubelet sees nothing else of it.
func TestAChangedFileChangesTheManifest(t *testing.T) {
	t.Parallel()
	w := workloads()["static-pod-full"]
	before, err := w.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	w.Files[2].Content = []byte("other")
	after, err := w.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if before == after {
		t.Error("another key, the same manifest")
	}
	if strings.Contains(after, "other") {
		t.Error("a secret stands in the manifest of a static pod")
	}
	w.Form = DaemonSet
	rs, err := w.Write(distro.Node{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f := rs[len(rs)-1].File; !f.Secret || f.Mode != 0o600 {
		t.Errorf("a manifest with a Secret is shown: %+v", f)
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		form Form
		node distro.Workload
		path string
		why  string
	}{
		{"applied by itself", DaemonSet, distro.Workload{Manifests: "/m", StaticPods: "/s"}, "/m/edgeprep-mirror.yaml", ""},
		{"by a person", Deployment, distro.Workload{StaticPods: "/s"}, "/var/lib/edgeprep/manifests/edgeprep-mirror.yaml", "no directory"},
		{"taken by itself", StaticPod, distro.Workload{StaticPods: "/etc/kubernetes/manifests"}, "/etc/kubernetes/manifests/edgeprep-mirror.yaml", ""},
		{"before the node joined", StaticPod, distro.Workload{StaticPods: "/etc/kubernetes/manifests", StaticPodsWait: "/etc/kubernetes/kubelet.conf"},
			"/var/lib/edgeprep/manifests/edgeprep-mirror.yaml", "/etc/kubernetes/kubelet.conf is not there"},
		{"nowhere", StaticPod, distro.Workload{}, "/var/lib/edgeprep/manifests/edgeprep-mirror.yaml", "no directory of static pods"},
	} {
		got := Place(c.form, distro.Node{Name: "X", Workload: c.node})
		if got.Path != c.path || !strings.Contains(got.Why, c.why) || (c.why == "") != (got.Why == "") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// Secrets must neither be shown nor be readable for others, and what the pod writes must be its own.
func TestWhatThePodNeedsIsItsOwn(t *testing.T) {
	t.Parallel()
	w := workloads()["static-pod-full"]
	rs := w.Needs()
	for _, r := range rs {
		if f := r.File; f != nil && (!f.Secret || f.Mode != 0o400 || f.Owner != OwnerID) {
			t.Errorf("%s: %+v", r.ID, f)
		}
		if d := r.Dir; d != nil && !d.Keep && d.Owner != OwnerID {
			t.Errorf("%s: %+v", r.ID, d)
		}
	}
	for _, id := range []string{"dir:" + w.Cache, "dir:/var/lib/edgeprep/mirror-admin", "file:/var/lib/edgeprep/mirror-files/tls.key"} {
		if !slices.ContainsFunc(rs, func(r resource.Resource) bool { return r.ID == id }) {
			t.Errorf("no %s", id)
		}
	}
}

// k3s keeps its keys below server/: a directory that edgeprep makes there must not be open.
func TestManifestDirectoriesBelowTheDataDirAreClosed(t *testing.T) {
	t.Parallel()
	n := distro.Node{DataDir: "/var/lib/rancher/k3s", Workload: distro.Workload{StaticPods: "/var/lib/rancher/k3s/server/x"}}
	rs, err := workloads()["static-pod"].Write(n, []string{"gate:x"})
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]uint32{}
	for _, r := range rs {
		if r.Dir != nil {
			modes[r.Dir.Path] = uint32(r.Dir.Mode)
		}
	}
	want := map[string]uint32{"/var": 0o755, "/var/lib": 0o755, "/var/lib/rancher": 0o755, "/var/lib/rancher/k3s": 0o755,
		"/var/lib/rancher/k3s/server": 0o700, "/var/lib/rancher/k3s/server/x": 0o700}
	if d := cmp.Diff(want, modes); d != "" {
		t.Error(d)
	}
	if last := rs[len(rs)-1]; last.File == nil || last.File.Mode != 0o600 || !slices.Contains(last.After, "gate:x") {
		t.Errorf("%+v", last)
	}
}

// kubelet has neither a certificate nor a token: an HTTP probe would find a guarded mirror dead.
func TestAGuardedMirrorIsProbedByTCP(t *testing.T) {
	t.Parallel()
	w := workloads()["static-pod-full"]
	w.ClientCA, w.Tokens = "/etc/edgeprep/client-ca.crt", "/etc/edgeprep/tokens"
	got, err := w.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"--tls-client-ca"`, `"/etc/edgeprep/mirror/client-ca.crt"`, `"--tokens"`, `"/etc/edgeprep/mirror/tokens"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "httpGet") || strings.Count(got, "tcpSocket") != 2 {
		t.Error(got)
	}
}
