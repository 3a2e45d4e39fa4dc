package check

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarkdownIsCurrent(t *testing.T) {
	t.Parallel()
	const file = "../../docs/checks.md"
	want := Markdown()
	if os.Getenv("EDGEPREP_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("%s is not current; run make docs:\n%s", file, d)
	}
}

// TestCatalogue holds what explain, docs and verdict rely on.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	all := Catalogue()
	for _, c := range all {
		switch {
		case seen[c.ID]:
			t.Errorf("%s is there twice", c.ID)
		case c.Title == "" || c.Story.Seen == "" || c.Story.Cause == "" || c.Story.Look == "" || c.Story.Fix == "" || len(c.Story.Sources) == 0:
			t.Errorf("%s has an incomplete story", c.ID)
		case c.Severity != SeverityFail && c.Severity != SeverityWarn || c.Scope == "" || c.Run == nil:
			t.Errorf("%s lacks severity, scope or function", c.ID)
		case strings.HasSuffix(c.Title, "."):
			t.Errorf("%s: title with a full stop", c.ID)
		}
		seen[c.ID] = true
	}
	for _, c := range all {
		for _, d := range c.DependsOn {
			if !seen[d] {
				t.Errorf("%s depends on %s, which is no check", c.ID, d)
			}
		}
		if cyclic(c.ID, c.ID, all, map[string]bool{}) {
			t.Errorf("%s depends on itself", c.ID)
		}
		for _, r := range Markdown() + c.Story.Seen {
			if r > 126 {
				t.Fatalf("not ASCII: %q", r)
			}
		}
	}
	if _, ok := ByID("PRC-03"); !ok {
		t.Error("PRC-03 is not found")
	}
	if _, ok := ByID("XXX-99"); ok {
		t.Error("XXX-99 is found")
	}
}

func cyclic(from, to string, all []Check, seen map[string]bool) bool {
	for _, d := range byID(all, from).DependsOn {
		if d == to {
			return true
		}
		if !seen[d] {
			seen[d] = true
			if cyclic(d, to, all, seen) {
				return true
			}
		}
	}
	return false
}
