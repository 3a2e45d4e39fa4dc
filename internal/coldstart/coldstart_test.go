package coldstart_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/coldstart"
)

// objects parses manifests, one file each.
func objects(t *testing.T, static bool, files ...string) []coldstart.Object {
	t.Helper()
	var out []coldstart.Object
	for _, f := range files {
		source, body, _ := strings.Cut(f, "\n")
		o, err := coldstart.ParseManifest(source, []byte(body), static)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o...)
	}
	return out
}

// holdings: "node" has it, "mirror" has it, "both", nothing for all others.
func holdings(m map[string]string) func(string) coldstart.Holding {
	return func(ref string) coldstart.Holding {
		switch m[ref] {
		case "node":
			return coldstart.Holding{Node: "in containerd"}
		case "mirror":
			return coldstart.Holding{Mirror: true}
		case "both":
			return coldstart.Holding{Node: "in containerd", Mirror: true}
		case "asked":
			return coldstart.Holding{Asked: "no mirror answers"}
		case "unknown":
			return coldstart.Holding{Unknown: "containerd does not run"}
		}
		return coldstart.Holding{}
	}
}

const mirrorDeployment = `mirror.yaml
apiVersion: apps/v1
kind: Deployment
metadata: {name: edgeprep-mirror, namespace: edgeprep}
spec:
  template:
    spec:
      containers: [{name: mirror, image: "edgeprep/mirror:1", imagePullPolicy: IfNotPresent}]
      volumes: [{name: cache, persistentVolumeClaim: {claimName: cache}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cache, namespace: edgeprep}
spec: {storageClassName: fast}
`

const csi = `csi.yaml
kind: StorageClass
metadata: {name: fast}
provisioner: csi.example
---
kind: DaemonSet
metadata: {name: csi-node, namespace: csi}
spec:
  template:
    spec:
      hostNetwork: true
      containers: [{name: driver, image: "quay.io/x:1", args: ["--driver=csi.example"]}]
`

const mirrorPod = `/etc/kubernetes/manifests/edgeprep-mirror.yaml
apiVersion: v1
kind: Pod
metadata: {name: edgeprep-mirror, namespace: kube-system}
spec:
  hostNetwork: true
  containers: [{name: mirror, image: "edgeprep/mirror:1", imagePullPolicy: Never}]
`

func kubelet() []coldstart.Unit { return []coldstart.Unit{{Name: "kubelet.service"}} }

// deployment is a node on which everything of the mirror's Deployment comes up.
func deployment(t *testing.T, files ...string) coldstart.Input {
	t.Helper()
	return coldstart.Input{
		Units: kubelet(), Sandbox: "pause:1", Brings: []string{"api", "network", "proxy"},
		Objects: objects(t, false, append([]string{mirrorDeployment, csi}, files...)...),
		Mirror:  coldstart.Mirror{Image: "edgeprep/mirror:1", NodePort: true},
		Image:   holdings(map[string]string{"pause:1": "node", "edgeprep/mirror:1": "both", "quay.io/x:1": "both"}),
	}
}

