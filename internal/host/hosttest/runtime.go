package hosttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// LeasePrefix begins the ids of leases that an import takes, here and in the real one.
const LeasePrefix = "edgeprep-"

// The label that keeps kubelet from collecting an image.
const (
	pinLabel = "io.cri-containerd.pinned"
	pinValue = "pinned"
)

// Runtime is a containerd in memory. It keeps what host.Runtime promises and collects no garbage.
type Runtime struct {
	faults *Faults
	cri    *CRI

	mu       sync.Mutex
	down     bool
	version  string
	images   map[string]host.Image
	blobs    map[string][]byte
	unpacked map[string]bool // manifest digest + snapshotter
	leases   map[string]host.Lease
	inUse    []string
	plugins  []host.Plugin
	imports  int
}

func newRuntime(f *Faults) *Runtime {
	r := &Runtime{
		faults: f, version: "2.4.2", images: map[string]host.Image{}, blobs: map[string][]byte{},
		unpacked: map[string]bool{}, leases: map[string]host.Lease{},
		plugins: []host.Plugin{
			{Type: "io.containerd.content.v1", ID: "content"},
			{Type: "io.containerd.snapshotter.v1", ID: "overlayfs", Exports: map[string]string{"root": "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"}},
			{Type: "io.containerd.snapshotter.v1", ID: "zfs", Error: "path must be a zfs filesystem: skip plugin"},
			{Type: "io.containerd.cri.v1", ID: "images"}, {Type: "io.containerd.cri.v1", ID: "runtime"},
			{Type: "io.containerd.grpc.v1", ID: "cri"},
		},
	}
	r.cri = &CRI{r: r, State: host.CRIStatus{
		RuntimeReady: true, NetworkReady: true, SandboxImage: "registry.k8s.io/pause:3.10.1", Snapshotter: "overlayfs",
		ConfigPath: "/etc/containerd/certs.d",
	}}
	return r
}

// SetDown makes containerd unreachable, or reachable again.
func (r *Runtime) SetDown(down bool) { r.with(func() { r.down = down }) }

// SetVersion sets containerd's version.
func (r *Runtime) SetVersion(v string) { r.with(func() { r.version = v }) }

// SetInUse sets the names that containers use.
func (r *Runtime) SetInUse(names ...string) { r.with(func() { r.inUse = names }) }

// SetPlugin replaces what is told of a plugin, or adds it.
func (r *Runtime) SetPlugin(p host.Plugin) {
	r.with(func() {
		r.plugins = slices.DeleteFunc(r.plugins, func(o host.Plugin) bool { return o.Type == p.Type && o.ID == p.ID })
		r.plugins = append(r.plugins, p)
	})
}

// AddLease makes a lease, as a killed run leaves it.
func (r *Runtime) AddLease(l host.Lease) { r.with(func() { r.leases[l.ID] = l }) }

// DropBlob removes a blob behind everybody's back.
func (r *Runtime) DropBlob(digest string) { r.with(func() { delete(r.blobs, digest) }) }

// AddImage makes an image complete, unpacked and recorded, as something else than edgeprep would.
func (r *Runtime) AddImage(m *MemImage) {
	r.with(func() {
		maps.Copy(r.blobs, m.Blobs)
		r.images[m.Image.Name] = m.Image
		for _, d := range m.Manifests {
			r.unpacked[d.Digest+" overlayfs"] = true
		}
	})
}

func (r *Runtime) with(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// enter records a call, and takes the lock unless it fails.
func (r *Runtime) enter(op string, args ...string) error {
	if err := r.faults.call("runtime."+op, args...); err != nil {
		return err
	}
	r.mu.Lock()
	if r.down {
		r.mu.Unlock()
		return fmt.Errorf("containerd: connection refused: %w", host.ErrUnavailable)
	}
	return nil
}

// Version implements host.Runtime.
func (r *Runtime) Version(context.Context) (string, error) {
	if err := r.enter("Version"); err != nil {
		return "", err
	}
	defer r.mu.Unlock()
	return r.version, nil
}

// Images implements host.Runtime.
func (r *Runtime) Images(context.Context) ([]host.Image, error) {
	if err := r.enter("Images"); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	var out []host.Image
	for _, name := range slices.Sorted(maps.Keys(r.images)) {
		img := r.images[name]
		img.Labels = maps.Clone(img.Labels)
		out = append(out, img)
	}
	return out, nil
}

// BlobSize implements host.Runtime.
func (r *Runtime) BlobSize(_ context.Context, digest string) (int64, bool, error) {
	if err := r.enter("BlobSize", digest); err != nil {
		return 0, false, err
	}
	defer r.mu.Unlock()
	b, ok := r.blobs[digest]
	return int64(len(b)), ok, nil
}

// OpenBlob implements host.Runtime.
func (r *Runtime) OpenBlob(_ context.Context, digest string) (io.ReadCloser, error) {
	if err := r.enter("OpenBlob", digest); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	b, ok := r.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: not found", digest)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Unpacked implements host.Runtime.
func (r *Runtime) Unpacked(_ context.Context, name, platform, snapshotter string) (bool, error) {
	if err := r.enter("Unpacked", name); err != nil {
		return false, err
	}
	defer r.mu.Unlock()
	img, ok := r.images[name]
	if !ok {
		return false, nil
	}
	m, err := r.manifest(img.Target, platform)
	if err != nil {
		return false, nil
	}
	return r.unpacked[m.Digest+" "+snapshotterOr(snapshotter)], nil
}

func snapshotterOr(s string) string {
	if s == "" {
		return "overlayfs"
	}
	return s
}

// Plugins implements host.Runtime.
func (r *Runtime) Plugins(context.Context) ([]host.Plugin, error) {
	if err := r.enter("Plugins"); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return slices.Clone(r.plugins), nil
}

// Leases implements host.Runtime.
func (r *Runtime) Leases(context.Context) ([]host.Lease, error) {
	if err := r.enter("Leases"); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	var out []host.Lease
	for _, id := range slices.Sorted(maps.Keys(r.leases)) {
		out = append(out, r.leases[id])
	}
	return out, nil
}

// SetImage implements host.RuntimeControl.
func (r *Runtime) SetImage(_ context.Context, img host.Image) error {
	if err := r.enter("SetImage", img.Name); err != nil {
		return err
	}
	defer r.mu.Unlock()
	if img.Name == "" || img.Target.Digest == "" {
		return errors.New("image: name and target are required")
	}
	img.Labels = maps.Clone(img.Labels)
	r.images[img.Name] = img
	return nil
}

// RemoveImage implements host.RuntimeControl.
func (r *Runtime) RemoveImage(_ context.Context, name string) error {
	if err := r.enter("RemoveImage", name); err != nil {
		return err
	}
	defer r.mu.Unlock()
	delete(r.images, name)
	return nil
}

// InUse implements host.RuntimeControl.
func (r *Runtime) InUse(context.Context) ([]string, error) {
	if err := r.enter("InUse"); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return slices.Clone(r.inUse), nil
}

// takeLease removes what killed runs left and takes one.
func (r *Runtime) takeLease() string {
	var id string
	r.with(func() {
		r.imports++
		id = LeasePrefix + itoa(r.imports)
		maps.DeleteFunc(r.leases, func(old string, _ host.Lease) bool { return strings.HasPrefix(old, LeasePrefix) })
		r.leases[id] = host.Lease{ID: id, Created: time.Unix(0, 0)}
	})
	return id
}
