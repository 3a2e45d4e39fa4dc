package app

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every id of docs/errors.md has a story, and no line of another kind is taken for one.
func TestEveryErrorHasAStory(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?m)^\| ([A-Z]{3}-\d{3}) `).FindAllStringSubmatch(string(doc), -1)
	all := Errors()
	if len(all) != len(want) || len(all) < 100 {
		t.Fatalf("%d stories of %d errors", len(all), len(want))
	}
	for i, e := range all {
		if e.ID != want[i][1] || e.From == "" || strings.Contains(e.Fix, `\|`) {
			t.Errorf("%+v, want %s", e, want[i][1])
		}
	}
	if e, ok := ErrorByID("APL-011"); !ok || e.Fix != "dmesg | tail; edgeprep plan" {
		t.Errorf("APL-011: %+v", e)
	}
}
