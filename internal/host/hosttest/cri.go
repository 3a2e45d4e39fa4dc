package hosttest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/edgeprep/edgeprep/internal/host"
)

// CRI is the CRI service of a fake containerd. Its fields may be set before it is used.
type CRI struct {
	State host.CRIStatus
	Down  bool // containerd answers, the CRI plugin is not loaded
	// OnPull is asked for every pull; nil: nothing is found. Tests let it ask their mirror.
	OnPull func(ref string) error

	r *Runtime
}

// CRI is the service, to set its state.
func (r *Runtime) CRI() *CRI { return r.cri }

func (c *CRI) enter(op string, args ...string) error {
	if err := c.r.faults.call("cri."+op, args...); err != nil {
		return err
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.down || c.Down {
		return fmt.Errorf("CRI service: unknown service runtime.v1.RuntimeService: %w", host.ErrUnavailable)
	}
	return nil
}

// Version implements host.CRI.
func (c *CRI) Version(context.Context) (host.CRIVersion, error) {
	if err := c.enter("Version"); err != nil {
		return host.CRIVersion{}, err
	}
	return host.CRIVersion{Name: "containerd", Version: "v" + c.r.version, API: "v1"}, nil
}

// Status implements host.CRI.
func (c *CRI) Status(context.Context) (host.CRIStatus, error) {
	if err := c.enter("Status"); err != nil {
		return host.CRIStatus{}, err
	}
	return c.State, nil
}

// ImageStatus implements host.CRI.
func (c *CRI) ImageStatus(_ context.Context, ref string) (host.CRIImage, bool, error) {
	if err := c.enter("ImageStatus", ref); err != nil {
		return host.CRIImage{}, false, err
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	id := ref
	if !strings.HasPrefix(ref, "sha256:") {
		img, ok := c.r.images[normal(ref)]
		if !ok {
			return host.CRIImage{}, false, nil
		}
		id = c.r.imageID(img)
	}
	out := c.r.criImage(id)
	return out, len(out.RepoTags)+len(out.RepoDigests) > 0, nil
}

// PullAbsent implements host.CRI.
func (c *CRI) PullAbsent(_ context.Context, ref string) error {
	if err := c.enter("PullAbsent", ref); err != nil {
		return err
	}
	if c.OnPull != nil {
		if err := c.OnPull(ref); err != nil {
			return err
		}
		return fmt.Errorf("pull of %s succeeded, it was expected not to exist", ref)
	}
	return fmt.Errorf("failed to pull and unpack image %q: not found", ref)
}

// normal is a reference in containerd's form.
func normal(ref string) string {
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return n.String()
}

// imageID is CRI's: the digest of the configuration.
func (r *Runtime) imageID(img host.Image) string {
	var doc document
	m, err := r.manifest(img.Target, "")
	if err != nil || json.Unmarshal(r.blobs[m.Digest], &doc) != nil || doc.Config == nil {
		return ""
	}
	return doc.Config.Digest
}

// criImage gathers the records of one image id.
func (r *Runtime) criImage(id string) host.CRIImage {
	out := host.CRIImage{ID: id}
	for _, name := range slices.Sorted(maps.Keys(r.images)) {
		img := r.images[name]
		if id == "" || r.imageID(img) != id {
			continue
		}
		if strings.Contains(name, "@") {
			out.RepoDigests = append(out.RepoDigests, name)
		} else {
			out.RepoTags = append(out.RepoTags, name)
		}
		out.Pinned = out.Pinned || img.Labels[pinLabel] == pinValue
		out.Size = uint64(max(0, img.Target.Size))
	}
	return out
}
