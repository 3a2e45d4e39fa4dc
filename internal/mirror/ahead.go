package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// FillOptions say how a cache is filled ahead.
type FillOptions struct {
	// Platforms are brought in of each image ("linux/arm64"); none: all that it has.
	Platforms []string
	// Progress is told what comes in; may be nil. It is called from several goroutines, one at a time.
	Progress func(Progress)
}

// FillReport says what became of each reference.
type FillReport struct {
	Images []FilledImage `json:"images"`
	Blobs  int           `json:"blobs"` // blobs brought in
	Bytes  int64         `json:"bytes"` // of them
}

// FilledImage is the outcome for one reference.
type FilledImage struct {
	Reference string     `json:"reference"`
	Digest    string     `json:"digest,omitempty"`
	Status    FillStatus `json:"status"`
	Error     string     `json:"error,omitempty"`
}

// FillStatus is what became of a reference.
type FillStatus string

// The outcomes.
const (
	FillPulled  FillStatus = "pulled"
	FillPresent FillStatus = "present" // all of it was there; no upstream was asked
	FillFailed  FillStatus = "failed"
)

// blobsAtOnce is how many blobs are brought in at the same time.
const blobsAtOnce = 4

// Fill brings references completely into the cache, each blob once. What is there already is not asked for
// again, so a run that was cut off goes on where it was, and one that has all makes no request. References
// that could not be completed make the error; the others are kept.
func Fill(ctx context.Context, s *Store, up Upstreams, refs []Reference, opts FillOptions) (FillReport, error) {
	p, err := newPuller(s, up, defaultLimits())
	if err != nil {
		return FillReport{}, err
	}
	defer p.closeIdle()
	return p.fillAll(ctx, refs, opts)
}

func (p *puller) fillAll(ctx context.Context, refs []Reference, opts FillOptions) (FillReport, error) {
	w, err := p.store.writer()
	if err != nil {
		return FillReport{}, err
	}
	defer w.close()
	unlock, err := p.store.lock(ctx, unix.LOCK_SH, lockForever)
	if err != nil {
		return FillReport{}, err
	}
	defer unlock()
	if err := w.sweep(); err != nil { // what a run that was killed left
		p.log.Warn("temporary files not removed", "error", err)
	}
	f := &filler{p: p, opts: opts, want: map[digest.Digest]*wantedBlob{}}
	if f.opts.Progress == nil {
		f.opts.Progress = func(Progress) {}
	}
	for _, r := range refs {
		f.images = append(f.images, f.plan(ctx, r))
	}
	if err := f.fetch(ctx); err != nil {
		return f.report, err
	}
	return f.report, f.finish(ctx)
}

// filler is one run of Fill.
type filler struct {
	p      *puller
	opts   FillOptions
	images []*plannedImage
	want   map[digest.Digest]*wantedBlob
	order  []*wantedBlob
	total  int64

	mu     sync.Mutex
	done   int64
	report FillReport
}

// plannedImage is a reference whose manifests are in the cache.
type plannedImage struct {
	ref   Reference
	rec   record
	asked bool // something of it was not there
	blobs []*wantedBlob
	err   error
}

// wantedBlob is a config or layer that is not there.
type wantedBlob struct {
	name Name
	desc Content
	err  error
}

// plan brings in the manifests of a reference and notes the blobs that are not there.
func (f *filler) plan(ctx context.Context, ref Reference) *plannedImage {
	img := &plannedImage{ref: ref}
	look := ref
	if ref.Digest != "" {
		look.Tag = ""
	}
	img.rec, img.err = f.manifest(ctx, look, img)
	platforms := f.opts.Platforms
	if len(platforms) == 0 {
		platforms = []string{""}
	}
	for _, platform := range platforms {
		if img.err == nil {
			img.err = f.planPlatform(ctx, img, platform)
		}
	}
	return img
}

// manifest gives the record of a manifest, from the cache if it is there.
func (f *filler) manifest(ctx context.Context, ref Reference, img *plannedImage) (record, error) {
	if rec, _, err := f.p.store.image(ref); err == nil {
		return rec, nil
	}
	img.asked = true
	found, _, err := f.p.manifest(ctx, ref)
	if err == nil {
		f.p.kept(ctx, ref)
		_, _, err = f.p.store.image(ref)
	}
	if errors.Is(err, ErrNotFound) && found.data != nil { // it came and was not kept: why, says the next attempt
		err = f.p.keep(ctx, ref, found.rec, found.data)
	}
	return found.rec, err
}

