package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// annotationName carries the whole name of an image; org.opencontainers.image.ref.name has only its tag.
// containerd: core/images/annotations.go
const annotationName = "io.containerd.image.name"

// ExportOptions say what of images is exported.
type ExportOptions struct {
	// Platforms that each image must have completely ("linux/arm64"); none: all that are complete.
	Platforms []string
	// Progress is told what is written; may be nil.
	Progress func(Progress)
}

// ExportReport says what was exported.
type ExportReport struct {
	Images []ExportedImage `json:"images"`
	Blobs  int             `json:"blobs"`
	Bytes  int64           `json:"bytes"`
}

// ExportedImage is one reference of an export.
type ExportedImage struct {
	Reference string   `json:"reference"`
	Digest    string   `json:"digest"`
	Platforms []string `json:"platforms"`
}

// ExportSink takes the files of an OCI layout, in the order in which they stand in an archive.
type ExportSink interface {
	Put(name string, size int64, r io.Reader) error
}

// Export writes references as an OCI layout that containerd, docker, skopeo and a mirror's load read: with whole
// names, docker's manifest.json first, and every index and manifest as it is. Each blob is verified while it is
// written. Nothing is written when a reference is not complete.
func (s *Store) Export(ctx context.Context, refs []Reference, to ExportSink, opts ExportOptions) (ExportReport, error) {
	x := &exporter{s: s, opts: opts, seen: map[string]bool{}}
	var problems diag.Report
	for _, r := range refs {
		err := x.add(ctx, r)
		if ctx.Err() != nil {
			return x.report, ctx.Err()
		}
		if err != nil {
			problems.Add(&diag.Diagnostic{ID: "MER-066", Severity: diag.Error, What: fmt.Sprintf("%s cannot be exported: %v", r, err),
				Why: "an archive with half an image fails where it is loaded", Fix: "edgeprep mirror ls --cache " + diag.Word(s.dir) + " says which platforms are complete; choose with --platform"})
		}
	}
	if err := problems.Err(); err != nil {
		return x.report, err
	}
	return x.report, x.write(ctx, to)
}

type exporter struct {
	s      *Store
	opts   ExportOptions
	report ExportReport
	index  []ocispec.Descriptor
	docker []dockerEntry
	blobs  []Content
	seen   map[string]bool
	total  int64
}

// dockerEntry is one image in docker's manifest.json.
// moby: image/tarexport, manifestItem
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// add plans the export of a reference.
func (x *exporter) add(ctx context.Context, ref Reference) error {
	rec, err := x.s.lookup(ref)
	if err != nil {
		return errors.New("it is not in the cache")
	}
	t, err := x.s.grow(ctx, rec.descriptor())
	if err != nil {
		return err
	}
	chosen, err := x.choose(x.s.describe(ref, rec, t, nil), t)
	if err != nil {
		return err
	}
	img := ExportedImage{Reference: ref.String(), Digest: rec.Digest.String()}
	for _, m := range t.manifests {
		if isIndexType(m.MediaType) {
			x.take(Content{Kind: KindIndex, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size})
		}
	}
	for _, b := range chosen {
		x.take(b.manifestContent())
		for _, c := range b.contents {
			x.take(c)
		}
		if !b.attestation {
			img.Platforms = append(img.Platforms, b.platform)
		}
	}
	x.name(ref, rec, chosen)
	x.report.Images = append(x.report.Images, img)
	return nil
}

// choose gives the branches of the platforms that are asked for, or all that are complete.
func (x *exporter) choose(e Entry, t *tree) ([]branch, error) {
	if e.Error != "" {
		return nil, errors.New(e.Error)
	}
	want := map[string]bool{}
	for _, p := range x.opts.Platforms {
		best, ok := e.Best(p)
		switch {
		case !ok:
			return nil, fmt.Errorf("it has no platform %s", p)
		case !best.Complete:
			return nil, fmt.Errorf("%s is not complete: %d blobs are missing", p, len(best.Missing))
		}
		want[best.Digest] = true
	}
	var out []branch
	for _, b := range t.branches {
		p, _ := x.s.platform(b, map[string]bool{})
		if p.Complete && (want[p.Digest] || len(want) == 0) {
			out = append(out, b)
		}
	}
	if !slices.ContainsFunc(out, func(b branch) bool { return !b.attestation }) {
		return nil, errors.New("no platform of it is complete")
	}
	return out, nil
}

