package tui

import (
	"context"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// fake is a Program with answers in its fields. A method without an answer of its own gives what the fields hold.
type fake struct {
	survey  app.Survey
	disk    map[string]string // plan files by name
	starter string
	images  app.Coverage
	review  app.Review
	report  check.Report
	errs    map[string]error // by method
	saves   []app.Draft
	fakePulls
	fakeRuns
}

func (f *fake) Survey(context.Context) (app.Survey, error) { return f.survey, f.errs["Survey"] }

func (f *fake) Load(_ context.Context, name string) (app.Draft, error) {
	if name == "" {
		name = f.survey.Config
	}
	text, ok := f.disk[name]
	if !ok {
		return app.Draft{Name: name, Text: []byte(f.starter)}, f.errs["Load"]
	}
	return app.Draft{Name: name, Text: []byte(text), Read: []byte(text), Exists: true}, f.errs["Load"]
}

func (f *fake) Save(_ context.Context, d app.Draft) (app.Draft, error) {
	if err := f.errs["Save"]; err != nil {
		return d, err
	}
	f.saves = append(f.saves, d)
	f.disk[d.Name] = string(d.Text)
	d.Exists, d.Read = true, d.Text
	return d, nil
}

func (f *fake) Images(_ context.Context, d app.Draft, _ progress.Sink) (app.Coverage, error) {
	return f.images, f.errs["Images"]
}

func (f *fake) Review(context.Context, app.Draft) (app.Review, error) {
	return f.review, f.errs["Review"]
}

func (f *fake) Check(context.Context, app.CheckOptions, progress.Sink) (check.Report, error) {
	return f.report, f.errs["Check"]
}

// k3sBox is a node with k3s installed and never started, and nothing planned yet.
func k3sBox() *fake {
	return &fake{
		disk: map[string]string{}, errs: map[string]error{},
		survey: app.Survey{
			Facts: host.Facts{Hostname: "kiosk-0417", OS: "linux", Arch: "amd64", Live: true, Root: true},
			Node: distro.Node{ID: "k3s", Name: "K3s", Version: "v1.36.3+k3s1", Role: distro.RoleServer, Installed: true,
				DataDir: "/var/lib/rancher/k3s", Platform: "linux/amd64",
				Runtime:    distro.Runtime{Endpoint: host.Endpoint{Socket: "/run/k3s/containerd/containerd.sock", Namespace: "k8s.io"}, Version: "2.2.1"},
				Registries: distro.Registries{Format: "registries.yaml", File: "/etc/rancher/k3s/registries.yaml"},
				Evidence:   []distro.Evidence{{Fact: "distribution", Value: "k3s", Source: "/etc/systemd/system/k3s.service"}, {Fact: "data-dir", Value: "/var/lib/rancher/k3s", Source: "default"}},
			},
			Config: "/etc/edgeprep/edgeprep.toml", DataDir: "/var/lib/rancher/k3s",
			Disk: host.Space{Total: 500 << 30, Free: 412 << 30}, Images: -1, NoImages: "containerd does not run",
		},
		starter: starter,
		images: app.Coverage{Platform: "linux/amd64", DiskAt: "/var/lib/rancher/k3s", Disk: host.Space{Total: 500 << 30, Free: 412 << 30},
			Required: "/opt/edgeprep/required.txt", Refs: []string{"docker.io/rancher/mirrored-pause:3.10.2", "docker.io/rancher/mirrored-coredns-coredns:1.14.4", "registry.example.com/app:1"},
			Archives: []app.ArchiveFile{
				{Path: "/opt/edgeprep/images/app.tar", Chosen: true, Size: 141 << 20, Need: 560 << 20, Names: []string{"registry.example.com/app:1"}},
				{Path: "/opt/edgeprep/images/app-telemetry.tar", Size: 180 << 20, Names: []string{"registry.example.com/telemetry:1"}, Problem: "linux/arm64, the node is linux/amd64"},
				{Path: "/opt/edgeprep/images/k3s-airgap-images-amd64.tar.zst", Chosen: true, Size: 202 << 20, Need: 1 << 30,
					Names: []string{"docker.io/rancher/mirrored-coredns-coredns:1.14.4", "docker.io/rancher/mirrored-pause:3.10.2"}},
			}},
		review: app.Review{Plan: k3sPlan(), Start: k3sStart()},
	}
}

func k3sPlan() plan.Plan {
	p, _ := plan.New("apply", "kiosk-0417", []plan.Change{
		{ID: "dir:/var/lib/rancher/k3s/agent/images", Kind: resource.KindDir, Action: plan.ActionCreate, Path: "/var/lib/rancher/k3s/agent/images", Summary: "/var/lib/rancher/k3s/agent/images"},
		{ID: "archive:k3s", Kind: resource.KindArchive, Action: plan.ActionPlace, Summary: "k3s-airgap-images-amd64.tar.zst", Bytes: 202 << 20},
		{ID: "user:edgeprep-mirror", Kind: resource.KindUser, Action: plan.ActionCreate, Summary: "edgeprep-mirror"},
		{ID: "file:/etc/systemd/system/edgeprep-mirror.service", Kind: resource.KindFile, Action: plan.ActionCreate, Path: "/etc/systemd/system/edgeprep-mirror.service",
			Summary: "/etc/systemd/system/edgeprep-mirror.service", Diff: "--- a\n+++ b\n@@ -0,0 +1,3 @@\n+[Unit]\n+Description=edgeprep image mirror\n+Before=k3s.service\n"},
		{ID: "unit:edgeprep-mirror.service", Kind: resource.KindUnit, Action: plan.ActionStart, Path: "edgeprep-mirror.service", Summary: "edgeprep-mirror.service", Steps: []plan.Action{plan.ActionEnable, plan.ActionStart}},
		{ID: "gate:mirror", Kind: resource.KindGate, Action: plan.ActionProve, Summary: "the mirror answers"},
		{ID: "file:/etc/rancher/k3s/registries.yaml", Kind: resource.KindFile, Action: plan.ActionUpdate, Path: "/etc/rancher/k3s/registries.yaml",
			Summary: "/etc/rancher/k3s/registries.yaml", Diff: "--- a\n+++ b\n@@ -1,2 +1,5 @@\n mirrors:\n+  \"*\":\n+    endpoint:\n+      - http://127.0.0.1:5000\n"},
	}, nil)
	return p
}

// k3sStart is what a node whose mirror is a service does at power-on.
func k3sStart() *coldstart.Graph {
	return &coldstart.Graph{Steps: []*coldstart.Step{
		{ID: "mirror", Kind: coldstart.KindMirror, Label: "mirror edgeprep-mirror.service", Outcome: coldstart.Up},
		{ID: "unit", Kind: coldstart.KindUnit, Label: "unit k3s.service", Needs: []string{"mirror"}, Outcome: coldstart.Up},
		{ID: "image", Kind: coldstart.KindImage, Label: "image docker.io/rancher/mirrored-pause:3.10.2", Outcome: coldstart.Up},
		{ID: "pod", Kind: coldstart.KindPod, Label: "pod kube-system/coredns", Needs: []string{"unit", "image"}, Outcome: coldstart.Unproven, Detail: "nothing on this disk tells whether its image is there"},
	}}
}

const starter = `# edgeprep.toml: what this node should be. Check it anywhere: edgeprep validate -c FILE
version = 1                        # format of this file; unknown keys are errors

[site]
name = "kiosk-0417"

[distro]
kind = "k3s"                     # K3s v1.36.3+k3s1 was found here; a node of another distribution is refused

[images]
# Archives that must be on the node before its first start. Globs are fine, paths are absolute.
archives = ["/opt/edgeprep/images/*.tar*"]
# One reference a line; apply refuses and check fails when one of them is missing.
# required = "/opt/edgeprep/required.txt"

[mirror]
mode     = "systemd"            # up before Kubernetes, so that no first start waits for it
listen   = "127.0.0.1:5000"
upstream = "never"               # "never": only what is cached is ever served

[registries]
# Registry hosts besides those of the images; "*" is always covered.
hosts = []

[apply]
# Accepted without asking: restart, overwrite, remove, plain-http.
allow = []
`

// player drives a model as bubbletea does: commands run beside it, and what they give is fed back until none is
// left, or until what the test waits for is there.
type player struct {
	t       *testing.T
	m       *model
	left    bool // the model quit
	msgs    chan tea.Msg
	pending int
	held    bool // keys do not wait for commands: the test says what it waits for
}

func play(t *testing.T, p Program) *player {
	t.Helper()
	m := newModel(t.Context(), p, Options{Version: "1.0.0", Command: "edgeprep", Now: noon})
	pl := &player{t: t, m: m, msgs: make(chan tea.Msg)}
	pl.start(m.Init())
	pl.size(80, 24)
	return pl
}

func (p *player) size(w, h int) { p.send(tea.WindowSizeMsg{Width: w, Height: h}) }

func (p *player) send(msg tea.Msg) {
	p.t.Helper()
	p.take(msg)
	if !p.held {
		p.until(func() bool { return p.pending == 0 })
	}
}

// run carries out a command as if Update had given it.
func (p *player) run(cmd tea.Cmd) {
	p.t.Helper()
	p.start(cmd)
	p.send(nil)
}

// until feeds results back until the test has what it waits for.
func (p *player) until(there func() bool) {
	p.t.Helper()
	late := time.After(20 * time.Second)
	for !there() {
		select {
		case msg := <-p.msgs:
			p.pending--
			p.take(msg)
		case <-late:
			p.t.Fatalf("what is waited for does not come; the screen is\n%s", p.m.content())
		}
	}
}

func (p *player) take(msg tea.Msg) {
	switch msg := msg.(type) {
	case nil:
	case tea.QuitMsg:
		p.left = true
	case tea.BatchMsg:
		for _, c := range msg {
			p.start(c)
		}
	default:
		_, cmd := p.m.Update(msg)
		p.start(cmd)
	}
}

func (p *player) start(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	p.pending++
	go func() {
		select {
		case p.msgs <- cmd():
		case <-p.t.Context().Done():
		}
	}()
}

// keys sends keys by the names that bubbletea gives them.
func (p *player) keys(names ...string) {
	p.t.Helper()
	for _, n := range names {
		p.send(keyNamed(p.t, n))
	}
}

// typed sends text, a key for each character.
func (p *player) typed(s string) {
	p.t.Helper()
	for _, r := range s {
		p.send(tea.KeyPressMsg{Code: r, Text: string(r)})
	}
}

func keyNamed(t *testing.T, name string) tea.KeyPressMsg {
	t.Helper()
	named := map[string]tea.KeyPressMsg{
		"enter": {Code: tea.KeyEnter}, "tab": {Code: tea.KeyTab}, "esc": {Code: tea.KeyEscape}, "up": {Code: tea.KeyUp},
		"down": {Code: tea.KeyDown}, "left": {Code: tea.KeyLeft}, "right": {Code: tea.KeyRight}, "home": {Code: tea.KeyHome},
		"end": {Code: tea.KeyEnd}, "space": {Code: tea.KeySpace, Text: " "}, "backspace": {Code: tea.KeyBackspace},
		"delete": {Code: tea.KeyDelete}, "f1": {Code: tea.KeyF1}, "pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown},
		"shift+tab": {Code: tea.KeyTab, Mod: tea.ModShift},
	}
	k, ok := named[name]
	switch {
	case ok:
	case len(name) == 6 && name[:5] == "ctrl+":
		k = tea.KeyPressMsg{Code: rune(name[5]), Mod: tea.ModCtrl}
	case len([]rune(name)) == 1:
		k = tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
	default:
		t.Fatalf("no key %q", name)
	}
	if k.String() != name {
		t.Fatalf("key %q is %q", name, k.String())
	}
	return k
}