func (f *filler) planPlatform(ctx context.Context, img *plannedImage, platform string) error {
	t, err := grow(ctx, img.rec.descriptor(), platform, func(ctx context.Context, d host.Descriptor) ([]byte, error) {
		if isManifestType(d.MediaType) {
			if _, err := f.manifest(ctx, Reference{Name: img.ref.Name, Digest: digestOf(d)}, img); err != nil {
				return nil, err
			}
			return f.p.store.sized(d)
		}
		if !f.p.store.hasBlob(digestOf(d), d.Size) {
			img.asked = true
			f.total += d.Size
			if err := f.bring(ctx, &wantedBlob{name: img.ref.Name, desc: Content{Digest: d.Digest, Size: d.Size}}); err != nil {
				return nil, err
			}
		}
		return f.p.store.smallBlob(digestOf(d))
	})
	if err != nil {
		return err
	}
	if len(t.branches) == 0 {
		return fmt.Errorf("it has no platform %s", platform)
	}
	for _, b := range t.branches {
		if !b.present {
			return fmt.Errorf("%s: %w", b.desc.Digest, b.err)
		}
		for _, c := range b.contents {
			f.note(img, c)
		}
	}
	return nil
}

// note puts a blob that is not there on the list, once.
func (f *filler) note(img *plannedImage, c Content) {
	d := digest.Digest(c.Digest)
	if f.p.store.hasBlob(d, c.Size) {
		return
	}
	img.asked = true
	w, ok := f.want[d]
	if !ok {
		w = &wantedBlob{name: img.ref.Name, desc: c}
		f.want[d] = w
		f.order = append(f.order, w)
		f.total += c.Size
	}
	img.blobs = append(img.blobs, w)
}

// fetch brings in the blobs. One that fails does not keep the others from coming.
func (f *filler) fetch(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(blobsAtOnce)
	for _, w := range f.order {
		g.Go(func() error {
			if w.err = ctx.Err(); w.err == nil {
				w.err = f.bring(ctx, w)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// bring brings in one blob and waits until it is durable.
func (f *filler) bring(ctx context.Context, w *wantedBlob) error {
	d := digest.Digest(w.desc.Digest)
	t, err := f.p.blob(ctx, w.name, d)
	if err != nil {
		return err
	}
	var got int64
	if t != nil {
		got, err = f.follow(ctx, t, w.desc)
		t.leave()
	}
	if err == nil && !f.p.store.hasBlob(d, w.desc.Size) {
		err = fmt.Errorf("%s is not %d bytes long: %w", d, w.desc.Size, errCorrupt)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.report.Blobs++
	f.report.Bytes += w.desc.Size
	f.mu.Unlock()
	f.came(w.desc, w.desc.Size-got) // one that is small may have landed before it could be followed
	return nil
}

// came tells that n more bytes came in.
func (f *filler) came(c Content, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done += n
	f.opts.Progress(Progress{Item: c.Digest, Done: f.done, Total: max(f.total, f.done)})
}

// follow reports what comes in, and waits for the end.
func (f *filler) follow(ctx context.Context, t *fill, c Content) (pos int64, err error) {
	for pos < t.size {
		end, err := t.came(ctx, pos)
		if err != nil {
			return pos, err
		}
		f.came(c, end-pos)
		pos = end
	}
	select {
	case <-t.landed:
		return pos, t.failed()
	case <-ctx.Done():
		return pos, ctx.Err()
	}
}

// finish says what became of each reference.
func (f *filler) finish(ctx context.Context) error {
	var problems diag.Report
	for _, img := range f.images {
		for _, w := range img.blobs {
			if w.err != nil {
				img.err = errors.Join(img.err, fmt.Errorf("%s %s: %w", w.desc.Kind, w.desc.Digest, w.err))
			}
		}
		out := FilledImage{Reference: img.ref.String(), Digest: img.rec.Digest.String(), Status: FillPresent}
		switch {
		case img.err != nil:
			out.Status, out.Error = FillFailed, img.err.Error()
			problems.Add(&diag.Diagnostic{ID: "MER-022", Severity: diag.Error,
				What: fmt.Sprintf("%s is not complete: %v", img.ref, img.err),
				Why:  "its nodes would not be able to pull it without a network", Fix: "run the same command again: what came in is kept"})
		case img.asked:
			out.Status = FillPulled
		}
		f.report.Images = append(f.report.Images, out)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return problems.Err()
}
