package imagetest

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layout is what an archive looks like inside.
type Layout string

// The layouts.
const (
	Docker   Layout = "docker"   // `docker save` of the classic store: manifest.json, config, raw layers
	OCI      Layout = "oci"      // oci-layout, index.json, blobs/
	Combined Layout = "combined" // OCI, and docker's manifest.json as the first entry: what edgeprep writes
)

// Form says how an archive is written.
type Form struct {
	Layout      Layout
	Compression Compression
	Window      int      // zstd window in bytes; 0: the encoder's default (8 MiB)
	Platforms   []string // only these platforms' content; indexes stay whole. Empty: all
	// RefName writes names only as org.opencontainers.image.ref.name.
	RefName bool
	// NoNames leaves every name out.
	NoNames bool
}

// The annotations that carry a name in index.json.
// containerd: client/import.go and core/images/annotations.go
const (
	annotationName = "io.containerd.image.name"
	annotationRef  = ocispec.AnnotationRefName
)

// WriteArchive writes the set as a file.
func (s *Set) WriteArchive(path string, f Form) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	defer func() {
		if cerr := out.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("write archive: %w", cerr)
		}
	}()
	buf := bufio.NewWriterSize(out, 1<<20)
	if err := s.Write(buf, f); err != nil {
		return fmt.Errorf("write archive %s: %w", path, err)
	}
	return buf.Flush()
}

// Write writes the set as a stream.
func (s *Set) Write(w io.Writer, f Form) error {
	entries, err := s.entries(f)
	if err != nil {
		return err
	}
	cw, err := compressor(w, f.Compression, f.Window)
	if err != nil {
		return err
	}
	if err := WriteTar(cw, entries); err != nil {
		return err
	}
	return cw.Close()
}

// WriteLayout writes the set as an OCI layout directory, made if missing. Only Platforms, RefName and
// NoNames of the form count.
func (s *Set) WriteLayout(dir string, f Form) error {
	f.Layout = OCI
	entries, err := s.entries(f)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, filepath.FromSlash(e.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write layout: %w", err)
		}
		if err := os.WriteFile(path, e.Content, 0o644); err != nil {
			return fmt.Errorf("write layout: %w", err)
		}
	}
	return nil
}

// Entry is one file of an archive; tests make odd archives of them.
type Entry struct {
	Name    string
	Content []byte
	Link    string // target of a symlink
}

// Entries is what Write puts into the tar, in order.
func (s *Set) Entries(f Form) ([]Entry, error) { return s.entries(f) }

// WriteTar writes entries as a plain tar.
func WriteTar(w io.Writer, entries []Entry) error {
	tw := tar.NewWriter(w)
	for _, e := range entries {
		h := &tar.Header{
			Name: e.Name, Mode: 0o644, Size: int64(len(e.Content)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0),
		}
		if e.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.Link, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("tar entry %s: %w", e.Name, err)
		}
		if e.Link != "" {
			continue
		}
		if _, err := tw.Write(e.Content); err != nil {
			return fmt.Errorf("tar entry %s: %w", e.Name, err)
		}
	}
	return tw.Close()
}

func (s *Set) entries(f Form) ([]Entry, error) {
	switch f.Layout {
	case Docker:
		return s.dockerEntries(f)
	case OCI:
		return s.ociEntries(f)
	case Combined:
		oci, err := s.ociEntries(f)
		if err != nil {
			return nil, err
		}
		m, err := s.dockerManifest(f, blobPath, blobPath, PlatformImage.layers)
		return append([]Entry{{Name: "manifest.json", Content: m}}, oci...), err
	}
	return nil, fmt.Errorf("unknown layout %q", f.Layout)
}

func (s *Set) ociEntries(f Form) ([]Entry, error) {
	index, err := json.Marshal(s.outerIndex(f))
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	entries := []Entry{
		{Name: "oci-layout", Content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Name: "index.json", Content: index},
	}
	keep := s.kept(f.Platforms)
	for _, d := range s.order {
		if keep[d] {
			entries = append(entries, Entry{Name: blobPath(d), Content: s.blobs[d]})
		}
	}
	return entries, nil
}

