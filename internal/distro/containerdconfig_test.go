package distro

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/test/binaries"
)

// configs are what both our reader and containerd itself read; "main" is the file, others are imported by
// their names.
func configs() map[string]map[string]string {
	const v2, v3 = `plugins."io.containerd.grpc.v1.cri"`, `plugins."io.containerd.cri.v1.images"`
	return map[string]map[string]string{
		"empty":                                  {"main": ""},
		"version 1":                              {"main": "root = \"/r\"\n[grpc]\naddress = \"/run/x.sock\"\n[plugins.cri]\nsandbox_image = \"a/b:1\"\n[plugins.cri.registry]\nconfig_path = \"/c\"\n"},
		"version 1 with long name":               {"main": "[" + v2 + "]\nsandbox_image = \"a/b:1\"\n"},
		"version 2":                              {"main": "version = 2\nroot = \"/r\"\n[" + v2 + "]\nsandbox_image = \"a/b:2\"\n[" + v2 + ".containerd]\nsnapshotter = \"native\"\n[" + v2 + ".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"},
		"version 2 snapshotter without runtimes": {"main": "version = 2\n[" + v2 + ".containerd]\nsnapshotter = \"native\"\n"},
		"version 2 with import": {
			"main":           "version = 2\nimports = [\"conf.d/*.toml\"]\n[" + v2 + "]\nsandbox_image = \"a/b:2\"\n",
			"conf.d/10.toml": "version = 2\n[" + v2 + ".registry]\nconfig_path = \"/c\"\n",
			"conf.d/20.toml": "version = 2\nroot = \"/from/import\"\n",
			"conf.d/30.txt":  "version = 2\nroot = \"/wrong\"\n",
		},
		"version 2, imports in order": {
			"main":   "version = 2\nimports = [\"b.toml\", \"a.toml\"]\nroot = \"/main\"\n",
			"a.toml": "version = 2\nroot = \"/a\"\n", "b.toml": "version = 2\nroot = \"/b\"\n",
		},
		"import of an import": {
			"main":     "version = 2\nimports = [\"d/b.toml\"]\nroot = \"/main\"\n",
			"d/b.toml": "version = 2\nimports = [\"c.toml\", \"../main.toml\"]\nroot = \"/b\"\n", "d/c.toml": "version = 2\n[" + v2 + "]\nsandbox_image = \"c/c:1\"\n",
		},
		"version 3": {"main": "version = 3\nroot = \"/r\"\n[grpc]\naddress = \"/run/3.sock\"\n[" + v3 + "]\nsnapshotter = \"native\"\n[" + v3 + ".pinned_images]\nsandbox = \"a/b:3\"\n[" + v3 + ".registry]\nconfig_path = \"/a:/b\"\n"},
		"version 3 with import": {
			"main":           "version = 3\nimports = [\"conf.d/*.toml\"]\n[" + v3 + ".pinned_images]\nsandbox = \"a/b:3\"\n",
			"conf.d/10.toml": "version = 3\n" + v3 + ".registry.config_path = \"/c\"\n",
			"conf.d/20.toml": "version = 3\n[" + v3 + ".pinned_images]\nsandbox = \"a/b:4\"\n",
		},
		"version 4": {"main": "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/run/4.sock\"\n[" + v3 + ".pinned_images]\nsandbox = \"a/b:4\"\n"},
	}
}

// dumped are the values of `containerd config dump`, which writes the newest version that it knows.
func dumped(t *testing.T, program, file string) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "-c", file, "config", "dump").Output()
	if err != nil {
		return nil // this containerd does not take the file
	}
	var tree map[string]any
	if err := toml.Unmarshal(out, &tree); err != nil {
		t.Fatal(err)
	}
	at := func(keys ...string) string {
		var v any = tree
		for _, k := range keys {
			m, _ := v.(map[string]any)
			v = m[k]
		}
		s, _ := v.(string)
		return s
	}
	if tree["version"].(int64) == 2 {
		const cri = "io.containerd.grpc.v1.cri"
		return map[string]string{
			"root": at("root"), "address": at("grpc", "address"), "snapshotter": at("plugins", cri, "containerd", "snapshotter"),
			"sandbox": at("plugins", cri, "sandbox_image"), "config_path": at("plugins", cri, "registry", "config_path"),
		}
	}
	const images = "io.containerd.cri.v1.images"
	return map[string]string{
		"root": at("root"), "address": at("plugins", "io.containerd.server.v1.grpc", "address"), "snapshotter": at("plugins", images, "snapshotter"),
		"sandbox": at("plugins", images, "pinned_images", "sandbox"), "config_path": at("plugins", images, "registry", "config_path"),
	}
}

