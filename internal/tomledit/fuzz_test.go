package tomledit

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// decode is the oracle: the library on its own.
func decode(t *testing.T, data []byte) map[string]any {
	t.Helper()
	tree := map[string]any{}
	if err := toml.Unmarshal(bytes.TrimPrefix(data, []byte(bom)), &tree); err != nil {
		t.Fatalf("result is not TOML: %v\n%q", err, data)
	}
	return tree
}

// FuzzSet sets a key: the library then reads the old values with that one changed, and all old bytes but the
// old value's are still there, before and after one inserted piece.
func FuzzSet(f *testing.F) {
	for _, doc := range []string{
		"", "a = 1", "[t]\nx = 1 # c\n", "a.b = 1\r\n[t.u]\r\n", "a = { x = 1 }\n", "[[n]]\nx = 1\n[[n]]\n[n.s]\n", bom + "# c\n\na = '''\n'''\n",
		"version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"\"\n",
		"a = {b.c = 1, d = [{e = 1}]}\n", "\"\" = 1\n'x y'.z = nan\n", "a = [1, # c\n 2]\n[b]\n\n# t\n[c]\n",
	} {
		f.Add(doc, "a/b/c", "v", false)
		f.Add(doc, "plugins/io.containerd.grpc.v1.cri/registry/config_path", "/etc/containerd/certs.d", true)
	}
	f.Fuzz(func(t *testing.T, doc, path, value string, literal bool) {
		d, err := Parse([]byte(doc))
		if err != nil {
			t.Skip()
		}
		p := strings.Split(path, "/")
		var v any = value
		if literal {
			v = len(value) > 3
		}
		got, err := d.Set(p, v)
		if err != nil {
			return
		}
		want := decode(t, []byte(doc))
		if err := put(want, p, v); err != nil {
			t.Fatal(err)
		}
		if tree := decode(t, got.Bytes()); !same(want, tree, false) {
			t.Fatalf("%q set to %v:\nwant %v\ngot  %v\nin %q\nout %q", p, v, want, tree, doc, got.Bytes())
		}
		checkBytes(t, d, got, p)
		again, err := got.Set(p, v)
		if err != nil || !bytes.Equal(again.Bytes(), got.Bytes()) {
			t.Fatalf("not idempotent: %q then %q (%v)", got.Bytes(), again.Bytes(), err)
		}
	})
}

func checkBytes(t *testing.T, before, after *Doc, path []string) {
	t.Helper()
	a, b := before.data, after.data
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	gone := a[head : len(a)-tail]
	kv, replaced := before.keyval(path)
	switch {
	case replaced && (head < kv.value || len(a)-tail > kv.end) && len(gone) > 0:
		t.Fatalf("bytes outside the value changed: %q became %q", a, b)
	case !replaced && len(bytes.TrimSpace(gone)) > 0:
		t.Fatalf("bytes %q are gone: %q became %q", gone, a, b)
	}
}

// FuzzDelete deletes a key: the library then reads the old values without it, and nothing was added.
func FuzzDelete(f *testing.F) {
	for _, doc := range []string{"a.b = 1\na.c = 2\n", "[a]\nb = {c = 1, d = 2}\n", "a = {b = 1}\n", "[[a]]\nb = 1\n[a.c]\n", "[a]\n[a.b]\n[a.b.c]\nx=1\n[z]\n"} {
		f.Add(doc, "a/b")
		f.Add(doc, "a/b/c")
		f.Add(doc, "a/0/b")
	}
	f.Fuzz(func(t *testing.T, doc, path string) {
		d, err := Parse([]byte(doc))
		if err != nil {
			t.Skip()
		}
		p := strings.Split(path, "/")
		got, err := d.Delete(p)
		if err != nil {
			return
		}
		want := decode(t, []byte(doc))
		if _, ok := get(want, p); ok {
			remove(want, p)
		}
		if tree := decode(t, got.Bytes()); !same(want, tree, true) {
			t.Fatalf("%q deleted:\nwant %v\ngot  %v\nin %q\nout %q", p, want, tree, doc, got.Bytes())
		}
		if !subsequence(got.data, d.data) {
			t.Fatalf("bytes were added: %q became %q", d.data, got.data)
		}
	})
}

func subsequence(short, long []byte) bool {
	for _, c := range long {
		if len(short) > 0 && short[0] == c {
			short = short[1:]
		}
	}
	return len(short) == 0
}
