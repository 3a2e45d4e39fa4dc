// Package host says what edgeprep may ask of a node and what it may do to one.
//
// It holds interfaces and value types only. Everything that plans, checks or detects is given a Reader and
// so cannot write; Host, the writing half, is named only by internal/apply and by the implementations below
// internal/host. Every path is a node path: absolute, as a process on the node would write it. With
// --root DIR an implementation resolves it, symlinks included, as if DIR were "/".
package host

import (
	"context"
	"errors"
	"net/netip"
)

// ErrUnavailable is wrapped by errors that say that a part of the node cannot be asked now: no systemd, no
// containerd socket, a mounted image instead of a running node. Callers report it as skipped or pending.
var ErrUnavailable = errors.New("not available on this node now")

// Reader is what may be learnt about a node. No method changes it.
type Reader interface {
	// FS is the node's file system.
	FS() FS
	// Units are the node's systemd units; on a mounted image, what their files and links say.
	Units() UnitReader
	// Runtime asks the containerd at an endpoint.
	Runtime(Endpoint) Runtime
	// CRI asks the CRI service at an endpoint.
	CRI(Endpoint) CRI
	// Facts are the node's identity.
	Facts(ctx context.Context) (Facts, error)
	// Account looks a user up in the node's own account files; ok is false when there is none.
	Account(name string) (a Account, ok bool, err error)
	// BinaryVersion is what the program at path says of its version. On a running node it is run with args
	// (5 s, unprivileged where possible); under a root only build information in the file is read, never a
	// foreign program run. Empty with a nil error: not known.
	BinaryVersion(ctx context.Context, path string, args ...string) (string, error)
}

// Host is a node that can be changed. Every write is durable before it returns.
type Host interface {
	Reader
	// Files writes files.
	Files() FileWriter
	// UnitControl changes unit states.
	UnitControl() UnitControl
	// RuntimeControl changes images of the containerd at an endpoint.
	RuntimeControl(Endpoint) RuntimeControl
	// EnsureAccount makes the system user and group exist. ErrUnavailable: it will exist after the next boot.
	EnsureAccount(ctx context.Context, a Account) error
}

// Facts identify a node.
type Facts struct {
	Hostname  string       `json:"hostname"`
	MachineID string       `json:"machineId,omitempty"`
	BootID    string       `json:"bootId,omitempty"` // empty under a root
	OS        string       `json:"os"`               // GOOS: "linux"
	Arch      string       `json:"arch"`             // GOARCH: "amd64", "arm64", "arm"
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Live      bool         `json:"live"` // false: a directory or mounted image (--root)
	Root      bool         `json:"root"` // this process may write everything
	ClockSync ClockSync    `json:"clockSync,omitempty"`
}

// ClockSync says whether a time source holds the system's clock; empty: not known.
type ClockSync string

// What the kernel says of it.
const (
	ClockSynchronized ClockSync = "yes"
	ClockFree         ClockSync = "no"
)

// Account is a system user with a group of the same name.
type Account struct {
	Name string `json:"name"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Home string `json:"home,omitempty"`
}

// Endpoint names a containerd and how this distribution uses it.
type Endpoint struct {
	Socket      string `json:"socket"`                // node path of the gRPC socket
	Namespace   string `json:"namespace"`             // "k8s.io"
	Snapshotter string `json:"snapshotter,omitempty"` // empty: ask CRI, else "overlayfs"
	Root        string `json:"root,omitempty"`        // containerd's root directory (content store), node path
}
