package tui

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// review plays a program up to step 6.
func review(t *testing.T, f *fake) *player {
	p := play(t, f)
	p.keys("enter", "6")
	return p
}

func riskyReview(t *testing.T) *player {
	f := k3sBox()
	f.review.Plan.Changes = append(f.review.Plan.Changes, plan.Change{ID: "unit:k3s.service", Kind: resource.KindUnit, Action: plan.ActionRestart, Path: "k3s.service",
		Summary: "k3s.service", Reason: "it reads registries.yaml when it starts", Risks: []plan.Risk{plan.RiskRestart}})
	return review(t, f)
}

func refusedReview(t *testing.T) *player {
	f := k3sBox()
	f.errs["Review"] = &diag.Refused{Err: diag.Report{{ID: "NOD-100", Severity: diag.Error, What: "no archive at /opt/edgeprep/images/*.tar*",
		Where: diag.Where{File: "/etc/edgeprep/edgeprep.toml", Key: "images.archives[0]"}, Why: "its images would be missing on the node without a word",
		Fix: "put it there, or remove the entry: ls -l /opt/edgeprep/images/*.tar*"}}}
	return review(t, f)
}

func failedSave(t *testing.T) *player {
	f := k3sBox()
	f.errs["Save"] = errors.New("save /etc/edgeprep/edgeprep.toml: permission denied")
	p := play(t, f)
	p.keys("enter", "s")
	return p
}

// TestReviewedPlanInFewKeys: somebody who presses what the screen offers has a reviewed plan after a dozen keys.
func TestReviewedPlanInFewKeys(t *testing.T) {
	t.Parallel()
	f := k3sBox()
	p := play(t, f)
	keys := []string{"enter", "tab", "tab", "tab", "tab"}
	p.keys(keys...)
	if p.m.at != 5 || !strings.Contains(p.m.content(), "Plan: ") {
		t.Fatalf("not at the review:\n%s", p.m.content())
	}
	if len(keys) >= 12 {
		t.Errorf("it takes %d keys", len(keys))
	}
	if len(f.saves) != 1 || f.disk["/etc/edgeprep/edgeprep.toml"] != starter {
		t.Errorf("saved %d times:\n%s", len(f.saves), f.disk["/etc/edgeprep/edgeprep.toml"])
	}
	if p.m.draft.dirty() {
		t.Error("a plan that was just saved counts as changed")
	}
}

func TestRiskIsAllowedForGood(t *testing.T) {
	t.Parallel()
	p := riskyReview(t)
	p.keys("a", "down", "enter")
	if got := p.m.draft.site.Apply.Allow; !slices.Equal(got, []string{"restart"}) {
		t.Errorf("allow = %q", got)
	}
	if !strings.Contains(string(p.m.draft.file.Text), "# Accepted without asking") {
		t.Error("the comment above it is gone")
	}
}

func TestWithoutRootApplyIsSpelledOut(t *testing.T) {
	t.Parallel()
	f := k3sBox()
	f.survey.Facts.Root = false
	p := review(t, f)
	p.keys("A")
	if !strings.Contains(p.m.content(), "sudo edgeprep apply") {
		t.Errorf("shown:\n%s", p.m.content())
	}
}
