// Package hosttest is a node for tests: real files under a temporary directory, units, containerd and CRI in
// memory, every call recorded, and faults on demand. It also holds the conformance suites that the fake and
// the real implementations must both pass.
package hosttest

import (
	"context"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/host/systemd"
)

// Node is a host.Host. Its exported fields may be set before it is used.
type Node struct {
	*Faults
	Dir  string // the root directory on this machine
	Info host.Facts
	// Versions are BinaryVersion's answers by node path.
	Versions map[string]string
	// Hook is called around each durable step of the file writer.
	Hook atomicfile.Hook

	t        testing.TB
	local    *local.Host
	units    *Units
	mu       sync.Mutex
	runtimes map[string]*Runtime
	nextUID  int
}

// New makes a running node with an empty root directory and working units, containerd and CRI.
func New(t testing.TB) *Node { return At(t, t.TempDir()) }

// At makes a node of an existing directory.
func At(t testing.TB, dir string) *Node {
	t.Helper()
	n := &Node{
		Faults: &Faults{}, Dir: dir, t: t, Versions: map[string]string{}, runtimes: map[string]*Runtime{}, nextUID: 990,
		Info: host.Facts{
			Hostname: "node1", MachineID: "0123456789abcdef0123456789abcdef", BootID: "11111111-2222-3333-4444-555555555555",
			OS: "linux", Arch: "amd64", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.11")}, Live: true, Root: true,
		},
	}
	h, err := local.New(local.Options{Root: dir, Hook: n.hook})
	if err != nil {
		t.Fatalf("make node: %v", err)
	}
	n.local = h
	n.units = newUnits(n.Faults, systemd.Offline(h.FS(), h.Files()), h.FS())
	return n
}

func (n *Node) hook(op, path string) {
	if n.Hook != nil {
		n.Hook(op, path)
	}
}

// FS implements host.Reader.
func (n *Node) FS() host.FS { return n.local.FS() }

// Files implements host.Host.
func (n *Node) Files() host.FileWriter { return &files{n.Faults, n.local.Files()} }

// Units implements host.Reader.
func (n *Node) Units() host.UnitReader { return n.units }

// UnitControl implements host.Host.
func (n *Node) UnitControl() host.UnitControl { return n.units }

// UnitState is the fake systemd, to set up units in.
func (n *Node) UnitState() *Units { return n.units }

// Containerd is the fake containerd at an endpoint; each socket has its own.
func (n *Node) Containerd(ep host.Endpoint) *Runtime {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.runtimes[ep.Socket]
	if r == nil {
		r = newRuntime(n.Faults)
		r.SetDown(!n.Info.Live)
		n.runtimes[ep.Socket] = r
	}
	return r
}

// Runtime implements host.Reader.
func (n *Node) Runtime(ep host.Endpoint) host.Runtime { return n.Containerd(ep) }

// RuntimeControl implements host.Host.
func (n *Node) RuntimeControl(ep host.Endpoint) host.RuntimeControl { return n.Containerd(ep) }

// CRI implements host.Reader; it answers from the same containerd.
func (n *Node) CRI(ep host.Endpoint) host.CRI { return n.Containerd(ep).CRI() }

// Facts implements host.Reader.
func (n *Node) Facts(context.Context) (host.Facts, error) {
	if err := n.call("facts"); err != nil {
		return host.Facts{}, err
	}
	return n.Info, nil
}

// Account implements host.Reader: from /etc/passwd below Dir.
func (n *Node) Account(name string) (host.Account, bool, error) { return n.local.Account(name) }

// BinaryVersion implements host.Reader: from Versions; a program that is not there is an error.
func (n *Node) BinaryVersion(_ context.Context, p string, args ...string) (string, error) {
	if err := n.call("version", append([]string{p}, args...)...); err != nil {
		return "", err
	}
	if _, err := n.FS().Stat(p); err != nil {
		return "", err
	}
	return n.Versions[p], nil
}

// EnsureAccount implements host.Host: it adds to /etc/passwd and /etc/group.
func (n *Node) EnsureAccount(ctx context.Context, a host.Account) error {
	if err := n.call("account.Ensure", a.Name); err != nil {
		return err
	}
	if _, ok, err := n.Account(a.Name); ok || err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	a.UID, a.GID = n.nextUID, n.nextUID
	if os.Geteuid() != 0 { // so that files of this account can be made at all
		a.UID, a.GID = os.Getuid(), os.Getgid()
	}
	n.nextUID--
	return addAccount(ctx, n.local.Files(), a)
}

// AddAccount makes an account with the ids given.
func (n *Node) AddAccount(a host.Account) {
	n.t.Helper()
	n.Mkdir("/etc")
	n.must(addAccount(context.Background(), n.local.Files(), a))
}

// WriteFile makes a file, mode 0644, and its directories.
func (n *Node) WriteFile(p, content string) { n.WriteMode(p, content, 0o644) }

// WriteMode makes a file with a mode, and its directories.
func (n *Node) WriteMode(p, content string, mode os.FileMode) {
	n.t.Helper()
	n.Mkdir(path.Dir(p))
	real := n.Path(p)
	n.must(os.WriteFile(real, []byte(content), 0o600))
	n.must(os.Chmod(real, mode))
}

// Mkdir makes a directory, mode 0755, and those above it.
func (n *Node) Mkdir(p string) {
	n.t.Helper()
	n.must(os.MkdirAll(n.Path(p), 0o755)) //nolint:gosec // as on a node
}

// Symlink makes a symbolic link, and the directories above it.
func (n *Node) Symlink(p, target string) {
	n.t.Helper()
	n.Mkdir(path.Dir(p))
	n.must(os.Symlink(target, n.Path(p)))
}

// ReadFile is the content of a file; a missing one ends the test.
func (n *Node) ReadFile(p string) string {
	n.t.Helper()
	b, err := n.FS().ReadFile(p, 0)
	n.must(err)
	return string(b)
}

// Exists says whether there is an entry.
func (n *Node) Exists(p string) bool {
	_, err := n.FS().Lstat(p)
	return err == nil
}

// Path is where a node path is on this machine. Links above it are followed inside the root.
func (n *Node) Path(p string) string {
	n.t.Helper()
	dir, err := n.local.RealPath(path.Dir(path.Clean(p)))
	if err != nil { // not there yet
		return filepath.Join(n.Dir, filepath.Clean("/"+p))
	}
	return filepath.Join(dir, path.Base(p))
}

// Hash is that of the whole tree; see Hash.
func (n *Node) Hash() string { n.t.Helper(); return Hash(n.t, n.Dir) }

func (n *Node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// NoWrites is a view of a node that cannot be written through.
func NoWrites(r host.Reader) host.Reader { return local.ReadOnly(r) }

func addAccount(ctx context.Context, w host.FileWriter, a host.Account) error {
	home := a.Home
	if home == "" {
		home = "/nonexistent"
	}
	line := strings.Join([]string{a.Name, "x", itoa(a.UID), itoa(a.GID), "", home, "/usr/sbin/nologin"}, ":")
	if err := w.Append(ctx, "/etc/passwd", []byte(line+"\n"), host.Meta{Mode: 0o644}); err != nil {
		return err
	}
	return w.Append(ctx, "/etc/group", []byte(a.Name+":x:"+itoa(a.GID)+":\n"), host.Meta{Mode: 0o644})
}

// SetLive with false makes it a mounted image: no systemd, no containerd, nothing runs.
func (n *Node) SetLive(live bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Info.Live = live
	n.Info.BootID = ""
	n.units.SetDown(!live)
	for _, r := range n.runtimes {
		r.SetDown(!live)
	}
}