func TestMirrorStep(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*testing.T, *coldstart.Input)
		want   coldstart.Outcome
		words  string
	}{
		"all there": {func(*testing.T, *coldstart.Input) {}, coldstart.Up, ""},
		"the storage's driver is only in the mirror": {func(_ *testing.T, in *coldstart.Input) {
			in.Image = holdings(map[string]string{"pause:1": "node", "edgeprep/mirror:1": "node", "quay.io/x:1": "mirror"})
		}, coldstart.Stuck, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for volume claim edgeprep/cache " +
			"-> which waits for DaemonSet csi/csi-node -> which waits for image quay.io/x:1, which only the mirror has: a circle"},
		"its own image is only in itself": {func(_ *testing.T, in *coldstart.Input) {
			in.Image = holdings(map[string]string{"pause:1": "node", "edgeprep/mirror:1": "mirror", "quay.io/x:1": "node"})
		}, coldstart.Stuck, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for image edgeprep/mirror:1, which only the mirror has: a circle"},
		// a volume cannot be looked into while the mirror is down: that it may hold the image is no way out
		"its own image may be in itself": {func(_ *testing.T, in *coldstart.Input) {
			in.Image = holdings(map[string]string{"pause:1": "node", "edgeprep/mirror:1": "asked", "quay.io/x:1": "node"})
		}, coldstart.Stuck, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for image edgeprep/mirror:1, which only the mirror could have: a circle"},
		"nobody has the sandbox": {func(_ *testing.T, in *coldstart.Input) {
			in.Image = holdings(map[string]string{"edgeprep/mirror:1": "node", "quay.io/x:1": "node"})
		}, coldstart.Stuck, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for image pause:1: neither the node nor the mirror has it"},
		"the pod network is not on disk": {func(_ *testing.T, in *coldstart.Input) { in.Brings = []string{"api", "proxy"} },
			coldstart.Unproven, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for the pod network: " +
				"no manifest on this disk says what brings it; name its images in [mirror.workload] bootstrap"},
		"the pod network's image is named, and there": {func(_ *testing.T, in *coldstart.Input) {
			in.Brings, in.Bootstrap = []string{"api", "proxy"}, []string{"quay.io/x:1"}
		}, coldstart.Up, ""},
		"the API is elsewhere": {func(_ *testing.T, in *coldstart.Input) { in.Brings = []string{"network", "proxy"} },
			coldstart.Unproven, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for the Kubernetes API: it runs on another node"},
		"no manifest": {func(_ *testing.T, in *coldstart.Input) { in.Objects = nil }, coldstart.Stuck,
			"the mirror: no manifest on this disk starts its image edgeprep/mirror:1"},
		"as a service": {func(_ *testing.T, in *coldstart.Input) {
			in.Objects, in.Mirror = nil, coldstart.Mirror{Unit: &coldstart.Unit{Name: "edgeprep-mirror.service"}}
		}, coldstart.Up, ""},
		"as a service that is not enabled": {func(_ *testing.T, in *coldstart.Input) {
			in.Objects, in.Mirror = nil, coldstart.Mirror{Unit: &coldstart.Unit{Name: "edgeprep-mirror.service", Problem: "it is not enabled"}}
		}, coldstart.Stuck, "the mirror waits for edgeprep-mirror.service: it is not enabled"},
		"as a static pod": {func(t *testing.T, in *coldstart.Input) {
			in.Objects, in.Brings, in.Mirror = objects(t, true, mirrorPod), nil, coldstart.Mirror{Image: "edgeprep/mirror:1"}
		}, coldstart.Up, ""},
		"kubelet is not enabled": {func(_ *testing.T, in *coldstart.Input) { in.Units[0].Problem = "it is masked" },
			coldstart.Stuck, "the mirror waits for Deployment edgeprep/edgeprep-mirror -> which waits for kubelet.service: it is masked"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := deployment(t)
			tt.change(t, &in)
			g := coldstart.Build(in)
			m := g.MirrorStep()
			if m.Outcome != tt.want {
				t.Errorf("the mirror is %s, want %s", m.Outcome, tt.want)
			}
			words := ""
			if m.Outcome != coldstart.Up {
				words = coldstart.Words(g.Chain(m.ID))
			}
			if d := cmp.Diff(tt.words, words); d != "" {
				t.Error(d)
			}
		})
	}
}

// Claims: who must run before a volume is there.
func TestClaims(t *testing.T) {
	t.Parallel()
	claim := func(spec string) string {
		return "c.yaml\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: true, volumes: [{persistentVolumeClaim: {claimName: c}}]}\n" +
			"---\nkind: PersistentVolumeClaim\nmetadata: {name: c}\nspec: " + spec + "\n"
	}
	tests := map[string]struct {
		files []string
		want  coldstart.Outcome
		end   string // of the words
	}{
		"local volume kept for it": {[]string{claim("{}"), "v.yaml\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {claimRef: {namespace: default, name: c}, local: {path: /x}}"}, coldstart.Up, ""},
		"volume by name":           {[]string{claim("{volumeName: v}"), "v.yaml\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {hostPath: {path: /x}}"}, coldstart.Up, ""},
		"CSI volume whose driver is not on disk": {[]string{claim("{volumeName: v}"), "v.yaml\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {csi: {driver: csi.other}}"},
			coldstart.Unproven, "no manifest on this disk starts its driver csi.other; name its images in [mirror.workload] bootstrap"},
		"no class on disk": {[]string{claim("{storageClassName: gone}")}, coldstart.Unproven, "its storage class is not in a manifest on this disk"},
		"default class, driver in the same file": {[]string{claim("{}"), "local.yaml\nkind: StorageClass\nmetadata: {name: l, annotations: {storageclass.kubernetes.io/is-default-class: \"true\"}}\n" +
			"provisioner: rancher.io/local-path\n---\nkind: Deployment\nmetadata: {name: lp}\nspec: {template: {spec: {hostNetwork: true, containers: [{image: absent:1}]}}}\n"},
			coldstart.Stuck, "Deployment default/lp -> which waits for image absent:1: neither the node nor the mirror has it"},
		"made beforehand": {[]string{claim("{storageClassName: m}"), "m.yaml\nkind: StorageClass\nmetadata: {name: m}\nprovisioner: kubernetes.io/no-provisioner\n---\n" +
			"kind: PersistentVolume\nmetadata: {name: v}\nspec: {storageClassName: m, local: {path: /x}}\n"}, coldstart.Up, ""},
		"made beforehand, but no volume": {[]string{claim("{storageClassName: m}"), "m.yaml\nkind: StorageClass\nmetadata: {name: m}\nprovisioner: kubernetes.io/no-provisioner\n"},
			coldstart.Unproven, "no volume of class m is in a manifest on this disk"},
		"no claim on disk": {[]string{"c.yaml\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: true, volumes: [{persistentVolumeClaim: {claimName: c}}]}"}, coldstart.Unproven, "the claim is not in a manifest on this disk"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := coldstart.Build(coldstart.Input{Brings: []string{"api"}, Mirror: coldstart.Mirror{None: true}, Objects: objects(t, false, tt.files...), Image: holdings(nil)})
			s := g.Step("claim:default/c")
			if s == nil || s.Outcome != tt.want {
				t.Fatalf("the claim is %+v, want %s", s, tt.want)
			}
			if words := coldstart.Words(g.Chain(s.ID)); !strings.HasSuffix(words, tt.end) {
				t.Errorf("words %q, want the end %q", words, tt.end)
			}
		})
	}
}

// An image with the policy Always asks a registry although the node has it.
func TestAlwaysNeedsARegistry(t *testing.T) {
	t.Parallel()
	pod := "p.yaml\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: true, containers: [{image: IMAGE}]}\n"
	tests := map[string]struct {
		image, held string
		want        coldstart.Outcome
	}{
		"tag latest, on the node only":  {"app:latest", "node", coldstart.Stuck},
		"no tag, on the node only":      {"registry.example:5000/app", "node", coldstart.Stuck},
		"no tag, mirror has it":         {"app", "both", coldstart.Up},
		"policy said, on the node only": {"app:1, imagePullPolicy: Always", "node", coldstart.Stuck},
		"tag, on the node only":         {"app:1", "node", coldstart.Up},
		"latest, but not always":        {"app:latest, imagePullPolicy: IfNotPresent", "node", coldstart.Up},
		"digest":                        {"app@sha256:0123", "node", coldstart.Up},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ref, _, _ := strings.Cut(tt.image, ",")
			g := coldstart.Build(coldstart.Input{
				Mirror: coldstart.Mirror{Unit: &coldstart.Unit{Name: "edgeprep-mirror.service"}}, Image: holdings(map[string]string{ref: tt.held}),
				Objects: objects(t, true, strings.Replace(pod, "IMAGE", tt.image, 1)),
			})
			s := g.Step("pod:Pod p@p.yaml")
			if s == nil || s.Outcome != tt.want {
				t.Errorf("the pod is %+v, want %s", s, tt.want)
			}
		})
	}
}