func values(c containerdConfig) map[string]string {
	return map[string]string{"root": c.Root.Value, "address": c.Address.Value, "snapshotter": c.Snapshotter.Value, "sandbox": c.Sandbox.Value, "config_path": c.ConfigPath.Value}
}

// What we read of a configuration is what containerd itself makes of it: 1.7 and 2.4, every version of the
// format, with imports. A value that is not set is containerd's default.
func TestConfigAsContainerdReadsIt(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"containerd-1.7", "containerd-2.4"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			program := containerdProgram(t, target)
			defaults := dumped(t, program, writeConfig(t, configs()["empty"]).Path("/etc/c/main.toml"))
			for _, name := range keys(configs()) {
				n := writeConfig(t, configs()[name])
				want := dumped(t, program, n.Path("/etc/c/main.toml"))
				if want == nil {
					continue
				}
				got := values(readContainerdConfig(n.FS(), "/etc/c/main.toml", target == "containerd-1.7"))
				for k, v := range got {
					if v == "" {
						got[k] = defaults[k]
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-containerd +ours):\n%s", name, diff)
				}
			}
		})
	}
}

func writeConfig(t *testing.T, files map[string]string) *hosttest.Node {
	t.Helper()
	n := hosttest.New(t)
	for file, text := range files {
		if file == "main" {
			file = "main.toml"
		}
		n.WriteFile("/etc/c/"+file, text)
	}
	return n
}

func keys(m map[string]map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func containerdProgram(t *testing.T, target string) string {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := binaries.Lookup(target)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := b.Find(root)
	switch {
	case err == nil:
		return filepath.Join(dir, "containerd")
	case os.Getenv("EDGEPREP_REQUIRE_REAL") == "1":
		t.Fatal(err)
	}
	t.Skipf("needs a real containerd: %v", err)
	return ""
}

func TestContainerdConfigProblems(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/a.toml", "version = 2\nroot = /x\n")
	n.WriteFile("/loop.toml", "imports = [\"/loop.toml\", \"/l*.toml\"]\nroot = \"/x\"\n")
	n.WriteFile("/types.toml", "version = \"2\"\nroot = 1\nimports = \"x\"\nplugins = 3\n")
	n.Mkdir("/dir.toml")
	if c := readContainerdConfig(n.FS(), "/a.toml", false); !strings.Contains(c.Problem, "/a.toml is not TOML: line 2") {
		t.Error(c.Problem)
	}
	if c := readContainerdConfig(n.FS(), "/loop.toml", false); c.Problem != "" || c.Root.Value != "/x" || c.Root.Source != "/loop.toml:2 (root)" {
		t.Errorf("%+v", c)
	}
	if c := readContainerdConfig(n.FS(), "/types.toml", false); c != (containerdConfig{}) {
		t.Errorf("%+v", c)
	}
	if c := readContainerdConfig(n.FS(), "/dir.toml", false); !strings.Contains(c.Problem, "/dir.toml cannot be read") {
		t.Errorf("%+v", c)
	}
	if c := readContainerdConfig(n.FS(), "/missing.toml", false); c != (containerdConfig{}) {
		t.Errorf("%+v", c)
	}
	for value, want := range map[string]string{"/a": "/a", "/a/": "/a", "/a:/b": "", "": "", "rel": ""} {
		if got, _ := (containerdConfig{ConfigPath: fact{Value: value}}).certsD(); got != want {
			t.Errorf("%q: %q", value, got)
		}
	}
}
