package tui

import (
	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
)

// keyMap are the keys that mean the same on every screen. None needs a function key, a mouse, Alt, or the Kitty
// protocol; what arrives as an escape sequence has a letter too, because slow lines tear sequences apart.
type keyMap struct {
	up, down, next, back, choose, esc, filter, help, save, basic, repaint, stop, suspend, quit, pageUp, pageDown, step key.Binding
}

func newKeyMap() keyMap {
	bind := func(show, what string, keys ...string) key.Binding {
		return key.NewBinding(key.WithKeys(keys...), key.WithHelp(show, what))
	}
	return keyMap{
		up:       bind("up/k", "move up", "up", "k", "ctrl+p"),
		down:     bind("down/j", "move down", "down", "j", "ctrl+n"),
		next:     bind("tab", "next step", "tab"),
		back:     bind("p", "previous step", "shift+tab", "p"),
		choose:   bind("enter", "choose", "enter", "space"),
		esc:      bind("esc", "back, close", "esc"),
		filter:   bind("/", "filter", "/"),
		help:     bind("?", "help", "?", "f1"),
		save:     bind("s", "save edgeprep.toml", "s"),
		basic:    bind("ctrl+t", "rich or basic characters", "ctrl+t"),
		repaint:  bind("ctrl+l", "repaint", "ctrl+l"),
		stop:     bind("ctrl+c", "quit", "ctrl+c"),
		suspend:  bind("ctrl+z", "suspend", "ctrl+z"),
		quit:     bind("q", "quit", "q"),
		pageUp:   bind("ctrl+b", "page up", "pgup", "ctrl+b"),
		pageDown: bind("ctrl+f", "page down", "pgdown", "ctrl+f"),
		step:     bind("1-9", "go to a step", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
	}
}

// everywhere lists the keys for the help, in the order of use.
func (k keyMap) everywhere() []key.Binding {
	return []key.Binding{k.up, k.down, k.choose, k.next, k.back, k.esc, k.step, k.filter, k.pageUp, k.pageDown, k.save, k.help,
		k.basic, k.repaint, k.suspend, k.quit, k.stop}
}

// on names a key of one screen, for footer and help.
func on(show, what string) key.Binding {
	return key.NewBinding(key.WithKeys(show), key.WithHelp(show, what))
}

func is(msg tea.KeyPressMsg, b ...key.Binding) bool { return key.Matches(msg, b...) }

// choice is a selection in a list whose items have ids: it survives when the list changes.
type choice struct{ id string }

// index is where the chosen item is now; the first one when it is gone.
func (c *choice) index(ids []string) int {
	for i, id := range ids {
		if id == c.id {
			return i
		}
	}
	return 0
}

// on says whether an item is the chosen one.
func (c *choice) on(ids []string, i int) bool { return c.index(ids) == i }

// move handles the keys that move; it says whether msg was one.
func (c *choice) move(k keyMap, msg tea.KeyPressMsg, ids []string) bool {
	d := 0
	switch {
	case is(msg, k.up):
		d = -1
	case is(msg, k.down):
		d = 1
	default:
		return false
	}
	if len(ids) > 0 {
		c.id = ids[min(len(ids)-1, max(0, c.index(ids)+d))]
	}
	return true
}
