package tui

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/report"
)

// fakeRuns answers as a Runner. Each run takes the next of results.
type fakeRuns struct {
	events  []progress.Event
	results []apply.Result
	runErr  error
	tasks   []app.Task
	undo    plan.Plan
	stops   int
	kept    []check.Report
}

func (f *fakeRuns) Run(_ context.Context, t app.Task, events progress.Sink) (apply.Result, error) {
	f.tasks = append(f.tasks, t)
	for _, e := range f.events {
		events.Emit(e)
	}
	if len(f.results) == 0 {
		return apply.Result{}, f.runErr
	}
	r := f.results[0]
	f.results = f.results[1:]
	return r, f.runErr
}

func (f *fakeRuns) Undoing(context.Context, string) (plan.Plan, error) { return f.undo, nil }

func (f *fakeRuns) Stop(context.Context) (bool, error) { f.stops++; return true, nil }

func (f *fakeRuns) Keep(_ context.Context, r check.Report) (report.Kept, error) {
	f.kept = append(f.kept, r)
	base := "/var/lib/edgeprep/reports/check-20261123T120000Z-kiosk-0417-PASS"
	return report.Kept{Record: base + ".json", SHA256: strings.Repeat("9f2c41aa", 8), Files: []string{base + ".json", base + ".json.sha256", base + ".html",
		base + ".junit.xml", base + ".md", base + ".txt"}}, nil
}

func noon() time.Time { return time.Date(2026, 11, 23, 12, 2, 31, 0, time.UTC) }

// stagedBox is a node with a plan of four changes, one of them a restart that the plan file does not accept.
func stagedBox() *fake {
	f := k3sBox()
	f.disk[f.survey.Config] = starter
	f.survey.Configured = true
	f.review.Plan = plan.Plan{Verb: "apply", Changes: []plan.Change{
		{ID: "archive:edge", Action: plan.ActionCreate, Summary: "archive /var/lib/rancher/k3s/agent/images/edge.tar", Bytes: 141 << 20},
		{ID: "unit:mirror", Action: plan.ActionCreate, Summary: "/etc/systemd/system/edgeprep-mirror.service"},
		{ID: "file:registries", Action: plan.ActionUpdate, Summary: "/etc/rancher/k3s/registries.yaml"},
		{ID: "restart:k3s", Action: plan.ActionUpdate, Summary: "restart k3s.service", Risks: []plan.Risk{plan.RiskRestart}},
	}}
	f.events = happyEvents()
	f.results = []apply.Result{{Report: apply.Report{Run: "20261123T120000Z", Summary: "Run 20261123T120000Z: 4 done."}}}
	return f
}

func at(sec int) time.Time { return noon().Add(time.Duration(sec-151) * time.Second) }

func happyEvents() []progress.Event {
	return []progress.Event{
		{Type: progress.RunStart, Run: "20261123T120000Z", Time: at(0), Msg: "apply: 3 to create, 1 to update"},
		{Type: progress.StepStart, Step: "archive:edge", Msg: "create archive /var/lib/rancher/k3s/agent/images/edge.tar", Time: at(1)},
		{Type: progress.StepProgress, Step: "archive:edge", Done: 73 << 20, Total: 141 << 20, Time: at(40)},
		{Type: progress.StepEnd, Step: "archive:edge", Status: "ok", Time: at(73)},
		{Type: progress.StepStart, Step: "unit:mirror", Msg: "create /etc/systemd/system/edgeprep-mirror.service", Time: at(73)},
		{Type: progress.StepEnd, Step: "unit:mirror", Status: "ok", Time: at(74)},
		{Type: progress.StepStart, Step: "file:registries", Msg: "update /etc/rancher/k3s/registries.yaml", Time: at(74)},
		{Type: progress.StepEnd, Step: "file:registries", Status: "ok", Time: at(74)},
		{Type: progress.StepStart, Step: "restart:k3s", Msg: "update restart k3s.service", Time: at(74)},
		{Type: progress.StepEnd, Step: "restart:k3s", Status: "ok", Time: at(95)},
		{Type: progress.RunEnd, Status: "ok", Time: at(95), Msg: "Run 20261123T120000Z: 4 done."},
	}
}

