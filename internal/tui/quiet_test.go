package tui

import (
	"bytes"
	"testing"
)

type fakeTerminal struct{ bytes.Buffer }

func (*fakeTerminal) Close() error { return nil }
func (*fakeTerminal) Fd() uintptr  { return 0 }

func TestOldTerminalGetsOnlyWhatItKnows(t *testing.T) {
	t.Parallel()
	f := &fakeTerminal{}
	for _, s := range []string{"\x1b[?2026$p\x1b[?2027$p", "\x1b[?25l\x1b[?5W\x1b[?2004h\x1b[>4;2m\x1b[>1u\x1b[?u\x1b[Hedgeprep", "\x1b[<u"} {
		if n, err := (quiet{f}).Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("wrote %d of %d: %v", n, len(s), err)
		}
	}
	if got := f.String(); got != "\x1b[?25l\x1b[Hedgeprep" {
		t.Errorf("it got %q", got)
	}
}

func TestLookFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env    []string
		device string
		want   Look
	}{
		"xterm":        {[]string{"TERM=xterm-256color", "LANG=en_US.UTF-8"}, "/dev/pts/3", Look{}},
		"no locale":    {[]string{"TERM=xterm"}, "/dev/pts/3", Look{ASCII: true}},
		"LC_ALL wins":  {[]string{"TERM=xterm", "LANG=en_US.UTF-8", "LC_ALL=C"}, "/dev/pts/3", Look{ASCII: true}},
		"console":      {[]string{"TERM=linux", "LANG=C.UTF-8"}, "/dev/tty1", Look{ASCII: true, Old: true}},
		"vt220":        {[]string{"TERM=vt220", "LANG=C.UTF-8"}, "/dev/ttyS0", Look{ASCII: true, Mono: true, Slow: true, Old: true}},
		"xterm behind": {[]string{"TERM=xterm", "LANG=C.UTF-8"}, "/dev/ttyS0", Look{Slow: true, Old: true}},
		"unset":        {nil, "/dev/pts/3", Look{ASCII: true, Mono: true, Slow: true, Old: true}},
		"no colour":    {[]string{"TERM=xterm", "LANG=C.UTF-8", "NO_COLOR=1"}, "/dev/pts/3", Look{Mono: true}},
		"empty colour": {[]string{"TERM=xterm", "LANG=C.UTF-8", "NO_COLOR="}, "/dev/pts/3", Look{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := LookFor(c.env, c.device); got != c.want {
				t.Errorf("%+v, not %+v", got, c.want)
			}
		})
	}
}

// TestFrameFitsASlowLine: a full frame at 9600 baud takes two seconds, no more.
func TestFrameFitsASlowLine(t *testing.T) {
	t.Parallel()
	for _, s := range allScenes() {
		p := s.show(t)
		p.m.look = Look{ASCII: true, Mono: true, Slow: true, Old: true}
		p.size(80, 24)
		if n := len(p.m.content()); n > 2048 {
			t.Errorf("%s: a frame of %d bytes", s.name, n)
		}
	}
}
