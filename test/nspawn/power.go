package nspawn

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Bind shows a file of this machine on the node, read-only, from its next boot on. It spares a copy of the
// large programs.
func (n *Node) Bind(t testing.TB, from, to string) {
	t.Helper()
	if _, err := os.Stat(from); err != nil {
		t.Fatal(err)
	}
	n.binds = append(n.binds, "--bind-ro="+from+":"+to)
}

// PowerOff shuts the node down in order; its disk stays for the next Boot.
func (n *Node) PowerOff(t testing.TB) {
	t.Helper()
	n.Sh(t, "systemctl --no-block poweroff") // its answer may be cut off
	ended := make(chan error, 1)
	go func() { ended <- n.cmd.Wait() }()
	select {
	case <-ended: // whatever the exit code: the node is off
		n.cmd, n.leader = nil, 0
	case <-time.After(2 * time.Minute):
		console, _ := os.ReadFile(n.log.Name())
		_ = n.cmd.Process.Kill()
		<-ended
		n.cmd, n.leader = nil, 0
		t.Fatalf("node %s did not power off\n%s", n.name, tail(console))
	}
}

// Console is the file with what the node said since it was switched on.
func (n *Node) Console() string { return n.log.Name() }

// ContainerdRoot is the node's /var/lib/containerd, seen from here.
func (n *Node) ContainerdRoot() string { return filepath.Join(filepath.Dir(n.Root), "containerd") }
