package registries

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRewritesOfK3sAreKnown: REG-05 called them keys that are ignored.
func TestRewritesOfK3sAreKnown(t *testing.T) {
	t.Parallel()
	const certs = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/"
	rendered := k3sRendered + "  [host.\"http://127.0.0.1:5000/v2\".rewrite]\n    \"^library/(.*)\" = \"hub/$1\"\n"
	n := newNode(t, map[string]string{certs + "_default/hosts.toml": rendered})
	if e := effective(t, n, k3s()); len(e.Problems) > 0 {
		t.Error(ids(e.Problems))
	}
	n = newNode(t, map[string]string{
		configFilePath: "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n", "/c/_default/hosts.toml": rendered})
	if diff := cmp.Diff("error NOD-231 /c/_default/hosts.toml:8", ids(effective(t, n, kubeadm("2.4.2")).Problems)); diff != "" {
		t.Errorf("containerd itself knows no rewrite (-want +got):\n%s", diff)
	}
}

func TestWritten(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{yamlFile: `mirrors:
  docker.io:
    endpoint: [ "https://10.0.0.1:5000", "http://10.0.0.2" ]
    rewrite: { "^library/": "hub/" }
configs:
  "10.0.0.1:5000":
    tls: { ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem, insecure_skip_verify: true }
  quay.io:
    auth: { username: u, password: p }
`})
	w := effective(t, n, k3s()).Written
	both := []string{"pull", "resolve"}
	want := &Written{File: yamlFile,
		Mirrors: []WrittenMirror{{Registry: "docker.io", Line: 2, Rewrites: map[string]string{"^library/": "hub/"}, Hosts: []HostEntry{
			{Endpoint: Endpoint{URL: "https://10.0.0.1:5000", CA: "/ca.pem", ClientCert: "/c.pem", ClientKey: "/k.pem"}, Capabilities: both,
				Files: []string{"/ca.pem", "/c.pem", "/k.pem"}, SkipVerify: true, TLSSet: true},
			{Endpoint: Endpoint{URL: "http://10.0.0.2"}, Capabilities: both},
		}}},
		Configs: []WrittenConfig{{Host: "10.0.0.1:5000", Line: 6, TLS: true}, {Host: "quay.io", Line: 8, Auth: true}},
	}
	if diff := cmp.Diff(want, w); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c, ok := w.Config("10.0.0.1:5000"); !ok || !c.TLS {
		t.Errorf("%+v", c)
	}
	if _, ok := w.Config("docker.io"); ok {
		t.Error("there is no such entry")
	}
}

// TestDefaultEndpointStaysWithConfigs: k3s leaves the registry itself in, whatever it is told, where configs names it.
func TestDefaultEndpointStaysWithConfigs(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{
		yamlFile:                "mirrors:\n  quay.io: {endpoint: [\"http://127.0.0.1:5000\"]}\nconfigs:\n  quay.io: {auth: {username: u, password: p}}\n",
		k3s().Registries.DropIn: "disable-default-registry-endpoint: true\n"})
	if l := effective(t, n, k3s()).For("quay.io"); !l.Upstream {
		t.Errorf("%+v", l)
	}
}
