package tui

import (
	"context"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// fake is a Program with answers in its fields. A method without an answer of its own gives what the fields hold.
type fake struct {
	survey  app.Survey
	disk    map[string]string // plan files by name
	starter string
	review  app.Review
	report  check.Report
	errs    map[string]error // by method
	saves   []app.Draft
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
	}
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

// player drives a model as bubbletea does: what a command gives is fed back until nothing is left to do.
type player struct {
	t    *testing.T
	m    *model
	left bool // the model quit
}

func play(t *testing.T, p Program) *player {
	t.Helper()
	m := newModel(t.Context(), p, Options{Version: "1.0.0", Command: "edgeprep", Now: noon})
	pl := &player{t: t, m: m}
	pl.run(m.Init())
	pl.size(80, 24)
	return pl
}

func (p *player) size(w, h int) { p.send(tea.WindowSizeMsg{Width: w, Height: h}) }

func (p *player) send(msg tea.Msg) {
	p.t.Helper()
	if _, ok := msg.(tea.QuitMsg); ok {
		p.left = true
		return
	}
	_, cmd := p.m.Update(msg)
	p.run(cmd)
}

// run carries out commands in order. Time does not pass: what waits for a tick is the test's to send.
func (p *player) run(cmd tea.Cmd) {
	p.t.Helper()
	if cmd == nil {
		return
	}
	done := make(chan tea.Msg, 1)
	go func() { done <- cmd() }()
	select {
	case msg := <-done:
		if batch, ok := msg.(tea.BatchMsg); ok {
			for _, c := range batch {
				p.run(c)
			}
			return
		}
		if msg != nil {
			p.send(msg)
		}
	case <-time.After(10 * time.Second):
		p.t.Fatal("a command did not end")
	}
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
