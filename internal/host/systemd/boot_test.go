package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInBootedContainer boots this machine's own systemd in a container, over a throw-away copy of its root
// file system, and runs the tests that need one there: with a bus, and with systemd's private socket alone.
func TestInBootedContainer(t *testing.T) {
	if os.Getenv("EDGEPREP_REQUIRE_REAL") != "1" {
		t.Skip("boots a container; runs with EDGEPREP_REQUIRE_REAL=1")
	}
	root := overlay(t)
	leader := boot(t, root)
	self := filepath.Join(root, "usr/local/bin/systemd.test")
	binary, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(self, binary, 0o755) //nolint:gosec // a program
	}
	if err != nil {
		t.Fatal(err)
	}
	inside := func(args ...string) {
		t.Helper()
		args = append([]string{"-t", strconv.Itoa(leader), "-a", "env", "EDGEPREP_TEST_SYSTEMD=1"}, args...)
		if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil { //nolint:gosec // fixed
			t.Errorf("%v: %v\n%s", args, err, out)
		} else if t.Logf("%s", out); strings.Contains(string(out), "SKIP: TestUnitsConformanceLive ") {
			t.Errorf("skipped inside:\n%s", out)
		}
	}
	tests := []string{"/usr/local/bin/systemd.test", "-test.v", "-test.run=TestUnitsConformanceLive|TestJobGivenUp|TestDependencyFails"}
	inside(tests...)
	inside("systemctl", "stop", "dbus.socket", "dbus.service")
	inside(tests...)
}

// overlay makes a writable view of the root file system.
func overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	root := filepath.Join(dir, "root")
	for _, d := range []string{"up", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil { //nolint:gosec // a root directory
			t.Fatal(err)
		}
	}
	opts := fmt.Sprintf("lowerdir=/,upperdir=%s/up,workdir=%s/work", dir, dir)
	if err := unix.Mount("overlay", root, "overlay", 0, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	return root
}

// boot starts the container and gives the process id of its systemd.
func boot(t *testing.T, root string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "-b", "-D", root, "--register=no", "--keep-unit",
		"--network-veth", "--machine="+fmt.Sprintf("edgeprep%d", os.Getpid()), "systemd.unit=basic.target") //nolint:gosec // fixed
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	var leader int
	t.Cleanup(func() {
		if leader != 0 { // it outlives its systemd-nspawn
			_ = unix.Kill(leader, unix.SIGKILL)
		}
		cancel()
		_ = cmd.Wait()
	})
	for ctx.Err() == nil {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		for _, c := range strings.Fields(string(children)) {
			if leader, _ = strconv.Atoi(c); booted(ctx, leader) {
				return leader
			}
		}
		time.Sleep(100 * time.Millisecond) // polls another process
	}
	t.Fatalf("no systemd:\n%s", out.String())
	return 0
}

func booted(ctx context.Context, leader int) bool {
	out, _ := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(leader), "-a", "systemctl", "is-active", "basic.target").Output() //nolint:gosec // fixed
	return strings.TrimSpace(string(out)) == "active"
}
