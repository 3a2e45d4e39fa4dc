package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// maxManifest bounds a manifest, index or config: containerd refuses larger ones
// (containerd: core/images/image.go, 8 MiB).
const maxManifest = 8 << 20

// blobs is the content that a walk reads.
type blobs interface {
	BlobSize(ctx context.Context, digest string) (size int64, ok bool, err error)
	OpenBlob(ctx context.Context, digest string) (io.ReadCloser, error)
}

// walk goes from an index or manifest down to the layers of one platform and collects what is wrong.
type walk struct {
	blobs    blobs
	platform string
	deep     bool              // hash the layers too; manifests and configs are always hashed
	hashed   map[string]string // layers looked at before, and what was wrong with them: images share layers
	flaws    []string
	manifest string // digest of the manifest that was followed
	config   string // digest of the config of the manifest that was followed: what the image is, however it was saved
}

// from walks one image and says what is wrong with it; hashed is kept for the next one.
func (w *walk) from(ctx context.Context, target host.Descriptor) (flaws []string, err error) {
	w.flaws, w.manifest, w.config = nil, "", ""
	err = w.node(ctx, ocispec.Descriptor{MediaType: target.MediaType, Digest: digest.Digest(target.Digest), Size: target.Size}, 0)
	return w.flaws, err
}

func (w *walk) flaw(format string, args ...any) {
	w.flaws = append(w.flaws, fmt.Sprintf(format, args...))
}

// node follows an index or a manifest.
func (w *walk) node(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if depth > 4 {
		w.flaw("%s: indexes nested too deeply", d.Digest)
		return nil
	}
	body, ok, err := w.document(ctx, d, "manifest")
	if err != nil || !ok {
		return err
	}
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		w.flaw("manifest %s is not JSON: %v", d.Digest, err)
		return nil
	}
	switch {
	case m.Config != nil:
		w.manifest = d.Digest.String()
		return w.image(ctx, *m.Config, m.Layers)
	case len(m.Manifests) > 0:
		return w.index(ctx, d, m.Manifests, depth)
	}
	w.flaw("manifest %s names neither layers nor manifests", d.Digest)
	return nil
}

// index follows the manifest for the platform: exact match first, as containerd prefers it.
func (w *walk) index(ctx context.Context, d ocispec.Descriptor, children []ocispec.Descriptor, depth int) error {
	for _, same := range []func(string) bool{
		func(p string) bool { return p == w.platform },
		func(p string) bool { return preload.Runs(w.platform, p) },
	} {
		for _, c := range children {
			if c.Platform != nil && same(platformName(*c.Platform)) {
				return w.node(ctx, c, depth+1)
			}
		}
	}
	w.flaw("index %s has no manifest for %s", d.Digest, w.platform)
	return nil
}

func platformName(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// image follows a manifest's config and layers.
func (w *walk) image(ctx context.Context, config ocispec.Descriptor, layers []ocispec.Descriptor) error {
	w.config = config.Digest.String()
	body, ok, err := w.document(ctx, config, "config")
	if err != nil {
		return err
	}
	if ok {
		w.platformOf(config, body)
	}
	for _, l := range layers {
		if err := w.layer(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// absent says what is wrong with a blob's presence and size; empty: it is there.
func (w *walk) absent(ctx context.Context, d ocispec.Descriptor, what string) (string, error) {
	size, ok, err := w.blobs.BlobSize(ctx, d.Digest.String())
	switch {
	case err != nil:
		return "", fmt.Errorf("look for %s %s: %w", what, d.Digest, err)
	case !ok:
		return fmt.Sprintf("%s %s is missing", what, d.Digest), nil
	case size != d.Size:
		return fmt.Sprintf("%s %s has %d of %d bytes", what, d.Digest, size, d.Size), nil
	}
	return "", nil
}

// document reads and hashes a small blob.
func (w *walk) document(ctx context.Context, d ocispec.Descriptor, what string) ([]byte, bool, error) {
	if err := d.Digest.Validate(); err != nil {
		w.flaw("%s %q: %v", what, d.Digest, err)
		return nil, false, nil
	}
	if d.Size > maxManifest {
		w.flaw("%s %s says it has %d bytes, more than containerd reads", what, d.Digest, d.Size)
		return nil, false, nil
	}
	gone, err := w.absent(ctx, d, what)
	if err != nil {
		return nil, false, err
	}
	if gone != "" {
		w.flaw("%s", gone)
		return nil, false, nil
	}
	r, err := w.blobs.OpenBlob(ctx, d.Digest.String())
	if err != nil {
		w.flaw("%s %s cannot be read: %v", what, d.Digest, err)
		return nil, false, ctx.Err()
	}
	body, err := io.ReadAll(io.LimitReader(r, maxManifest))
	err = errors.Join(err, r.Close())
	switch {
	case err != nil:
		w.flaw("%s %s cannot be read: %v", what, d.Digest, err)
	case d.Digest.Algorithm().FromBytes(body) != d.Digest:
		w.flaw("%s %s has other bytes than its digest says", what, d.Digest)
	default:
		return body, true, nil
	}
	return nil, false, ctx.Err()
}

// platformOf compares the config's platform with the node's. Other kinds of artifacts have none.
func (w *walk) platformOf(d ocispec.Descriptor, body []byte) {
	var p ocispec.Platform
	if err := json.Unmarshal(body, &p); err != nil {
		w.flaw("config %s is not JSON: %v", d.Digest, err)
		return
	}
	if name := platformName(p); p.OS != "" && p.Architecture != "" && !preload.Runs(w.platform, name) {
		w.flaw("the image is for %s", name)
	}
}

func (w *walk) layer(ctx context.Context, d ocispec.Descriptor) error {
	flaw, known := w.hashed[d.Digest.String()]
	if !known {
		var err error
		if flaw, err = w.hash(ctx, d); err != nil {
			return err
		}
		w.hashed[d.Digest.String()] = flaw
	}
	if flaw != "" {
		w.flaws = append(w.flaws, flaw)
	}
	return nil
}

// hash looks at a layer for the first time. The error is about the store or the context, the text about the layer.
func (w *walk) hash(ctx context.Context, d ocispec.Descriptor) (flaw string, err error) {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Sprintf("layer %q: %v", d.Digest, err), nil
	}
	if flaw, err = w.absent(ctx, d, "layer"); flaw != "" || err != nil || !w.deep {
		return flaw, err
	}
	r, err := w.blobs.OpenBlob(ctx, d.Digest.String())
	if err != nil {
		return fmt.Sprintf("layer %s cannot be read: %v", d.Digest, err), ctx.Err()
	}
	v := d.Digest.Verifier()
	_, err = io.Copy(v, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Sprintf("layer %s cannot be read: %v", d.Digest, err), ctx.Err()
	}
	if !v.Verified() {
		return fmt.Sprintf("layer %s has other bytes than its digest says", d.Digest), nil
	}
	return "", nil
}
