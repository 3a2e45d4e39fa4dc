package preload_test

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memoryStore is as much of a containerd content store as its importer uses.
type memoryStore struct {
	content.Store // the rest is not called

	blobs map[digest.Digest][]byte
}

func (s memoryStore) Walk(context.Context, content.WalkFunc, ...string) error { return nil }

func (s memoryStore) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return memoryReader{bytes.NewReader(b)}, nil
}

func (s memoryStore) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return &memoryWriter{store: s}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

type memoryWriter struct {
	bytes.Buffer
	store memoryStore
}

func (w *memoryWriter) Close() error          { return nil }
func (w *memoryWriter) Digest() digest.Digest { return digest.FromBytes(w.Bytes()) }
func (w *memoryWriter) Truncate(int64) error  { w.Reset(); return nil }

func (w *memoryWriter) Status() (content.Status, error) {
	return content.Status{Offset: int64(w.Len()), StartedAt: time.Unix(0, 0)}, nil
}

func (w *memoryWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	if size > 0 && size != int64(w.Len()) || expected != "" && expected != w.Digest() {
		return io.ErrUnexpectedEOF
	}
	w.store.blobs[w.Digest()] = w.Bytes()
	return nil
}