// brokenRun is a run whose second step fails.
func brokenRun(f *fake) {
	f.events = append(happyEvents()[:5:5],
		progress.Event{Type: progress.StepEnd, Step: "unit:mirror", Status: "failed", Msg: "port 5000 is taken", Time: at(103)},
		progress.Event{Type: progress.StepEnd, Step: "file:registries", Status: "skipped", Msg: "needs unit:mirror", Time: at(103)})
	f.results = []apply.Result{{Report: apply.Report{Run: "20261123T120000Z", Outcome: apply.OutcomeFailed,
		Summary: "Run 20261123T120000Z: 1 done, 1 failed, 2 skipped. What was done is kept: edgeprep apply goes on where it stopped, edgeprep rollback 20261123T120000Z puts it back."},
		Exit: 1, Errors: diag.Report{{ID: "APL-051", Severity: diag.Error, What: "the mirror did not answer on 127.0.0.1:5000 within 30s",
			Where: diag.Where{File: "/etc/edgeprep/edgeprep.toml", Line: 19}, Why: "port 5000 is already used by pid 1881 (docker-registry)",
			Fix: "stop that service, or set listen = \"127.0.0.1:5001\""}}}}
}

// the returns the screen of a type.
func the[T screen](t *testing.T, m *model) (found T) {
	t.Helper()
	for _, s := range m.screens {
		if x, ok := s.(T); ok {
			return x
		}
	}
	t.Fatal("no such screen")
	return found
}

// onScreen plays up to a screen, with a plan file open.
func onScreen[T screen](t *testing.T, f *fake) *player {
	t.Helper()
	p := play(t, f)
	if !p.m.draft.open() {
		p.keys("enter")
	}
	if !p.m.draft.open() {
		t.Fatal("no plan file is open")
	}
	p.run(p.m.show(the[T](t, p.m)))
	return p
}

// goingRun is a run in its middle: the node has sent some events, and the rest is to come.
func goingRun(t *testing.T) *player {
	f := stagedBox()
	p := onScreen[*applyScreen](t, f)
	s := the[*applyScreen](t, p.m)
	s.run = newRun(app.Task{}, f.review.Plan, noon())
	s.run.take(happyEvents()[:3])
	return p
}

func runScenes() []scene {
	return []scene{
		{"7-apply-ready", func(t *testing.T) *player { return onScreen[*applyScreen](t, stagedBox()) }},
		{"7-apply-risk", func(t *testing.T) *player {
			p := onScreen[*applyScreen](t, stagedBox())
			p.keys("enter")
			return p
		}},
		{"7-apply-going", goingRun},
		{"7-apply-done", func(t *testing.T) *player { p, _ := applied(t, stagedBox()); return p }},
		{"7-apply-failed", func(t *testing.T) *player {
			f := stagedBox()
			brokenRun(f)
			p, _ := applied(t, f)
			return p
		}},
		{"7-apply-undo", func(t *testing.T) *player {
			f := stagedBox()
			brokenRun(f)
			f.undo = plan.Plan{Verb: "rollback", Changes: []plan.Change{{Action: plan.ActionDelete, Summary: "/var/lib/rancher/k3s/agent/images/edge.tar"}}}
			p, _ := applied(t, f)
			p.keys("down", "down", "enter")
			return p
		}},
		{"7-apply-watch", func(t *testing.T) *player {
			f := stagedBox()
			f.survey.Running = true
			return play(t, f)
		}},
		{"8-check", checkedBox},
		{"8-check-details", func(t *testing.T) *player { p := checkedBox(t); p.keys("down", "enter"); return p }},
		{"8-check-missing", func(t *testing.T) *player { p := checkedBox(t); p.keys("f"); return p }},
		{"9-report", func(t *testing.T) *player { return reported(t) }},
		{"9-report-kept", func(t *testing.T) *player { p := reported(t); p.keys("enter"); return p }},
		{"9-report-qr", func(t *testing.T) *player { p := reported(t); p.keys("enter", "Q"); return p }},
	}
}

// applied starts a run, with the restart accepted by its name.
func applied(t *testing.T, f *fake) (*player, *applyScreen) {
	t.Helper()
	p := onScreen[*applyScreen](t, f)
	p.keys("enter")
	p.typed("restart")
	p.keys("enter")
	return p, the[*applyScreen](t, p.m)
}

func TestApplyNeedsTheRisksNamed(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	p := onScreen[*applyScreen](t, f)
	p.keys("enter")
	p.typed("yes")
	p.keys("enter")
	if len(f.tasks) != 0 || len(p.m.dialogs) != 1 {
		t.Errorf("%+v", f.tasks)
	}
	p.keys("esc", "enter")
	p.typed("restart")
	p.keys("enter")
	if len(f.tasks) != 1 || len(f.tasks[0].Allow) != 1 || f.tasks[0].Allow[0] != "restart" {
		t.Errorf("%+v", f.tasks)
	}
}

