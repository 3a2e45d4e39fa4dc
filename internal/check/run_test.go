package check

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// says makes a check that gives the findings.
func says(id string, deps []string, fs ...Finding) Check {
	return Check{ID: id, Title: id, Severity: SeverityFail, DependsOn: deps, Run: func(context.Context, *Env) []Finding { return fs }}
}

var errBroken = errors.New("broken")

func failed(subject string) Finding { return Finding{Status: StatusFail, Subject: subject} }

// cutEnv is a node whose egress is proven cut.
func cutEnv(t *testing.T) Env {
	r, root := liveNode(t)
	write(t, root, EgressRecordPath, recorded)
	return Env{Reader: r, Net: newNet(), Now: clock}
}

func runChecks(t *testing.T, env Env, opts Options, checks ...Check) Report {
	t.Helper()
	r, err := run(t.Context(), env, opts.filled(), checks)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerdictAndExitCode(t *testing.T) {
	t.Parallel()
	ok := pass("a", "", "")
	for name, tc := range map[string]struct {
		checks  []Check
		strict  bool
		verdict Verdict
		exit    int
	}{
		"all pass":                {checks: []Check{says("A", nil, ok)}, verdict: VerdictPass},
		"not applicable":          {checks: []Check{says("A", nil, ok), says("B", nil, skip("b", "why"))}, verdict: VerdictPass},
		"deferred":                {checks: []Check{says("A", nil, ok, deferred("b", "why"))}, verdict: VerdictUnproven},
		"deferred, strict":        {checks: []Check{says("A", nil, deferred("b", "why"))}, strict: true, verdict: VerdictUnproven, exit: 4},
		"unproven":                {checks: []Check{says("A", nil, unproven("b", "why"))}, verdict: VerdictUnproven},
		"warning":                 {checks: []Check{says("A", nil, Finding{Status: StatusWarn})}, verdict: VerdictPass},
		"warning, strict":         {checks: []Check{says("A", nil, Finding{Status: StatusWarn})}, strict: true, verdict: VerdictPass, exit: 4},
		"failed":                  {checks: []Check{says("A", nil, ok, failed("b"))}, verdict: VerdictFail, exit: 3},
		"could not run":           {checks: []Check{says("A", nil, couldNotRun("b", errBroken))}, verdict: VerdictFail, exit: 4},
		"failed and not run":      {checks: []Check{says("A", nil, couldNotRun("b", errBroken)), says("B", nil, failed("b"))}, verdict: VerdictFail, exit: 3},
		"nothing said":            {checks: []Check{says("A", nil)}, verdict: VerdictFail, exit: 4},
		"warn check cannot fail":  {checks: []Check{{ID: "W", Severity: SeverityWarn, Run: says("", nil, failed("x")).Run}}, verdict: VerdictPass},
		"panic is contained":      {checks: []Check{{ID: "P", Run: func(context.Context, *Env) []Finding { panic("boom") }}}, verdict: VerdictFail, exit: 4},
		"unproven with a failure": {checks: []Check{says("A", nil, failed("x"), unproven("b", "why"))}, verdict: VerdictFail, exit: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runChecks(t, cutEnv(t), Options{Strict: tc.strict}, append(tc.checks, egressCheck())...)
			if r.Verdict != tc.verdict || r.ExitCode() != tc.exit {
				t.Errorf("got %s, exit %d; want %s, exit %d: %+v", r.Verdict, r.ExitCode(), tc.verdict, tc.exit, r.Missing)
			}
			if (r.Verdict == VerdictPass) != (len(r.Missing) == 0) {
				t.Errorf("verdict %s with missing %+v", r.Verdict, r.Missing)
			}
		})
	}
}

