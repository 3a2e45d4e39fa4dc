package plan_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

var update = flag.Bool("update", false, "write the golden files")

var endpoint = host.Endpoint{Socket: "/run/containerd/containerd.sock", Namespace: "k8s.io"}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file) //nolint:gosec // a file of the test
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-update writes it):\n%s", name, d)
	}
}

func build(t *testing.T, n *hosttest.Node, l plan.Ledger, rs ...resource.Resource) plan.Plan {
	t.Helper()
	p, err := plan.Build(context.Background(), hosttest.NoWrites(asRoot(n)), rs, l, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func text(t *testing.T, p plan.Plan, color bool) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Text(&b, color); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func file(p, content string) resource.Resource {
	return resource.Resource{ID: "file:" + p, Kind: resource.KindFile, File: &resource.File{Path: p, Content: []byte(content), Mode: 0o644}}
}

// left is the ledger's record of a file that edgeprep wrote.
func left(p, content string) plan.Record {
	return plan.Record{Kind: resource.KindFile, Path: p, Run: "0001-x", Seq: 1,
		State: plan.State{Type: host.TypeFile, Mode: 0o644, Size: int64(len(content)), SHA256: plan.Sum([]byte(content)), UID: plan.UnknownID, GID: plan.UnknownID}}
}

// k3sNode is a node with something of each kind to do.
func k3sNode(t *testing.T) (*hosttest.Node, plan.Ledger, []resource.Resource) {
	t.Helper()
	n := hosttest.New(t)
	n.WriteMode("/etc/rancher/k3s/registries.yaml", "# theirs\nmirrors: {}\nconfigs:\n  r.example:\n    auth:\n      password: hunter2\n", 0o600)
	n.WriteFile("/etc/ours", "old\n")
	n.WriteFile("/etc/edited", "theirs\n")
	n.WriteFile("/etc/gone", "ours\n")
	n.WriteFile("/etc/foreign", "theirs\n")
	n.WriteMode("/etc/key", "secret one\n", 0o600)
	n.WriteFile("/media/b.tar", "bbb")
	n.UnitState().Add(host.Unit{Name: "k3s.service", Enabled: "enabled", Active: "active"})
	n.Containerd(endpoint).SetDown(true)
	l := plan.NewLedger()
	for p, c := range map[string]string{"/etc/ours": "old\n", "/etc/edited": "mine\n", "/etc/gone": "ours\n", "/etc/key": "secret one\n"} {
		l.Records["file:"+p] = left(p, c)
	}
	key := left("/etc/key", "secret one\n")
	key.State.Mode = 0o600
	l.Records["file:/etc/key"] = key
	shared := file("/etc/rancher/k3s/registries.yaml", "# theirs\nmirrors: {ours: {}}\nconfigs:\n  r.example:\n    auth:\n      password: hunter2\n")
	shared.File.Shared, shared.File.Base, shared.After = true, plan.Sum([]byte(n.ReadFile(shared.File.Path))), []string{"gate:mirror"}
	secret := file("/etc/key", "secret two\n")
	secret.File.Secret, secret.File.Mode = true, 0o600
	return n, l, []resource.Resource{
		file("/etc/new", "a\nb\n"), file("/etc/ours", "new\n"), file("/etc/edited", "mine\n"), file("/etc/foreign", "mine\n"), secret,
		{ID: "dir:/var/lib/images", Kind: resource.KindDir, Why: "k3s reads archives here", Dir: &resource.Dir{Path: "/var/lib/images", Mode: 0o755}},
		{ID: "archive:b", Kind: resource.KindArchive, After: []string{"dir:/var/lib/images"},
			Archive: &resource.Archive{Source: "/media/b.tar", Path: "/var/lib/images/b.tar", Size: 1 << 21, SHA256: strings.Repeat("b", 64), Mode: 0o644}},
		{ID: "symlink:/etc/link", Kind: resource.KindSymlink, Symlink: &resource.Symlink{Path: "/etc/link", Target: "/etc/new"}},
		{ID: "images:runtime", Kind: resource.KindImageSet, ImageSet: &resource.ImageSet{Target: resource.TargetRuntime, Endpoint: endpoint,
			Archives: []resource.ImageArchive{{Path: "/media/b.tar", Size: 3, Images: []resource.ImageName{{Name: "docker.io/library/a:1", Digest: "sha256:aa"}}}}}},
		{ID: "unit:edgeprep-mirror.service", Kind: resource.KindUnit, Unit: &resource.Unit{Name: "edgeprep-mirror.service", Enabled: true, Active: true}},
		{ID: "gate:mirror", Kind: resource.KindGate, After: []string{"unit:edgeprep-mirror.service"},
			Gate: &resource.Gate{HTTP: &resource.HTTPGate{URL: "http://127.0.0.1:5000", Names: []string{"docker.io/library/a:1"}}, Within: time.Second}},
		shared,
		{ID: "unit:k3s.service", Kind: resource.KindUnit, Unit: &resource.Unit{Name: "k3s.service", Foreign: true, RestartOn: []string{shared.ID}}},
	}
}

func TestPlanText(t *testing.T) {
	t.Parallel()
	n, l, rs := k3sNode(t)
	before := n.Hash()
	p := build(t, n, l, rs...)
	golden(t, "plan.txt", text(t, p, false))
	if strings.Contains(text(t, p, true), "hunter2") || strings.Contains(text(t, p, false), "secret two") {
		t.Error("a secret is shown")
	}
	if n.Hash() != before {
		t.Error("planning changed the node")
	}
	if again := build(t, n, l, rs...); again.Digest != p.Digest || p.Digest == "" {
		t.Error("the same plan has another digest")
	}
}

func TestPlanJSON(t *testing.T) {
	t.Parallel()
	n, l, rs := k3sNode(t)
	l.Records = map[string]plan.Record{"file:/etc/ours": l.Records["file:/etc/ours"]}
	p := build(t, n, l, rs[0], rs[1])
	data, err := json.MarshalIndent(stampless(p), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", string(data)+"\n")
}

// stampless takes out what differs from run to run and machine to machine.
func stampless(p plan.Plan) plan.Plan {
	p.Digest = ""
	for i := range p.Changes {
		for _, s := range []*plan.State{p.Changes[i].Before, p.Changes[i].After} {
			if s != nil {
				s.Stamp, s.UID, s.GID = nil, 0, 0
			}
		}
	}
	return p
}

func TestRefusalsNameEachChangeAndTheFlag(t *testing.T) {
	t.Parallel()
	n, l, rs := k3sNode(t)
	p := build(t, n, l, rs...)
	err := p.Refusals(nil)
	if _, ok := errors.AsType[*diag.Refused](err); !ok {
		t.Fatalf("%v", err)
	}
	var got []string
	for _, d := range diag.Of(err) {
		got = append(got, d.ID+" "+d.Where.String()+" "+d.Fix)
	}
	want := []string{
		"APL-002 /etc/edited edgeprep apply --allow overwrite,restart",
		"APL-002 /etc/foreign edgeprep apply --allow overwrite,restart",
		"APL-001 k3s.service edgeprep apply --allow overwrite,restart",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := p.Refusals([]plan.Risk{plan.RiskOverwrite, plan.RiskRestart}); err != nil {
		t.Error(err)
	}
}

func TestNothingToDo(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/a", "a\n")
	p := build(t, n, plan.NewLedger(), file("/etc/a", "a\n"),
		resource.Resource{ID: "gate:a", Kind: resource.KindGate, Gate: &resource.Gate{HTTP: &resource.HTTPGate{URL: "http://x"}}},
		resource.Resource{ID: "gate:b", Kind: resource.KindGate, After: []string{"gate:a"}, Gate: &resource.Gate{HTTP: &resource.HTTPGate{URL: "http://x"}}})
	if !p.Empty() || p.Summary() != "Nothing to do: 3 resources as wanted." {
		t.Errorf("%s %+v", p.Summary(), p.Changes)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	a, b, c := file("/a", "1"), file("/b", "1"), file("/c", "1")
	a.After, b.After = []string{"file:/c"}, []string{"file:/a"}
	p := build(t, n, plan.NewLedger(), a, b, c)
	var got []string
	for _, x := range p.Changes {
		got = append(got, x.ID+" <- "+strings.Join(x.Needs, ","))
	}
	if d := cmp.Diff([]string{"file:/c <- ", "file:/a <- file:/c", "file:/b <- file:/a"}, got); d != "" {
		t.Error(d)
	}
	c.After = []string{"file:/b"}
	bad := map[string][]resource.Resource{
		"cycle": {a, b, c}, "does not exist": {a}, "in two ways": {file("/x", "1"), file("/x", "2")}, "no content": {{ID: "x"}},
	}
	for want, rs := range bad {
		_, err := plan.Build(context.Background(), asRoot(n), rs, plan.NewLedger(), plan.Options{})
		if !errors.Is(err, plan.ErrGraph) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if p := build(t, n, plan.NewLedger(), file("/x", "1"), file("/x", "1")); len(p.Changes) != 1 {
		t.Error("the same wish of two packages is done twice")
	}
}

// TestPaths is the three-way decision: what is there, what edgeprep left, what is wanted.
func TestPaths(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, there, left string
		action            plan.Action
		risk              bool
	}{
		{"new", "", "", plan.ActionCreate, false},
		{"as wanted", "want", "", plan.ActionNone, false},
		{"somebody's", "theirs", "", plan.ActionUpdate, true},
		{"ours, older", "old", "old", plan.ActionUpdate, false},
		{"ours, edited", "theirs", "old", plan.ActionUpdate, true},
		{"ours, removed", "", "old", plan.ActionCreate, false},
		{"ours, edited to what is wanted", "want", "old", plan.ActionNone, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := hosttest.New(t)
			l := plan.NewLedger()
			if c.there != "" {
				n.WriteFile("/f", c.there)
			}
			if c.left != "" {
				l.Records["file:/f"] = left("/f", c.left)
			}
			p := build(t, n, l, file("/f", "want"))
			got, risk := plan.ActionNone, false
			if len(p.Changes) == 1 {
				got, risk = p.Changes[0].Action, len(p.Changes[0].Risks) == 1
			}
			if got != c.action || risk != c.risk {
				t.Errorf("%s, risk %v", got, risk)
			}
		})
	}
}

func TestWrongTypesAreProblems(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.Mkdir("/d")
	n.WriteFile("/f", "x")
	p := build(t, n, plan.NewLedger(), file("/d", "x"), resource.Resource{ID: "dir:/f", Kind: resource.KindDir, Dir: &resource.Dir{Path: "/f", Mode: 0o755, Keep: true}})
	if len(p.Problems) != 2 || p.Problems[0].ID != "APL-004" || p.Refusals(plan.Risks()) == nil {
		t.Errorf("%+v", p.Problems)
	}
}

func TestASharedFileBehindALinkIsMergedThere(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/opt/real.yaml", "a")
	n.Symlink("/etc/link.yaml", "../opt/real.yaml")
	f := file("/etc/link.yaml", "b")
	f.File.Shared, f.File.Base = true, plan.Sum([]byte("a"))
	p := build(t, n, plan.NewLedger(), f)
	if len(p.Changes) != 1 || p.Changes[0].Path != "/opt/real.yaml" || len(p.Changes[0].Risks) != 0 {
		t.Errorf("%+v", p.Changes)
	}
	f.File.Base = plan.Sum([]byte("other"))
	if p := build(t, n, plan.NewLedger(), f); len(p.Problems) != 1 || p.Problems[0].ID != "APL-006" {
		t.Errorf("%+v", p.Problems)
	}
}

// TestAnArchiveIsKnownByItsStamp: a placed file is read when size, time and inode do not tell, and never else.
func TestAnArchiveIsKnownByItsStamp(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/images/a.tar", "aaaa")
	a := resource.Resource{ID: "archive:a", Kind: resource.KindArchive,
		Archive: &resource.Archive{Source: "/a.tar", Path: "/images/a.tar", Size: 4, SHA256: plan.Sum([]byte("aaaa")), Mode: 0o644}}
	p := build(t, n, plan.NewLedger(), a)
	rec, ok := p.Refresh["archive:a"]
	if !p.Empty() || !ok || !rec.Found {
		t.Fatalf("%+v %+v", p.Changes, p.Refresh)
	}
	l := plan.NewLedger()
	l.Records["archive:a"] = rec
	if p = build(t, n, l, a); !p.Empty() || len(p.Refresh) != 0 {
		t.Errorf("read again: %+v %+v", p.Changes, p.Refresh)
	}
	info, err := os.Stat(n.Path("/images/a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	rec.Found = false
	l.Records["archive:a"] = rec
	damage(t, n.Path("/images/a.tar"), info.ModTime())
	if p = build(t, n, l, a); !p.Empty() {
		t.Errorf("same stamp, not trusted: %+v", p.Changes)
	}
	p, err = plan.Build(context.Background(), asRoot(n), []resource.Resource{a}, l, plan.Options{Verify: true})
	if err != nil || len(p.Changes) != 1 || len(p.Changes[0].Risks) != 0 || !strings.Contains(p.Changes[0].Reason, "damaged") {
		t.Errorf("%v %+v", err, p.Changes)
	}
	n.WriteFile("/images/a.tar", "bbbbb")
	if p = build(t, n, l, a); len(p.Changes) != 1 || len(p.Changes[0].Risks) != 1 {
		t.Errorf("another file: %+v", p.Changes)
	}
}

// damage changes a byte and leaves size and time.
func damage(t *testing.T, p string, mtime time.Time) {
	t.Helper()
	f, err := os.OpenFile(p, os.O_WRONLY, 0) //nolint:gosec // a file of the test
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 1); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(p, mtime, mtime); err != nil {
		t.Fatal(err)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	rt := n.Containerd(endpoint)
	m := hosttest.MakeImage(hosttest.ImageSpec{Name: "docker.io/library/a:1", Platforms: []string{"linux/amd64", "linux/arm64"}})
	name := resource.ImageName{Name: m.Image.Name, Digest: m.Image.Target.Digest}
	set := resource.Resource{ID: "images:runtime", Kind: resource.KindImageSet, ImageSet: &resource.ImageSet{Target: resource.TargetRuntime, Endpoint: endpoint,
		Platform: "linux/amd64", Pin: true, Unpack: true, Archives: []resource.ImageArchive{{Path: "/a.tar", Size: 10, Images: []resource.ImageName{name}}}}}
	l := plan.NewLedger()
	if p := build(t, n, l, set); len(p.Changes) != 1 || p.Changes[0].Action != plan.ActionImport {
		t.Fatalf("%+v", p.Changes)
	}
	if _, err := rt.Import(context.Background(), hosttest.NewSource(m), host.ImportOptions{Platform: "linux/amd64", Pin: true, Unpack: true}); err != nil {
		t.Fatal(err)
	}
	if p := build(t, n, l, set); len(p.Changes) != 1 {
		t.Error("completeness that nobody proved is believed")
	}
	l.Records["images:runtime"] = plan.Record{Kind: resource.KindImageSet, Run: "0001-x", State: plan.State{Images: []resource.ImageName{name}}}
	if p := build(t, n, l, set); !p.Empty() {
		t.Errorf("%+v", p.Changes)
	}
	verify := func() plan.Plan {
		p, err := plan.Build(context.Background(), asRoot(n), []resource.Resource{set}, l, plan.Options{Verify: true})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := verify(); !p.Empty() {
		t.Errorf("complete, not believed: %+v", p.Changes)
	}
	rt.DropBlob(m.Layers["linux/amd64"][0].Digest)
	if p := verify(); len(p.Changes) != 1 {
		t.Error("a missing layer is not seen")
	}
	if err := rt.RemoveImage(context.Background(), plan.PinName(name)); err != nil {
		t.Fatal(err)
	}
	if p := build(t, n, l, set); len(p.Changes) != 1 {
		t.Error("a missing pin is not seen")
	}
}

func TestPinName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"docker.io/library/a:1": "docker.io/library/a@sha256:x", "r:5000/a": "r:5000/a@sha256:x", "r:5000/a:v@sha256:y": "r:5000/a@sha256:x",
	} {
		if got := plan.PinName(resource.ImageName{Name: name, Digest: "sha256:x"}); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	u := n.UnitState()
	u.Add(host.Unit{Name: "k3s.service", Enabled: "enabled", Active: "active"})
	u.Add(host.Unit{Name: "idle.service", Enabled: "enabled"})
	u.Add(host.Unit{Name: "masked.service", Load: "masked"})
	conf := file("/etc/conf", "x")
	wish := func(x resource.Unit) resource.Resource {
		return resource.Resource{ID: "unit:" + x.Name, Kind: resource.KindUnit, Unit: &x}
	}
	p := build(t, n, plan.NewLedger(), conf, wish(resource.Unit{Name: "k3s.service", Foreign: true, RestartOn: []string{conf.ID}}),
		wish(resource.Unit{Name: "idle.service", Foreign: true, RestartOn: []string{conf.ID}}), wish(resource.Unit{Name: "masked.service", Enabled: true}))
	if len(p.Changes) != 2 || p.Changes[1].Action != plan.ActionRestart || p.Changes[1].Risks[0] != plan.RiskRestart || p.Changes[0].Restarts[0] != "k3s.service" {
		t.Errorf("%+v", p.Changes)
	}
	if len(p.Problems) != 1 || p.Problems[0].ID != "APL-005" {
		t.Errorf("%+v", p.Problems)
	}
	n.WriteFile("/etc/conf", "x")
	l := plan.NewLedger()
	l.Owed["k3s.service"] = plan.Debt{Boot: n.Info.BootID, IDs: []string{conf.ID}}
	k3s := wish(resource.Unit{Name: "k3s.service", Foreign: true, RestartOn: []string{conf.ID}})
	if p = build(t, n, l, conf, k3s); len(p.Changes) != 1 || p.Changes[0].Action != plan.ActionRestart {
		t.Errorf("a debt is forgotten: %+v", p.Changes)
	}
	l.Owed["k3s.service"] = plan.Debt{Boot: "an earlier boot", IDs: []string{conf.ID}}
	if p = build(t, n, l, conf, k3s); !p.Empty() {
		t.Errorf("a debt outlives a reboot: %+v", p.Changes)
	}
}

func TestALedgerThatCannotBeReadIsNeverEmpty(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	if l, err := plan.ReadLedger(n.FS()); err != nil || len(l.Records) != 0 {
		t.Errorf("%v", err)
	}
	for content, id := range map[string]string{"": "APL-007", "{": "APL-007", `{"schema":7}`: "APL-008", `[]`: "APL-007"} {
		n.WriteFile(plan.LedgerPath, content)
		if _, err := plan.ReadLedger(n.FS()); len(diag.Of(err)) != 1 || diag.Of(err)[0].ID != id {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB", 2000 << 40: "2000.0 TiB"} {
		if got := plan.Size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// FuzzLedger: a ledger that can be read is written and read back the same.
func FuzzLedger(f *testing.F) {
	l := plan.NewLedger()
	l.Records["file:/a"] = left("/a", "x")
	l.Runs = []plan.Run{{ID: "0001-x", Verb: "apply"}}
	data, err := l.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"schema":1,"records":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := plan.DecodeLedger(data)
		if err != nil {
			return
		}
		out, err := l.Encode()
		if err != nil {
			t.Skip("a time that JSON does not hold")
		}
		again, err := plan.DecodeLedger(out)
		if err != nil {
			t.Fatal(err)
		}
		third, err := again.Encode()
		if err != nil || !bytes.Equal(out, third) {
			t.Errorf("%v\n%s\n%s", err, out, third)
		}
	})
}

// TestLabelsOfTheCRIPluginAreNobodysEdit: containerd 2.x pins the sandbox image by itself some time after the
// import; a rollback then took the record for one that somebody else had changed, and left it.
func TestLabelsOfTheCRIPluginAreNobodysEdit(t *testing.T) {
	t.Parallel()
	img := host.Image{Name: "registry.k8s.io/pause:3.10", Target: host.Descriptor{Digest: "sha256:1"}, Labels: map[string]string{"edgeprep.io/source": "a.tar"}}
	later := img
	later.Labels = map[string]string{"edgeprep.io/source": "a.tar", "io.cri-containerd.image": "managed", "io.cri-containerd.pinned": "pinned"}
	if !plan.Same(&plan.State{Image: &img}, &plan.State{Image: &later}) {
		t.Error("the CRI plugin's own labels count as an edit")
	}
	later.Labels = map[string]string{"io.cri-containerd.image": "managed"}
	if plan.Same(&plan.State{Image: &img}, &plan.State{Image: &later}) {
		t.Error("a lost label of ours is no edit")
	}
}