func TestApplySavesFirst(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	p := onScreen[*applyScreen](t, f)
	if err := p.m.draft.set("bravo", "site", "name"); err != nil {
		t.Fatal(err)
	}
	p.keys("enter")
	p.typed("restart")
	p.keys("enter")
	if len(f.saves) != 1 || !strings.Contains(string(f.saves[0].Text), "bravo") || len(f.tasks) != 1 {
		t.Errorf("%d saves, %d runs", len(f.saves), len(f.tasks))
	}
}

func TestApplyToReport(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	f.report = passing()
	p, s := applied(t, f)
	if s.run.failed() || s.run.count(stepDone) != 4 || p.m.outcome != nil {
		t.Fatalf("%+v", s.run)
	}
	p.keys("enter") // checklist
	p.keys("tab")   // report
	p.keys("n")
	p.typed("A. Nyman")
	p.keys("enter", "enter")
	if len(f.kept) != 1 || f.kept[0].Person != "A. Nyman" || f.kept[0].Verdict != check.VerdictPass {
		t.Errorf("%+v", f.kept)
	}
	p.keys("enter")
	if !p.left || p.m.outcome != nil {
		t.Errorf("left %v, %v", p.left, p.m.outcome)
	}
}

func TestFailedStepThenRetry(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	brokenRun(f)
	p, s := applied(t, f)
	var failed *Failed
	if !s.run.failed() || !errors.As(p.m.outcome, &failed) || failed.Exit != 1 {
		t.Fatalf("%+v %v", s.run, p.m.outcome)
	}
	f.events, f.results = happyEvents(), []apply.Result{{Report: apply.Report{Run: "20261123T120000Z"}}}
	p.keys("enter") // retry
	p.typed("restart")
	p.keys("enter")
	if s.run.failed() || p.m.outcome != nil || len(f.tasks) != 2 {
		t.Errorf("%+v", f.tasks)
	}
}

func TestUndoShowsFirst(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	brokenRun(f)
	f.undo = plan.Plan{Changes: []plan.Change{{Action: plan.ActionDelete, Summary: "/x"}}}
	p, _ := applied(t, f)
	p.keys("down", "down", "enter")
	if len(f.tasks) != 1 || !strings.Contains(p.m.content(), "/x") {
		t.Fatalf("%+v\n%s", f.tasks, p.m.content())
	}
	f.events, f.results = nil, []apply.Result{{Report: apply.Report{Run: "20261123T120100Z"}}}
	p.keys("down", "enter")
	if len(f.tasks) != 2 || f.tasks[1].Undo != "20261123T120000Z" {
		t.Errorf("%+v", f.tasks)
	}
}

func TestARunThatGoesOnIsOffered(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	f.survey.Running = true
	p := play(t, f)
	p.keys("enter")
	if len(f.tasks) != 1 || !f.tasks[0].Attach || the[*applyScreen](t, p.m).run.failed() {
		t.Errorf("%+v", f.tasks)
	}
}

func TestKeysDuringARun(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	p := onScreen[*applyScreen](t, f)
	s := the[*applyScreen](t, p.m)
	s.run = newRun(app.Task{}, f.review.Plan, noon())
	p.keys("ctrl+c")
	if f.stops != 1 || p.left {
		t.Errorf("%d stops, left %v", f.stops, p.left)
	}
	p.keys("ctrl+c") // within two seconds
	if f.stops != 1 || !p.left {
		t.Errorf("%d stops, left %v", f.stops, p.left)
	}
	p.left = false
	p.keys("d")
	if !p.left {
		t.Error("d does not detach")
	}
	for _, size := range [][2]int{{60, 20}, {40, 12}, {80, 24}} { // resized while it goes on
		p.size(size[0], size[1])
		if !strings.Contains(p.m.content(), "wait") {
			t.Error(p.m.content())
		}
	}
	p.keys("A", "l")
	if len(f.tasks) != 0 || len(p.m.dialogs) != 1 {
		t.Errorf("%+v", f.tasks)
	}
}

func TestRunThatCannotBeWatched(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	f.events, f.results, f.runErr = nil, nil, &diag.Diagnostic{ID: "APL-083", Severity: diag.Error, What: "the run ended without a result"}
	p, s := applied(t, f)
	if !s.run.failed() || !strings.Contains(p.m.content(), "APL-083") {
		t.Error(p.m.content())
	}
}

func TestNotRootIsTold(t *testing.T) {
	t.Parallel()
	f := stagedBox()
	f.survey.Facts.Root = false
	p := onScreen[*applyScreen](t, f)
	p.keys("enter")
	if len(f.tasks) != 0 || !strings.Contains(p.m.content(), "sudo edgeprep apply") {
		t.Error(p.m.content())
	}
}
