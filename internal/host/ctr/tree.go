package ctr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

const (
	// maxMetadata bounds an index, manifest or config; registries refuse manifests over 4 MiB.
	maxMetadata = 8 << 20
	// maxPrefetch bounds what is kept of a source that can only be read in order.
	maxPrefetch = 128 << 20
	// maxNesting bounds indexes in indexes; real ones have one level.
	maxNesting = 4
)

// tree is what an image needs on this node: the path from its target to the platform's manifest, and what
// that names.
type tree struct {
	image   host.Image
	records []host.Image // that an import makes
	parents []parent     // the target first, the manifest last
	config  ocispec.Descriptor
	layers  []ocispec.Descriptor // as in the manifest; also those that are no file system layers
}

// parent is an index or manifest and everything it refers to, wanted here or not.
type parent struct {
	desc     ocispec.Descriptor
	children []ocispec.Descriptor
}

// blobs lists everything that must be there, parents first.
func (t *tree) blobs() []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, p := range t.parents {
		out = append(out, p.desc)
	}
	return append(append(out, t.config), t.layers...)
}

// rootFSLayers are the layers that make the root file system.
func (t *tree) rootFSLayers() []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, l := range t.layers {
		if images.IsLayerType(l.MediaType) {
			out = append(out, l)
		}
	}
	return out
}

// errNoPlatform says that an index has nothing for the node, or a lone manifest is for another platform.
var errNoPlatform = errors.New("not for this platform")

// missingError names a blob that neither containerd nor the source has.
type missingError struct{ desc ocispec.Descriptor }

func (e *missingError) Error() string {
	return fmt.Sprintf("%s (%s) is not there", e.desc.Digest, e.desc.MediaType)
}

// metadata reads indexes, manifests and configs: from containerd where it has them, else from the source.
type metadata struct {
	store  content.Provider
	source host.ImageSource         // nil: containerd only
	held   map[digest.Digest]bool   // what the source holds
	cache  map[digest.Digest][]byte // read already, and verified
	noSeek bool                     // the source was read through once already
}

func newMetadata(store content.Provider, src host.ImageSource) *metadata {
	m := &metadata{store: store, source: src, held: map[digest.Digest]bool{}, cache: map[digest.Digest][]byte{}}
	if src == nil {
		return m
	}
	for _, d := range src.Blobs() {
		m.held[digest.Digest(d.Digest)] = true
	}
	return m
}

func (m *metadata) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	if b, ok := m.cache[desc.Digest]; ok {
		return b, nil
	}
	b, err := m.stored(ctx, desc)
	if err == nil {
		m.cache[desc.Digest] = b
		return b, nil
	}
	if !errdefs.IsNotFound(err) {
		return nil, err
	}
	if !m.held[desc.Digest] {
		return nil, &missingError{desc}
	}
	rc, err := m.source.Open(ctx, desc.Digest.String())
	if errors.Is(err, host.ErrNotSeekable) {
		return m.prefetched(ctx, desc)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s from the source: %w", desc.Digest, err)
	}
	defer rc.Close()
	return m.keep(desc.Digest, rc)
}

// stored reads from containerd, which verified the digest when it took the blob.
func (m *metadata) stored(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	ra, err := m.store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > maxMetadata {
		return nil, fmt.Errorf("%s (%s) has %d bytes, more than a manifest can have", desc.Digest, desc.MediaType, ra.Size())
	}
	return io.ReadAll(content.NewReader(ra))
}

// keep reads a blob of the source and verifies it: what it says decides what is brought in.
func (m *metadata) keep(d digest.Digest, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxMetadata+1))
	if err != nil {
		return nil, fmt.Errorf("read %s from the source: %w", d, err)
	}
	if len(b) > maxMetadata {
		return nil, fmt.Errorf("%s in the source is larger than a manifest can be", d)
	}
	if d.Algorithm().FromBytes(b) != d {
		return nil, &corruptError{digest: d}
	}
	m.cache[d] = b
	return b, nil
}

// errEnough ends a pass through the source early.
var errEnough = errors.New("enough read")

