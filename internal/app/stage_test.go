package app

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// stageNode is the demo's node with its archives, and no plan file.
func stageNode(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	d := &demo{DemoOptions: DemoOptions{Dir: dir, Distro: "k3s", Out: &strings.Builder{}}}
	if err := d.make(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.app.Close)
	if err := os.Remove(filepath.Join(d.root, "etc/edgeprep/edgeprep.toml")); err != nil {
		t.Fatal(err)
	}
	return d.root
}

func opened(t *testing.T, o Options) *App {
	t.Helper()
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// TestDraftIsWhatIsPlanned: the plan of a draft is the plan of the file that it becomes.
func TestDraftIsWhatIsPlanned(t *testing.T) {
	t.Parallel()
	root := stageNode(t)
	d, err := opened(t, Options{Root: root}).Draft(t.Context())
	if err != nil || d.Exists {
		t.Fatalf("draft: %+v, %v", d, err)
	}
	drafted, err := opened(t, Options{Root: root, Draft: d.Text}).Review(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d, err = opened(t, Options{Root: root}).Save(d); err != nil {
		t.Fatal(err)
	}
	p, err := opened(t, Options{Root: root}).Plan(t.Context(), ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Empty() || p.Digest != drafted.Plan.Digest {
		t.Errorf("the plan of the file is %s with %d changes, that of the draft %s", p.Digest, len(p.Changes), drafted.Plan.Digest)
	}
	if drafted.Start == nil || len(drafted.Start.Steps) == 0 {
		t.Error("no cold start: " + drafted.NoStart)
	}
}

func TestSaveSparesWhatSomebodyElseWrote(t *testing.T) {
	t.Parallel()
	root := stageNode(t)
	d, err := opened(t, Options{Root: root}).Draft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "etc/edgeprep/edgeprep.toml")
	if err := os.WriteFile(file, []byte("version = 1 # mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var refused *diag.Refused
	if _, err := opened(t, Options{Root: root}).Save(d); !errors.As(err, &refused) {
		t.Fatalf("saved over it: %v", err)
	}
	if d, err = opened(t, Options{Root: root}).Draft(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Text = append(d.Text, "# more\n"...)
	if _, err := opened(t, Options{Root: root}).Save(d); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "version = 1 # mine\n# more\n" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the mode changed: %v, %v", fi.Mode(), err)
	}
}

func TestCoverageSaysWhatIsThere(t *testing.T) {
	t.Parallel()
	root := stageNode(t)
	if err := os.WriteFile(filepath.Join(root, "opt/edgeprep/images/broken.tar"), []byte("no archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := "version = 1\n[distro]\nkind = \"k3s\"\nversion = \"v1.36.3+k3s1\"\n[images]\narchives = [\"/opt/edgeprep/images/edge*\", \"/opt/none/*.tar\"]\nrequired = \"/opt/edgeprep/required.txt\"\n"
	a := opened(t, Options{Root: root, Draft: []byte(text)})
	c, err := a.Coverage(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Archives) != 2 || len(c.Refs) == 0 || !slices.Equal(c.Patterns, []string{"/opt/none/*.tar"}) {
		t.Fatalf("%+v", c)
	}
	broken, edge := c.Archives[0], c.Archives[1]
	if broken.Chosen || broken.Problem == "" {
		t.Errorf("the broken one: %+v", broken)
	}
	if !edge.Chosen || edge.Problem != "" || len(edge.Names) == 0 || edge.Need <= edge.Size {
		t.Errorf("the whole one: %+v", edge)
	}
	for _, r := range c.Refs {
		if !slices.Contains(edge.Names, r) {
			t.Errorf("%s is required and not in %q", r, edge.Names)
		}
	}
}

func TestSurveyOfANodeThatNobodyPrepared(t *testing.T) {
	t.Parallel()
	s, err := opened(t, Options{Root: stageNode(t)}).Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Problem != nil || s.Node.ID != "k3s" || s.Configured || s.LastRun != "" || s.Images >= 0 || s.Disk.Total == 0 {
		t.Errorf("%+v", s)
	}
	empty, err := opened(t, Options{Root: t.TempDir()}).Survey(t.Context())
	if err != nil || empty.Problem == nil {
		t.Errorf("an empty directory is a %q node: %v", empty.Node.ID, err)
	}
}

// TestOneRestartForArchivesAndRegistries: a k3s that reads new archives only when it starts, as one of unknown
// version does, restarts once, after the archives and after registries.yaml.
func TestOneRestartForArchivesAndRegistries(t *testing.T) {
	t.Parallel()
	text := "version = 1\n[distro]\nkind = \"k3s\"\n[images]\narchives = [\"/opt/edgeprep/images/*\"]\n"
	d, err := opened(t, Options{Root: stageNode(t), Draft: []byte(text)}).Desired(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d.Resources, func(r resource.Resource) bool { return r.ID == "unit:k3s.service" })
	if i < 0 {
		t.Fatal("nothing restarts k3s")
	}
	on := strings.Join(d.Resources[i].Unit.RestartOn, " ")
	if !strings.Contains(on, "registries.yaml") || !strings.Contains(on, "edge") {
		t.Errorf("k3s restarts on %s", on)
	}
	if _, err := opened(t, Options{Root: stageNode(t), Draft: []byte(text)}).Plan(t.Context(), ApplyOptions{}); err != nil {
		t.Error(err)
	}
}
