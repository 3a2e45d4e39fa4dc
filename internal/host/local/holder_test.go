package local

import (
	"os"
	"testing"
)

func TestLockHolder(t *testing.T) {
	t.Parallel()
	h, err := New(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/run/none/lock", "/lock"} {
		if pid, held, err := h.LockHolder(p); pid != 0 || held || err != nil {
			t.Error(pid, held, err)
		}
	}
	unlock, err := h.Files().Lock(t.Context(), "/lock", "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	if pid, held, err := h.LockHolder("/lock"); pid != os.Getpid() || !held || err != nil {
		t.Error(pid, held, err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if _, held, err := h.LockHolder("/lock"); held || err != nil {
		t.Error(held, err)
	}
}

func TestFlockOf(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int{
		"1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF":    1234,
		"1: FLOCK  ADVISORY  READ  1234 00:1a:5678 0 EOF":    0,
		"1: POSIX  ADVISORY  WRITE 1234 00:1a:5678 0 EOF":    0,
		"1: -> FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF": 0,
		"1: FLOCK  ADVISORY  WRITE 1234 00:1a:56789 0 EOF":   0,
		"1: FLOCK": 0,
		"":         0,
	} {
		if pid, ok := flockOf(line, 5678); pid != want || ok != (want != 0) {
			t.Errorf("%q: %d %v", line, pid, ok)
		}
	}
}