func TestWhatIsMissingIsSaidOnce(t *testing.T) {
	t.Parallel()
	owed := deferred("x", "no runtime")
	r := runChecks(t, cutEnv(t), Options{}, says("A", nil, owed), says("B", nil, pass("b", "", ""), deferred("y", "no runtime")), says("C", nil, unproven("c", "why")))
	if len(r.Missing) != 2 || !slices.Equal(r.Missing[0].IDs, []string{"A", "B"}) || r.Missing[0].Text != "no runtime" {
		t.Errorf("%+v", r.Missing)
	}
}

func TestOnlyNamedChecksDoNotPassTheNode(t *testing.T) {
	t.Parallel()
	r := runChecks(t, cutEnv(t), Options{IDs: []string{"A"}}, says("A", nil, pass("a", "", "")))
	if r.Verdict != VerdictUnproven || !r.Partial {
		t.Errorf("got %s, partial %v", r.Verdict, r.Partial)
	}
}

func TestConsequencesAreFoldedUnderTheirCause(t *testing.T) {
	t.Parallel()
	checks := []Check{
		says("ROOT", nil, failed("x")),
		says("MIDDLE", []string{"ROOT"}, pass("x", "", "")), // passes, yet the chain goes through it
		says("LEAF", []string{"MIDDLE"}, failed("x")),
		says("OTHER", []string{"MIDDLE", "HEALTHY"}, pass("x", "", "")),
		says("HEALTHY", nil, pass("x", "", "")),
	}
	r := runChecks(t, cutEnv(t), Options{}, checks...)
	leaf, _ := r.Result("LEAF")
	other, _ := r.Result("OTHER")
	if !slices.Equal(leaf.CausedBy, []string{"ROOT"}) || other.CausedBy != nil {
		t.Errorf("leaf %v, other %v", leaf.CausedBy, other.CausedBy)
	}
	if len(r.Missing) == 0 || r.Missing[0].IDs[0] != "ROOT" || slices.ContainsFunc(r.Missing, func(m Missing) bool { return slices.Contains(m.IDs, "LEAF") }) {
		t.Errorf("missing %+v", r.Missing)
	}
}

func TestWaivers(t *testing.T) {
	t.Parallel()
	good := config.Waiver{ID: "A", Reason: "spare on site", Owner: "j.ortiz", Until: "2026-11-22"} // valid through its day
	change := func(f func(*config.Waiver)) config.Waiver { w := good; f(&w); return w }
	for name, tc := range map[string]struct {
		waiver     config.Waiver
		unwaivable bool
		verdict    Verdict
	}{
		"good":       {waiver: good, verdict: VerdictPass},
		"no date":    {waiver: change(func(w *config.Waiver) { w.Until = "" }), verdict: VerdictPass},
		"expired":    {waiver: change(func(w *config.Waiver) { w.Until = "2026-11-21" }), verdict: VerdictFail},
		"bad date":   {waiver: change(func(w *config.Waiver) { w.Until = "soon" }), verdict: VerdictFail},
		"no owner":   {waiver: change(func(w *config.Waiver) { w.Owner = "" }), verdict: VerdictFail},
		"other id":   {waiver: change(func(w *config.Waiver) { w.ID = "B" }), verdict: VerdictFail},
		"unwaivable": {waiver: good, unwaivable: true, verdict: VerdictFail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := says("A", nil, failed("x"))
			c.Unwaivable = tc.unwaivable
			env := cutEnv(t)
			env.Site.Checklist.Waive = []config.Waiver{tc.waiver}
			r := runChecks(t, env, Options{}, c, egressCheck())
			if r.Verdict != tc.verdict || (r.Counts.Waived == 1) != (tc.verdict == VerdictPass) {
				t.Errorf("got %s, %d waived, want %s", r.Verdict, r.Counts.Waived, tc.verdict)
			}
		})
	}
}

