package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// LoadOptions say how images are brought into the cache.
type LoadOptions struct {
	// Platforms must be complete for a reference to be written ("linux/arm64"). None: at least one must be.
	Platforms []string
	// Verify hashes blobs that are there already, too, and replaces bad ones.
	Verify bool
	// Progress is told what is written; may be nil. It is called from the loading goroutine.
	Progress func(Progress)
	// Now is the clock of the time in tag files; nil: time.Now.
	Now func() time.Time
}

// Progress is how far a load or a verification is.
type Progress struct {
	Item  string // digest or reference that is worked on
	Done  int64  // bytes
	Total int64  // bytes
}

// LoadReport says what a load did.
type LoadReport struct {
	Images  []LoadedImage `json:"images"`
	Created []string      `json:"created,omitempty"` // files that were not there before, relative to the cache
	Blobs   int           `json:"blobs"`             // blobs written
	Bytes   int64         `json:"bytes"`             // bytes written
}

// LoadedImage is the outcome for one image record of the source.
type LoadedImage struct {
	Reference string     `json:"reference"`
	Digest    string     `json:"digest"`
	Status    LoadStatus `json:"status"`
	Previous  string     `json:"previous,omitempty"` // digest that the tag had before
	Platforms []Platform `json:"platforms,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// LoadStatus is what became of an image.
type LoadStatus string

// The outcomes.
const (
	LoadCreated LoadStatus = "created"
	LoadChanged LoadStatus = "changed" // the tag pointed to another digest
	LoadPresent LoadStatus = "present"
	LoadFailed  LoadStatus = "failed" // no reference was written
)

// Load brings every image of the source into the cache. Blobs come first, each once and verified; references
// are written when all that the source has is durable. An index stays as it is, also when the source does not
// have all its platforms. Images that cannot be pulled from the cache afterwards get no reference and make
// the error; the others are kept. A second load writes nothing.
func (s *Store) Load(ctx context.Context, src host.ImageSource, opts LoadOptions) (LoadReport, error) {
	if s.readOnly {
		return LoadReport{}, fail("MER-003", s.dir, "the cache was opened read-only", "", "", nil)
	}
	w, err := s.writer()
	if err != nil {
		return LoadReport{}, err
	}
	defer w.close()
	unlock, err := s.lock(ctx, unix.LOCK_SH, lockForever)
	if err != nil {
		return LoadReport{}, err
	}
	defer unlock()
	if err := w.sweep(); err != nil {
		s.log.Warn("temporary files not removed", "error", err)
	}
	l := &loader{s: s, w: w, opts: opts, bad: map[string]error{}}
	if l.opts.Progress == nil {
		l.opts.Progress = func(Progress) {}
	}
	if l.opts.Now == nil {
		l.opts.Now = time.Now
	}
	if err := l.blobs(ctx, src); err != nil {
		return l.report, l.stopped(err)
	}
	err = l.images(ctx, src.Images())
	return l.report, err
}

// loader is one run of Load.
type loader struct {
	s      *Store
	w      *writer
	opts   LoadOptions
	report LoadReport
	bad    map[string]error // digests that the source has wrong
	done   int64
	total  int64
}

// stopped tells a source that ends early from a disk that does not take more.
func (l *loader) stopped(err error) error {
	if src, ok := errors.AsType[*sourceError](err); ok {
		return fail("MER-006", l.s.dir, "the source could not be read to its end",
			"no reference was written; what was read is kept and is not read again", "check the source and load it again", src.err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || len(diag.Of(err)) > 0 {
		return err
	}
	return writeError(l.s.dir, "blobs", err)
}

// blobs writes the blobs that are not there.
func (l *loader) blobs(ctx context.Context, src host.ImageSource) error {
	wanted := map[string]bool{}
	for _, d := range src.Blobs() {
		if err := digestOf(d).Validate(); err != nil || d.Size < 0 {
			l.bad[d.Digest] = fmt.Errorf("blob %q of %d bytes: not a valid descriptor", clip(d.Digest), d.Size)
			continue
		}
		have, err := l.have(ctx, d)
		if err != nil {
			return err
		}
		if !have && !wanted[d.Digest] {
			wanted[d.Digest] = true
			l.total += d.Size
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := l.room(); err != nil {
		return err
	}
	err := src.Each(ctx, func(d host.Descriptor) bool { return wanted[d.Digest] },
		func(d host.Descriptor, r io.Reader) error {
			if !wanted[d.Digest] {
				return nil
			}
			delete(wanted, d.Digest)
			return l.blob(ctx, d, r)
		})
	return l.eachError(ctx, err)
}

// eachError marks errors of the source: those of the disk have been marked.
func (l *loader) eachError(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return errors.Join(ctx.Err())
	}
	if d, ok := errors.AsType[*diskError](err); ok {
		return d.err
	}
	return &sourceError{err}
}

// diskError marks, on its way through the source, an error that is not the source's.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

// have says whether the cache has a blob already.
func (l *loader) have(ctx context.Context, d host.Descriptor) (bool, error) {
	if !l.s.hasBlob(digestOf(d), d.Size) {
		return false, nil
	}
	if !l.opts.Verify {
		return true, nil
	}
	b, err := l.s.openBlob(digestOf(d))
	if isGap(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer b.file.Close()
	if b.flight != nil {
		err = b.flight.wait(ctx)
	}
	if isGap(err) {
		return false, nil
	}
	return err == nil, err
}

// room refuses a load that cannot fit, before it starts.
func (l *loader) room() error {
	free, err := freeSpace(l.s.dir)
	if err != nil {
		return err
	}
	if free < l.total {
		return fail("MER-002", l.s.dir, fmt.Sprintf("%d bytes are to be written and %d are free", l.total, free),
			"nothing was written", "free some space: df -h "+diag.Word(l.s.dir), unix.ENOSPC)
	}
	return nil
}

// blob writes one blob. One that the source has wrong is noted, and the rest goes on.
func (l *loader) blob(ctx context.Context, d host.Descriptor, r io.Reader) error {
	start := l.done
	_, statErr := l.s.stat(blobPath(digestOf(d)))
	err := l.w.putBlob(ctx, digestOf(d), d.Size, r, func(n int64) {
		l.done += n
		l.opts.Progress(Progress{Item: d.Digest, Done: l.done, Total: l.total})
	})
	if errors.Is(err, errCorrupt) {
		l.bad[d.Digest] = err
		l.done = start + d.Size
		return nil
	}
	if src, ok := errors.AsType[*sourceError](err); ok {
		return src.err
	}
	if err != nil {
		return &diskError{err}
	}
	l.report.Blobs++
	l.report.Bytes += d.Size
	l.created(blobPath(digestOf(d)), statErr)
	return nil
}

// created notes a file that was not there.
func (l *loader) created(rel string, statErr error) {
	if statErr != nil {
		l.report.Created = append(l.report.Created, rel)
	}
}

// images writes the references.
func (l *loader) images(ctx context.Context, imgs []host.Image) error {
	problems := l.badBlobs()
	for _, img := range imgs {
		got, err := l.image(ctx, img)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if _, disk := errors.AsType[*diskError](err); disk {
				return writeError(l.s.dir, "the reference "+img.Name, err)
			}
			got.Status, got.Error = LoadFailed, err.Error()
			problems.Add(&diag.Diagnostic{ID: "MER-007", Severity: diag.Error,
				What: fmt.Sprintf("%s was not loaded: %v", img.Name, err),
				Why:  "a reference is written only when it can be pulled", Fix: "get the whole image and load it again"})
		}
		l.report.Images = append(l.report.Images, got)
	}
	return problems.Err()
}

// badBlobs reports what the source has wrong, also where an image can do without it.
func (l *loader) badBlobs() diag.Report {
	var out diag.Report
	for _, d := range slices.Sorted(maps.Keys(l.bad)) {
		out.Add(&diag.Diagnostic{ID: "MER-008", Severity: diag.Error,
			What: "a blob of the source was left out: " + l.bad[d].Error(),
			Why:  "the source is damaged", Fix: "get the source again and compare its checksum"})
	}
	return out
}

func (l *loader) image(ctx context.Context, img host.Image) (LoadedImage, error) {
	out := LoadedImage{Reference: img.Name, Digest: img.Target.Digest}
	ref, err := ParseReference(img.Name)
	if err != nil {
		return out, err
	}
	out.Reference = ref.String()
	if err := digestOf(img.Target).Validate(); err != nil {
		return out, fmt.Errorf("digest %q: %w", clip(img.Target.Digest), err)
	}
	if ref.Digest != "" && ref.Digest.String() != img.Target.Digest {
		return out, fmt.Errorf("it points to %s", img.Target.Digest)
	}
	t, err := l.s.grow(ctx, img.Target)
	if err != nil {
		return out, err
	}
	rec := record{Digest: digestOf(img.Target), MediaType: img.Target.MediaType, Size: img.Target.Size}
	e := l.s.describe(ref, rec, t, nil)
	out.Platforms = e.Platforms
	if err := l.complete(e); err != nil {
		return out, err
	}
	return out, l.write(ref, rec, t, &out)
}

// complete says what keeps an image from being pulled.
func (l *loader) complete(e Entry) error {
	if e.Error != "" {
		return l.why(e.Digest, errors.New("its manifest is not in the source"))
	}
	for _, p := range l.opts.Platforms {
		best, ok := e.Best(p)
		if !ok {
			return fmt.Errorf("it has no platform %s", p)
		}
		if !best.Complete {
			return fmt.Errorf("%s: %w", p, l.gap(best))
		}
	}
	if len(l.opts.Platforms) > 0 || e.Usable("") {
		return nil
	}
	if len(e.Platforms) == 0 {
		return errors.New("it has no platform")
	}
	i := max(0, slices.IndexFunc(e.Platforms, func(p Platform) bool { return p.Present }))
	return l.gap(e.Platforms[i])
}

func (l *loader) gap(p Platform) error {
	c := p.Missing[0]
	return l.why(c.Digest, fmt.Errorf("%s %s is not in the source (%d missing)", c.Kind, c.Digest, len(p.Missing)))
}

func (l *loader) why(d string, otherwise error) error {
	if err, ok := l.bad[d]; ok {
		return err
	}
	return otherwise
}

// write writes the records of an image: first what the repository serves by digest, last the tag.
func (l *loader) write(ref Reference, rec record, t *tree, out *LoadedImage) error {
	out.Status = LoadPresent
	for _, m := range t.manifests {
		r := Reference{Name: ref.Name, Digest: digestOf(m)}
		st, _, err := l.record(r, record{Digest: r.Digest, MediaType: m.MediaType, Size: m.Size})
		if err != nil {
			return err
		}
		if r.Digest == rec.Digest && ref.Tag == "" {
			out.Status = st
		}
	}
	if ref.Tag == "" {
		return nil
	}
	rec.Time = l.opts.Now().UTC().Truncate(time.Second)
	st, previous, err := l.record(Reference{Name: ref.Name, Tag: ref.Tag}, rec)
	out.Status, out.Previous = st, previous.String()
	return err
}

// record writes a reference file unless it says the same already.
func (l *loader) record(ref Reference, rec record) (LoadStatus, digest.Digest, error) {
	rec.Reference = ref.String()
	if err := rec.check(ref); err != nil {
		return "", "", err
	}
	old, err := l.s.lookup(ref)
	if err == nil && old.same(rec) {
		return LoadPresent, "", nil
	}
	b, encErr := rec.encode()
	if encErr != nil {
		return "", "", encErr
	}
	rel := recordPath(ref)
	_, statErr := l.s.stat(rel)
	put := l.w.put(rel, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if put != nil {
		return "", "", &diskError{put}
	}
	l.report.Bytes += int64(len(b))
	l.created(rel, statErr)
	if err == nil {
		return LoadChanged, old.Digest, nil
	}
	return LoadCreated, "", nil
}