// The API of a kubeadm node is its static pods; the service proxy and the pod network are found by what they do.
func TestPartsOfTheCluster(t *testing.T) {
	t.Parallel()
	static := objects(t, true, "/m/api.yaml\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system, labels: {tier: control-plane}}\n"+
		"spec: {hostNetwork: true, containers: [{image: \"api:1\", command: [kube-apiserver]}]}")
	others := objects(t, false, "cni.yaml\nkind: DaemonSet\nmetadata: {name: cni}\nspec: {template: {spec: {hostNetwork: true, volumes: [{hostPath: {path: /etc/cni/net.d}}], containers: [{image: \"cni:1\"}]}}}\n"+
		"---\nkind: DaemonSet\nmetadata: {name: kp}\nspec: {template: {spec: {hostNetwork: true, containers: [{image: \"kp:1\", command: [/usr/local/bin/kube-proxy]}]}}}\n"+
		"---\nkind: List\nitems: [{kind: Deployment, metadata: {name: app}, spec: {template: {spec: {containers: [{image: \"app:1\"}]}}}}]\n")
	in := coldstart.Input{
		Units: kubelet(), HasAPI: true, Objects: append(static, others...),
		Mirror: coldstart.Mirror{Image: "app:1", NodePort: true},
		Image:  holdings(map[string]string{"api:1": "node", "cni:1": "node", "kp:1": "node", "app:1": "node"}),
	}
	if m := coldstart.Build(in).MirrorStep(); m.Outcome != coldstart.Up {
		t.Errorf("the mirror is %s", m.Outcome)
	}
	for _, missing := range []string{"api:1", "cni:1", "kp:1"} {
		held := map[string]string{"api:1": "node", "cni:1": "node", "kp:1": "node", "app:1": "node"}
		held[missing] = "mirror"
		in.Image = holdings(held)
		g := coldstart.Build(in)
		words := coldstart.Words(g.Chain("mirror"))
		if !strings.Contains(words, "image "+missing+", which only the mirror has: a circle") {
			t.Errorf("without %s: %s", missing, words)
		}
	}
}

