package apply

import (
	"context"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// The checklist's verdict stands beside the run that it was about, and goes with the next run.
func TestResultOfRunAndCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	note := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	facts, err := w.n.Facts(ctx)
	if err != nil || !facts.Live || !facts.Root {
		t.Fatalf("%+v, %v", facts, err)
	}
	note(NoteCheck(ctx, w.n, CheckResult{Verdict: "PASS"}))
	if r, err := ReadResult(w.n.FS()); err != nil || r.Check == nil || r.Schema != ReportSchema || r.Run != "" {
		t.Errorf("before any run: %+v, %v", r, err)
	}
	note(NoteRun(ctx, w.n, Report{Verb: "apply", Outcome: OutcomeRefused}, 65, diag.Report{{ID: "CFG-001", What: "not TOML"}}))
	r, err := ReadResult(w.n.FS())
	if err != nil || r.Check != nil || r.Exit != 65 || r.Errors[0].ID != "CFG-001" || r.Boot != facts.BootID || r.Node != facts.Hostname {
		t.Errorf("a run that ended before it began: %+v, %v", r, err)
	}
	note(NoteCheck(ctx, w.n, CheckResult{Verdict: "FAIL", Exit: 3}))
	if r, err := ReadResult(w.n.FS()); err != nil || r.Check.Exit != 3 || r.Exit != 65 {
		t.Errorf("%+v, %v", r, err)
	}
	w.n.WriteFile(ResultPath, "{")
	if _, err := ReadResult(w.n.FS()); err == nil {
		t.Error("a cut file is read")
	}
	note(NoteCheck(ctx, w.n, CheckResult{Verdict: "PASS"})) // and does not stop the next one
	if r, err := ReadResult(w.n.FS()); err != nil || r.Check.Verdict != "PASS" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestReportsAreNumberedAndTheOldestGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const dir = "/var/lib/edgeprep/reports"
	for i := range keptReports + 3 {
		file, err := KeepReport(context.Background(), w.n, dir, "running", []byte(fmt.Sprint(i)))
		if err != nil || path.Base(file) != fmt.Sprintf("%06d-running.json", i+1) {
			t.Fatalf("%s, %v", file, err)
		}
		if i == 0 {
			w.n.WriteFile(dir+"/notes.txt", "theirs")
			w.n.WriteFile(dir+"/7-theirs", "not a report")
		}
	}
	list, err := w.n.FS().ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	reports := 0
	for _, fi := range list {
		if strings.HasSuffix(fi.Path, "-running.json") {
			reports++
		}
	}
	if reports != keptReports || len(list) != keptReports+2 {
		t.Errorf("%d reports of %d files", reports, len(list))
	}
	if _, err := w.n.FS().Stat(dir + "/000003-running.json"); err == nil {
		t.Error("the oldest is still there")
	}
}
