package tomledit

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func split(s string) []string { return strings.Split(s, "/") }

func TestSet(t *testing.T) {
	t.Parallel()
	const cri = "plugins/io.containerd.grpc.v1.cri/registry/config_path"
	for _, c := range []struct {
		name, in, path string
		value          any
		want           string
	}{
		{"replace keeps comment", "a = 1 # one\nb=2\n", "a", 7, "a = 7 # one\nb=2\n"},
		{"replace keeps literal quotes", "a = 'x'\n", "a", "/y", "a = '/y'\n"},
		{"replace with a quote", "a = 'x'\n", "a", "it's", "a = \"it's\"\n"},
		{"replace multi-line", "a = \"\"\"\nx\n\"\"\" # c\n", "a", "y", "a = \"y\" # c\n"},
		{"replace array", "a = [ # c\n 1,\n]\nb = 1\n", "a", []string{"x", "y"}, "a = [\"x\", \"y\"]\nb = 1\n"},
		{"empty document", "", "a", true, "a = true\n"},
		{"root key before tables", "# head\n\n# of t\n[t]\nx = 1\n", "a", 1, "# head\n\na = 1\n\n# of t\n[t]\nx = 1\n"},
		{"root key after others", "z = 1\n\n[t]\nx = 1\n", "a", 1, "z = 1\na = 1\n\n[t]\nx = 1\n"},
		{"only comments", "# head\n", "a", 1, "# head\na = 1\n"},
		{"only table", "[t]\n", "a", 1, "a = 1\n\n[t]\n"},
		{"key in table", "[t]\n  x = 1\n\n[u]\n", "t/y", 1, "[t]\n  x = 1\n  y = 1\n\n[u]\n"},
		{"key in empty table", "[t]\n  x = 1\n[u]\n", "u/y", 1, "[t]\n  x = 1\n[u]\n  y = 1\n"},
		{"no final newline", "[t]\nx = 1", "t/y", 1, "[t]\nx = 1\ny = 1"},
		{"crlf", "[t]\r\nx = 1\r\n", "t/y", 1, "[t]\r\nx = 1\r\ny = 1\r\n"},
		{"bom", bom + "a = 1\n", "b", 1, bom + "a = 1\nb = 1\n"},
		{"new table", "a = 1\n", "t/x", "v", "a = 1\n\n[t]\nx = \"v\"\n"},
		{"new table in empty document", "", "t/x", "v", "[t]\nx = \"v\"\n"},
		{"super table later", "[a.b]\nx = 1\n", "a/y", 1, "[a.b]\nx = 1\n\n[a]\ny = 1\n"},
		{"dotted", "[t]\na.b = 1\nz = 1\n", "t/a/c", 2, "[t]\na.b = 1\na.c = 2\nz = 1\n"},
		{"dotted deeper", "[t]\na.b = 1\n", "t/a/c/d", 2, "[t]\na.b = 1\na.c.d = 2\n"},
		{"inline", "a = { x = 1 }\n", "a/y", 2, "a = { x = 1, y = 2 }\n"},
		{"inline empty", "a = {}\n", "a/y", 2, "a = { y = 2 }\n"},
		{"inline nested", "a = { x = { y = [1, 2] } }\n", "a/x/z", 2, "a = { x = { y = [1, 2], z = 2 } }\n"},
		{"inline replace", "a = { x = 1, y = 2 }\n", "a/x", "q", "a = { x = \"q\", y = 2 }\n"},
		{"array table", "[[n]]\nx = 1\n[[n]]\nx = 2\n", "n/0/y", 3, "[[n]]\nx = 1\ny = 3\n[[n]]\nx = 2\n"},
		{"array table sub", "[[n]]\nx = 1\n[[n]]\nx = 2\n", "n/0/s/y", 3, "[[n]]\nx = 1\n\n[n.s]\ny = 3\n[[n]]\nx = 2\n"},
		{
			"containerd 1.x layout",
			"version = 2\n\n[plugins]\n\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"p\"\n\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/b\"\n\n  [plugins.\"io.containerd.x\"]\n",
			cri, "/etc/containerd/certs.d",
			"version = 2\n\n[plugins]\n\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"p\"\n\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/b\"\n\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"/etc/containerd/certs.d\"\n\n  [plugins.\"io.containerd.x\"]\n",
		},
		{
			"containerd 2.x quotes", "version = 3\n[plugins.'io.containerd.grpc.v1.cri']\n", cri, "/d",
			"version = 3\n[plugins.'io.containerd.grpc.v1.cri']\n\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = \"/d\"\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.Set(split(c.path), c.value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got.Bytes())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if string(d.Bytes()) != c.in {
				t.Error("the edit changed its receiver")
			}
		})
	}
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in, path string
		value          any
	}{
		{"table", "[t]\nx = 1\n", "t", 1},
		{"below a value", "a = 1\n", "a/b", 1},
		{"below an array", "a = [1]\n", "a/b", 1},
		{"missing element", "[[n]]\nx=1\n", "n/1/x", 1},
		{"array element", "a = [1]\n", "a/0", 2},
		{"type", "", "a", struct{}{}},
		{"not text", "", "a", "\xff"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.Set(split(c.path), c.value); err == nil {
				t.Errorf("no error; got %q", got.Bytes())
			}
		})
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, path, want string }{
		{"line", "a = 1 # x\n# c\nb = 2\n", "a", "# c\nb = 2\n"},
		{"last without newline", "a = 1\nb = 2", "b", "a = 1\n"},
		{"table and its sub-tables", "a = 1\n\n[t]\nx = 1\n[t.u]\ny = 1\n\n# of v\n[v]\n", "t", "a = 1\n\n\n# of v\n[v]\n"},
		{"dotted", "a.b = 1\na.c = 2\nd = 1\n", "a", "d = 1\n"},
		{"inline first", "a = {x = 1, y = 2}\n", "a/x", "a = {y = 2}\n"},
		{"inline last", "a = {x = 1, y = 2}\n", "a/y", "a = {x = 1}\n"},
		{"inline only", "a = {x = 1}\n", "a/x", "a = {}\n"},
		{"inline dotted", "a = {x.p = 1, x.q = 2, y = 3}\n", "a/x", "a = {y = 3}\n"},
		{"missing", "a = 1\n", "b/c", "a = 1\n"},
		{"multi-line", "a = [\n1,\n]\nb = 2\n", "a", "b = 2\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.Delete(split(c.path))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got.Bytes())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, path, want string }{
		{"new", "a = 1\n", "t/u", "a = 1\n\n[t.u]\n"},
		{"there", "[t]\n", "t", "[t]\n"},
		{"in a dotted table", "a.b = 1\n", "a/t", "a.b = 1\na.t = {}\n"},
		{"below a header", "[a]\nx = 1\n", "a/t", "[a]\nx = 1\n\n[a.t]\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.AddTable(split(c.path))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got.Bytes())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	x, err := Positions([]byte(bom + "a = 1\n  [t.\"u v\"]\n  k = [ 1, {z = 2} ]\r\n[[n]]\nm.p = 1\n[[n]]\nm.p = 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Position{
		"a": {1, 1}, "t": {2, 4}, "t/u v": {2, 4}, "t/u v/k": {3, 3}, "t/u v/k/0": {3, 9}, "t/u v/k/1/z": {3, 13},
		"n": {4, 3}, "n/0/m/p": {5, 1}, "n/0/m": {5, 1}, "n/1": {6, 3}, "n/1/m/p": {7, 1},
	} {
		if got, ok := x.At(split(path)...); !ok || got != want {
			t.Errorf("%s: got %v %v, want %v", path, got, ok, want)
		}
	}
	if got, ok := x.Nearest("t", "u v", "missing"); !ok || got != (Position{2, 4}) {
		t.Errorf("nearest: got %v %v", got, ok)
	}
}

func TestSyntaxError(t *testing.T) {
	t.Parallel()
	_, err := Parse([]byte("a = 1\nb = = 2\n"))
	var e *SyntaxError
	if !errors.As(err, &e) || e.Line != 2 || e.Col == 0 {
		t.Errorf("got %#v", err)
	}
}
