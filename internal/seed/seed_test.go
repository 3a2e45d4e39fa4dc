package seed

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
)

func site(t *testing.T, toml string) config.Site {
	t.Helper()
	s, found := config.Parse("edgeprep.toml", []byte(toml))
	if found.HasErrors() {
		t.Fatal(found)
	}
	return s
}

func input() Input {
	return Input{Site: "Site Süd 7", Node: "edge-1", Revision: 2, Config: []byte("version = 1\n[site]\nname = \"Site Süd 7\"\n"),
		Files: []File{{Path: "/etc/edgeprep/required.txt", Content: []byte("docker.io/library/busybox:1.36\n")}}}
}

const golden = `#cloud-config
hostname: edge-1
write_files:
  - path: /etc/edgeprep/edgeprep.toml
    permissions: "0600"
    owner: root:root
    content: |
      version = 1
      [site]
      name = "Site Süd 7"
  - path: /etc/edgeprep/required.txt
    permissions: "0600"
    owner: root:root
    content: |
      docker.io/library/busybox:1.36
`

func TestRender(t *testing.T) {
	t.Parallel()
	files, err := Render(input())
	if err != nil {
		t.Fatal(err)
	}
	want := []File{{Path: "meta-data", Content: []byte("instance-id: site-s-d-7-edge-1-r2\nlocal-hostname: edge-1\n")},
		{Path: "user-data", Content: []byte(golden)}}
	if d := cmp.Diff(want, files); d != "" {
		t.Error(d)
	}
}

// awkward are contents that YAML or cloud-init could take for something else. What the node gets must be them,
// byte for byte.
func awkward() []string {
	return []string{"", "\n", " leading\n", "\tx\n", "no newline", "a\n\n\n", "---\n", "#cloud-config\n", "key: [\n", "trailing \n  \nx\n",
		"\x00\xff", "\u2028\u0085", "\r\n", "🛰\n", "%{x}\n", "'\"\\\n", "## template: jinja\n{{ v1 }}\n", "\ufeffbom\n", "null", "yes", "0o17"}
}

func TestContentsSurvive(t *testing.T) {
	t.Parallel()
	in := input()
	in.Files = nil
	for _, a := range awkward() {
		in.Files = append(in.Files, File{Path: "/x", Content: []byte(a)})
	}
	files, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	var got userData
	if err := yaml.Unmarshal(files[1].Content, &got); err != nil {
		t.Fatal(err)
	}
	for i, a := range awkward() {
		w := got.Files[i+1]
		text := w.Content
		if w.Encoding == "b64" {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if text != a {
			t.Errorf("%q became %q", a, text)
		}
	}
}

// TestCloudInitTakesIt asks cloud-init itself: its schema, and its own reader of YAML.
func TestCloudInitTakesIt(t *testing.T) {
	t.Parallel()
	cloudInit, err := exec.LookPath("cloud-init")
	if err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs cloud-init (Debian: cloud-init)")
	}
	in := input()
	in.Install = []string{"--for", "k3s", "--start"}
	for _, a := range awkward() {
		in.Files = append(in.Files, File{Path: "/x", Content: []byte(a)})
	}
	files, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	check := func(data []byte) (string, error) {
		file := filepath.Join(t.TempDir(), "user-data")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(cloudInit, "schema", "--config-file", file).CombinedOutput()
		return string(out), err
	}
	if out, err := check(files[1].Content); err != nil || !strings.Contains(out, "Valid") || strings.Contains(out, "deprecated") {
		t.Errorf("%v\n%s\n%s", err, out, files[1].Content)
	}
	if out, err := check([]byte(strings.Replace(string(files[1].Content), "permissions:", "permission:", 1))); err == nil {
		t.Errorf("a misspelt key is valid, so this test shows nothing:\n%s", out)
	}
	t.Run("read as cloud-init reads", func(t *testing.T) {
		py := exec.Command("/usr/bin/python3", "-c", `import sys,base64
from cloudinit import util
for f in util.load_yaml(sys.stdin.buffer.read())["write_files"][2:]:
    c = base64.b64decode(f["content"]) if f.get("encoding") == "b64" else f["content"].encode()
    print(c.hex())`)
		py.Stdin = strings.NewReader(string(files[1].Content))
		out, err := py.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var want strings.Builder
		for _, a := range awkward() {
			for _, b := range []byte(a) {
				want.WriteString(string("0123456789abcdef"[b>>4]) + string("0123456789abcdef"[b&15]))
			}
			want.WriteString("\n")
		}
		if d := cmp.Diff(want.String(), string(out)); d != "" {
			t.Error(d)
		}
	})
}

func TestNamesThatAreNoHostNames(t *testing.T) {
	t.Parallel()
	for _, n := range []string{"", "-a", "a-", "Edge", "a_b", "a b", "../x", "a/b", "a\nruncmd: [reboot]", strings.Repeat("a", 65), "a..b"} {
		in := input()
		in.Node = n
		if _, err := Render(in); len(diag.Of(err)) != 1 || diag.Of(err)[0].ID != "CFG-040" {
			t.Errorf("%q: %v", n, err)
		}
	}
}

func TestNamedFiles(t *testing.T) {
	t.Parallel()
	s := site(t, `version = 1
[images]
required = "/etc/edgeprep/required.txt"
[[upstream]]
host = "docker.io"
credentials_file = "/etc/edgeprep/pull"
ca = "/etc/edgeprep/ca.pem"
[[upstream]]
host = "quay.io"
credentials_file = "env:QUAY"
ca = "/etc/edgeprep/ca.pem"
`)
	want := []Named{{"images.required", "/etc/edgeprep/required.txt", false}, {"upstream[0].ca", "/etc/edgeprep/ca.pem", false},
		{"upstream[0].credentials_file", "/etc/edgeprep/pull", true}}
	if d := cmp.Diff(want, NamedFiles(s)); d != "" {
		t.Error(d)
	}
}
