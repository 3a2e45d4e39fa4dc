package tui

import (
	"strings"
	"testing"
)

// threeNodes is the plan of three nodes, entered by keys.
func threeNodes(t *testing.T) *player {
	p := atStep(2)(t)
	p.keys("a", "enter")
	p.typed("192.168.70.11")
	p.keys("enter")
	for _, n := range [][2]string{{"bravo-2", "192.168.70.12"}, {"bravo-3", "192.168.70.13"}} {
		p.keys("a")
		p.typed(n[0])
		p.keys("enter")
		p.typed(n[1])
		p.keys("enter")
	}
	p.keys("k")
	return p
}

func TestNodesAreEntered(t *testing.T) {
	t.Parallel()
	p := threeNodes(t)
	want := `
[[node]]
name = "kiosk-0417"
address = "192.168.70.11"

[[node]]
name = "bravo-2"
address = "192.168.70.12"

[[node]]
name = "bravo-3"
address = "192.168.70.13"
`
	text := string(p.m.draft.file.Text)
	if !strings.HasSuffix(text, want) {
		t.Errorf("the file ends\n%s", text)
	}
	if strings.Contains(text, "listen") {
		t.Error("the mirror still listens on loopback, where the other nodes cannot reach it")
	}
	p.keys("e", "down", "down", "down", "down", "enter")
	if got := p.m.draft.site.Nodes[2].Mirror; got != "none" {
		t.Errorf("the mirror of the third node is %q", got)
	}
	p.keys("x", "enter")
	if n := len(p.m.draft.site.Nodes); n != 3 {
		t.Errorf("%d nodes after a question that was answered with no", n)
	}
	p.keys("x", "down", "enter")
	if n := len(p.m.draft.site.Nodes); n != 2 {
		t.Errorf("%d nodes after one was removed", n)
	}
}
