package registries

import (
	"context"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
)

func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard) // containerd's parser logs each file that it ignores
	os.Exit(m.Run())
}

// containerdHosts asks containerd's own code where it would pull a registry's images from.
func containerdHosts(t *testing.T, root, registry string) ([]docker.RegistryHost, error) {
	t.Helper()
	return config.ConfigureHosts(context.Background(), config.HostOptions{HostDir: config.HostDirFromRoot(root)})(registry)
}

func urls(hosts []docker.RegistryHost) []string {
	var out []string
	for _, h := range hosts {
		out = append(out, h.Scheme+"://"+h.Host+h.Path)
	}
	return out
}

func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRenderHostsGolden(t *testing.T) {
	t.Parallel()
	got := string(RenderHosts([]Endpoint{{URL: "http://127.0.0.1:5000"}, {URL: "https://10.0.0.2:5000", CA: "/etc/edgeprep/ca.crt",
		ClientCert: "/etc/edgeprep/client.crt", ClientKey: "/etc/edgeprep/client.key"}}))
	want := `# Written by edgeprep. Changes are lost at the next apply.

server = "http://127.0.0.1:5000"
dial_timeout = "2s"

[host."http://127.0.0.1:5000"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "2s"

[host."https://10.0.0.2:5000"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "2s"
  ca = "/etc/edgeprep/ca.crt"
  client = [["/etc/edgeprep/client.crt", "/etc/edgeprep/client.key"]]
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRenderHostsContainerd: containerd's parser makes of the file the hosts that we meant, upstream not among
// them, and our own parser agrees and has nothing to say about it.
func TestRenderHostsContainerd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		endpoints []string
		want      []string
	}{
		{"one", []string{"http://127.0.0.1:5000"}, []string{"http://127.0.0.1:5000/v2", "http://127.0.0.1:5000/v2"}},
		{"order", []string{"http://z:1", "http://a:2", "https://m"}, []string{"http://z:1/v2", "http://a:2/v2", "https://m/v2", "http://z:1/v2"}},
		{"trimmed", []string{"http://z:1/v2/", "http://z:1"}, []string{"http://z:1/v2", "http://z:1/v2"}},
		{"path and IPv6", []string{"http://[::1]:5000/cache/"}, []string{"http://[::1]:5000/cache/v2", "http://[::1]:5000/cache/v2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var p Policy
			for _, u := range c.endpoints {
				p.Endpoints = append(p.Endpoints, Endpoint{URL: u})
			}
			p, err := p.normalize()
			if err != nil {
				t.Fatal(err)
			}
			content := RenderHosts(p.Endpoints)
			root := writeTree(t, map[string]string{"_default/hosts.toml": string(content)})
			for _, registry := range []string{"docker.io", "up.test:5555"} {
				hosts, err := containerdHosts(t, root, registry)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, urls(hosts)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", registry, diff)
				}
				for _, h := range hosts[:len(hosts)-1] {
					if h.Capabilities != docker.HostCapabilityPull|docker.HostCapabilityResolve {
						t.Errorf("%s: capabilities %v", h.Host, h.Capabilities)
					}
				}
			}
			h, diags := ParseHosts("hosts.toml", content)
			if len(diags) > 0 || h.Ignored || !h.Server.Same(p.Endpoints[0]) {
				t.Errorf("our parser: %v %+v", diags, h)
			}
			if diff := cmp.Diff(p.Endpoints, h.Endpoints()); diff != "" {
				t.Errorf("our parser (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseHostsFindings(t *testing.T) {
	t.Parallel()
	const ok = "[host.\"http://m:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	for _, c := range []struct{ name, in, want string }{
		{"not TOML", "server = \n", "error NOD-230 f:1"},
		{"misspelt key", ok + "  capabilitys = [\"pull\"]\n", "error NOD-231 f:3 did you mean capabilities?"},
		{"misspelt table", "server = \"http://m\"\n[hosts.\"http://m\"]\n", "error NOD-231 f:2 did you mean host?\nerror NOD-233 f:1"},
		{"unknown capability", "[host.\"http://m\"]\ncapabilities = [\"pull\", \"fetch\"]\n", "error NOD-232 f:2"},
		{"referrers", ok + "[host.\"http://n\"]\ncapabilities = [\"pull\", \"resolve\", \"referrers\"]\n", "warning NOD-232 f:4"},
		{"server only", "server = \"http://m\"\n", "error NOD-233 f:1"},
		{"inline table", "host = {\"http://m\" = {}}\n", "error NOD-234 f:1"},
		{"dotted", "server = \"http://m\"\nhost.\"http://m\".capabilities = [\"pull\"]\n", "error NOD-234 f:2\nerror NOD-233 f:1"},
		{"TLS on http", ok + "  skip_verify = true\n", "warning NOD-235 f:1"},
		{"no resolve", "[host.\"http://m:5000\"]\n  capabilities = [\"pull\"]\n", "error NOD-236 f:2"},
		{"bad timeout", ok + "  dial_timeout = \"2\"\n", "error NOD-232 f:3"},
		{"k3s", "# File generated by k3s. DO NOT EDIT.\n\nserver = \"\"\ncapabilities = [\"pull\", \"resolve\", \"push\"]\n\n[host]\n[host.\"http://127.0.0.1:5000/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, diags := ParseHosts("f", []byte(c.in))
			var got []string
			for _, d := range diags {
				w := d.Where
				w.Col = 0
				s := string(d.Severity) + " " + d.ID + " " + w.String()
				if strings.HasPrefix(d.Fix, "did you") {
					s += " " + d.Fix
				}
				got = append(got, s)
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzParseHosts: our parser and containerd's agree on which hosts are tried, and on which files are ignored.
func FuzzParseHosts(f *testing.F) {
	for _, s := range []string{
		"", "server = \"m\"\n", string(RenderHosts(mirror)), "[host.\"http://a\"]\n[host.\"b:1/x\"]\noverride_path = true\nca = [\"x\"]\n[host.\"b:1/x\".header]\nq = \"1\"\n",
		"host.\"a\".capabilities = [\"push\"]\n", "[host]\n[host.\"a\"]\nclient = [[\"c\", \"k\"]]\n", "capabilities = [\"nope\"]\n", "[host.a]\n[host.b]\n[host.a.header]\n", "server = 1\n", "[[host]]\n", "dial_timeout = \"1\"\n",
		"[host.\"http://m/v2/\"]\nskip_verify = \"x\"\n", "client = [1]\nheader = 1\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if in == "" || strings.Contains(in, "ca") && strings.Contains(in, "/dev") {
			t.Skip()
		}
		h, diags := ParseHosts("/nowhere/hosts.toml", []byte(in))
		if len(h.files()) > 0 {
			t.Skip() // containerd reads the files, which are not there
		}
		root := writeTree(t, map[string]string{"_default/hosts.toml": in})
		hosts, err := containerdHosts(t, root, "up.test")
		if err != nil {
			return
		}
		got := urls(hosts)
		want := []string{"https://up.test/v2"}
		if !h.Ignored {
			want = nil
			for _, e := range append(h.Hosts, h.Server) {
				want = append(want, full(t, e, "up.test"))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q: (-ours +containerd's):\n%s\n%v", in, diff, diag.Report(diags))
		}
	})
}

// full is the base URL of a host as containerd makes it.
func full(t *testing.T, e HostEntry, registry string) string {
	t.Helper()
	if e.URL == "" {
		return "https://" + registry + "/v2"
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme == "http" && e.TLSSet && u.Port() != "80" {
		u.Scheme = "https"
	}
	return u.Scheme + "://" + u.Host + e.Path
}
