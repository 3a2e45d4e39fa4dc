package secrets

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/test/edgeprep"
)

// TestOfANode: on nodes of both registries formats nothing that edgeprep prints, logs, reports or bundles holds
// a secret of the node or of the site.
func TestOfANode(t *testing.T) {
	for _, distro := range []string{"k3s", "kubeadm"} {
		t.Run(distro, func(t *testing.T) {
			h := newHunt(t)
			dir := t.TempDir()
			if out, err := edgeprep.Run(t, "demo", "--distro", distro, "--dir", dir); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			root := filepath.Join(dir, "node")
			plantSite(t, h, root)
			if distro == "k3s" {
				plantK3s(t, h, root)
			} else {
				plantContainerd(t, h, root)
			}
			proxies(t, h, root, distro)
			for _, args := range [][]string{
				{"validate"}, {"detect"}, {"plan", "-v"}, {"plan", "-o", "json"},
				{"apply", "--allow", "restart,overwrite,remove,plain-http", "--events", filepath.Join(dir, "events")},
				{"apply", "-v", "--allow", "restart,overwrite,remove,plain-http"}, {"status"}, {"status", "-o", "json"},
				{"check", "-v"}, {"check", "--profile", "ship", "-o", "json"}, {"check", "--deep", "--out", filepath.Join(dir, "kept"), "--by", "A. Nyman"},
				{"check", "--graph", "mermaid"}, {"mirror", "manifests", "--form", "deployment"}, {"mirror", "manifests", "--form", "static-pod"},
			} {
				if said := h.run(append(args, "--root", root)...); strings.Contains(said, "CFG-") || strings.Contains(said, "exit 6") {
					t.Errorf("%v: %s", args, said)
				}
			}
			bundle := h.bundle("--root", root)
			for _, name := range []string{"config/edgeprep.toml", "results/check.json", "results/plan.json", "state/ledger.json"} {
				if bundle[name] == "" {
					t.Errorf("the bundle has no %s", name)
				}
			}
			changed(t, h, root, distro)
			for _, args := range [][]string{{"plan", "-v"}, {"detect"}, {"check", "-v"}, {"status"}} {
				h.run(append(args, "--root", root)...)
			}
			records, err := filepath.Glob(filepath.Join(dir, "kept", "*.json"))
			if err != nil || len(records) != 1 {
				t.Fatalf("records: %v, %v", records, err)
			}
			for _, f := range []string{"text", "json", "html", "junit", "markdown"} {
				h.run("report", records[0], "--format", f)
			}
			h.bundle("--root", root)
			for _, d := range []string{dir + "/kept", dir + "/events", root + "/var/log", root + "/var/lib/edgeprep/journal", root + "/var/lib/edgeprep/ledger.json", root + "/run"} {
				h.files(d)
			}
			h.run("rollback", "-y", "--root", root)
			h.report()
		})
	}
}

// plantSite gives the site file every kind of credential that it may name.
func plantSite(t *testing.T, h *hunt, root string) {
	t.Helper()
	write(t, root, "etc/edgeprep/pull-secret", "robot:"+h.plant("credentials file")+"\n")
	write(t, root, "etc/edgeprep/docker.json", `{"auths":{"ghcr.io":{"auth":"`+h.basic("docker config")+`"},"quay.io":{"identitytoken":"`+h.plant("identity token")+`"}}}`)
	write(t, root, "etc/edgeprep/tokens", h.plant("tokens file")+"-0123456789abcdef0123456789\n")
	t.Setenv("PLANTED_CREDENTIALS", "robot:"+h.plant("environment"))
	h.keyPair(root, "etc/edgeprep/tls.crt", "etc/edgeprep/tls.key")
	h.keyPair(root, "etc/edgeprep/client.crt", "etc/edgeprep/client.key")
	file := filepath.Join(root, "etc/edgeprep/edgeprep.toml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	site := strings.Replace(string(b), `upstream = "never"`, "upstream = \"connected\"\ntokens_file = \"/etc/edgeprep/tokens\"", 1) + `
[mirror.tls]
cert = "/etc/edgeprep/tls.crt"
key  = "/etc/edgeprep/tls.key"
ca   = "/etc/edgeprep/tls.crt"
client_ca = "/etc/edgeprep/client.crt"

[registries]
client_cert = "/etc/edgeprep/client.crt"
client_key = "/etc/edgeprep/client.key"

[[upstream]]
host = "registry.example.com"
credentials_file = "/etc/edgeprep/pull-secret"
client_cert = "/etc/edgeprep/client.crt"
client_key = "/etc/edgeprep/client.key"
[[upstream]]
host = "ghcr.io"
credentials_file = "/etc/edgeprep/docker.json"
[[upstream]]
host = "quay.io"
credentials_file = "env:PLANTED_CREDENTIALS"
`
	write(t, root, "etc/edgeprep/edgeprep.toml", site)
}

func plantK3s(t *testing.T, h *hunt, root string) {
	t.Helper()
	appendTo(t, root, "etc/rancher/k3s/registries.yaml", `  user.example:
    endpoint: ["https://robot:`+h.plant("endpoint userinfo")+`@user.example"]
configs:
  registry.customer.example:
    auth:
      username: robot
      password: `+h.plant("registries password")+`
  other.example:
    auth: {auth: "`+h.basic("registries auth")+`"}
  third.example:
    auth:
      identity_token: >-
        `+h.plant("registries identity token")+`
`)
	write(t, root, "etc/rancher/k3s/config.yaml", "token: "+h.plant("k3s token")+"\ndatastore-endpoint: \"postgres://robot:"+h.plant("datastore")+"@db/k3s\"\n")
	write(t, root, "etc/systemd/system/k3s.service.env", "K3S_TOKEN="+h.plant("k3s environment file")+"\n")
	write(t, root, "var/lib/rancher/k3s/server/token", "K10"+strings.Repeat("0a", 32)+"::server:"+h.plant("server token")+"\n")
}