func TestManifestErrors(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"tabs": "kind:\tPod\n\t- x", "a list of maps where a name belongs": "kind: Pod\nmetadata: [1]\n"} {
		if _, err := coldstart.ParseManifest("m.yaml", []byte(body), false); err == nil || !strings.Contains(err.Error(), "m.yaml") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := coldstart.ParseManifest("m.yaml", []byte(strings.Repeat("---\nkind: Pod\n", 3000)), false); err == nil {
		t.Error("any number of documents is read")
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, s := range []string{mirrorDeployment, csi, mirrorPod, "{}", "&a [*a]", "kind: List\nitems: [{kind: Pod}]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		objects, err := coldstart.ParseManifest("m.yaml", data, false)
		if err != nil {
			return
		}
		coldstart.Build(coldstart.Input{Objects: objects, Image: holdings(nil), Mirror: coldstart.Mirror{Image: "x", NodePort: true}})
	})
}

// The drawings say in words what is stuck.
func TestDrawings(t *testing.T) {
	t.Parallel()
	in := deployment(t)
	in.Image = holdings(map[string]string{"pause:1": "node", "edgeprep/mirror:1": "node", "quay.io/x:1": "mirror"})
	in.Required = []string{`app"with:quotes`}
	g := coldstart.Build(in)
	for file, draw := range map[string]func(*bytes.Buffer) error{
		"deadlock.mmd": func(b *bytes.Buffer) error { return g.Mermaid(b) },
		"deadlock.dot": func(b *bytes.Buffer) error { return g.DOT(b) },
	} {
		var b bytes.Buffer
		if err := draw(&b); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", file)
		if os.Getenv("EDGEPREP_UPDATE") != "" {
			if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), b.String()); d != "" {
			t.Errorf("%s (EDGEPREP_UPDATE=1 writes it):\n%s", file, d)
		}
	}
}