// outerIndex has one entry a name, as containerd's exporter writes it.
func (s *Set) outerIndex(f Form) ocispec.Index {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range s.Images {
		desc := ocispec.Descriptor{MediaType: img.MediaType, Digest: digest.Digest(img.Digest), Size: img.Size}
		if len(img.Platforms) == 1 {
			desc.Platform = img.Platforms[0].desc.Platform
		}
		if f.NoNames {
			idx.Manifests = append(idx.Manifests, desc)
			continue
		}
		for _, n := range img.Names {
			desc.Annotations = map[string]string{annotationName: n, annotationRef: tagOf(n)}
			if f.RefName {
				desc.Annotations = map[string]string{annotationRef: n}
			}
			idx.Manifests = append(idx.Manifests, desc)
		}
	}
	return idx
}

// kept are the blobs that an archive of these platforms holds.
func (s *Set) kept(platforms []string) map[string]bool {
	keep := map[string]bool{}
	for _, img := range s.Images {
		keep[img.Digest] = keep[img.Digest] || len(img.Platforms) > 1
		for _, p := range img.Platforms {
			if len(platforms) > 0 && !slices.Contains(platforms, p.Platform) {
				continue
			}
			keep[p.Manifest], keep[p.Config] = true, true
			for _, l := range p.Layers {
				keep[l] = true
			}
		}
	}
	return keep
}

func (s *Set) dockerEntries(f Form) ([]Entry, error) {
	layerPath := func(d string) string { return hexOf(d) + "/layer.tar" }
	configPath := func(d string) string { return hexOf(d) + ".json" }
	manifest, err := s.dockerManifest(f, configPath, layerPath, PlatformImage.diffIDs)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	seen := map[string]bool{}
	add := func(name, d string) {
		if !seen[name] {
			seen[name] = true
			entries = append(entries, Entry{Name: name, Content: s.blobs[d]})
		}
	}
	for _, img := range s.Images {
		p, ok := img.platform(f.Platforms)
		if !ok {
			continue
		}
		for _, d := range p.DiffIDs {
			add(layerPath(d), d)
		}
		add(configPath(p.Config), p.Config)
	}
	return append(entries, Entry{Name: "manifest.json", Content: manifest}), nil
}

// dockerManifest is manifest.json: it can say one platform an image only.
func (s *Set) dockerManifest(f Form, config, layer func(string) string, layers func(PlatformImage) []string) ([]byte, error) {
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	items := []item{}
	for _, img := range s.Images {
		p, ok := img.platform(f.Platforms)
		if !ok {
			continue
		}
		it := item{Config: config(p.Config)}
		for _, n := range img.Names {
			if !strings.Contains(n, "@") && !f.NoNames { // docker save writes no digests
				it.RepoTags = append(it.RepoTags, familiar(n))
			}
		}
		for _, d := range layers(p) {
			it.Layers = append(it.Layers, layer(d))
		}
		items = append(items, it)
	}
	b, err := json.Marshal(items)
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	return b, nil
}

// platform is the first of the wanted platforms that the image has.
func (i Image) platform(want []string) (PlatformImage, bool) {
	for _, p := range i.Platforms {
		if len(want) == 0 || slices.Contains(want, p.Platform) {
			return p, true
		}
	}
	return PlatformImage{}, false
}

func (p PlatformImage) layers() []string  { return p.Layers }
func (p PlatformImage) diffIDs() []string { return p.DiffIDs }

func compressor(w io.Writer, c Compression, window int) (io.WriteCloser, error) {
	switch c {
	case Plain:
		return nopCloser{w}, nil
	case Gzip:
		return gzip.NewWriter(w), nil
	case Zstd:
		opts := []zstd.EOption{zstd.WithEncoderConcurrency(1)}
		if window > 0 {
			opts = append(opts, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
		}
		return zstd.NewWriter(w, opts...)
	}
	return nil, fmt.Errorf("unknown compression %q", c)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func blobPath(d string) string { return "blobs/sha256/" + hexOf(d) }

func hexOf(d string) string { return strings.TrimPrefix(d, "sha256:") }

// tagOf is what image tools put into org.opencontainers.image.ref.name beside a full name elsewhere.
func tagOf(name string) string {
	if strings.Contains(name, "@") {
		return name
	}
	return strings.TrimPrefix(strings.TrimPrefix(name, repository(name)), ":")
}

// familiar is a name as docker save writes it.
func familiar(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}