func plantContainerd(t *testing.T, h *hunt, root string) {
	t.Helper()
	appendTo(t, root, "etc/containerd/config.toml", `
[plugins."io.containerd.grpc.v1.cri".registry.configs."old.example".auth]
  password = "`+h.plant("config.toml password")+`"
[plugins."io.containerd.grpc.v1.cri".registry.headers]
  X-Meta = ["`+h.plant("config.toml header")+`"]
`)
	write(t, root, "etc/containerd/certs.d/registry.customer.example/hosts.toml", `server = "https://robot:`+h.plant("hosts.toml userinfo")+`@registry.customer.example"
[host."https://registry.customer.example".header]
  x-plain = "`+h.plant("hosts.toml header")+`"
  authorization = [
    "Basic `+h.basic("hosts.toml header over lines")+`",
  ]
`)
	write(t, root, "var/lib/kubelet/config.json", `{"auths":{"x":{"auth":"`+h.basic("kubelet docker config")+`"}}}`)
	write(t, root, "var/lib/kubelet/kubeadm-flags.env", `KUBELET_KUBEADM_ARGS="--bootstrap-token=`+h.plant("kubelet flags")+`"`)
	write(t, root, "etc/kubernetes/admin.conf", "users:\n- user:\n    client-key-data: "+h.plant("kubeconfig")+"\n    token: "+h.plant("kubeconfig token")+"\n")
}

// proxies with passwords, of this process and of the node's units.
func proxies(t *testing.T, h *hunt, root, distro string) {
	t.Helper()
	t.Setenv("HTTPS_PROXY", "http://robot:"+h.plant("proxy of the process")+"@127.0.0.1:9")
	for _, unit := range []string{distro, "containerd", "edgeprep-mirror"} {
		write(t, root, "etc/systemd/system/"+unit+".service.d/proxy.conf",
			"[Service]\nEnvironment=\"HTTPS_PROXY=http://robot:"+h.plant("proxy of "+unit)+"@127.0.0.1:9\" PLANTED="+h.plant("environment of "+unit)+"_TOKEN\n"+
				"Environment=API_TOKEN="+h.plant("token of "+unit)+"\n")
	}
}

// changed makes a diff necessary right beside secrets, and lines with secrets what a parser complains about.
func changed(t *testing.T, h *hunt, root, distro string) {
	t.Helper()
	if distro != "k3s" {
		appendTo(t, root, "etc/containerd/config.toml", "\n[broken\npassword = "+h.plant("a broken config.toml")+"\n")
		appendTo(t, root, "etc/containerd/certs.d/registry.customer.example/hosts.toml", "  token = "+h.plant("a broken hosts.toml")+"\n")
		return
	}
	file := filepath.Join(root, "etc/rancher/k3s/registries.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), h.plant("registries password"), h.plant("a new password"), 1)
	write(t, root, "etc/rancher/k3s/registries.yaml", strings.Replace(text, "quay.io", "quay.example", 1))
	appendTo(t, root, "etc/rancher/k3s/config.yaml", "agent-token: ["+h.plant("a broken config.yaml")+"\n")
}

// TestOfABadSiteFile: what does not belong into a site file is not repeated in what is said about it.
func TestOfABadSiteFile(t *testing.T) {
	dir := t.TempDir()
	if out, err := edgeprep.Run(t, "demo", "--dir", dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	root := filepath.Join(dir, "node")
	for name, site := range map[string]func(h *hunt) string{
		"userinfo in a URL": func(h *hunt) string {
			return "version = 1\n[[upstream]]\nhost = \"x.example\"\nurl = \"https://robot:" + h.plant("url") + "@x.example\"\n[registries]\nendpoints = [\"http://robot:" + h.plant("endpoint") + "@10.0.0.1:5000\"]\n"
		},
		"an unknown key": func(h *hunt) string {
			return "version = 1\n[[upstream]]\nhost = \"x.example\"\npassword = \"" + h.plant("password") + "\"\nauth = { token = \"" + h.plant("inline") + "\" }\n"
		},
		"a secret instead of a file": func(h *hunt) string {
			return "version = 1\n[[upstream]]\nhost = \"x.example\"\ncredentials_file = \"robot:" + h.plant("not a file") + "\"\n[mirror]\ntokens_file = \"" + h.plant("not a tokens file") + "\"\n"
		},
		"no TOML": func(h *hunt) string {
			return "version = 1\n[[upstream]]\npassword = \"" + h.plant("unfinished") + "\ntoken = " + h.plant("unquoted") + "\n"
		},
		"a wrong type": func(h *hunt) string {
			return "version = 1\n[mirror]\ntokens_file = [\"" + h.plant("list") + "\"]\n[[upstream]]\nhost = \"x\"\ncredentials_file = { password = \"" + h.plant("table") + "\" }\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHunt(t)
			write(t, root, "etc/edgeprep/edgeprep.toml", site(h))
			for _, args := range [][]string{{"validate"}, {"validate", "-o", "json"}, {"plan"}, {"apply"}, {"check"}, {"check", "-o", "json"}, {"status"}} {
				h.run(append(args, "--root", root)...)
			}
			h.bundle("--root", root)
			h.files(root + "/var/log")
			h.report()
		})
	}
}
