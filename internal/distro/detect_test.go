package distro

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgeprep/edgeprep/distros"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

const trees = "../../testdata/distros"

func load(t *testing.T) Descriptors {
	t.Helper()
	set, err := Load(distros.FS, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// fromTree makes a node of a tree. The comment of the txtar file says what files cannot: "version PATH TEXT",
// "active UNIT", "arch ARCH".
func fromTree(t *testing.T, file string) *hosttest.Node {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := hosttest.FromTxtar(t, file)
	for _, line := range strings.Split(string(a.Comment), "\n") {
		f := strings.SplitN(line, " ", 3)
		switch f[0] {
		case "version":
			n.Versions[f[1]] = f[2]
		case "active":
			n.UnitState().SetActive(f[1], "active")
		case "arch":
			n.Info.Arch = f[1]
		}
	}
	return n
}

// golden compares with a file; EDGEPREP_UPDATE=1 writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if os.Getenv("EDGEPREP_UPDATE") == "1" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (EDGEPREP_UPDATE=1 writes it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// Every descriptor has trees; in each of its trees it is found, alone, and gives the golden node.
func TestTrees(t *testing.T) {
	t.Parallel()
	set := load(t)
	for _, d := range set {
		files, err := filepath.Glob(filepath.Join(trees, d.ID, "*.txtar"))
		if err != nil || len(files) == 0 {
			t.Errorf("descriptor %s has no node tree below %s/%s: %v", d.ID, trees, d.ID, err)
		}
		for _, file := range files {
			t.Run(d.ID+"/"+filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				n := hosttest.NoWrites(fromTree(t, file))
				for _, other := range set {
					c, err := look(t.Context(), n, other)
					if err != nil || c.present != (other.ID == d.ID) {
						t.Errorf("descriptor %s: present %v, %v", other.ID, c.present, err)
					}
				}
				got, err := Detect(t.Context(), n, set, Options{})
				if err != nil {
					t.Fatal(err)
				}
				data, err := json.MarshalIndent(got, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				golden(t, strings.TrimSuffix(file, ".txtar")+".json", append(data, '\n'))
			})
		}
	}
}

// noSystemd is a node whose systemd cannot be asked.
type noSystemd struct{ host.Reader }

func (n noSystemd) Units() host.UnitReader { return n }

func (noSystemd) Unit(context.Context, string) (host.Unit, error) {
	return host.Unit{}, host.ErrUnavailable
}

// Without a systemd to ask, the files tell the same, but for what runs.
func TestTreesWithoutSystemd(t *testing.T) {
	t.Parallel()
	set := load(t)
	files, err := filepath.Glob(trees + "/k*/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no trees", err)
	}
	for _, file := range files {
		n := fromTree(t, file)
		with, err := Detect(t.Context(), n, set, Options{})
		if err != nil {
			t.Fatal(file, err)
		}
		without, err := Detect(t.Context(), noSystemd{n}, set, Options{})
		if err != nil {
			t.Fatal(file, err)
		}
		for i := range with.Evidence {
			with.Evidence[i].Value = strings.Replace(with.Evidence[i].Value, ", active", "", 1)
		}
		with.Fingerprint, without.Fingerprint = "", ""
		if diff := cmp.Diff(with, without); diff != "" {
			t.Errorf("%s (-with systemd +without):\n%s", file, diff)
		}
	}
}

// Trees that no single distribution may be found in: refused, with a message for people.
func TestRefused(t *testing.T) {
	t.Parallel()
	set := load(t)
	files, err := filepath.Glob(filepath.Join(trees, "refused", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no trees", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			_, err := Detect(t.Context(), fromTree(t, file), set, Options{})
			golden(t, strings.TrimSuffix(file, ".txtar")+".txt", []byte(message(t, err)))
		})
	}
}

// message is what people see of a refusal; every part must be there.
func message(t *testing.T, err error) string {
	t.Helper()
	var refused *diag.Refused
	ds := diag.Of(err)
	if !errors.As(err, &refused) || len(ds) != 1 {
		t.Fatalf("not refused: %v", err)
	}
	if d := ds[0]; d.ID == "" || d.What == "" || d.Fix == "" || d.Severity != diag.Error {
		t.Errorf("incomplete: %+v", d)
	}
	return ds[0].Text() + "\n"
}

func TestNamedKind(t *testing.T) {
	t.Parallel()
	set := load(t)
	both := fromTree(t, trees+"/refused/both.txtar")
	for _, id := range []string{"k3s", "kubeadm"} {
		got, err := Detect(t.Context(), both, set, Options{Kind: id})
		if err != nil || got.ID != id {
			t.Errorf("kind %s: %q, %v", id, got.ID, err)
		}
	}
	for kind, want := range map[string]string{"kubeadm": "NOD-010", "k3": "NOD-010"} {
		_, err := Detect(t.Context(), fromTree(t, trees+"/k3s/server.txtar"), set, Options{Kind: kind})
		if text := message(t, err); !strings.Contains(text, want) || !strings.Contains(text, kind) {
			t.Errorf("kind %s: %s", kind, text)
		}
	}
}

