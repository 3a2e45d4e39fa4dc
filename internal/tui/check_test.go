package tui

import (
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/check"
)

func finding(s check.Status, subject, expected, observed, source string) check.Finding {
	return check.Finding{Status: s, Subject: subject, Expected: expected, Observed: observed, Source: source}
}

// reportOf makes a report of results with its counts.
func reportOf(v check.Verdict, rs ...check.Result) check.Report {
	r := check.Report{Schema: 1, Started: noon(), Finished: noon(), Verdict: v, Profile: check.ProfileShip, Results: rs,
		Node: check.Identity{Hostname: "kiosk-0417"}, Egress: check.Egress{State: check.EgressCut}}
	for _, x := range rs {
		switch x.Status {
		case check.StatusPass:
			r.Counts.Pass++
		case check.StatusWarn:
			r.Counts.Warn++
		case check.StatusFail:
			r.Counts.Fail++
		case check.StatusSkip:
			r.Counts.Skip++
		}
	}
	return r
}

func result(id string, s check.Status, fs ...check.Finding) check.Result {
	c, _ := check.ByID(id)
	return check.Result{ID: id, Title: c.Title, Severity: c.Severity, Status: s, Findings: fs}
}

func passing() check.Report {
	return reportOf(check.VerdictPass, result("CRI-10", check.StatusPass), result("IMG-01", check.StatusPass), result("PRC-03", check.StatusPass))
}

// checkedBox has a checklist with one of each kind.
func checkedBox(t *testing.T) *player {
	f := stagedBox()
	gone := finding(check.StatusFail, "registry.k8s.io/pause:3.10", "present, complete, pinned", "absent", "CRI ImageStatus")
	gone.Remedy = check.Remedy{Text: "bring it in", Command: "edgeprep apply"}
	follows := result("COLD-04", check.StatusFail, finding(check.StatusFail, "registry.k8s.io/pause:3.10", "", "nobody serves it", ""))
	follows.CausedBy = []string{"IMG-01"}
	deferred := result("REG-16", check.StatusSkip, check.Finding{Status: check.StatusSkip, Subject: "pull", Reason: "no runtime", Deferred: true})
	f.report = reportOf(check.VerdictFail, result("CRI-10", check.StatusPass), result("IMG-01", check.StatusFail, gone), follows,
		result("HST-06", check.StatusWarn, finding(check.StatusWarn, "systemd-networkd-wait-online.service", "not enabled", "enabled", "")), deferred)
	f.report.Missing = []check.Missing{{IDs: []string{"IMG-01"}, Text: "bring in registry.k8s.io/pause:3.10: edgeprep apply"}}
	return onScreen[*checkScreen](t, f)
}

func reported(t *testing.T) *player {
	f := stagedBox()
	f.report = passing()
	p := onScreen[*checkScreen](t, f)
	p.run(p.m.show(the[*reportScreen](t, p.m)))
	return p
}

func TestChecklistKeys(t *testing.T) {
	t.Parallel()
	p := checkedBox(t)
	s := the[*checkScreen](t, p.m)
	if got := p.m.content(); !strings.Contains(got, "NOT READY") || strings.Contains(got, "COLD-04") {
		t.Errorf("a consequence is shown by itself, or no verdict:\n%s", got)
	}
	p.keys("down", "enter")
	if got := p.m.content(); !strings.Contains(got, "COLD-04") || !strings.Contains(got, "edgeprep apply") {
		t.Errorf("no details:\n%s", got)
	}
	p.keys("f")
	if got := p.m.content(); strings.Contains(got, "CRI-10") || !strings.Contains(got, "IMG-01") {
		t.Errorf("not only what is missing:\n%s", got)
	}
	before := s.report
	p.keys("r")
	if s.report == before || s.report == nil {
		t.Error("not run again")
	}
	if p.m.outcome == nil {
		t.Error("a failed checklist leaves no exit code")
	}
}

func TestWaive(t *testing.T) {
	t.Parallel()
	p := checkedBox(t)
	p.keys("down", "W") // IMG-01
	if len(p.m.dialogs) != 0 || !strings.Contains(p.m.content(), "cannot be waived") {
		t.Error(p.m.content())
	}
	p.keys("down", "W")
	p.keys("enter") // no reason
	if len(p.m.dialogs) != 1 {
		t.Fatal("a waiver without a reason")
	}
	p.typed("no such unit on \"site\"")
	p.keys("enter")
	p.typed("J. Ortiz")
	p.keys("enter")
	p.typed("soon")
	p.keys("enter") // no date
	if len(p.m.dialogs) != 1 {
		t.Fatal("a waiver until soon")
	}
	p.keys("ctrl+u")
	p.typed("2027-01-31")
	p.keys("enter")
	w := p.m.draft.site.Checklist.Waive
	if len(w) != 1 || w[0].ID != "HST-06" || w[0].Reason != "no such unit on \"site\"" || w[0].Owner != "J. Ortiz" || w[0].Until != "2027-01-31" {
		t.Errorf("%+v", w)
	}
	if !strings.Contains(string(p.m.draft.file.Text), "# Accepted without asking") {
		t.Error("the comments are gone")
	}
}
