package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDemoOnADiskThatIsAlmostFull: the demo is shown on laptops, and ended with an error where TAR-10 found the
// disk too full for a node.
func TestDemoOnADiskThatIsAlmostFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=600m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 520<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("edgeprep", "demo", "--dir", filepath.Join(dir, "demo")).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("only TAR-10 fails")) {
		t.Errorf("%v\n%s", err, out)
	}
}
