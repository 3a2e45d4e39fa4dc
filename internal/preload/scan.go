package preload

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// scanner takes an inventory of a tar that is read in order.
type scanner struct {
	ctx    context.Context // of the one walk that a scanner lives for
	inv    *inventory
	verify bool // digest everything
	kept   int64
}

// scanStream reads a whole tar: its files are noted, its documents kept, and with verify all is digested.
func scanStream(ctx context.Context, r io.Reader, verify bool) (*inventory, error) {
	s := scanner{ctx: ctx, inv: newInventory(), verify: verify}
	t := &stream{r: contextReader{ctx, r}}
	links, err := walkTar(ctx, t, s.member)
	if err != nil {
		return nil, err
	}
	s.inv.links = links
	// The check sums of the compression come at the very end.
	if _, err := io.Copy(io.Discard, t); err != nil {
		return nil, err
	}
	return s.inv, nil
}

// scanDisk notes the files of a tar without reading them.
func scanDisk(ctx context.Context, r io.ReaderAt, size int64) (*inventory, error) {
	inv := newInventory()
	links, err := walkTar(ctx, disk{io.NewSectionReader(r, 0, size)}, func(m member, _ io.Reader) error {
		inv.members[m.name] = &m
		return nil
	})
	inv.links = links
	inv.open = func(m *member) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(r, m.offset, m.size)), nil
	}
	return inv, err
}

func (s *scanner) member(m member, r io.Reader) error {
	s.inv.members[m.name] = &m
	delete(s.inv.docs, m.name)
	head := make([]byte, 64)
	n, err := io.ReadFull(r, head)
	if err != nil && int64(n) < min(m.size, int64(len(head))) {
		return err
	}
	content := io.MultiReader(bytes.NewReader(head[:n]), r)
	if m.size <= maxDocument && looksJSON(head[:n]) {
		return s.keep(&m, content)
	}
	_, isClaimed := claimed(m.name)
	want := measures{
		digest: s.verify || !isClaimed && packing(head[:n]) != Plain,
		diff:   s.verify,
	}
	m.sum, err = sum(s.ctx, m.name, content, want)
	return err
}

// keep holds a document in memory.
func (s *scanner) keep(m *member, r io.Reader) error {
	b := make([]byte, m.size)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	var err error
	if m.sum, err = sum(s.ctx, m.name, bytes.NewReader(b), measures{digest: true}); err != nil {
		return err
	}
	if !isDocument(m.name, b) {
		return nil
	}
	if s.kept += m.size; s.kept > maxDocuments {
		return limit("the archive has more than %d MiB of indexes and manifests", maxDocuments>>20)
	}
	s.inv.docs[m.name] = b
	return nil
}

// isDocument tells indexes, manifests and configs from other JSON: software lists that are attached to images
// are large.
func isDocument(name string, b []byte) bool {
	switch name {
	case ocispec.ImageLayoutFile, ocispec.ImageIndexFile, dockerIndex:
		return true
	}
	var keys struct {
		SchemaVersion, Manifests, Layers, RootFS, Architecture json.RawMessage
	}
	if json.Unmarshal(b, &keys) != nil {
		return false
	}
	return len(keys.SchemaVersion)+len(keys.Manifests)+len(keys.Layers)+len(keys.RootFS)+len(keys.Architecture) > 0
}

// contextReader stops reading when its context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