// prefetched reads all metadata of a source that can only be read in order, in one pass that ends with the
// last of it: in archives made for that, indexes and manifests come first.
func (m *metadata) prefetched(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if !m.noSeek {
		m.noSeek = true
		if err := m.prefetch(ctx); err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	if b, ok := m.cache[desc.Digest]; ok {
		return b, nil
	}
	return nil, &missingError{desc}
}

func (m *metadata) prefetch(ctx context.Context) error {
	left, budget := 0, int64(maxPrefetch)
	for _, d := range m.source.Blobs() {
		if isMetadata(d) {
			left++
		}
	}
	return m.source.Each(ctx, isMetadata, func(d host.Descriptor, r io.Reader) error {
		dgst, err := parseDigest(d.Digest)
		if err != nil {
			return err
		}
		b, err := m.keep(dgst, r)
		if err != nil {
			return err
		}
		if budget -= int64(len(b)); budget < 0 {
			return fmt.Errorf("the source has more than %d MiB of manifests", maxPrefetch>>20)
		}
		if left--; left == 0 {
			return errEnough
		}
		return nil
	})
}

func isMetadata(d host.Descriptor) bool {
	return images.IsIndexType(d.MediaType) || images.IsManifestType(d.MediaType) || images.IsKnownConfig(d.MediaType)
}

// resolve finds what the image needs for a platform, as containerd will when it looks for it
// (core/images.Manifest): the best matching manifest of an index, and of a lone manifest its only one.
func (m *metadata) resolve(ctx context.Context, img host.Image, platform platforms.MatchComparer) (*tree, error) {
	target, err := descriptor(img.Target)
	if err != nil {
		return nil, err
	}
	t := &tree{image: img}
	for desc, depth := target, 0; ; depth++ {
		b, err := m.read(ctx, desc)
		if err != nil {
			return nil, err
		}
		switch {
		case images.IsManifestType(desc.MediaType):
			return t, m.addManifest(ctx, t, desc, b, platform)
		case !images.IsIndexType(desc.MediaType):
			return nil, fmt.Errorf("%s has media type %q: not an image", desc.Digest, desc.MediaType)
		case depth == maxNesting:
			return nil, fmt.Errorf("%s: indexes are nested more than %d deep", target.Digest, maxNesting)
		}
		var index ocispec.Index
		if err := json.Unmarshal(b, &index); err != nil {
			return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		t.parents = append(t.parents, parent{desc, index.Manifests})
		if desc, err = choose(index.Manifests, platform); err != nil {
			return nil, err
		}
	}
}

// choose picks the best manifest of an index; one without a platform comes last.
func choose(manifests []ocispec.Descriptor, platform platforms.MatchComparer) (ocispec.Descriptor, error) {
	var fit []ocispec.Descriptor
	for _, d := range manifests {
		if d.Platform == nil || platform.Match(*d.Platform) {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, errNoPlatform
	}
	sort.SliceStable(fit, func(i, j int) bool {
		switch {
		case fit[i].Platform == nil:
			return false
		case fit[j].Platform == nil:
			return true
		}
		return platform.Less(*fit[i].Platform, *fit[j].Platform)
	})
	return fit[0], nil
}

func (m *metadata) addManifest(ctx context.Context, t *tree, desc ocispec.Descriptor, b []byte, platform platforms.MatchComparer) error {
	var man ocispec.Manifest
	if err := json.Unmarshal(b, &man); err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	t.config, t.layers = man.Config, man.Layers
	t.parents = append(t.parents, parent{desc, append([]ocispec.Descriptor{man.Config}, man.Layers...)})
	for _, d := range t.parents[len(t.parents)-1].children {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("manifest %s names digest %q: %w", desc.Digest, d.Digest, err)
		}
	}
	if desc.Platform != nil || !images.IsKnownConfig(man.Config.MediaType) {
		return nil
	}
	config, err := m.imageConfig(ctx, man.Config)
	if err != nil {
		return err
	}
	// Nothing said is not a contradiction: hand-made images leave it out.
	if config.OS != "" && config.Architecture != "" && !platform.Match(platforms.Normalize(config.Platform)) {
		return errNoPlatform
	}
	return nil
}

func (m *metadata) imageConfig(ctx context.Context, desc ocispec.Descriptor) (ocispec.Image, error) {
	var config ocispec.Image
	b, err := m.read(ctx, desc)
	if err != nil {
		return config, err
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return config, fmt.Errorf("image config %s: %w", desc.Digest, err)
	}
	return config, nil
}

// matcher is containerd's own idea of what runs on a platform ("linux/arm/v7" runs v6 images).
func matcher(platform string) (platforms.MatchComparer, error) {
	if platform == "" {
		return platforms.Only(platforms.DefaultSpec()), nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", platform, err)
	}
	return platforms.Only(p), nil
}
