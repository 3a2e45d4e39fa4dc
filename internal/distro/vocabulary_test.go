package distro

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

// Distributions that have no descriptor yet can have one by data alone: a sketch of each, and what is found
// with it on a small tree.
func TestVocabulary(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/vocabulary/*.txtar")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sketch(t, a)
		})
	}
}

func sketch(t *testing.T, a *txtar.Archive) {
	t.Helper()
	d, ds := parse(a.Files[0].Name, a.Files[0].Data)
	if len(ds) > 0 {
		t.Fatal(ds)
	}
	n := hosttest.New(t)
	tree, want := &txtar.Archive{}, ""
	for _, f := range a.Files[1:] {
		if name, ok := strings.CutPrefix(f.Name, "tree/"); ok {
			tree.Files = append(tree.Files, txtar.File{Name: name, Data: f.Data})
		} else {
			want = string(f.Data)
		}
	}
	n.Add(tree)
	for _, line := range strings.Split(string(a.Comment), "\n") {
		if f := strings.SplitN(line, " ", 3); f[0] == "version" {
			n.Versions[f[1]] = f[2]
		}
	}
	got, err := Detect(t.Context(), n, load(t).with(d), Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		key, value, _ := strings.Cut(line, " ")
		if have := jsonAt(t, data, key); have != value {
			t.Errorf("%s: %s, want %s", key, have, value)
		}
	}
}

// jsonAt is the value at a dotted key: texts plain, the rest as JSON.
func jsonAt(t *testing.T, data []byte, key string) string {
	t.Helper()
	for _, k := range strings.Split(key, ".") {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		data = m[k]
	}
	var s string
	if json.Unmarshal(data, &s) == nil {
		return s
	}
	return string(data)
}
