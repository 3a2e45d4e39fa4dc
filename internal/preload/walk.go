package preload

import (
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// top follows an image from its index or manifest.
func (r *resolver) top(desc ocispec.Descriptor) (*content, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if !isIndex(desc.MediaType) && !isManifest(desc.MediaType) {
		return nil, malformed("%s is of type %q, which is no image", r.user, desc.MediaType)
	}
	if c, ok := r.contents[desc.Digest.String()]; ok {
		r.use(c)
		return c, nil
	}
	c := &content{}
	if err := r.follow(desc, c, 0); err != nil {
		return nil, err
	}
	r.contents[desc.Digest.String()] = c
	return c, nil
}

// use notes a further name for the blobs of an image.
func (r *resolver) use(c *content) {
	for _, p := range c.platforms {
		for _, d := range p.blobs {
			if b, ok := r.blobs[d]; ok && !slices.Contains(b.users, r.user) {
				b.users = append(b.users, r.user)
			}
		}
	}
}

func (r *resolver) follow(desc ocispec.Descriptor, c *content, depth int) error {
	if depth > maxDepth {
		return limit("%s has indexes nested deeper than %d", r.user, maxDepth)
	}
	if err := checkDescriptor(desc); err != nil {
		return err
	}
	switch {
	case isIndex(desc.MediaType):
		return r.followIndex(desc, c, depth)
	case isManifest(desc.MediaType):
		return r.followManifest(desc, c)
	}
	_, err := r.find(desc) // something attached: it travels along
	return err
}

func (r *resolver) followIndex(desc ocispec.Descriptor, c *content, depth int) error {
	var idx struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    any                  `json:"config"`
		Layers    any                  `json:"layers"`
	}
	ok, err := r.read(desc, &idx)
	if err != nil {
		return err
	}
	if !ok {
		c.platforms = append(c.platforms, absent(desc))
		return nil
	}
	if idx.Config != nil || idx.Layers != nil { // CVE-2021-41190: one text, two meanings
		return malformed("the index %s of %s is a manifest at the same time", desc.Digest, r.user)
	}
	for _, child := range idx.Manifests {
		if err := r.follow(child, c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) followManifest(desc ocispec.Descriptor, c *content) error {
	var m struct {
		Config    ocispec.Descriptor   `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests any                  `json:"manifests"`
	}
	ok, err := r.read(desc, &m)
	if err != nil {
		return err
	}
	if !ok {
		if !attached(desc) {
			c.platforms = append(c.platforms, absent(desc))
		}
		return nil
	}
	if m.Manifests != nil {
		return malformed("the manifest %s of %s is an index at the same time", desc.Digest, r.user)
	}
	pc := platformContent{manifest: desc.Digest.String(), config: m.Config.Digest.String(), blobs: []string{desc.Digest.String()}}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := r.need(d, &pc); err != nil {
			return err
		}
	}
	if attached(desc) {
		return nil
	}
	pc.platform, err = r.platformOf(desc, m.Config)
	c.platforms = append(c.platforms, pc)
	return err
}

// need takes a config or layer in.
func (r *resolver) need(d ocispec.Descriptor, pc *platformContent) error {
	if err := checkDescriptor(d); err != nil {
		return err
	}
	b, err := r.find(d)
	if err != nil {
		return err
	}
	pc.blobs = append(pc.blobs, d.Digest.String())
	if b == nil && !slices.Contains(pc.missing, d.Digest.String()) {
		pc.missing = append(pc.missing, d.Digest.String())
	}
	return nil
}

// platformOf is what the index says, else what the image's config says.
func (r *resolver) platformOf(desc, config ocispec.Descriptor) (string, error) {
	if desc.Platform != nil {
		if p := formatPlatform(*desc.Platform); p != "" {
			return p, nil
		}
	}
	if config.MediaType != ocispec.MediaTypeImageConfig && config.MediaType != dockerConfig {
		return "", nil
	}
	var c ocispec.Image
	if _, err := r.read(config, &c); err != nil {
		return "", err
	}
	return formatPlatform(c.Platform), nil
}

// find looks a blob up; nil when the archive does not hold it.
func (r *resolver) find(desc ocispec.Descriptor) (*blob, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, limit("the archive's images refer to more than %d blobs", maxNodes)
	}
	b, ok := r.blobs[desc.Digest.String()]
	if !ok {
		m := r.locate(desc.Digest)
		if m == nil {
			return nil, nil
		}
		b = &blob{desc: describe(desc), member: m}
		b.desc.Size = m.size
		r.blobs[desc.Digest.String()] = b
	}
	if b.desc.Size != desc.Size {
		return nil, corrupt("%s of %s has %d bytes in the archive and %d by its description",
			desc.Digest, r.user, b.desc.Size, desc.Size)
	}
	if !slices.Contains(b.users, r.user) {
		b.users = append(b.users, r.user)
	}
	return b, nil
}

// read decodes a document; ok is false when the archive does not hold it.
func (r *resolver) read(desc ocispec.Descriptor, v any) (ok bool, err error) {
	b, err := r.find(desc)
	if b == nil || err != nil {
		return false, err
	}
	text := b.inline
	if text == nil {
		if seen := b.member.sum.digest; seen != "" && seen != desc.Digest.String() {
			return false, mismatch(b)
		}
		if text, _, err = r.inv.document(b.member.name); err != nil {
			return false, fmt.Errorf("%s: %w", r.user, err)
		}
	}
	if desc.Digest.Algorithm().FromBytes(text) != desc.Digest {
		return false, mismatch(b)
	}
	return true, decode(text, desc.Digest.String()+" of "+r.user, v)
}

func mismatch(b *blob) *flaw {
	return corrupt("the content of %s is damaged; it belongs to %s", b.desc.Digest, list(b.users, 3))
}

// attached says that a manifest is about the image and no image for a platform: build attestations.
// buildkit: docs/attestations/attestation-storage.md
func attached(desc ocispec.Descriptor) bool {
	return desc.Annotations["vnd.docker.reference.type"] != "" ||
		desc.Platform != nil && desc.Platform.OS == "unknown"
}

// absent stands for a manifest that the archive does not hold: another platform's, as a rule.
func absent(desc ocispec.Descriptor) platformContent {
	d := desc.Digest.String()
	return platformContent{platform: describe(desc).Platform, manifest: d, blobs: []string{d}, missing: []string{d}}
}

func checkDescriptor(desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		f := malformed("the archive names content by %q", string(desc.Digest[:min(len(desc.Digest), 80)]))
		f.err = err
		return f
	}
	if desc.Size < 0 {
		return malformed("%s has a negative size", desc.Digest)
	}
	return nil
}
