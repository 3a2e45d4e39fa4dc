package tui

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the frames in testdata/frames anew")

// scene is a state worth looking at: every one is kept as a frame at every size and in both looks.
type scene struct {
	name string
	show func(t *testing.T) *player
}

func allScenes() []scene { return slices.Concat(scenes(), pullScenes(), runScenes()) }

func scenes() []scene {
	return []scene{
		{"1-detect", func(t *testing.T) *player { return play(t, k3sBox()) }},
		{"1-detect-help", func(t *testing.T) *player { p := play(t, k3sBox()); p.keys("?"); return p }},
		{"1-detect-details", func(t *testing.T) *player { p := play(t, k3sBox()); p.keys("d"); return p }},
		{"1-detect-unknown", unknownMachine},
		{"2-nodes", atStep(2)},
		{"2-nodes-three", threeNodes},
		{"2-nodes-edit", func(t *testing.T) *player { p := threeNodes(t); p.keys("e"); return p }},
		{"2-nodes-name", atStep(2, "a")},
		{"3-images", atStep(3)},
		{"3-images-list", atStep(3, "down", "down", "down")},
		{"3-images-inspect", atStep(3, "i")},
		{"4-mirror", atStep(4)},
		{"4-mirror-workload", atStep(4, "down", "enter")},
		{"4-mirror-why", atStep(4, "w")},
		{"5-copies-alone", atStep(5)},
		{"5-copies-three", func(t *testing.T) *player { p := threeNodes(t); p.keys("5", "down", "down", "enter"); return p }},
		{"6-review", atStep(6)},
		{"6-review-open", atStep(6, "down", "down", "down", "down", "down", "down", "enter")},
		{"6-review-whole", atStep(6, "D")},
		{"6-review-start", atStep(6, "c")},
		{"6-review-risk", riskyReview},
		{"6-review-risk-typed", func(t *testing.T) *player { p := riskyReview(t); p.keys("A"); p.typed("re"); return p }},
		{"6-review-refused", refusedReview},
		{"0-quit", atStep(4, "down", "enter", "q")},
		{"0-failure", failedSave},
	}
}

// atStep is a step of a new plan on the k3s machine, and keys pressed there.
func atStep(step int, keys ...string) func(*testing.T) *player {
	return func(t *testing.T) *player {
		p := play(t, k3sBox())
		p.keys("enter", fmt.Sprint(step))
		p.keys(keys...)
		if p.m.at != step-1 {
			t.Fatalf("at step %d, not %d", p.m.at+1, step)
		}
		return p
	}
}

// TestFrames compares every scene with its frames; go test ./internal/tui -update writes them anew. They are for the
// eye too: the pictures of the documents are made of them.
func TestFrames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range allScenes() {
		for _, size := range [][2]int{{80, 24}, {60, 20}, {40, 12}} {
			for _, look := range []string{"rich", "ascii"} {
				name := fmt.Sprintf("%s.%dx%d.%s.txt", s.name, size[0], size[1], look)
				seen[name] = true
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					p := s.show(t)
					p.m.look = Look{ASCII: look == "ascii", Mono: look == "ascii"}
					p.size(size[0], size[1])
					compareFrame(t, name, p.m.content(), size[0], size[1])
				})
			}
		}
	}
	noStrayFrames(t, seen)
}

func compareFrame(t *testing.T, name, got string, width, height int) {
	t.Helper()
	rows := strings.Split(got, "\n")
	if len(rows) > height {
		t.Errorf("%d rows on a terminal of %d", len(rows), height)
	}
	for i, r := range rows {
		if w := lipgloss.Width(r); w >= width {
			t.Errorf("row %d is %d columns wide, the terminal %d: %q", i+1, w, width, r)
		}
		if strings.HasSuffix(name, ".ascii.txt") && strings.ContainsFunc(r, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("row %d is not ASCII: %q", i+1, r)
		}
	}
	file := filepath.Join("testdata/frames", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got+"\n"); diff != "" {
		t.Errorf("frame (-want +got); go test ./internal/tui -update when it is right:\n%s", diff)
	}
}

// noStrayFrames: a scene that is gone takes its frames along.
func noStrayFrames(t *testing.T, seen map[string]bool) {
	t.Helper()
	files, err := filepath.Glob("testdata/frames/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[filepath.Base(f)] {
			if *update {
				os.Remove(f)
				continue
			}
			t.Errorf("%s belongs to no scene", f)
		}
	}
}
