package registries

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/resource"
	"github.com/edgeprep/edgeprep/test/binaries"
)

const configFilePath = "/etc/containerd/config.toml"

func kubeadm(version string) distro.Node {
	return distro.Node{
		ID: "kubeadm", Name: "kubeadm",
		Runtime:    distro.Runtime{Config: configFilePath, Unit: "containerd.service", Version: version},
		Registries: distro.Registries{Format: FormatCertsD, Restart: []string{"containerd.service"}},
	}
}

func newNode(t *testing.T, files map[string]string) *hosttest.Node {
	t.Helper()
	n := hosttest.New(t)
	for p, content := range files {
		n.WriteFile(p, content)
	}
	return n
}

// wanted are the files of a result by path, those of Shared kind and of our own.
func wanted(r Result) (shared, own map[string]string) {
	shared, own = map[string]string{}, map[string]string{}
	for _, x := range r.Resources {
		if x.File != nil && x.File.Shared {
			shared[x.File.Path] = string(x.File.Content)
		} else if x.File != nil {
			own[x.File.Path] = string(x.File.Content)
		}
	}
	return shared, own
}

type configCase struct {
	name    string
	version string
	files   map[string]string // below /etc/containerd
	file    string            // that must change; empty: none
	want    string            // its new content
	dir     string            // where hosts.toml files go
	refused string            // "NOD-223 config.toml:5"
	notes   int
}

var configCases = []configCase{
	{
		name: "no file, 1.x", version: "1.7.35", file: "config.toml", dir: defaultCertsD, notes: 1,
		want: "# Written by edgeprep. What is not here keeps containerd's built-in default.\nversion = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "no file, 2.x", version: "2.4.2", file: "config.toml", dir: defaultCertsD, notes: 1,
		want: "# Written by edgeprep. What is not here keeps containerd's built-in default.\nversion = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "single directory", version: "1.7.35", dir: "/srv/certs",
		files: map[string]string{"config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/srv/certs\"\n"},
	},
	{
		name: "empty config_path", version: "1.6.20", dir: defaultCertsD, file: "config.toml",
		files: map[string]string{"config.toml": "version = 2 # two\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"p:1\"\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = \"\" # none\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n"},
		want:  "version = 2 # two\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"p:1\"\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = \"/etc/containerd/certs.d\" # none\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n",
	},
	{
		name: "version 1", version: "1.6.20", dir: defaultCertsD, file: "config.toml",
		files: map[string]string{"config.toml": "oom_score = 1\n\n[plugins.cri]\nsandbox_image = \"p:1\"\n"},
		want:  "oom_score = 1\n\n[plugins.cri]\nsandbox_image = \"p:1\"\n\n[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "no plugin table", version: "2.4.2", dir: defaultCertsD, file: "config.toml",
		files: map[string]string{"config.toml": "version = 4\nroot = \"/r\"\n"},
		want:  "version = 4\nroot = \"/r\"\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "colon list", version: "2.4.2", dir: "/etc/containerd/certs.d", file: "config.toml", notes: 1,
		files: map[string]string{"config.toml": "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n"},
		want:  "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d'\n",
	},
	{
		name: "drop-in overrides on 2.x", version: "2.4.2", dir: "/b", file: "conf.d/10.toml", notes: 1,
		files: map[string]string{
			"config.toml":    "version = 3\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a\"\n",
			"conf.d/10.toml": "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/b:/c\"\n",
			"conf.d/20.toml": "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n",
		},
		want: "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/b\"\n",
	},
	{
		name: "drop-in empties it on 2.x", version: "2.4.2", dir: defaultCertsD, file: "x.toml",
		files: map[string]string{
			"config.toml": "version = 3\nimports = [\"x.toml\"]\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a\"\n",
			"x.toml":      "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"\"\n",
		},
		want: "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "drop-in replaces the plugin's table on 1.x", version: "1.7.35", dir: defaultCertsD, file: "conf.d/10.toml",
		files: map[string]string{
			"config.toml":    "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a\"\n",
			"conf.d/10.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"p:2\"\n",
		},
		want: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"p:2\"\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "version 2 on 2.x", version: "2.4.2", dir: defaultCertsD, file: "config.toml",
		files: map[string]string{"config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"p:1\"\n"},
		want:  "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"p:1\"\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "wrong table", version: "1.7.35", dir: defaultCertsD, file: "config.toml", notes: 1,
		files: map[string]string{"config.toml": "version = 2\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a\"\n"},
		want:  "version = 2\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a\"\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
	},
	{
		name: "auth beside config_path stays", version: "2.4.2", dir: "/a",
		files: map[string]string{"config.toml": "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a\"\n[plugins.\"io.containerd.cri.v1.images\".registry.configs.\"h\".auth]\nusername = \"u\"\n"},
	},
	{
		name: "inline mirrors", version: "1.7.35", refused: "NOD-223 config.toml:4",
		files: map[string]string{"config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n      endpoint = [\"https://m\"]\n"},
	},
	{
		name: "inline tls", version: "1.7.35", refused: "NOD-223 config.toml:2",
		files: map[string]string{"config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"h\".tls]\nca_file = \"/x\"\n"},
	},
	{name: "cri disabled", version: "1.6.20", refused: "NOD-222 config.toml:2", files: map[string]string{"config.toml": "# Docker's\ndisabled_plugins = [\"cri\"]\n"}},
	{
		name: "cri disabled in a drop-in", version: "2.4.2", refused: "NOD-222 x.toml:1",
		files: map[string]string{"config.toml": "version = 3\nimports = [\"x.toml\"]\n", "x.toml": "disabled_plugins = [\"io.containerd.cri.v1.runtime\"]\nversion = 3\n"},
	},
	{name: "not TOML", version: "1.7.35", refused: "NOD-220 config.toml:2", files: map[string]string{"config.toml": "version = 2\n[plugins\n"}},
	{name: "missing import", version: "1.7.35", refused: "NOD-221 config.toml:2", files: map[string]string{"config.toml": "version = 2\nimports = [\"/nowhere.toml\"]\n"}},
	{name: "version too high", version: "1.7.35", refused: "NOD-224 config.toml:1", files: map[string]string{"config.toml": "version = 3\n"}},
	{
		name: "mixed versions", version: "2.1.4", refused: "NOD-224 x.toml:1",
		files: map[string]string{"config.toml": "version = 2\nimports = [\"x.toml\"]\n", "x.toml": "version = 3\n"},
	},
	{
		name: "mixed versions with an unknown containerd", refused: "NOD-224 x.toml:1",
		files: map[string]string{"config.toml": "version = 2\nimports = [\"x.toml\"]\n", "x.toml": "version = 3\n"},
	},
}