// take notes a blob, once.
func (x *exporter) take(c Content) {
	if !x.seen[c.Digest] {
		x.seen[c.Digest] = true
		x.blobs = append(x.blobs, c)
		x.total += c.Size
	}
}

// name notes a reference in index.json and, where docker can read it, in manifest.json.
func (x *exporter) name(ref Reference, rec record, chosen []branch) {
	d := ocispec.Descriptor{MediaType: rec.MediaType, Digest: rec.Digest, Size: rec.Size, Annotations: map[string]string{annotationName: ref.String()}}
	if ref.Tag != "" {
		d.Annotations[ocispec.AnnotationRefName] = ref.Tag
	}
	first := slices.IndexFunc(chosen, func(b branch) bool { return !b.attestation })
	b := chosen[first]
	if !isIndexType(rec.MediaType) && b.platform != "" {
		d.Platform = platformOf(b.platform)
	}
	x.index = append(x.index, d)
	if ref.Tag == "" || len(b.contents) == 0 || !isImageConfig(b.contents[0].MediaType) {
		return
	}
	e := dockerEntry{Config: layoutPath(b.contents[0].Digest), RepoTags: []string{ref.String()}, Layers: []string{}}
	for _, c := range b.contents[1:] {
		e.Layers = append(e.Layers, layoutPath(c.Digest))
	}
	x.docker = append(x.docker, e)
}

func platformOf(s string) *ocispec.Platform {
	os, rest, _ := strings.Cut(s, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	return &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
}

// layoutPath is where a blob is in an OCI layout.
func layoutPath(d string) string {
	return path.Join(ocispec.ImageBlobsDir, digest.Digest(d).Algorithm().String(), digest.Digest(d).Encoded())
}

// write writes the layout.
func (x *exporter) write(ctx context.Context, to ExportSink) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: x.index}
	small := []struct {
		name string
		v    any
	}{
		{"manifest.json", x.docker},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, index},
	}
	for _, f := range small {
		b, err := json.Marshal(f.v)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if f.name == "manifest.json" && len(x.docker) == 0 {
			continue // docker takes no empty one
		}
		if err := to.Put(f.name, int64(len(b)), bytes.NewReader(b)); err != nil {
			return err
		}
	}
	for _, c := range x.blobs {
		if err := x.blob(ctx, c, to); err != nil {
			return fmt.Errorf("%s %s: %w", c.Kind, c.Digest, err)
		}
	}
	return nil
}

// blob writes one blob, verified on the way.
func (x *exporter) blob(ctx context.Context, c Content, to ExportSink) error {
	d := digest.Digest(c.Digest)
	b, err := x.s.openBlob(d)
	if err != nil {
		return err
	}
	defer b.file.Close()
	r := &counted{ctx: ctx, r: io.NewSectionReader(b.file, 0, b.key.size), v: d.Verifier(), done: func(n int) {
		x.report.Bytes += int64(n)
		if x.opts.Progress != nil {
			x.opts.Progress(Progress{Item: c.Digest, Done: x.report.Bytes, Total: x.total})
		}
	}}
	if b.key.size != c.Size {
		return errCorrupt
	}
	if err := to.Put(layoutPath(c.Digest), c.Size, r); err != nil {
		return err
	}
	if !r.v.Verified() {
		return errCorrupt
	}
	x.report.Blobs++
	return nil
}

// counted reads, hashes and reports.
type counted struct {
	ctx  context.Context
	r    io.Reader
	v    digest.Verifier
	done func(int)
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.v.Write(p[:n]) //nolint:errcheck // a hash does not fail
	c.done(n)
	return n, err
}
