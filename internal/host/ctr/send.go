package ctr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/host"
)

// corruptError says that a blob is not what its digest says.
type corruptError struct {
	digest digest.Digest
	err    error // what containerd said; may be nil
}

func (e *corruptError) Error() string {
	return fmt.Sprintf("the content of %s has another digest", e.digest)
}

func (e *corruptError) Unwrap() error { return e.err }

// sourceError says that a source could not be read to its end.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

func (e *sourceError) Unwrap() error { return e.err }

func (r *Runtime) writers() int {
	if r.opts.Writers > 0 {
		return r.opts.Writers
	}
	return min(2, runtime.GOMAXPROCS(0))
}

// send brings blobs into containerd's content store: several at a time from a source that can seek, in the
// order of the source otherwise.
func (im *importer) send(ctx context.Context, blobs []ocispec.Descriptor) error {
	if len(blobs) == 0 {
		return nil
	}
	rc, err := im.src.Open(ctx, blobs[0].Digest.String())
	if errors.Is(err, host.ErrNotSeekable) {
		return im.sendInOrder(ctx, blobs)
	}
	if err != nil {
		return im.explain(ctx, "", &sourceError{err})
	}
	_ = rc.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(im.r.writers())
	for _, desc := range blobs {
		g.Go(func() error { return im.sendOne(ctx, desc) })
	}
	return g.Wait()
}

func (im *importer) sendOne(ctx context.Context, desc ocispec.Descriptor) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rc, err := im.src.Open(ctx, desc.Digest.String())
	if err != nil {
		return im.explain(ctx, "", &sourceError{fmt.Errorf("blob %s: %w", desc.Digest, err)})
	}
	defer rc.Close()
	return im.write(ctx, desc, rc)
}

func (im *importer) sendInOrder(ctx context.Context, blobs []ocispec.Descriptor) error {
	wanted := map[string]ocispec.Descriptor{}
	for _, d := range blobs {
		wanted[d.Digest.String()] = d
	}
	want := func(d host.Descriptor) bool {
		_, ok := wanted[d.Digest]
		return ok
	}
	var failed error // ours, not the source's
	err := im.src.Each(ctx, want, func(d host.Descriptor, r io.Reader) error {
		desc, ok := wanted[d.Digest]
		if !ok { // given twice
			return nil
		}
		delete(wanted, d.Digest)
		failed = im.write(ctx, desc, r)
		return failed
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return im.explain(ctx, "", &sourceError{err})
	}
	for _, desc := range wanted {
		return im.explain(ctx, "", &missingError{desc})
	}
	return nil
}

// write sends one blob. containerd hashes what it gets and refuses another digest or size.
func (im *importer) write(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	ref := ingestRef(im.lease, desc.Digest.String())
	w, err := im.s.content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) { // came from elsewhere in between; it is under the lease now
		im.meter.expect(-desc.Size)
		im.arrived.mark(desc.Digest)
		return nil
	}
	if err != nil {
		return im.explain(ctx, "", fmt.Errorf("open a writer for %s: %w", desc.Digest, err))
	}
	defer w.Close()
	src := &measured{r: r, meter: im.meter}
	if err := content.Copy(ctx, w, src, desc.Size, desc.Digest); err != nil {
		return im.explain(ctx, "", src.blame(desc, err))
	}
	im.arrived.mark(desc.Digest)
	return nil
}

// measured counts what is read and remembers whether reading failed.
type measured struct {
	r     io.Reader
	meter *meter
	err   error
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.meter.add(n)
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// blame tells a source that is broken from a containerd that is.
func (m *measured) blame(desc ocispec.Descriptor, err error) error {
	switch {
	case m.err != nil:
		return &sourceError{fmt.Errorf("blob %s: %w", desc.Digest, m.err)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &sourceError{fmt.Errorf("blob %s: %w", desc.Digest, err)}
	case errdefs.IsFailedPrecondition(err):
		// core/content: more bytes than the size, or another digest at the commit.
		return &corruptError{digest: desc.Digest, err: err}
	case errors.Is(err, io.EOF):
		// grpc.ClientStream.SendMsg says no more than that when the other side is gone.
		return fmt.Errorf("send %s: containerd hung up: %w", desc.Digest, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("send %s: %w", desc.Digest, err)
}

// meter adds up progress and tells it, one call at a time.
type meter struct {
	mu       sync.Mutex
	tell     func(host.ImportProgress)
	content  host.ImportProgress
	told     int64
	sentByte atomic.Int64
}

func newMeter(tell func(host.ImportProgress)) *meter {
	if tell == nil {
		tell = func(host.ImportProgress) {}
	}
	return &meter{tell: tell, content: host.ImportProgress{Phase: "content"}}
}

func (m *meter) expect(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content.Total += n
}

func (m *meter) add(n int) {
	if n == 0 {
		return
	}
	m.sentByte.Add(int64(n))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content.Done += int64(n)
	// Some readers give a few KiB at a time; nobody needs to hear of each.
	if m.content.Done-m.told >= chunk || m.content.Done == m.content.Total {
		m.told = m.content.Done
		m.tell(m.content)
	}
}

func (m *meter) sent() int64 { return m.sentByte.Load() }

// unpacked tells how much of an image's layers is unpacked.
func (m *meter) unpacked(image string, done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(host.ImportProgress{Image: image, Phase: "unpack", Done: done, Total: total})
}
