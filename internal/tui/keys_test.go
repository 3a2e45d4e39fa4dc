package tui

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// keyCase is what one key of the key map does, from a state where it has something to do.
type keyCase struct {
	keys []string // every one does it
	from func(t *testing.T) *player
	want func(m *model) bool
}

func keyCases() map[string]keyCase {
	chosen := func(id string) func(*model) bool {
		return func(m *model) bool { return m.screens[3].(*mirrorScreen).choice.id == id }
	}
	atScreen := func(n int) func(*model) bool { return func(m *model) bool { return m.at == n-1 } }
	help := func(t *testing.T) *player { p := atStep(4)(t); p.size(60, 20); p.keys("?"); return p }
	return map[string]keyCase{
		"up":       {[]string{"up", "k", "ctrl+p"}, atStep(4, "down", "down"), chosen("workload")},
		"down":     {[]string{"down", "j", "ctrl+n"}, atStep(4), chosen("workload")},
		"next":     {[]string{"tab"}, atStep(4), atScreen(5)},
		"back":     {[]string{"shift+tab", "p"}, atStep(4), atScreen(3)},
		"choose":   {[]string{"enter", "space"}, atStep(4, "down"), func(m *model) bool { return m.draft.site.Mirror.Mode == "workload" }},
		"esc":      {[]string{"esc"}, atStep(4), atScreen(3)},
		"filter":   {[]string{"/"}, atStep(3), func(m *model) bool { return len(m.dialogs) == 1 }},
		"help":     {[]string{"?", "f1"}, atStep(4), func(m *model) bool { return len(m.dialogs) == 1 && strings.Contains(m.content(), "Help: Mirror") }},
		"save":     {[]string{"s"}, atStep(4, "down", "enter"), func(m *model) bool { return !m.draft.dirty() && m.draft.file.Exists }},
		"basic":    {[]string{"ctrl+t"}, atStep(4), func(m *model) bool { return m.look.ASCII && m.look.Mono }},
		"pageUp":   {[]string{"pgup", "ctrl+b"}, func(t *testing.T) *player { p := help(t); p.keys("ctrl+f", "ctrl+f"); return p }, func(m *model) bool { return m.page == 1 }},
		"pageDown": {[]string{"pgdown", "ctrl+f"}, help, func(m *model) bool { return m.page == 1 && !strings.Contains(m.content(), "Help: Mirror") }},
		"step":     {[]string{"5"}, atStep(4), atScreen(5)},
		"stop":     {[]string{"ctrl+c"}, atStep(4, "down", "enter"), func(m *model) bool { return len(m.dialogs) == 1 }},
		"quit":     {[]string{"q"}, atStep(4, "down", "enter"), func(m *model) bool { return len(m.dialogs) == 1 }},
	}
}

// TestEveryKeyDoesWhatItSays: each key of the map, by each of its names.
func TestEveryKeyDoesWhatItSays(t *testing.T) {
	t.Parallel()
	byMessage := map[string]string{"repaint": "ctrl+l", "suspend": "ctrl+z"} // what they do is bubbletea's
	cases := keyCases()
	bindings := reflect.ValueOf(newKeyMap())
	for i := range bindings.NumField() {
		name := bindings.Type().Field(i).Name
		c, ok := cases[name]
		if !ok && byMessage[name] == "" {
			t.Errorf("no test for %s", name)
		}
		for _, k := range c.keys {
			t.Run(name+" "+k, func(t *testing.T) {
				t.Parallel()
				p := c.from(t)
				if c.want(p.m) {
					t.Fatal("so it was before the key")
				}
				p.keys(k)
				if !c.want(p.m) {
					t.Errorf("the key did nothing:\n%s", p.m.content())
				}
			})
		}
	}
	m := newModel(t.Context(), k3sBox(), Options{})
	m.width, m.height = 80, 24
	for name, k := range byMessage {
		if _, cmd := m.Update(keyNamed(t, k)); cmd == nil {
			t.Errorf("%s does nothing", name)
		}
	}
}

// TestEveryKeyIsInTheHelp, and each key of the table above is one that is bound.
func TestEveryKeyIsInTheHelp(t *testing.T) {
	t.Parallel()
	k := newKeyMap()
	bound := map[string]bool{}
	for _, b := range k.everywhere() {
		for _, n := range b.Keys() {
			bound[n] = true
		}
	}
	if n := reflect.ValueOf(k).NumField(); n != len(k.everywhere()) {
		t.Errorf("the help has %d of %d keys", len(k.everywhere()), n)
	}
	for name, c := range keyCases() {
		for _, n := range c.keys {
			if !bound[n] {
				t.Errorf("%s: %s is not bound", name, n)
			}
		}
	}
}

