package hosttest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// The media types of what MakeImage makes.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// ImageSpec describes an image to be made.
type ImageSpec struct {
	Name      string              // "docker.io/library/busybox:1.36"
	Platforms []string            // "linux/amd64"; more than one, or Index: an index over them
	Index     bool                // an index even for one platform
	Layers    []map[string][]byte // files of each layer; nil: one small one, made from the name
}

// MemImage is an image in memory.
type MemImage struct {
	Image     host.Image
	Blobs     map[string][]byte            // by digest
	Order     []host.Descriptor            // children before parents
	Manifests map[string]host.Descriptor   // by platform
	Configs   map[string]host.Descriptor   // by platform
	Layers    map[string][]host.Descriptor // by platform
}

// MakeImage makes an image that a containerd can unpack. The same spec gives the same bytes.
func MakeImage(spec ImageSpec) *MemImage {
	m := &MemImage{
		Image: host.Image{Name: spec.Name}, Blobs: map[string][]byte{}, Manifests: map[string]host.Descriptor{},
		Configs: map[string]host.Descriptor{}, Layers: map[string][]host.Descriptor{},
	}
	if len(spec.Platforms) == 0 {
		spec.Platforms = []string{"linux/amd64"}
	}
	var manifests []any
	for _, p := range spec.Platforms {
		d := m.addPlatform(spec, p)
		m.Image.Target = d
		manifests = append(manifests, descriptorJSON(d))
	}
	if spec.Index || len(spec.Platforms) > 1 {
		m.Image.Target = m.addJSON(typeIndex, map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": manifests})
	}
	m.Image.Target.Platform = ""
	return m
}

// addPlatform makes layers, configuration and manifest of one platform.
func (m *MemImage) addPlatform(spec ImageSpec, platform string) host.Descriptor {
	files := spec.Layers
	if files == nil {
		files = []map[string][]byte{{"etc/image-" + strings.ReplaceAll(platform, "/", "-"): []byte(spec.Name + "\n")}}
	}
	var diffs []string
	var layers []any
	for _, f := range files {
		plain := tarOf(f)
		diffs = append(diffs, Digest(plain))
		d := m.add(typeLayer, gzipOf(plain))
		m.Layers[platform] = append(m.Layers[platform], d)
		layers = append(layers, descriptorJSON(d))
	}
	part := append(strings.Split(platform, "/"), "")
	config := m.addJSON(typeConfig, map[string]any{
		"os": part[0], "architecture": part[1], "variant": part[2],
		"config": map[string]any{"Cmd": []string{"/pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	m.Configs[platform] = config
	d := m.addJSON(typeManifest, map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": descriptorJSON(config), "layers": layers,
	})
	d.Platform = platform
	m.Manifests[platform] = d
	return d
}

func (m *MemImage) addJSON(mediaType string, v any) host.Descriptor {
	b, _ := json.Marshal(v) //nolint:errchkjson // values made here
	return m.add(mediaType, b)
}

func (m *MemImage) add(mediaType string, b []byte) host.Descriptor {
	d := host.Descriptor{MediaType: mediaType, Digest: Digest(b), Size: int64(len(b))}
	if _, ok := m.Blobs[d.Digest]; !ok {
		m.Order = append(m.Order, d)
	}
	m.Blobs[d.Digest] = b
	return d
}

func descriptorJSON(d host.Descriptor) map[string]any {
	out := map[string]any{"mediaType": d.MediaType, "digest": d.Digest, "size": d.Size}
	if d.Platform != "" {
		part := append(strings.Split(d.Platform, "/"), "")
		p := map[string]string{"os": part[0], "architecture": part[1]}
		if part[2] != "" {
			p["variant"] = part[2]
		}
		out["platform"] = p
	}
	return out
}

// Digest is the sha256 digest of content, "sha256:...".
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func tarOf(files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name])), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		w.WriteHeader(h)
		w.Write(files[name])
	}
	w.Close()
	return b.Bytes()
}

func gzipOf(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// MemSource is a host.ImageSource in memory, which can be damaged.
type MemSource struct {
	Sequential bool // Open answers host.ErrNotSeekable
	Closed     bool
	// OnBlob is called before each blob is given out.
	OnBlob func(host.Descriptor) error

	images []host.Image
	order  []host.Descriptor
	blobs  map[string][]byte
}

// NewSource is a source of images.
func NewSource(images ...*MemImage) *MemSource {
	s := &MemSource{blobs: map[string][]byte{}}
	for _, m := range images {
		s.images = append(s.images, m.Image)
		for _, d := range m.Order {
			if _, ok := s.blobs[d.Digest]; !ok {
				s.order = append(s.order, d)
			}
			s.blobs[d.Digest] = m.Blobs[d.Digest]
		}
	}
	return s
}

// Drop leaves a blob out, as an archive does that was made from an incomplete store.
func (s *MemSource) Drop(digest string) *MemSource {
	delete(s.blobs, digest)
	s.order = slices.DeleteFunc(s.order, func(d host.Descriptor) bool { return d.Digest == digest })
	return s
}

// Corrupt flips a bit of a blob.
func (s *MemSource) Corrupt(digest string) *MemSource {
	b := bytes.Clone(s.blobs[digest])
	b[len(b)/2] ^= 1
	s.blobs[digest] = b
	return s
}

// Truncate cuts a blob in half.
func (s *MemSource) Truncate(digest string) *MemSource {
	s.blobs[digest] = s.blobs[digest][:len(s.blobs[digest])/2]
	return s
}

// Images implements host.ImageSource.
func (s *MemSource) Images() []host.Image { return slices.Clone(s.images) }

// Blobs implements host.ImageSource.
func (s *MemSource) Blobs() []host.Descriptor { return slices.Clone(s.order) }

// Open implements host.ImageSource.
func (s *MemSource) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	if s.Sequential {
		return nil, host.ErrNotSeekable
	}
	b, ok := s.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("no blob %s in this source", digest)
	}
	if s.OnBlob != nil {
		if err := s.OnBlob(host.Descriptor{Digest: digest, Size: int64(len(b))}); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(bytes.NewReader(b)), ctx.Err()
}

// Each implements host.ImageSource.
func (s *MemSource) Each(ctx context.Context, want func(host.Descriptor) bool, fn func(host.Descriptor, io.Reader) error) error {
	for _, d := range s.order {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !want(d) {
			continue
		}
		if s.OnBlob != nil {
			if err := s.OnBlob(d); err != nil {
				return err
			}
		}
		if err := fn(d, bytes.NewReader(s.blobs[d.Digest])); err != nil {
			return err
		}
	}
	return nil
}

// Close implements host.ImageSource.
func (s *MemSource) Close() error {
	if s.Closed {
		return errors.New("closed twice")
	}
	s.Closed = true
	return nil
}