func (c configCase) node(t *testing.T) *hosttest.Node {
	t.Helper()
	files := map[string]string{}
	for p, content := range c.files {
		files["/etc/containerd/"+p] = content
	}
	return newNode(t, files)
}

func TestConfigTOML(t *testing.T) {
	t.Parallel()
	for _, c := range configCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := c.node(t)
			r, err := Desired(context.Background(), hosttest.NoWrites(n), kubeadm(c.version), Policy{Endpoints: mirror})
			if c.refused != "" {
				checkRefused(t, err, c.refused)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.check(t, r)
			for p, content := range c.files { // as an engine would leave it
				if p == c.file {
					content = c.want
				}
				n.WriteFile("/etc/containerd/"+p, content)
			}
			if len(c.files) == 0 {
				n.WriteFile(configFilePath, c.want)
			}
			second, err := Desired(context.Background(), n, kubeadm(c.version), Policy{Endpoints: mirror})
			if err != nil {
				t.Fatal(err)
			}
			a, _ := wanted(r)
			b, _ := wanted(second)
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("the second time it wants something else (-first +second):\n%s", diff)
			}
		})
	}
}

func (c configCase) check(t *testing.T, r Result) {
	t.Helper()
	shared, own := wanted(r)
	if len(shared) != 1 {
		t.Errorf("%d shared files, want 1", len(shared))
	}
	for p, content := range shared {
		rel := strings.TrimPrefix(p, "/etc/containerd/")
		if c.file != "" && rel != c.file {
			t.Errorf("edits %s, want %s", rel, c.file)
		}
		want := c.want
		if c.file == "" {
			want = c.files[rel]
		}
		if diff := cmp.Diff(want, content); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if _, ok := own[filepath.Join(c.dir, "_default/hosts.toml")]; !ok {
		t.Errorf("no hosts.toml in %s: %v", c.dir, sortedKeys(own))
	}
	if len(r.Notes) != c.notes {
		t.Errorf("notes: %+v, want %d", r.Notes, c.notes)
	}
	last := r.Resources[len(r.Resources)-1]
	if last.Unit == nil || !last.Unit.Foreign || len(last.Unit.RestartOn) != 1 || !strings.HasPrefix(last.Unit.RestartOn[0], "file:/etc/containerd/") {
		t.Errorf("the last resource is %+v, want a restart for the config file alone", last)
	}
}

func checkRefused(t *testing.T, err error, want string) {
	t.Helper()
	var refused *diag.Refused
	list := diag.Of(err)
	if !errors.As(err, &refused) || len(list) != 1 {
		t.Fatalf("got %v, want a refusal", err)
	}
	w := list[0].Where
	got := list[0].ID + " " + filepath.Base(w.File)
	if w.Line > 0 {
		got += ":" + strings.Split(w.String(), ":")[1]
	}
	if got != want || list[0].Fix == "" {
		t.Errorf("got %q, want %q:\n%s", got, want, list[0].Text())
	}
}

func TestInlineMigration(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{configFilePath: `version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
    endpoint = ["https://m:8443", "http://n"]
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."*"]
    endpoint = ["http://n"]
  [plugins."io.containerd.grpc.v1.cri".registry.configs."m:8443".tls]
    ca_file = "/ca"
    cert_file = "/c"
    key_file = "/k"
  [plugins."io.containerd.grpc.v1.cri".registry.configs."m:8443".auth]
    username = "u"
`})
	_, err := Desired(context.Background(), n, kubeadm("1.7.35"), Policy{Endpoints: mirror})
	checkRefused(t, err, "NOD-223 config.toml:5")
	// The offered script is run, and containerd's parser reads what it wrote.
	_, script, _ := strings.Cut(diag.Of(err)[0].Fix, "\n")
	dir := t.TempDir()
	cmd := exec.Command("sh", "-e", "-c", strings.ReplaceAll(script, "/etc/containerd/certs.d", dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, script)
	}
	for registry, want := range map[string][]string{"ghcr.io": {"http://n"}, "docker.io": {"https://m:8443", "http://n"}} {
		name := registry
		if registry == "ghcr.io" {
			name = "_default"
		}
		data, err := os.ReadFile(filepath.Join(dir, name, "hosts.toml"))
		if err != nil {
			t.Fatal(err)
		}
		h, diags := ParseHosts("f", data)
		var got []string
		for _, e := range h.Hosts {
			got = append(got, e.URL)
		}
		if diff := cmp.Diff(want, got); diff != "" || len(diags) > 0 {
			t.Errorf("%s %v:\n%s", registry, diags, diff)
		}
		if name == "docker.io" && cmp.Diff([]string{"/ca", "/c", "/k"}, h.Hosts[0].Files) != "" {
			t.Errorf("files %v", h.Hosts[0].Files)
		}
	}
}