// TestNoKeyNeedsMoreThanALetter: slow lines tear escape sequences apart, and serial terminals do not send all.
func TestNoKeyNeedsMoreThanALetter(t *testing.T) {
	t.Parallel()
	for _, b := range newKeyMap().everywhere() {
		if !plainKey(b) {
			t.Errorf("%s: only %q", b.Help().Desc, b.Keys())
		}
	}
}

func plainKey(b key.Binding) bool {
	for _, k := range b.Keys() {
		if len([]rune(k)) == 1 || strings.HasPrefix(k, "ctrl+") || k == "tab" || k == "enter" || k == "esc" {
			return true
		}
	}
	return false
}

func TestTooSmallIgnoresKeys(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{39, 12}, {40, 11}, {1, 1}, {20, 5}} {
		p := atStep(4)(t)
		p.size(size[0], size[1])
		p.keys("down", "enter", "tab", "5", "s", "?")
		p.typed("x")
		if p.m.at != 3 || p.m.draft.dirty() || len(p.m.dialogs) > 0 {
			t.Errorf("%v: a key was taken on a screen that nobody sees", size)
		}
		rows := strings.Split(p.m.content(), "\n")
		if len(rows) > size[1] {
			t.Errorf("%v: the notice has %d rows", size, len(rows))
		}
		p.keys("ctrl+c")
		if !p.left {
			t.Errorf("%v: ctrl+c does not leave", size)
		}
	}
}

// TestResizeKeepsTheChoice, whatever the size was in between.
func TestResizeKeepsTheChoice(t *testing.T) {
	t.Parallel()
	p := atStep(6, "down", "down", "down")(t)
	want := p.m.content()
	for _, size := range [][2]int{{40, 12}, {30, 8}, {200, 60}, {60, 20}, {80, 24}} {
		p.size(size[0], size[1])
		for _, r := range strings.Split(p.m.content(), "\n") {
			if lipgloss.Width(r) > size[0] {
				t.Errorf("%v: a row of %d columns", size, lipgloss.Width(r))
			}
		}
	}
	if got := p.m.content(); got != want {
		t.Errorf("after resizing:\n%s\nbefore:\n%s", got, want)
	}
}

func TestQuitWithoutSaving(t *testing.T) {
	t.Parallel()
	f := k3sBox()
	p := play(t, f)
	p.keys("enter", "4", "down", "enter", "q", "enter")
	if p.left {
		t.Fatal("the first answer is to stay")
	}
	p.keys("q", "down", "down", "enter")
	if !p.left || len(f.saves) != 0 {
		t.Errorf("left: %v, saved %d times", p.left, len(f.saves))
	}
}

func TestQuitAfterSaving(t *testing.T) {
	t.Parallel()
	f := k3sBox()
	p := play(t, f)
	p.keys("enter", "4", "down", "enter", "ctrl+c", "down", "enter")
	if !p.left || len(f.saves) != 1 || !strings.Contains(f.disk["/etc/edgeprep/edgeprep.toml"], `"workload"`) {
		t.Errorf("left: %v, saved %d times", p.left, len(f.saves))
	}
}

// TestFailedSaveDoesNotQuit: who asked for save and quit would lose the answers.
func TestFailedSaveDoesNotQuit(t *testing.T) {
	t.Parallel()
	f := k3sBox()
	f.errs["Save"] = errors.New("read-only file system")
	p := play(t, f)
	p.keys("enter", "4", "down", "enter", "q", "down", "enter")
	if p.left || !p.m.draft.dirty() || !strings.Contains(p.m.content(), "read-only file system") {
		t.Errorf("left: %v\n%s", p.left, p.m.content())
	}
}

// TestEverySizeHoldsTogether shows every scene at sizes that nobody thought of: nothing may be wider or higher than
// the terminal.
func TestEverySizeHoldsTogether(t *testing.T) {
	t.Parallel()
	for _, s := range allScenes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			p := s.show(t)
			for w := 1; w < 140; w += 7 {
				for h := 1; h < 50; h += 4 {
					p.take(tea.WindowSizeMsg{Width: w, Height: h})
					rows := strings.Split(p.m.content(), "\n")
					if len(rows) > h {
						t.Fatalf("%dx%d: %d rows", w, h, len(rows))
					}
					for _, r := range rows {
						if w >= minWidth && lipgloss.Width(r) > w {
							t.Fatalf("%dx%d: %s", w, h, fmt.Sprintf("%q", r))
						}
					}
				}
			}
		})
	}
}