// What edgeprep.toml says: data_dir wins and what the node says is told; version only fills a gap.
func TestOverrides(t *testing.T) {
	t.Parallel()
	set := load(t)
	n := fromTree(t, trees+"/k3s/data-dir-env.txtar")
	got, err := Detect(t.Context(), n, set, Options{Kind: KindAuto, DataDir: "/mine/", Version: "v1.36.3+k3s1"})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(got.Notes, "\n")
	if got.DataDir != "/mine" || got.Preload.Dir != "/mine/agent/images" || !strings.Contains(notes, "/var/lib/edge/k3s") {
		t.Errorf("data-dir %s, images %s, notes %s", got.DataDir, got.Preload.Dir, notes)
	}
	if got.Version != "v1.32.2+k3s1" || !strings.Contains(notes, "v1.36.3+k3s1") {
		t.Errorf("version %s, notes %s", got.Version, notes)
	}
	n.Versions = nil
	got, err = Detect(t.Context(), n, set, Options{Version: "v1.36.3+k3s1"})
	if err != nil || got.Version != "v1.36.3+k3s1" || !got.Gates.ImportCache || got.Preload.CacheFile != ".cache.json" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Staging must not lie below a path that begins with the watched directory, wherever the data directory is.
func TestStageIsOutsideOfWatchedPrefix(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"server", "data-dir-flag", "data-dir-config"} {
		n, err := Detect(t.Context(), fromTree(t, trees+"/k3s/"+file+".txtar"), load(t), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(n.Preload.Stage, n.Preload.Dir) || !strings.HasPrefix(n.Preload.Stage, n.DataDir+"/agent/") {
			t.Errorf("stage %s, directory %s", n.Preload.Stage, n.Preload.Dir)
		}
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	detect := func(change func(*hosttest.Node)) string {
		n := fromTree(t, trees+"/k3s/server.txtar")
		change(n)
		got, err := Detect(t.Context(), n, load(t), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Fingerprint
	}
	a := detect(func(*hosttest.Node) {})
	b := detect(func(*hosttest.Node) {})
	c := detect(func(n *hosttest.Node) { n.Versions["/usr/local/bin/k3s"] = "k3s version v1.36.4+k3s1" })
	if a == "" || a != b || a == c {
		t.Errorf("same node: %s, %s; another version: %s", a, b, c)
	}
}

// A program that cannot be asked leaves the version open; it does not end detection.
func TestVersionError(t *testing.T) {
	t.Parallel()
	n := fromTree(t, trees+"/k3s/server.txtar")
	got, err := Detect(t.Context(), failingVersion{n}, load(t), Options{})
	if err != nil || got.Version != "" || got.Gates != (Gates{}) || !strings.Contains(strings.Join(got.Notes, "\n"), "exec format error") {
		t.Errorf("%+v, %v", got, err)
	}
}

type failingVersion struct{ host.Reader }

func (failingVersion) BinaryVersion(context.Context, string, ...string) (string, error) {
	return "", errors.New("exec format error")
}

func TestExpand(t *testing.T) {
	t.Parallel()
	x := &resolver{d: &Descriptor{Settings: map[string]Setting{"base": {Type: typePath, Default: "/"}, "loop": {Type: typePath, Default: "{loop}/x"}}},
		known: map[string]setting{}, vars: map[string]string{"arch": "arm64"}}
	for in, want := range map[string]string{"{base}/run": "/run", "{base}": "/", "/a/{arch}/{b}": "/a/arm64/", "{ARCH} {}": "{ARCH} {}"} {
		if got, err := x.text(in); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := x.text("{loop}"); err == nil || !strings.Contains(err.Error(), "loop, loop") {
		t.Errorf("a loop of settings: %v", err)
	}
}

// The README's table of distributions is generated: it stands between two comments.
func TestReadmeIsCurrent(t *testing.T) {
	t.Parallel()
	const file, begin, end = "../../README.md", "<!-- distributions: generated, make docs -->\n", "<!-- end -->\n"
	data, err := os.ReadFile(file)
	before, rest, ok := strings.Cut(string(data), begin)
	old, after, ended := strings.Cut(rest, end)
	if err != nil || !ok || !ended {
		t.Skip("README.md has no place for the table of distributions")
	}
	table := Markdown(load(t))
	if old == table {
		return
	}
	if os.Getenv("EDGEPREP_UPDATE") != "1" {
		t.Fatal("the table in README.md is not that of distros/: make docs")
	}
	if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	set := load(t)
	var b bytes.Buffer
	if err := set.Table(&b); err != nil {
		t.Fatal(err)
	}
	md := Markdown(set)
	for _, want := range []string{"k3s", "kubeadm"} {
		if !strings.Contains(b.String(), want) || !strings.Contains(md, "| `"+want+"` |") {
			t.Errorf("%s is missing:\n%s\n%s", want, b.String(), md)
		}
	}
	if !strings.Contains(md, "`/var/lib/rancher/k3s/agent/images`") || strings.Contains(md, "{") {
		t.Errorf("placeholders are not filled:\n%s", md)
	}
}
