package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLabel(t *testing.T) {
	t.Parallel()
	h, err := New(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.root.dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const label = "system_u:object_r:container_var_lib_t:s0"
	if err := unix.Setxattr(file, labelName, []byte(label+"\x00"), 0); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
		t.Skip("needs root: sets an attribute of the name space security")
	} else if err != nil {
		t.Fatal(err)
	}
	if got, err := h.FS().Label("/f"); err != nil || got != label {
		t.Errorf("%q, %v", got, err)
	}
}
