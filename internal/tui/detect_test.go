package tui

import (
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
)

func unknownMachine(t *testing.T) *player {
	f := k3sBox()
	f.survey.Node = distro.Node{}
	f.survey.Facts.Root = false
	f.survey.NoImages = "no containerd is known here"
	f.survey.Problem = &diag.Diagnostic{ID: "NOD-001", Severity: diag.Error, What: "no supported Kubernetes distribution is installed here",
		Why: "none of the units and programs of a known distribution was found", Fix: "edgeprep distro list"}
	return play(t, f)
}

func TestMissingPlanStartsANewOne(t *testing.T) {
	t.Parallel()
	p := play(t, k3sBox())
	p.keys("enter")
	if !p.m.draft.open() || p.m.draft.name() != "kiosk-0417" {
		t.Fatalf("draft: %+v", p.m.draft.file)
	}
	if p.m.draft.dirty() {
		t.Error("a starter that nobody changed counts as changed")
	}
}

func TestAnotherPlanFile(t *testing.T) {
	t.Parallel()
	f := k3sBox()
	f.disk["/mnt/usb/site.toml"] = "version = 1\n[site]\nname = \"other\"\n"
	p := play(t, f)
	p.keys("down", "enter", "ctrl+u")
	p.typed("usb")
	p.keys("enter")
	if p.m.draft.open() {
		t.Fatal("a relative path was taken")
	}
	p.keys("ctrl+u")
	p.typed("/mnt/usb/site.toml")
	p.keys("enter")
	if p.m.draft.name() != "other" {
		t.Errorf("the plan is %q", p.m.draft.name())
	}
}

// TestBrokenPlanFileIsNotOpened: what is half understood would be shown as if it were the plan.
func TestBrokenPlanFileIsNotOpened(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"version = 1\n[mirror\n", "version = 1\n[mirror]\nmood = \"systemd\"\n"} {
		f := k3sBox()
		f.survey.Configured = true
		f.disk["/etc/edgeprep/edgeprep.toml"] = text
		p := play(t, f)
		p.keys("enter")
		if p.m.draft.open() || len(p.m.dialogs) != 1 {
			t.Errorf("opened %q:\n%s", text, p.m.content())
		}
		p.keys("esc")
		if p.m.at != 0 {
			t.Errorf("at step %d", p.m.at+1)
		}
	}
}
