package tui

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// fakePulls answers as the part of a Program that pulls. With hold a pull goes on until it is stopped.
type fakePulls struct {
	asked   [][]string
	bring   func(refs []string) // what a pull changes
	pullErr error
	hold    bool
	begun   []progress.Event
}

func (f *fakePulls) Pull(ctx context.Context, _ app.Draft, refs []string, events progress.Sink) (mirror.FillReport, error) {
	f.asked = append(f.asked, refs)
	for _, e := range f.begun {
		events.Emit(e)
	}
	if f.hold {
		<-ctx.Done()
		return mirror.FillReport{}, ctx.Err()
	}
	if f.pullErr == nil && f.bring != nil {
		f.bring(refs)
	}
	return mirror.FillReport{Bytes: 40 << 20, Images: make([]mirror.FilledImage, len(refs))}, f.pullErr
}

const pauseName, agentName = "registry.k8s.io/pause:3.10.1", "quay.io/ship/agent:2.4"

// lackingBox is a node on which two required references are in no archive.
func lackingBox() *fake {
	f := k3sBox()
	f.images.Refs = append(f.images.Refs, pauseName, agentName)
	f.images.Pull = app.Pull{Cache: "/var/lib/edgeprep/mirror", List: "/opt/edgeprep/required.txt",
		Args: []string{"mirror", "fill", "-c", "/etc/edgeprep/edgeprep.toml", "--cache", "/var/lib/edgeprep/mirror", "--platform", "linux/amd64"}}
	f.bring = func(refs []string) { f.images.Cached = refs }
	return f
}

func never() error {
	return &diag.Diagnostic{ID: "MER-095", Severity: diag.Error, What: "this site's mirror asks no registry",
		Where: diag.Where{File: "/etc/edgeprep/edgeprep.toml", Key: "mirror.upstream"}, Why: `upstream = "never" in the plan: nothing is pulled over a network`,
		Fix: `set it to "connected" (step 4) while there is a network, pull, and set it back`}
}

func notPulled() error {
	return &diag.Diagnostic{ID: "MER-022", Severity: diag.Error, What: pauseName + " is not complete: no answer from registry.k8s.io",
		Why: "its nodes would not be able to pull it without a network", Fix: "run the same command again: what came in is kept"}
}

// atImages is step 3 of a plan, and keys pressed there.
func atImages(t *testing.T, f *fake, keys ...string) *player {
	t.Helper()
	p := onScreen[*imagesScreen](t, f)
	p.keys(keys...)
	return p
}

// pulling is a pull in its middle.
func pulling(t *testing.T) (*player, *fake) {
	t.Helper()
	f := lackingBox()
	f.hold = true
	f.begun = []progress.Event{{Type: progress.StepProgress, Step: "fill", Done: 12 << 20, Total: 40 << 20}}
	p := atImages(t, f, "m", "down")
	p.held = true
	p.keys("enter")
	s := the[*imagesScreen](t, p.m)
	p.until(func() bool { return s.pull != nil && s.pull.last.Total > 0 })
	s.pull.began = noon().Add(-12 * time.Second)
	return p, f
}

func pullScenes() []scene {
	box := func(change func(*fake), keys ...string) func(*testing.T) *player {
		return func(t *testing.T) *player {
			f := lackingBox()
			if change != nil {
				change(f)
			}
			return atImages(t, f, keys...)
		}
	}
	return []scene{
		{"3-images-missing", box(nil)},
		{"3-images-pull", box(nil, "m")},
		{"3-images-pulling", func(t *testing.T) *player { p, _ := pulling(t); return p }},
		{"3-images-pulled", box(nil, "m", "down", "enter")},
		{"3-images-pull-failed", box(func(f *fake) { f.pullErr = notPulled() }, "m", "down", "enter")},
		{"3-images-pull-never", box(func(f *fake) { f.images.Pull.No = never() }, "m")},
	}
}

func TestPullOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	f := lackingBox()
	p := atImages(t, f)
	if got := p.m.content(); !strings.Contains(got, "2 MISSING") || !strings.Contains(got, "edgeprep mirror fill") {
		t.Fatal(got)
	}
	p.keys("m", "enter") // the first answer is not to
	if len(f.asked) != 0 {
		t.Fatalf("pulled: %q", f.asked)
	}
	p.keys("m")
	if got := strings.Join(strings.Fields(p.m.content()), " "); !strings.Contains(got, "writes the mirror's cache, now, before step 7: /var/lib/edgeprep/mirror.") || !strings.Contains(got, agentName) {
		t.Error(p.m.content())
	}
	p.keys("down", "enter")
	if len(f.asked) != 1 || !slices.Equal(f.asked[0], []string{pauseName, agentName}) {
		t.Fatalf("pulled: %q", f.asked)
	}
	got := p.m.content()
	for _, want := range []string{"all covered", "pulled 2 images, 40.0 MiB", "2 references only in the mirror's cache"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not on\n%s", want, got)
		}
	}
	p.keys("m")
	if len(p.m.dialogs) != 0 || len(f.asked) != 1 || len(f.saves) != 0 {
		t.Errorf("asked again: %q, %d saves", f.asked, len(f.saves))
	}
}

