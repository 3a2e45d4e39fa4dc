package registries

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/resource"
)

const yamlFile = "/etc/rancher/k3s/registries.yaml"

func k3s() distro.Node {
	return distro.Node{
		ID: "k3s", Name: "K3s", Version: "v1.36.3+k3s1", Role: distro.RoleAgent,
		Runtime: distro.Runtime{CertsD: "/var/lib/rancher/k3s/agent/etc/containerd/certs.d", Version: "2.3.1"},
		Registries: distro.Registries{
			Format: FormatYAML, File: yamlFile, NoFallback: "disable-default-registry-endpoint",
			DropIn: "/etc/rancher/k3s/config.yaml.d/90-edgeprep.yaml", Restart: []string{"k3s-agent.service"},
		},
		Gates: distro.Gates{NoFallbackKey: true, StarMirror: true},
	}
}

// outline is one line for each resource.
func outline(r Result) string {
	var b strings.Builder
	for _, x := range r.Resources {
		b.WriteString(x.ID)
		for _, a := range x.After {
			b.WriteString(" <" + a)
		}
		if x.Unit != nil {
			b.WriteString(" restart on " + strings.Join(x.Unit.RestartOn, ","))
		}
		if x.File != nil && x.File.Shared {
			b.WriteString(" shared " + x.File.Base[:min(8, len(x.File.Base))])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// checkGraph makes sure that each id is unique and stands behind what it comes after.
func checkGraph(t *testing.T, r Result) {
	t.Helper()
	seen := map[string]bool{}
	for _, x := range r.Resources {
		if seen[x.ID] {
			t.Errorf("%s is there twice", x.ID)
		}
		for _, a := range x.After {
			if !seen[a] {
				t.Errorf("%s comes after %s, which is not before it", x.ID, a)
			}
		}
		seen[x.ID] = true
	}
}

func TestDesiredK3s(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	r, err := Desired(context.Background(), hosttest.NoWrites(n), k3s(), Policy{Endpoints: mirror, Hosts: []string{"docker.io"}})
	if err != nil {
		t.Fatal(err)
	}
	checkGraph(t, r)
	want := `dir:/etc/rancher
dir:/etc/rancher/k3s <dir:/etc/rancher
file:/etc/rancher/k3s/registries.yaml <dir:/etc/rancher/k3s shared 
dir:/etc/rancher/k3s/config.yaml.d <dir:/etc/rancher/k3s
file:/etc/rancher/k3s/config.yaml.d/90-edgeprep.yaml <dir:/etc/rancher/k3s/config.yaml.d
unit:k3s-agent.service <file:/etc/rancher/k3s/registries.yaml <file:/etc/rancher/k3s/config.yaml.d/90-edgeprep.yaml restart on file:/etc/rancher/k3s/registries.yaml,file:/etc/rancher/k3s/config.yaml.d/90-edgeprep.yaml
`
	if diff := cmp.Diff(want, outline(r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, own := wanted(r)
	if got := own["/etc/rancher/k3s/config.yaml.d/90-edgeprep.yaml"]; !strings.HasSuffix(got, "\ndisable-default-registry-endpoint: true\n") {
		t.Errorf("drop-in %q", got)
	}
	if len(r.Notes)+len(r.Pending) > 0 {
		t.Errorf("notes %v, pending %v", r.Notes, r.Pending)
	}
}

func TestDesiredK3sDropIn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		files   map[string]string
		policy  Policy
		gate    bool
		dropIn  bool
		pending int
		refused string
	}{
		{name: "never", gate: true, dropIn: true},
		{name: "connected", gate: true, policy: Policy{Upstream: true}},
		{name: "key not known to this version", pending: 1},
		{
			name: "a later drop-in says false", gate: true, refused: "NOD-215 99-x.yaml:2",
			files: map[string]string{"/etc/rancher/k3s/config.yaml.d/99-x.yaml": "write-kubeconfig-mode: \"0644\"\ndisable-default-registry-endpoint: false\n"},
		},
		{
			name: "a later drop-in says true", gate: true, dropIn: true,
			files: map[string]string{"/etc/rancher/k3s/config.yaml.d/99-x.yaml": "disable-default-registry-endpoint: true\n"},
		},
		{
			name: "an earlier drop-in says false", gate: true, dropIn: true,
			files: map[string]string{"/etc/rancher/k3s/config.yaml.d/10-x.yaml": "disable-default-registry-endpoint: false\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, node := newNode(t, c.files), k3s()
			node.Gates.NoFallbackKey = c.gate
			c.policy.Endpoints = mirror
			r, err := Desired(context.Background(), n, node, c.policy)
			if c.refused != "" {
				checkRefused(t, err, c.refused)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, own := wanted(r); (len(own) == 1) != c.dropIn || len(r.Pending) != c.pending {
				t.Errorf("own files %v, pending %v", sortedKeys(own), r.Pending)
			}
		})
	}
}

func TestDesiredK3sExternalRuntime(t *testing.T) {
	t.Parallel()
	node := k3s()
	node.Runtime.External = "docker"
	r, err := Desired(context.Background(), newNode(t, nil), node, Policy{Endpoints: mirror})
	if err != nil || len(r.Resources) > 0 || len(r.Pending) != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestDesiredK3sBadFiles(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{yamlFile: "mirrors:\n  *:\n"})
	_, err := Desired(context.Background(), n, k3s(), Policy{Endpoints: mirror})
	checkRefused(t, err, "NOD-210 registries.yaml:2")

	n = newNode(t, nil)
	n.Mkdir(yamlFile)
	_, err = Desired(context.Background(), n, k3s(), Policy{Endpoints: mirror})
	checkRefused(t, err, "NOD-213 registries.yaml")

	n = newNode(t, map[string]string{"/srv/r.yaml": "mirror: {}\n"})
	n.Mkdir("/etc/rancher/k3s")
	n.Symlink(yamlFile, "../../../srv/r.yaml")
	r, err := Desired(context.Background(), n, k3s(), Policy{Endpoints: mirror})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Notes) != 1 || r.Notes[0].Where.String() != "/srv/r.yaml:1:1" {
		t.Errorf("notes %+v", r.Notes)
	}
	if shared, _ := wanted(r); !strings.HasPrefix(shared["/srv/r.yaml"], "mirror: {}\nmirrors:") {
		t.Errorf("shared %v", shared)
	}
}

func TestDesiredPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy Policy
		want   string
	}{
		{Policy{}, "NOD-200"},
		{Policy{Endpoints: []Endpoint{{URL: "10.0.0.1:5000"}}}, "NOD-200"},
		{Policy{Endpoints: []Endpoint{{URL: "http://u:p@h"}}}, "NOD-200"},
		{Policy{Endpoints: []Endpoint{{URL: "https://h", CA: "ca.crt"}}}, "NOD-200"},
		{Policy{Endpoints: []Endpoint{{URL: "http://h\"\n"}}}, "NOD-200"},
		{Policy{Endpoints: mirror, Hosts: []string{"../../etc"}}, "NOD-201"},
		{Policy{Endpoints: mirror, Hosts: []string{"https://docker.io"}}, "NOD-201"},
	} {
		_, err := Desired(context.Background(), newNode(t, nil), kubeadm("2.4.2"), c.policy)
		if list := diag.Of(err); len(list) != 1 || list[0].ID != c.want {
			t.Errorf("%+v: got %v", c.policy, err)
		}
	}
}

func TestDesiredCertsD(t *testing.T) {
	t.Parallel()
	ours := string(RenderHosts(mirror))
	same := "server = 'http://127.0.0.1:5000/v2'\n[host.'http://127.0.0.1:5000/']\n"
	n := newNode(t, map[string]string{
		configFilePath: "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
		"/etc/containerd/certs.d/docker.io/hosts.toml":       "server = \"https://hub\"\n",
		"/etc/containerd/certs.d/ghcr.io/ca.crt":             "x",
		"/etc/containerd/certs.d/quay.io_5000_/hosts.toml":   ours,
		"/etc/containerd/certs.d/same.io/hosts.toml":         same,
		"/etc/containerd/certs.d/localhost:32000/hosts.toml": "server = \"http://localhost:32000\"\n",
		"/etc/containerd/certs.d/127.0.0.1:5000/hosts.toml":  "",
		"/etc/containerd/certs.d/not a host/hosts.toml":      "",
		"/etc/containerd/certs.d/file":                       "",
	})
	r, err := Desired(context.Background(), n, kubeadm("2.4.2"), Policy{Endpoints: mirror, Hosts: []string{"quay.io:5000", "registry.k8s.io", "docker.io", "*"}})
	if err != nil {
		t.Fatal(err)
	}
	checkGraph(t, r)
	_, own := wanted(r)
	want := map[string]string{}
	for _, h := range []string{"_default", "docker.io", "ghcr.io", "quay.io_5000_", "registry.k8s.io"} {
		want["/etc/containerd/certs.d/"+h+"/hosts.toml"] = ours
	}
	want["/etc/containerd/certs.d/same.io/hosts.toml"] = same
	if diff := cmp.Diff(want, own); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(r.Notes) != 1 { // what is left alone is said
		t.Errorf("notes %+v", r.Notes)
	}
	for _, x := range r.Resources {
		if x.Kind == resource.KindFile && !x.File.Shared && x.File.Mode != fs.FileMode(0o644) {
			t.Errorf("%s has mode %v", x.ID, x.File.Mode)
		}
	}
}

// TestDesiredWithoutConfig: a runtime whose config_path is not edgeprep's to set.
func TestDesiredWithoutConfig(t *testing.T) {
	t.Parallel()
	node := kubeadm("2.4.2")
	node.Runtime.Config, node.Registries.CertsD = "", "/var/snap/certs.d"
	r, err := Desired(context.Background(), newNode(t, nil), node, Policy{Endpoints: mirror})
	if err != nil {
		t.Fatal(err)
	}
	shared, own := wanted(r)
	if _, ok := own["/var/snap/certs.d/_default/hosts.toml"]; !ok || len(shared) > 0 || strings.Contains(outline(r), "unit:") {
		t.Errorf("got\n%s", outline(r))
	}
}
