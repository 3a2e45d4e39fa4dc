package registries

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func ids(list []*diag.Diagnostic) string {
	var out []string
	for _, d := range list {
		w := d.Where
		w.Col, w.Key = 0, ""
		out = append(out, string(d.Severity)+" "+d.ID+" "+w.String())
	}
	return strings.Join(out, "\n")
}

func effective(t *testing.T, n *hosttest.Node, node distro.Node) Effective {
	t.Helper()
	e, err := ReadEffective(context.Background(), hosttest.NoWrites(n), node)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEffectiveConfigPath(t *testing.T) {
	t.Parallel()
	config := func(value string) string {
		return "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"" + value + "\"\n"
	}
	const hosts = "/etc/containerd/certs.d/_default/hosts.toml"
	for _, c := range []struct {
		name, version, config string
		mirrored              bool
		problems              string
	}{
		{"single", "2.4.2", config("/etc/containerd/certs.d"), true, ""},
		{"list on 2.4", "2.4.2", config("/etc/containerd/certs.d:/x"), false, "error NOD-225 /etc/containerd/config.toml:3"},
		{"list on 2.4 with local pulls", "2.4.2", config("/etc/containerd/certs.d:/x") + "[plugins.\"io.containerd.grpc.v1.cri\"]\nmax_concurrent_downloads = 5\n", true, "warning NOD-225 /etc/containerd/config.toml:3"},
		{"list on 1.7", "1.7.35", config("/x:/etc/containerd/certs.d"), true, "warning NOD-225 /etc/containerd/config.toml:3"},
		{"list on an unknown version", "", config("/etc/containerd/certs.d:/x"), false, "error NOD-225 /etc/containerd/config.toml:3"},
		{"unset on 1.7", "1.7.35", "version = 2\n", false, "error NOD-226 /etc/containerd/config.toml"},
		{"unset on 2.4", "2.4.2", "version = 2\n", false, "error NOD-225 /etc/containerd/config.toml"},
		{"relative", "2.4.2", config("certs.d"), false, "error NOD-228 /etc/containerd/config.toml:3"},
		{"broken", "2.4.2", "version = \n", false, "error NOD-220 /etc/containerd/config.toml:1"},
		{"wrong table", "1.7.35", "version = 2\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n", false, "error NOD-227 /etc/containerd/config.toml:3\nerror NOD-226 /etc/containerd/config.toml"},
		{"wrong and right table", "1.7.35", config("/etc/containerd/certs.d") + "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/x\"\n", true, "warning NOD-227 /etc/containerd/config.toml:5"},
		{"disabled", "1.6.20", "disabled_plugins = [\"cri\"]\n", false, "error NOD-222 /etc/containerd/config.toml:1\nerror NOD-226 /etc/containerd/config.toml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, map[string]string{configFilePath: c.config, hosts: string(RenderHosts(mirror))})
			e := effective(t, n, kubeadm(c.version))
			l := e.For("docker.io")
			if l.Mirrors(mirror) != c.mirrored || l.Upstream == c.mirrored {
				t.Errorf("got %+v, want mirrored %v", l, c.mirrored)
			}
			if diff := cmp.Diff(c.problems, ids(e.Problems)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestEffectiveFor: our look-up and containerd's own find the same hosts for each registry of one tree.
func TestEffectiveFor(t *testing.T) {
	t.Parallel()
	const dir = "/etc/containerd/certs.d/"
	ours := string(RenderHosts(mirror))
	n := newNode(t, map[string]string{
		configFilePath:                   "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
		dir + "_default/hosts.toml":      ours,
		dir + "docker.io/hosts.toml":     "[host.\"http://m:1\"]\n[host.\"http://127.0.0.1:5000\"]\n",
		dir + "both_5000_/hosts.toml":    ours,
		dir + "both:5000/hosts.toml":     "server = \"http://never\"\n",
		dir + "broken.io/hosts.toml":     "server = \n",
		dir + "shadow.io/README":         "x",
		dir + "self.io/hosts.toml":       "server = \"https://self.io\"\n[host.\"http://127.0.0.1:5000\"]\n",
		dir + "capital.io/hosts.toml":    "SERVER = \"http://m\"\n",
		dir + "registry.io_x/hosts.toml": "",
	})
	e := effective(t, n, kubeadm("2.4.2"))
	for registry, want := range map[string]struct {
		mirrored, upstream bool
		file               string
	}{
		"any.io": {true, false, "_default"}, "docker.io": {false, true, "docker.io"}, "both:5000": {true, false, "both_5000_"},
		"broken.io": {false, true, "broken.io"}, "shadow.io": {false, true, ""}, "self.io": {true, true, "self.io"},
	} {
		l := e.For(registry)
		file := ""
		if want.file != "" {
			file = dir + want.file + "/hosts.toml"
		}
		if l.Mirrors(mirror) != want.mirrored || l.Upstream != want.upstream || l.File != file {
			t.Errorf("%s: got %+v, want %+v", registry, l, want)
		}
		hosts, err := containerdHosts(t, n.Path("/etc/containerd/certs.d"), registry)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(hosts); got != len(l.Endpoints)+1 {
			t.Errorf("%s: containerd tries %v, we say %+v", registry, urls(hosts), l)
		}
		if last := hosts[len(hosts)-1]; (last.Host == registry || last.Host == "registry-1.docker.io") != l.Upstream {
			t.Errorf("%s: containerd's last is %s, we say upstream %v", registry, last.Host, l.Upstream)
		}
	}
	want := `error NOD-230 /etc/containerd/certs.d/broken.io/hosts.toml:1
error NOD-237 /etc/containerd/certs.d/shadow.io
warning NOD-233 /etc/containerd/certs.d/both:5000/hosts.toml:1
warning NOD-233 /etc/containerd/certs.d/capital.io/hosts.toml:1`
	got := strings.Split(ids(e.Problems), "\n")
	slices.Sort(got)
	if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEffectiveFiles(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		configFilePath:       "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n",
		"/c/a.io/hosts.toml": "[host.\"https://m\"]\nca = \"ca.crt\"\ncapabilities = [\"pull\", \"resolve\", \"referrers\"]\n",
		"/c/b.io/hosts.toml": "server = \"http://m\"\n",
	}
	e := effective(t, newNode(t, files), kubeadm("1.6.20"))
	want := "warning NOD-232 /c/a.io/hosts.toml:3\nerror NOD-238 /c/a.io/hosts.toml\nerror NOD-233 /c/b.io/hosts.toml:1"
	if diff := cmp.Diff(want, ids(e.Problems)); diff != "" {
		t.Errorf("1.6 (-want +got):\n%s", diff)
	}
	if l := e.For("b.io"); !l.Upstream || l.Server != "" {
		t.Errorf("1.6 does not read a file with a server alone: %+v", l)
	}
	files["/c/a.io/ca.crt"] = "x"
	e = effective(t, newNode(t, files), kubeadm("2.4.2"))
	if diff := cmp.Diff("warning NOD-233 /c/b.io/hosts.toml:1", ids(e.Problems)); diff != "" {
		t.Errorf("2.4 (-want +got):\n%s", diff)
	}
	if l := e.For("b.io"); l.Upstream || l.Server != "http://m" {
		t.Errorf("2.4: %+v", l)
	}
}

// What k3s renders (k3s: pkg/agent/containerd, from its template and tests).
const (
	k3sHeader   = "# File generated by k3s. DO NOT EDIT.\n\n"
	k3sRendered = k3sHeader + "capabilities = [\"pull\", \"resolve\", \"push\"]\n\n[host]\n[host.\"http://127.0.0.1:5000/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
)

func TestEffectiveK3s(t *testing.T) {
	t.Parallel()
	const certs = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/"
	const ours = "mirrors:\n  \"*\":\n    endpoint: [\"http://127.0.0.1:5000\"]\n"
	dropIn := k3s().Registries.DropIn
	off := map[string]string{yamlFile: ours, dropIn: "disable-default-registry-endpoint: true\n"}
	with := func(more map[string]string) map[string]string {
		out := map[string]string{}
		for _, m := range []map[string]string{off, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	for _, c := range []struct {
		name               string
		files              map[string]string
		mirrored, upstream bool
		pending            int
		problems           string
	}{
		{"nothing", nil, false, true, 1, ""},
		{"not started", off, true, false, 1, ""},
		{"not started, with fallback", map[string]string{yamlFile: ours}, true, true, 1, ""},
		{"rendered", with(map[string]string{certs + "_default/hosts.toml": k3sRendered}), true, false, 0, ""},
		{
			"rendered before the drop-in", with(map[string]string{certs + "_default/hosts.toml": strings.Replace(k3sRendered, "capab", "server = \"\"\ncapab", 1)}),
			true, true, 0, "warning NOD-216 /etc/rancher/k3s/registries.yaml:2",
		},
		{"not yet rendered", with(map[string]string{certs + "docker.io/hosts.toml": k3sHeader + "server = \"https://registry-1.docker.io/v2\"\n"}), false, true, 0,
			"warning NOD-233 " + certs + "docker.io/hosts.toml:3\nwarning NOD-216 /etc/rancher/k3s/registries.yaml:2"},
		{"bad yaml", map[string]string{yamlFile: "mirrors:\n  *:\n"}, false, true, 1, "error NOD-210 /etc/rancher/k3s/registries.yaml:2"},
		{"misspelt", map[string]string{yamlFile: "mirror:\n  \"*\": {}\n"}, false, true, 1, "error NOD-212 /etc/rancher/k3s/registries.yaml:1"},
		{"embedded registry", with(map[string]string{certs + "_default/hosts.toml": strings.Replace(k3sRendered, "[host]\n", "[host]\n[host.\"https://127.0.0.1:6443/v2\"]\n", 1)}), false, false, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := effective(t, newNode(t, c.files), k3s())
			l := e.For("docker.io")
			if l.Mirrors(mirror) != c.mirrored || l.Upstream != c.upstream || len(e.Pending) != c.pending {
				t.Errorf("got %+v, pending %v", l, e.Pending)
			}
			if diff := cmp.Diff(c.problems, ids(e.Problems)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDesiredIsEffective: what Desired wants is, once written, what the node does, without a finding.
func TestDesiredIsEffective(t *testing.T) {
	t.Parallel()
	for _, node := range []distro.Node{k3s(), kubeadm("1.6.20"), kubeadm("1.7.35"), kubeadm("2.4.2"), kubeadm("")} {
		n := newNode(t, nil)
		r, err := Desired(context.Background(), n, node, Policy{Endpoints: mirror, Hosts: []string{"docker.io", "r.local:5000"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.Resources {
			if x.File != nil {
				n.WriteFile(x.File.Path, string(x.File.Content))
			}
		}
		e := effective(t, n, node)
		for _, registry := range []string{"docker.io", "r.local:5000", "other.io"} {
			if l := e.For(registry); !l.Mirrors(mirror) || l.Upstream {
				t.Errorf("%s %s: %s goes to %+v", node.ID, node.Runtime.Version, registry, l)
			}
		}
		if len(e.Problems) > 0 {
			t.Errorf("%s %s: %s", node.ID, node.Runtime.Version, ids(e.Problems))
		}
	}
}
