// Package imagetest makes small, deterministic image sets and the archives that carry them: for tests of
// every package that reads images, and for `edgeprep demo`, which must work without a registry or network.
//
// The same specification always gives the same digests on the same Go version. Nothing here is pulled.
package imagetest

import (
	_ "crypto/sha256" // go-digest uses what the program links
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageSpec says what an image is made of.
type ImageSpec struct {
	// Names are full references with a tag; several are several tags of one digest.
	Names []string
	// ByDigest adds the name "repository@sha256:…" of the first name's repository.
	ByDigest bool
	// Platforms, "linux/amd64" or "linux/arm/v7". One makes a plain manifest, several an index.
	Platforms []string
	Layers    []LayerSpec
	Cmd       []string
}

// Image is a made image.
type Image struct {
	Names     []string // normalised as given; with ByDigest the last one is repository@digest
	Digest    string   // of the index or, with one platform, of the manifest
	MediaType string
	Size      int64
	Platforms []PlatformImage
}

// PlatformImage is an image's manifest for one platform.
type PlatformImage struct {
	Platform string
	Manifest string   // digest
	Config   string   // digest, the image id
	Layers   []string // digests of the layers as they are in the manifest
	DiffIDs  []string // digests of the uncompressed layers

	desc ocispec.Descriptor
}

// Set is a list of images and their blobs.
type Set struct {
	Images []Image

	blobs map[string][]byte // by digest: manifests, indexes, configs, layers, and raw layers
	order []string          // manifests before configs before layers, each once
}

// Build makes the images of the specs.
func Build(specs ...ImageSpec) (*Set, error) {
	s := &Set{blobs: map[string][]byte{}}
	for _, spec := range specs {
		img, err := s.build(spec)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", strings.Join(spec.Names, ", "), err)
		}
		s.Images = append(s.Images, img)
	}
	s.sort()
	return s, nil
}

// Names lists every name of every image, in order.
func (s *Set) Names() []string {
	var names []string
	for _, i := range s.Images {
		names = append(names, i.Names...)
	}
	return names
}

// Image finds an image by one of its names.
func (s *Set) Image(name string) (Image, bool) {
	for _, i := range s.Images {
		if slices.Contains(i.Names, name) {
			return i, true
		}
	}
	return Image{}, false
}

// Digests maps each name to the digest of what it names.
func (s *Set) Digests() map[string]string {
	m := map[string]string{}
	for _, i := range s.Images {
		for _, n := range i.Names {
			m[n] = i.Digest
		}
	}
	return m
}

// Blob is the content of a blob, nil when the set has none of that digest. It must not be changed.
func (s *Set) Blob(digest string) []byte { return s.blobs[digest] }

// Blobs lists the digests of an OCI layout of the set: indexes and manifests, configs, layers.
func (s *Set) Blobs() []string { return slices.Clone(s.order) }

// Select is the set of only the images that have one of the names.
func (s *Set) Select(names ...string) *Set {
	out := &Set{blobs: s.blobs}
	for _, i := range s.Images {
		if slices.ContainsFunc(i.Names, func(n string) bool { return slices.Contains(names, n) }) {
			out.Images = append(out.Images, i)
		}
	}
	out.sort()
	return out
}

func (s *Set) build(spec ImageSpec) (Image, error) {
	if len(spec.Names) == 0 || len(spec.Platforms) == 0 {
		return Image{}, fmt.Errorf("a name and a platform are needed")
	}
	img := Image{Names: slices.Clone(spec.Names)}
	for _, p := range spec.Platforms {
		pi, err := s.buildPlatform(spec, p)
		if err != nil {
			return Image{}, err
		}
		img.Platforms = append(img.Platforms, pi)
	}
	top := img.Platforms[0].desc
	if len(img.Platforms) > 1 {
		var err error
		if top, err = s.buildIndex(img.Platforms); err != nil {
			return Image{}, err
		}
	}
	img.Digest, img.MediaType, img.Size = top.Digest.String(), top.MediaType, top.Size
	if spec.ByDigest {
		img.Names = append(img.Names, repository(spec.Names[0])+"@"+img.Digest)
	}
	return img, nil
}

func (s *Set) buildPlatform(spec ImageSpec, platform string) (PlatformImage, error) {
	p := parsePlatform(platform)
	pi := PlatformImage{Platform: platform}
	var layers []ocispec.Descriptor
	for _, l := range spec.Layers {
		raw, blob, mediaType, err := l.build(platform)
		if err != nil {
			return pi, err
		}
		layers = append(layers, descriptor(mediaType, blob))
		pi.Layers = append(pi.Layers, s.put(blob))
		pi.DiffIDs = append(pi.DiffIDs, s.put(raw))
	}
	config, err := s.putJSON(imageConfig(p, spec.Cmd, pi.DiffIDs), ocispec.MediaTypeImageConfig)
	if err != nil {
		return pi, err
	}
	pi.Config = config.Digest.String()
	pi.desc, err = s.putJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    layers,
	}, ocispec.MediaTypeImageManifest)
	pi.desc.Platform = &p
	pi.Manifest = pi.desc.Digest.String()
	return pi, err
}

func (s *Set) buildIndex(platforms []PlatformImage) (ocispec.Descriptor, error) {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, p := range platforms {
		idx.Manifests = append(idx.Manifests, p.desc)
	}
	return s.putJSON(idx, ocispec.MediaTypeImageIndex)
}

func (s *Set) put(b []byte) string {
	d := digest.FromBytes(b).String()
	s.blobs[d] = b
	return d
}

func (s *Set) putJSON(v any, mediaType string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make %s: %w", mediaType, err)
	}
	s.put(b)
	return descriptor(mediaType, b), nil
}

// sort puts what a reader needs first to the front: a stream then knows what it will meet.
func (s *Set) sort() {
	var tops, manifests, configs, layers []string
	for _, i := range s.Images {
		tops = append(tops, i.Digest)
		for _, p := range i.Platforms {
			manifests = append(manifests, p.Manifest)
			configs = append(configs, p.Config)
			layers = append(layers, p.Layers...)
		}
	}
	s.order = nil
	for _, d := range slices.Concat(tops, manifests, configs, layers) {
		if !slices.Contains(s.order, d) {
			s.order = append(s.order, d)
		}
	}
}

func imageConfig(p ocispec.Platform, cmd, diffIDs []string) ocispec.Image {
	c := ocispec.Image{Platform: p}
	c.RootFS.Type = "layers"
	for _, d := range diffIDs {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.Digest(d))
	}
	c.Config.Cmd = cmd
	c.Config.Env = []string{"PATH=/bin"}
	return c
}

func descriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func parsePlatform(s string) ocispec.Platform {
	parts := strings.SplitN(s+"//", "/", 4)
	return ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

// repository is a name without its tag.
func repository(name string) string {
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[:i]
	}
	return name
}