// TestConfigDump asks real containerds: after each edit of the table they report our directory as config_path,
// and nothing else in their effective configuration is different.
func TestConfigDump(t *testing.T) {
	t.Parallel()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd-1.7", "containerd-2.4"} {
		target, err := binaries.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := target.Find(root)
		if err != nil && os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		if err != nil {
			t.Skipf("needs a real containerd: %v", err)
		}
		program := filepath.Join(dir, "containerd")
		for _, c := range configCases {
			major := parseRelease(c.version).major
			if c.file == "" || major != parseRelease(strings.TrimPrefix(name, "containerd-")).major {
				continue
			}
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				checkDump(t, program, c)
			})
		}
	}
}

func checkDump(t *testing.T, program string, c configCase) {
	n := c.node(t)
	r, err := Desired(context.Background(), n, kubeadm(c.version), Policy{Endpoints: mirror})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.files) == 0 {
		n.WriteFile(configFilePath, "version = 2\n") // nothing but defaults
	}
	before := dump(t, program, n.Path(configFilePath))
	for _, x := range r.Resources {
		if x.Kind == resource.KindFile && x.File.Shared {
			n.WriteFile(x.File.Path, string(x.File.Content))
		}
	}
	after := dump(t, program, n.Path(configFilePath))
	if got := swapConfigPath(after, ""); got != c.dir {
		t.Errorf("config_path is %q, want %q", got, c.dir)
	}
	swapConfigPath(before, "")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("more than config_path changed (-before +after):\n%s", diff)
	}
}

// dump is the configuration as containerd merges it.
func dump(t *testing.T, program, config string) map[string]any {
	t.Helper()
	cmd := exec.Command(program, "--config", config, "config", "dump")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var tree map[string]any
	if err := toml.Unmarshal(out, &tree); err != nil {
		t.Fatal(err)
	}
	delete(tree, "version") // 1.x repeats the file's
	delete(tree, "imports") // 1.x lists what it read, in no order
	return tree
}

// swapConfigPath replaces config_path of the CRI plugin and gives the old one.
func swapConfigPath(tree map[string]any, value string) string {
	plugins, _ := tree["plugins"].(map[string]any)
	for _, id := range []string{cri3, cri2} {
		p, _ := plugins[id].(map[string]any)
		if reg, ok := p["registry"].(map[string]any); ok {
			old, _ := reg["config_path"].(string)
			reg["config_path"] = value
			return old
		}
	}
	return ""
}
