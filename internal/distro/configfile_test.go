package distro

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func TestReadConfig(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/c.yaml", "a: 1\nlist:\n  - x\nb: &anchor two\nc: *anchor\nnull: \nempty:\nquoted: \"yes\"\n---\na: second document\n")
	n.WriteFile("/c.yaml.d/1.yaml", "# only a comment\n")
	n.WriteFile("/c.yaml.d/2.yml", "list+:\n  - y\n  - z\nnew+: n\n")
	n.WriteFile("/c.yaml.d/3.yaml", "{a: 3, map: {x: 1}}\n")
	n.WriteFile("/c.yaml.d/4.json", "{\"a\": 4}\n")
	got, err := readConfig(n.FS(), "/c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for k, v := range got {
		text[k] = strings.Join(v.Values, ",") + " " + v.Source
	}
	want := map[string]string{
		"a": "3 /c.yaml.d/3.yaml:1", "list": "x,y,z /c.yaml.d/2.yml:1", "b": "two /c.yaml:4", "c": "two /c.yaml:5", "null": " /c.yaml:6",
		"empty": " /c.yaml:7", "quoted": "yes /c.yaml:8", "new": "n /c.yaml.d/2.yml:4", "map": " /c.yaml.d/3.yaml:1",
	}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if v, src, ok := got.last([]string{"list"}); v != "z" || src != "/c.yaml.d/2.yml:1" || !ok {
		t.Errorf("last of a list: %q %q %v", v, src, ok)
	}
	if v, _, _ := got.last([]string{"a", "new", "none"}); v != "n" {
		t.Errorf("of two names for one flag the later counts, not %q", v)
	}
	if _, _, ok := got.last([]string{"map"}); ok {
		t.Error("a mapping is no value of a flag")
	}
}

func TestFileValue(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/v.yaml", "a:\n  b: v\n  n: null\n  e: \"\"\ns: [1]\n")
	n.WriteFile("/v.json", "{\"components\": {\"kubernetes\": {\"version\": \"v1.36.0\"}}}")
	n.WriteFile("/text", "  /snap/base \n")
	n.WriteFile("/blank", "\n")
	n.WriteFile("/bad", "a: [\n")
	for _, c := range []struct{ file, key, value, source string }{
		{"/v.yaml", "a.b", "v", "/v.yaml:2 (a.b)"},
		{"/v.yaml", "a.n", "", ""},
		{"/v.yaml", "a.e", "", ""},
		{"/v.yaml", "a.b.c", "", ""},
		{"/v.yaml", "s", "", ""},
		{"/v.yaml", "none", "", ""},
		{"/v.json", "components.kubernetes.version", "v1.36.0", "/v.json:1 (components.kubernetes.version)"},
		{"/text", "", "/snap/base", "/text"},
		{"/blank", "", "", "/blank"},
		{"/missing", "a", "", ""},
	} {
		v, src, ok, err := fileValue(n.FS(), c.file, c.key)
		if v != c.value || src != c.source || ok != (c.value != "") || err != nil {
			t.Errorf("%s %s: %q %q %v %v", c.file, c.key, v, src, ok, err)
		}
	}
	_, _, _, err := fileValue(n.FS(), "/bad", "a")
	if ds := diag.Of(err); len(ds) != 1 || ds[0].ID != "NOD-012" || ds[0].Where.File != "/bad" {
		t.Errorf("%v", err)
	}
}

// YAML that grows without bound when its aliases are followed is only looked at.
func TestHostileConfig(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	var b strings.Builder
	b.WriteString("a00: &a00 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		b.WriteString("a" + itoa(i) + ": &a" + itoa(i) + " [" + strings.Repeat("*a"+itoa(i-1)+", ", 9) + "]\n")
	}
	b.WriteString("data-dir: /ok\n")
	n.WriteFile("/c.yaml", b.String())
	n.WriteFile("/deep.yaml", strings.Repeat("[", 200000))
	if got, err := readConfig(n.FS(), "/c.yaml"); err != nil {
		t.Logf("refused: %v", err)
	} else if v, _, _ := got.last([]string{"data-dir"}); v != "/ok" {
		t.Errorf("%q", v)
	}
	if _, err := readConfig(n.FS(), "/deep.yaml"); err == nil {
		t.Error("a document of 200000 levels is accepted")
	}
}

func itoa(i int) string { return string(rune('0'+i/10)) + string(rune('0'+i%10)) }
