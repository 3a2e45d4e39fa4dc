package tui

import (
	"strings"
	"testing"
)

func TestModeKeepsComments(t *testing.T) {
	t.Parallel()
	p := atStep(4)(t)
	p.keys("down", "enter")
	want := strings.Replace(starter, `mode     = "systemd" `, `mode     = "workload" `, 1)
	if got := string(p.m.draft.file.Text); got != want {
		t.Errorf("the file is\n%s\nnot\n%s", got, want)
	}
	p.keys("up", "enter")
	if p.m.draft.dirty() {
		t.Error("back at the first answer, the plan still counts as changed")
	}
}