func TestAWaivedCauseHidesNoFailure(t *testing.T) {
	t.Parallel()
	env := cutEnv(t)
	env.Site.Checklist.Waive = []config.Waiver{{ID: "A", Reason: "r", Owner: "o"}}
	r := runChecks(t, env, Options{}, says("A", nil, failed("x")), says("B", []string{"A"}, failed("y")))
	if b, _ := r.Result("B"); b.CausedBy != nil || r.Missing[0].IDs[0] != "B" {
		t.Errorf("caused by %v, missing %+v", b.CausedBy, r.Missing)
	}
}

func TestACheckThatHangsIsLeftBehind(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	hangs := Check{ID: "H", Severity: SeverityFail, Timeout: time.Millisecond, Run: func(context.Context, *Env) []Finding {
		<-release
		return []Finding{pass("too late", "", "")}
	}}
	r := runChecks(t, cutEnv(t), Options{}, hangs, says("A", nil, pass("a", "", "")))
	h, _ := r.Result("H")
	if a, _ := r.Result("A"); h.Status != StatusError || a.Status != StatusPass || r.ExitCode() != 4 {
		t.Errorf("hanging check %s, other %s, exit %d", h.Status, a.Status, r.ExitCode())
	}
}

func TestChecksRunInParallelUpToTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 3
	meet := make(chan struct{})
	rendezvous := func(ctx context.Context, _ *Env) []Finding { // needs a partner at the same time
		select {
		case meet <- struct{}{}:
		case <-meet:
		case <-ctx.Done():
			return []Finding{couldNotRun("x", ctx.Err())}
		}
		return []Finding{pass("x", "", "")}
	}
	var checks []Check
	for _, id := range []string{"A", "B", "C", "D"} {
		checks = append(checks, Check{ID: id, Run: rendezvous})
	}
	var seen []string
	sink := progress.NewStream("run", "node", clock, progress.Func(func(e progress.Event) { seen = append(seen, e.Step) }))
	r := runChecks(t, cutEnv(t), Options{Parallel: limit, Sink: sink}, checks...)
	slices.Sort(seen)
	if r.Counts.Pass != 4 || strings.Join(seen, "") != "ABCD" {
		t.Errorf("counts %+v, events %v", r.Counts, seen)
	}
	if r.Results[0].ID != "A" || r.Results[3].ID != "D" {
		t.Error("results are not in the order of the checks")
	}
}

func TestSelection(t *testing.T) {
	t.Parallel()
	all := []Check{{ID: "A-01"}, {ID: "B-02", Profiles: []Profile{ProfileShip}}, {ID: "C-03", Profiles: []Profile{ProfileStage}}}
	for name, tc := range map[string]struct {
		opts Options
		want string
		err  string
	}{
		"stage":           {want: "A-01 C-03"},
		"ship":            {opts: Options{Profile: ProfileShip}, want: "A-01 B-02"},
		"by id":           {opts: Options{IDs: []string{"b-02"}}, want: "B-02"},
		"unknown id":      {opts: Options{IDs: []string{"B-03"}}, err: "did you mean B-02"},
		"unknown profile": {opts: Options{Profile: "shipp"}, err: "did you mean ship"},
	} {
		got, err := selected(all, tc.opts)
		var unknown *UnknownError
		if tc.err != "" && (!errors.As(err, &unknown) || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: error %v", name, err)
		}
		if tc.err == "" && strings.Join(ids(got), " ") != tc.want {
			t.Errorf("%s: got %v, %v", name, ids(got), err)
		}
	}
}

func TestACancelledRunSaysSo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := Check{ID: "A", Run: func(ctx context.Context, _ *Env) []Finding {
		cancel()
		<-ctx.Done()
		return []Finding{couldNotRun("x", ctx.Err())}
	}}
	r, err := run(ctx, cutEnv(t), Options{}.filled(), []Check{c, egressCheck()})
	if !errors.Is(err, context.Canceled) || r.Verdict == VerdictPass || r.Egress.State == EgressCut {
		t.Errorf("err %v, verdict %s, egress %s", err, r.Verdict, r.Egress.State)
	}
}
