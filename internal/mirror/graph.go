package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Kind is what a blob is in an image.
type Kind string

// The kinds.
const (
	KindIndex    Kind = "index"
	KindManifest Kind = "manifest"
	KindConfig   Kind = "config"
	KindLayer    Kind = "layer"
)

// Content is a blob that an image needs.
type Content struct {
	Kind      Kind   `json:"kind"`
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType,omitempty"`
	Size      int64  `json:"size"`
}

// maxDepth bounds how deep indexes may be nested; real ones have one level.
const maxDepth = 4

// tree is what a reference reaches: the indexes and one branch per platform.
type tree struct {
	manifests []host.Descriptor // indexes and manifests that could be read, parents first
	branches  []branch
}

// branch is one manifest and what it needs.
type branch struct {
	desc        host.Descriptor
	platform    string // "linux/arm64/v8"; empty: not an image, or not known
	attestation bool   // belongs to another manifest and runs nowhere
	present     bool
	contents    []Content // config and layers
	err         error     // why it is not present
}

// readFunc gives the verified bytes of a manifest or config. ErrNotFound and a corrupt one are gaps in the
// tree, every other error ends the walk.
type readFunc func(ctx context.Context, d host.Descriptor) ([]byte, error)

// grow reads everything that root reaches except layers; with a platform, only what a node of it would pull.
func grow(ctx context.Context, root host.Descriptor, platform string, read readFunc) (*tree, error) {
	g := &grower{ctx: ctx, read: read, platform: platform, seen: map[string]bool{}}
	err := g.visit(root, 0)
	return &g.tree, err
}

type grower struct {
	tree
	ctx      context.Context
	read     readFunc
	platform string
	seen     map[string]bool
}

func (g *grower) visit(d host.Descriptor, depth int) error {
	if g.seen[d.Digest] {
		return nil
	}
	g.seen[d.Digest] = true
	if depth > maxDepth {
		return fmt.Errorf("index %s: nested deeper than %d", d.Digest, maxDepth)
	}
	b, err := g.read(g.ctx, d)
	if isGap(err) {
		g.branches = append(g.branches, branch{desc: d, platform: d.Platform, attestation: isAttestation(d), err: err})
		return nil
	}
	if err != nil {
		return err
	}
	doc, err := parseManifest(b, d.MediaType)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	g.manifests = append(g.manifests, d)
	if !isIndexType(d.MediaType) {
		return g.leaf(d, doc)
	}
	for _, c := range g.choose(doc.Manifests) {
		if err := g.visit(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// choose is the children of an index that matter: all, or the best one for the platform.
func (g *grower) choose(all []ocispec.Descriptor) []host.Descriptor {
	out := make([]host.Descriptor, 0, len(all))
	best := 0
	for _, c := range all {
		d := descriptorOf(c)
		if g.platform == "" {
			out = append(out, d)
			continue
		}
		r := platformRank(g.platform, d.Platform)
		if isIndexType(d.MediaType) && d.Platform == "" {
			r = 1 // the platforms are one level down
		}
		if r > best && !isAttestation(d) {
			out, best = append(out[:0], d), r
		}
	}
	return out
}

func isGap(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, errCorrupt) }

func (g *grower) leaf(d host.Descriptor, doc manifestDoc) error {
	br := branch{desc: d, platform: d.Platform, attestation: isAttestation(d), present: true}
	if doc.Config.Digest != "" {
		br.contents = append(br.contents, contentOf(KindConfig, doc.Config))
	}
	for _, l := range doc.Layers {
		br.contents = append(br.contents, contentOf(KindLayer, l))
	}
	if br.platform == "" && isImageConfig(doc.Config.MediaType) {
		p, err := g.configPlatform(descriptorOf(doc.Config))
		if err != nil {
			return err
		}
		br.platform = p
	}
	g.branches = append(g.branches, br)
	return nil
}

// configPlatform is the platform that an image's config names.
func (g *grower) configPlatform(d host.Descriptor) (string, error) {
	b, err := g.read(g.ctx, d)
	if isGap(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var p ocispec.Platform
	if err := json.Unmarshal(b, &p); err != nil {
		return "", fmt.Errorf("config %s: %w", d.Digest, err)
	}
	return platformString(&p), nil
}

func isImageConfig(mt string) bool {
	return mt == ocispec.MediaTypeImageConfig || mt == "application/vnd.docker.container.image.v1+json"
}

// isAttestation is buildkit's way to attach provenance to an index.
// buildkit: docs/attestations/attestation-storage.md
func isAttestation(d host.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" || d.Platform == "unknown/unknown"
}

// manifestDoc holds the fields of manifests and indexes that matter here.
type manifestDoc struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Subject       *ocispec.Descriptor  `json:"subject"`
	Annotations   map[string]string    `json:"annotations"`
}

// parseManifest reads a manifest or index of a media type. A document that could be read as both is refused:
// two readers would see two images (CVE-2021-41190).
func parseManifest(b []byte, mediaType string) (manifestDoc, error) {
	var doc manifestDoc
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc, fmt.Errorf("not a manifest: %w", err)
	}
	switch {
	case !isManifestType(mediaType):
		return doc, fmt.Errorf("media type %q is not a manifest's", clip(mediaType))
	case doc.MediaType != "" && doc.MediaType != mediaType:
		return doc, fmt.Errorf("it says %q of itself and is called %q", clip(doc.MediaType), mediaType)
	case isIndexType(mediaType) && (doc.Config.Digest != "" || doc.Layers != nil),
		!isIndexType(mediaType) && doc.Manifests != nil:
		return doc, errors.New("it is a manifest and an index at once")
	}
	return doc, doc.check()
}

func (m manifestDoc) check() error {
	all := append(append([]ocispec.Descriptor{}, m.Manifests...), m.Layers...)
	if m.Config.Digest != "" {
		all = append(all, m.Config)
	}
	for _, d := range all {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("digest %q: %w", clip(d.Digest.String()), err)
		}
		if d.Size < 0 {
			return fmt.Errorf("%s has the size %d", d.Digest, d.Size)
		}
	}
	return nil
}

// sniffManifest is the media type of a document that is a manifest or an index, else "".
func sniffManifest(b []byte) string {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return ""
	}
	var doc manifestDoc
	if json.Unmarshal(b, &doc) != nil || doc.SchemaVersion != 2 {
		return ""
	}
	switch {
	case isManifestType(doc.MediaType):
		return doc.MediaType
	case doc.MediaType != "":
		return ""
	case doc.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case doc.Config.Digest != "" && doc.Layers != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

func descriptorOf(d ocispec.Descriptor) host.Descriptor {
	return host.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size,
		Platform: platformString(d.Platform), Annotations: d.Annotations,
	}
}

func contentOf(k Kind, d ocispec.Descriptor) Content {
	return Content{Kind: k, Digest: d.Digest.String(), MediaType: d.MediaType, Size: d.Size}
}

// manifestContent is the branch's own manifest as a content.
func (b branch) manifestContent() Content {
	k := KindManifest
	if isIndexType(b.desc.MediaType) {
		k = KindIndex
	}
	return Content{Kind: k, Digest: b.desc.Digest, MediaType: b.desc.MediaType, Size: b.desc.Size}
}

// digestOf is the digest of a descriptor that was checked.
func digestOf(d host.Descriptor) digest.Digest { return digest.Digest(d.Digest) }
