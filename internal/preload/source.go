package preload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Open reads what an archive or OCI layout directory holds. What it holds is found by content, not by the
// file's name. A plain tar and a directory are indexed and can be read in any order and in parallel; a
// compressed archive is read through once now and once by each call of Each.
//
// Documents are verified against their digests; layers are not: whoever stores them does that (or Inspect did).
func Open(ctx context.Context, fs host.FS, path string) (host.ImageSource, error) {
	s, err := open(ctx, fs, path)
	return s, explain(path, err)
}

func open(ctx context.Context, fs host.FS, path string) (host.ImageSource, error) {
	fi, err := fs.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Type == host.TypeDir {
		inv, err := scanDir(fs, path)
		if err != nil {
			return nil, err
		}
		return newSource(ctx, inv, OCILayout, nil)
	}
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := openFile(ctx, f, fi.Size)
	if err != nil {
		_ = f.Close() // opened for reading only
		return nil, err
	}
	return s, nil
}

func openFile(ctx context.Context, f host.File, size int64) (host.ImageSource, error) {
	c, err := sniff(f)
	if err != nil {
		return nil, err
	}
	if c == Plain {
		inv, err := scanDisk(ctx, f, size)
		if err != nil {
			return nil, err
		}
		return newSource(ctx, inv, "", f)
	}
	reopen := func() (io.ReadCloser, error) { return unpack(io.NewSectionReader(f, 0, size), c) }
	r, err := reopen()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	inv, err := scanStream(ctx, r, false)
	if err != nil {
		return nil, err
	}
	s, err := newSource(ctx, inv, "", f)
	if err != nil {
		return nil, err
	}
	return &packedSource{source: s, reopen: reopen}, nil
}

// sniff tells how a file is packed.
func sniff(f io.ReaderAt) (Compression, error) {
	head := make([]byte, sniffLen)
	n, err := f.ReadAt(head, 0)
	if n == 0 && errors.Is(err, io.EOF) {
		return Plain, &flaw{id: idFormat, what: "the archive is an empty file", fix: "copy the archive again"}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return Plain, err
	}
	return detect(head[:n]), nil
}

// source is a seekable set of images. It implements host.ImageSource.
type source struct {
	graph  *graph
	inv    *inventory
	byID   map[string]*blob
	closer io.Closer
}

func newSource(ctx context.Context, inv *inventory, format Format, c io.Closer) (*source, error) {
	g, err := resolve(ctx, inv)
	if err != nil {
		return nil, err
	}
	if format != "" {
		g.format = format
	}
	if err := g.checkNames(); err != nil {
		return nil, err
	}
	s := &source{graph: g, inv: inv, byID: map[string]*blob{}, closer: c}
	for _, b := range g.blobs {
		s.byID[b.desc.Digest] = b
	}
	return s, nil
}

// checkNames refuses an archive that would come to nothing: containerd makes no record without a name.
func (g *graph) checkNames() error {
	switch {
	case len(g.images) > 0:
		return nil
	case len(g.nameless) == 0:
		return &flaw{id: idFormat, what: "there is no image in the archive", fix: "write it with: docker save -o FILE NAME:TAG"}
	}
	return &flaw{
		id: idNoName, what: fmt.Sprintf("no image in the archive has a name (%s)", list(g.nameless, 2)),
		why: "an image without a name is dropped on import; tools leave it out when they save by digest or image id",
		fix: "save it by name: docker save -o FILE NAME:TAG, or skopeo copy docker://NAME:TAG oci-archive:FILE:NAME:TAG",
	}
}

func (s *source) Images() []host.Image {
	out := make([]host.Image, 0, len(s.graph.images))
	for _, i := range s.graph.images {
		out = append(out, host.Image{Name: i.name.Name, Target: i.target})
	}
	return out
}

func (s *source) Blobs() []host.Descriptor {
	out := make([]host.Descriptor, 0, len(s.graph.blobs))
	for _, b := range s.graph.blobs {
		out = append(out, b.desc)
	}
	return out
}

func (s *source) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	b, ok := s.byID[digest]
	if !ok {
		return nil, fmt.Errorf("open %s: the archive does not hold it", digest)
	}
	return s.open(ctx, b)
}

func (s *source) open(ctx context.Context, b *blob) (io.ReadCloser, error) {
	if b.member == nil {
		return io.NopCloser(bytes.NewReader(b.inline)), nil
	}
	r, err := s.inv.open(b.member)
	if err != nil {
		return nil, err
	}
	return readCloser{contextReader{ctx, r}, r}, nil
}

func (s *source) Each(ctx context.Context, want func(host.Descriptor) bool, fn func(host.Descriptor, io.Reader) error) error {
	for _, b := range s.graph.blobs {
		if !want(b.desc) {
			continue
		}
		if err := s.give(ctx, b, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) give(ctx context.Context, b *blob, fn func(host.Descriptor, io.Reader) error) error {
	r, err := s.open(ctx, b)
	if err != nil {
		return err
	}
	defer r.Close()
	return fn(b.desc, r)
}

func (s *source) Close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// packedSource is a compressed archive: each pass decompresses it again.
type packedSource struct {
	*source
	reopen func() (io.ReadCloser, error)
}

func (p *packedSource) Open(context.Context, string) (io.ReadCloser, error) {
	return nil, host.ErrNotSeekable
}

func (p *packedSource) Each(ctx context.Context, want func(host.Descriptor) bool, fn func(host.Descriptor, io.Reader) error) error {
	left := map[string]*blob{} // by the member's name
	for _, b := range p.graph.blobs {
		if !want(b.desc) {
			continue
		}
		if b.member != nil {
			left[b.member.name] = b
		} else if err := fn(b.desc, bytes.NewReader(b.inline)); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return nil
	}
	r, err := p.reopen()
	if err != nil {
		return err
	}
	defer r.Close()
	return p.pass(ctx, r, left, fn)
}

// errDone ends a pass when nothing is left to be found.
var errDone = errors.New("done")

func (p *packedSource) pass(ctx context.Context, r io.Reader, left map[string]*blob, fn func(host.Descriptor, io.Reader) error) error {
	_, err := walkTar(ctx, &stream{r: contextReader{ctx, r}}, func(m member, content io.Reader) error {
		// Of files with one name only the last was taken in: it is known by its place.
		b, ok := left[m.name]
		if !ok || b.member.order != m.order {
			return nil
		}
		delete(left, m.name)
		if err := fn(b.desc, content); err != nil {
			return err
		}
		if len(left) == 0 {
			return errDone
		}
		return nil
	})
	switch {
	case errors.Is(err, errDone):
		return nil
	case err == nil:
		return errors.New("the archive changed while it was read")
	}
	return err
}

type readCloser struct {
	io.Reader
	io.Closer
}
