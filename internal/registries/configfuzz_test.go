package registries

import (
	"reflect"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// FuzzConfigEdit: read by the TOML library alone, the edited file says what the old one said, but for
// config_path; and containerd's rules then give our directory.
func FuzzConfigEdit(f *testing.F) {
	for _, c := range configCases {
		f.Add(c.files["config.toml"], c.version)
	}
	f.Add("version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {registry = {}}}\n", "1.7.35")
	f.Add("version = 3\nplugins.\"io.containerd.cri.v1.images\".registry.config_path = \"a:b\"\n", "2.4.2")
	f.Fuzz(func(t *testing.T, in, version string) {
		doc, err := tomledit.Parse([]byte(in))
		if err != nil {
			t.Skip()
		}
		file := configFile{path: "config.toml", data: []byte(in), doc: doc}
		if v, ok := doc.Get("version"); ok {
			n, isInt := v.(int64)
			if !isInt || n < 0 || n > 4 {
				t.Skip()
			}
			file.version = int(n)
		}
		c := &containerdConfig{main: "config.toml", release: parseRelease(version), files: []configFile{file}}
		if c.blocked() != nil {
			return
		}
		target := c.target()
		out, err := c.edit(target, "/d")
		if err != nil {
			return
		}
		var before, after map[string]any
		if err := toml.Unmarshal([]byte(in), &before); err != nil {
			t.Skip() // a byte order mark
		}
		if err := toml.Unmarshal(out, &after); err != nil {
			t.Fatalf("%v:\n%q", err, out)
		}
		if got := take(after, target.id); got != "/d" {
			t.Fatalf("config_path is %v in %q", got, out)
		}
		take(before, target.id)
		if !reflect.DeepEqual(pruneTables(before), pruneTables(after)) {
			t.Fatalf("more changed:\n%q\n%q", in, out)
		}
	})
}

// take removes config_path and gives what it was.
func take(tree map[string]any, id string) any {
	plugins, _ := tree["plugins"].(map[string]any)
	plugin, _ := plugins[id].(map[string]any)
	reg, _ := plugin["registry"].(map[string]any)
	v := reg["config_path"]
	delete(reg, "config_path")
	return v
}

// pruneTables removes empty tables: the way to config_path may have been made.
func pruneTables(m map[string]any) map[string]any {
	for k, v := range m {
		if t, ok := v.(map[string]any); ok && len(pruneTables(t)) == 0 {
			delete(m, k)
		}
	}
	return m
}
