package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// smallDisk is a node tree on a file system of its own.
func smallDisk(t *testing.T, size string) *hosttest.Node {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal("needs root to mount a small file system")
		}
		t.Skip("needs root: mounts a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skipf("needs mount(2): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n := hosttest.At(t, dir)
	baseTree(n)
	return n
}

func fill(t *testing.T, p string, leave int64) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(p), &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bavail)*st.Bsize - leave
	if err := os.WriteFile(p, []byte(strings.Repeat("x", int(free))), 0o600); err != nil {
		t.Fatal(err)
	}
}

func treeApply(t *testing.T, dir string, rs []resource.Resource) error {
	t.Helper()
	h, err := local.New(local.Options{Root: dir, Units: offline})
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Engine{Host: h}).Run(context.Background(), func(ctx context.Context) (plan.Plan, error) {
		l, err := plan.ReadLedger(h.FS())
		if err != nil {
			return plan.Plan{}, err
		}
		return plan.Build(ctx, local.ReadOnly(h), rs, l, plan.Options{})
	})
	return err
}

func treeRollback(t *testing.T, dir string) {
	t.Helper()
	h, err := local.New(local.Options{Root: dir, Units: offline})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Engine{Host: h}).Rollback(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk lets the disk run full at many points of a run. The error names it; with room again the next
// apply finishes, and the way back leads to the same bytes.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	n := smallDisk(t, "1m")
	rs := treeResources([]byte(n.ReadFile("/media/images.tar")))
	filler := filepath.Join(n.Dir, "media/filler")
	before := treeOf(t, n.Dir)
	failed := 0
	step := int64(4 << 10)
	if testing.Short() {
		step = 16 << 10
	}
	for leave := int64(0); leave <= 128<<10; leave += step {
		fill(t, filler, leave)
		err := treeApply(t, n.Dir, rs)
		if err != nil {
			failed++
			if !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), "no space left") && !strings.Contains(err.Error(), "systemd-sysusers") {
				t.Errorf("%d bytes free: %v", leave, err)
			}
			if got := n.ReadFile(registries); got != sharedV0 && got != sharedV1 {
				t.Errorf("%d bytes free: half a file: %q", leave, got)
			}
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if leave%(2*step) == 0 {
			if err := treeApply(t, n.Dir, rs); err != nil {
				t.Errorf("with room again after %d: %v", leave, err)
			}
		}
		treeRollback(t, n.Dir)
		equal(t, fmt.Sprintf("rollback after %d bytes free", leave), before, treeOf(t, n.Dir))
	}
	if failed < 2 {
		t.Errorf("the disk was full %d times only", failed)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	n := smallDisk(t, "4m")
	rs := treeResources([]byte(n.ReadFile("/media/images.tar")))
	before := treeOf(t, n.Dir)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("", n.Dir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	err := treeApply(t, n.Dir, rs)
	if !errors.Is(err, syscall.EROFS) || len(diag.Of(err)) == 0 {
		t.Errorf("read-only: %v", err)
	}
	remount(0)
	equal(t, "read-only", before, treeOf(t, n.Dir))
	if err := treeApply(t, n.Dir, rs); err != nil {
		t.Fatal(err)
	}
	remount(syscall.MS_RDONLY)
	st, err := ReadStatus(context.Background(), n)
	if err != nil || len(st.Runs) != 1 {
		t.Errorf("status on a read-only disk: %v %+v", err, st)
	}
	remount(0)
	treeRollback(t, n.Dir)
	equal(t, "rollback", before, treeOf(t, n.Dir))
}
