// Package nspawn boots real nodes for tests: Debian with its own systemd in a container whose network
// namespace has a loopback and nothing else, so that a node without a network is one in fact. It needs root,
// systemd-nspawn and debootstrap.
package nspawn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

// packages are what every node has; containerd is Debian's own, 1.6.20.
const packages = "systemd,systemd-sysv,dbus,iproute2,procps,kmod,containerd,runc,busybox-static,ca-certificates"

const suite = "bookworm"

// Node is a running node.
type Node struct {
	Root   string // its file system, seen from here
	name   string
	leader int
	cmd    *exec.Cmd
	log    *os.File
	binds  []string
	boots  int
}

// Need skips the test with one line where nodes cannot be booted; with EDGEPREP_REQUIRE_REAL=1 that is a
// failure.
func Need(t testing.TB) {
	t.Helper()
	var why string
	if os.Geteuid() != 0 {
		why = "needs root: boots nodes with systemd-nspawn"
	}
	for _, p := range []string{"systemd-nspawn", "debootstrap", "nsenter"} {
		if _, err := exec.LookPath(p); err != nil && why == "" {
			why = "needs " + p + " (apt-get install systemd-container debootstrap)"
		}
	}
	switch {
	case why == "":
	case os.Getenv("EDGEPREP_REQUIRE_REAL") == "1":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// Base is a Debian tree that nodes are made from, built once per list of packages and kept in the user's
// cache folder.
func Base(t testing.TB) string {
	t.Helper()
	return once(t, packages, func(dir string) ([]byte, error) {
		return exec.Command("debootstrap", "--variant=minbase", "--include="+packages, suite, dir).CombinedOutput()
	})
}

// once is the tree of a list of packages; it is made where it is not in the cache folder yet.
func once(t testing.TB, what string, make func(dir string) ([]byte, error)) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	sum := sha256.Sum256([]byte(suite + what))
	dir := filepath.Join(cache, "edgeprep-test", "debian-"+suite+"-"+hex.EncodeToString(sum[:4]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		t.Fatal(err)
	}
	if out, err := make(tmp); err != nil {
		t.Fatalf("make %s: %v\n%s", dir, err, tail(out))
	}
	if err := os.Rename(tmp, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func tail(out []byte) []byte {
	if len(out) > 2000 {
		return out[len(out)-2000:]
	}
	return out
}

// New makes a node's file system from the base, not yet running, so that a test can put files in. Its changes
// lie in memory and are gone with the test.
func New(t testing.TB, name string) *Node {
	t.Helper()
	Need(t)
	return from(t, name, Base(t))
}

// from makes a node's file system over a tree.
func from(t testing.TB, name, base string) *Node {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "edgeprep-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	mount(t, "tmpfs", dir, "tmpfs", "size=6g,mode=0755")
	for _, d := range []string{"upper", "work", "root", "containerd"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n := &Node{Root: filepath.Join(dir, "root"), name: name}
	mount(t, "overlay", n.Root, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base, dir, dir))
	n.Write(t, "/etc/hostname", name+"\n")
	n.Write(t, "/etc/hosts", "127.0.0.1 localhost "+name+"\n")                                // containerd copies it into every pod
	n.Write(t, "/etc/resolv.conf", "nameserver 203.0.113.53\noptions timeout:1 attempts:1\n") // as HST-07 wants it where nobody answers
	id := sha256.Sum256([]byte(name))
	n.Write(t, "/etc/machine-id", hex.EncodeToString(id[:16])+"\n")
	return n
}

func mount(t testing.TB, source, target, fstype, options string) {
	t.Helper()
	if err := unix.Mount(source, target, fstype, 0, options); err != nil {
		t.Fatalf("mount %s on %s: %v", fstype, target, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

// Write puts a file on the node.
func (n *Node) Write(t testing.TB, path, content string) {
	t.Helper()
	at := filepath.Join(n.Root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Copy puts a file of this machine on the node.
func (n *Node) Copy(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	n.Write(t, to, string(data))
	if err := os.Chmod(filepath.Join(n.Root, to), mode); err != nil {
		t.Fatal(err)
	}
}

// Boot starts the node and waits until its systemd is up.
func (n *Node) Boot(t testing.TB) {
	t.Helper()
	n.PowerOn(t)
	n.wait(t)
}

// PowerOn starts the node and does not wait.
func (n *Node) PowerOn(t testing.TB) {
	t.Helper()
	var err error
	if n.log, err = os.CreateTemp(filepath.Dir(n.Root), "console-"); err != nil {
		t.Fatal(err)
	}
	// containerd's own root must not lie on an overlay: overlayfs cannot stack its upper directory there.
	bind := "--bind=" + filepath.Join(filepath.Dir(n.Root), "containerd") + ":/var/lib/containerd"
	n.boots++ // the veth pair of a boot that was cut off is named after it and goes some time later; of a test that was killed, never
	n.cmd = exec.Command("systemd-nspawn", "-b", "-D", n.Root, "--register=no", "--keep-unit", "--network-veth", bind,
		"--capability=all", "--system-call-filter=@keyring bpf", fmt.Sprintf("--machine=edgeprep-%s-%d-%d", n.name, n.boots, os.Getpid()))
	n.cmd.Args = append(n.cmd.Args, n.binds...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.PowerCut(t) })
}

func (n *Node) wait(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if n.leader = child(n.cmd.Process.Pid); n.leader != 0 {
			out, _ := n.enter(ctx, "systemctl", "is-system-running").Output()
			if s := strings.TrimSpace(string(out)); s == "running" || s == "degraded" {
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // systemd's socket appears some time after its process
		}
	}
	console, _ := os.ReadFile(n.log.Name())
	var why []byte
	if n.leader != 0 {
		why, _ = n.enter(context.Background(), "sh", "-c", "systemctl list-jobs; systemctl --failed; journalctl -b --no-pager -n 60").CombinedOutput()
	}
	t.Fatalf("node %s did not come up\n%s\n%s", n.name, tail(console), why)
}

// child is the first child process of pid: the container's init.
func child(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(f[0])
	return n
}

// enter is a command inside the node. (ip netns exec would hide the cgroup mounts from runc.)
func (n *Node) enter(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(n.leader), "-a"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8"}
	return cmd
}

// Inside is a command line that runs a program inside the node, for programs that start others.
func (n *Node) Inside(args ...string) []string {
	return append([]string{"nsenter", "-t", strconv.Itoa(n.leader), "-a"}, args...)
}

// Result is what a command on a node gave.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Sh runs a shell line on the node; any exit code is a result.
func (n *Node) Sh(t testing.TB, line string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := n.enter(ctx, "bash", "-c", line)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited { //nolint:errorlint // exec gives it unwrapped
		t.Fatalf("%s: %v", line, err)
	}
	return Result{out.String(), errb.String(), cmd.ProcessState.ExitCode()}
}

// Must is Sh for a line that must succeed; it gives stdout.
func (n *Node) Must(t testing.TB, line string) string {
	t.Helper()
	r := n.Sh(t, line)
	if r.Code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", line, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// PowerCut ends the node as a pulled plug does.
func (n *Node) PowerCut(t testing.TB) {
	t.Helper()
	if n.cmd == nil || n.cmd.Process == nil {
		return
	}
	if n.leader == 0 { // nobody waited for it: without its init's end the container would go on by itself
		n.leader = child(n.cmd.Process.Pid)
	}
	if n.leader != 0 {
		_ = unix.Kill(n.leader, unix.SIGKILL)
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	n.cmd, n.leader = nil, 0
}
