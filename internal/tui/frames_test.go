package tui

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
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

func scenes() []scene {
	return []scene{
		{"1-detect", func(t *testing.T) *player { return play(t, k3sBox()) }},
		{"1-detect-help", func(t *testing.T) *player { p := play(t, k3sBox()); p.keys("?"); return p }},
		{"1-detect-details", func(t *testing.T) *player { p := play(t, k3sBox()); p.keys("d"); return p }},
		{"1-detect-unknown", unknownMachine},
		{"4-mirror", atMirror},
		{"4-mirror-workload", func(t *testing.T) *player { p := atMirror(t); p.keys("down", "enter"); return p }},
		{"4-mirror-why", func(t *testing.T) *player { p := atMirror(t); p.keys("w"); return p }},
	}
}

// TestFrames compares every scene with its frames; go test ./internal/tui -update writes them anew. They are for the
// eye too: the pictures of the documents are made of them.
func TestFrames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range append(scenes(), runScenes()...) {
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
