package plan

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

const (
	maxManifest = 4 << 20 // containerd and registries take no larger one
	maxDepth    = 4       // an index may hold an index
)

// manifest is what an index and an image manifest have in common for a walk.
// OCI image-spec v1.1 image-index.md, manifest.md; Docker's schema 2 has the same fields.
type manifest struct {
	Manifests []struct {
		blobRef
		Platform *struct {
			OS           string `json:"os"`
			Architecture string `json:"architecture"`
			Variant      string `json:"variant"`
		} `json:"platform"`
	} `json:"manifests"`
	Config *blobRef  `json:"config"`
	Layers []blobRef `json:"layers"`
}

type blobRef struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// contentComplete says whether a containerd holds every blob of an image for a platform.
func contentComplete(ctx context.Context, rt host.Runtime, top host.Descriptor, platform string) (bool, error) {
	w := walker{ctx: ctx, rt: rt, platform: platform}
	return w.walk(blobRef{MediaType: top.MediaType, Digest: top.Digest, Size: top.Size}, 0)
}

type walker struct {
	ctx      context.Context
	rt       host.Runtime
	platform string
}

func (w walker) has(b blobRef) (bool, error) {
	size, ok, err := w.rt.BlobSize(w.ctx, b.Digest)
	return ok && size == b.Size, err
}

func (w walker) walk(b blobRef, depth int) (bool, error) {
	ok, err := w.has(b)
	if err != nil || !ok {
		return false, err
	}
	if depth > maxDepth {
		return false, fmt.Errorf("image %s: indexes are nested too deep", b.Digest)
	}
	m, err := w.read(b.Digest)
	if err != nil {
		return false, err
	}
	found := false
	for _, c := range m.Manifests {
		if c.Platform != nil && !w.matches(c.Platform.OS, c.Platform.Architecture, c.Platform.Variant) {
			continue
		}
		if ok, err := w.walk(c.blobRef, depth+1); err != nil || !ok {
			return false, err
		}
		found = true
	}
	if m.Config == nil {
		return found, nil
	}
	for _, l := range append([]blobRef{*m.Config}, m.Layers...) {
		if ok, err := w.has(l); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// matches compares platforms; a variant that only one side names is no difference.
func (w walker) matches(os, arch, variant string) bool {
	p := strings.Split(w.platform, "/")
	if len(p) < 2 || p[0] != os || p[1] != arch {
		return false
	}
	return len(p) < 3 || variant == "" || p[2] == variant
}

func (w walker) read(digest string) (m manifest, err error) {
	r, err := w.rt.OpenBlob(w.ctx, digest)
	if err != nil {
		return m, fmt.Errorf("read %s: %w", digest, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return m, fmt.Errorf("read %s: %w", digest, err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("image %s: not a manifest: %w", digest, err)
	}
	return m, nil
}
