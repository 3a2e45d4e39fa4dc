// Package local is the node under a directory: the running one when that is "/", else a mounted image or a
// tree made for a test. It resolves every path, symbolic links included, as if the directory were "/".
//
// It knows files, accounts and programs. Units, containerd and CRI are handed in by Options; without them
// their methods answer host.ErrUnavailable.
package local

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/host"
)

// Units reads and changes systemd units.
type Units interface {
	host.UnitReader
	host.UnitControl
}

// Options say which node it is.
type Options struct {
	// Root is the directory that holds the node; "" and "/" are the running one.
	Root string
	// Hook is called around each step that makes something durable; see atomicfile.
	Hook atomicfile.Hook
	// Units makes the unit interface from the host's own files; nil: unavailable.
	Units func(host.FS, host.FileWriter) Units
	// Runtime connects to containerd, CRI to the CRI service; nil: unavailable.
	Runtime func(host.Endpoint) host.RuntimeControl
	CRI     func(host.Endpoint) host.CRI
}

// Host implements host.Host over files.
type Host struct {
	opts  Options
	root  root
	fs    fileSystem
	files *files
	units Units
}

// New makes a Host. Root must be an existing directory.
func New(opts Options) (*Host, error) {
	r, err := openRoot(opts.Root)
	if err != nil {
		return nil, err
	}
	h := &Host{opts: opts, root: r, fs: fileSystem{r}}
	h.files = &files{root: r, fs: h.fs, w: atomicfile.Writer{Hook: opts.Hook}}
	h.units = noUnits{}
	if opts.Units != nil {
		h.units = opts.Units(h.fs, h.files)
	}
	return h, nil
}

func openRoot(dir string) (root, error) {
	if dir == "" || dir == "/" {
		return root{}, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return root{}, fmt.Errorf("root %s: %w", dir, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return root{}, fmt.Errorf("root %s: %w", dir, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return root{}, fmt.Errorf("root %s: %w", dir, err)
	}
	if !info.IsDir() {
		return root{}, fmt.Errorf("root %s: not a directory", dir)
	}
	if real == "/" {
		return root{}, nil
	}
	return root{dir: real}, nil
}

// FS implements host.Reader.
func (h *Host) FS() host.FS { return h.fs }

// Files implements host.Host.
func (h *Host) Files() host.FileWriter { return h.files }

// Units implements host.Reader.
func (h *Host) Units() host.UnitReader { return h.units }

// UnitControl implements host.Host.
func (h *Host) UnitControl() host.UnitControl { return h.units }

// Runtime implements host.Reader.
func (h *Host) Runtime(ep host.Endpoint) host.Runtime { return h.RuntimeControl(ep) }

// RuntimeControl implements host.Host.
func (h *Host) RuntimeControl(ep host.Endpoint) host.RuntimeControl {
	if h.opts.Runtime == nil {
		return noRuntime{ep}
	}
	return h.opts.Runtime(ep)
}

// CRI implements host.Reader.
func (h *Host) CRI(ep host.Endpoint) host.CRI {
	if h.opts.CRI == nil {
		return noCRI{ep}
	}
	return h.opts.CRI(ep)
}

// RealPath is where a node path is on this machine, its links followed: for programs that must be given one.
func (h *Host) RealPath(path string) (string, error) { return h.root.resolve(path, true) }