func TestPullIsStopped(t *testing.T) {
	t.Parallel()
	p, f := pulling(t)
	if got := p.m.content(); !strings.Contains(got, "12.0 MiB/40.0 MiB  1.0 MiB/s  28s left") || !strings.Contains(got, "ctrl+c") {
		t.Error(got)
	}
	p.keys("m")
	if len(f.asked) != 1 || len(p.m.dialogs) != 0 {
		t.Error("a second pull beside the first")
	}
	p.held = false
	p.keys("ctrl+c")
	if p.left || the[*imagesScreen](t, p.m).pull != nil || !strings.Contains(p.m.content(), "what came in is kept") {
		t.Errorf("left %v\n%s", p.left, p.m.content())
	}
	f.hold = false
	p.keys("m", "down", "enter")
	if len(f.asked) != 2 || !strings.Contains(p.m.content(), "all covered") {
		t.Error(p.m.content())
	}
}

// TestQuitDuringAPull asks first, and waits until the pull has ended.
func TestQuitDuringAPull(t *testing.T) {
	t.Parallel()
	p, _ := pulling(t)
	p.keys("q", "enter")
	if p.left || the[*imagesScreen](t, p.m).pull == nil {
		t.Fatal("the first answer is to stay")
	}
	p.keys("q", "down", "enter")
	p.until(func() bool { return p.left })
}

// TestNoApplyBesideAPull: the first apply gives the cache to another user.
func TestNoApplyBesideAPull(t *testing.T) {
	t.Parallel()
	p, f := pulling(t)
	p.keys("7", "enter")
	if len(f.tasks) != 0 || len(f.saves) != 0 || !strings.Contains(p.m.content(), "stop it in step 3") {
		t.Error(p.m.content())
	}
}

func TestPullThatFails(t *testing.T) {
	t.Parallel()
	f := lackingBox()
	f.pullErr = notPulled()
	f.images.Cached = []string{agentName}
	p := atImages(t, f, "m", "down", "enter")
	got := p.m.content()
	for _, want := range []string{"MER-022", pauseName, "Why", "Fix"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not on\n%s", want, got)
		}
	}
	p.keys("esc")
	if got := p.m.content(); !strings.Contains(got, "1 MISSING") {
		t.Error(got)
	}
}

// TestPullThatIsNotAllowed says why and how, and asks nobody.
func TestPullThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	f := lackingBox()
	f.images.Pull.No = never()
	p := atImages(t, f, "m")
	if got := p.m.content(); len(f.asked) != 0 || !strings.Contains(got, "mirror.upstream") || !strings.Contains(got, "step 4") {
		t.Error(got)
	}
}

// TestUpstreamIsReadAgain: what step 4 says decides whether step 3 may pull.
func TestUpstreamIsReadAgain(t *testing.T) {
	t.Parallel()
	f := lackingBox()
	f.images.Pull.No = never()
	p := atImages(t, f)
	if err := p.m.draft.set("connected", "mirror", "upstream"); err != nil {
		t.Fatal(err)
	}
	f.images.Pull.No = nil
	p.keys("4", "3", "m", "down", "enter")
	if len(f.asked) != 1 {
		t.Error(p.m.content())
	}
}

func TestCommandOfAPull(t *testing.T) {
	t.Parallel()
	p := lackingBox().images.Pull
	if got, want := fillCommand(p, []string{"a", "b"}), "edgeprep mirror fill -c /etc/edgeprep/edgeprep.toml --cache /var/lib/edgeprep/mirror --platform linux/amd64 a b"; got != want {
		t.Errorf("%s\nnot %s", got, want)
	}
	if got := fillCommand(p, []string{"a", "b", "c", "d", "e"}); !strings.HasSuffix(got, " --required /opt/edgeprep/required.txt") {
		t.Error(got)
	}
}

// answered plays the questions of a plan with a required list.
func answered(t *testing.T, f *fake, answers ...string) (string, error) {
	t.Helper()
	f.disk[f.survey.Config] = strings.Replace(starter, `# required =`, `required =`, 1)
	var out bytes.Buffer
	err := Plain(t.Context(), f, Options{In: strings.NewReader(strings.Join(answers, "\n") + "\n"), Out: &out, Version: "1.0.0", Command: "edgeprep"})
	return out.String(), err
}

func TestPlainPull(t *testing.T) {
	t.Parallel()
	seven := []string{"", "", "", "", "", "", ""}
	f := lackingBox()
	out, err := answered(t, f, append(seven, "2")...)
	if !errors.Is(err, ErrNoAnswer) || len(f.asked) != 1 { // the next question is apply's
		t.Fatalf("%v %q\n%s", err, f.asked, out)
	}
	for _, want := range []string{"2 of 5 required references are MISSING", "   " + pauseName, "2) pull them now", "/var/lib/edgeprep/mirror", "Pulled 2 images", "All 5 required references are on board"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	f = lackingBox()
	f.pullErr = notPulled()
	if out, _ = answered(t, f, append(seven, "2", "")...); len(f.asked) != 1 || !strings.Contains(out, "MER-022") || strings.Count(out, "MISSING") != 2 || !strings.Contains(out, "Step 6") {
		t.Errorf("%q\n%s", f.asked, out)
	}
	f = lackingBox()
	f.images.Pull.No = never()
	if out, _ = answered(t, f, seven...); len(f.asked) != 0 || !strings.Contains(out, "MER-095") || !strings.Contains(out, "Step 6") {
		t.Errorf("%q\n%s", f.asked, out)
	}
}
