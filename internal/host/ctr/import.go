package ctr

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/host"
)

// importer is one run of Import.
type importer struct {
	r        *Runtime
	s        *services
	src      host.ImageSource
	opts     host.ImportOptions
	sn       string
	platform platforms.MatchComparer
	meta     *metadata
	lease    string
	arrived  arrivals
	layers   keyedMutex
	meter    *meter
	report   host.ImportReport
}

// Import implements host.RuntimeControl. Nothing of the source but manifests is read when all is there.
//
// Blobs are sent in the order in which the images need them, and an image's layers are unpacked while later
// ones are still sent. Its record is made last: before that, CRI does not see the image. When Import returns,
// CRI knows what was made.
func (r *Runtime) Import(ctx context.Context, src host.ImageSource, opts host.ImportOptions) (host.ImportReport, error) {
	platform, err := matcher(opts.Platform)
	if err != nil {
		return host.ImportReport{}, err
	}
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return host.ImportReport{}, err
	}
	im := &importer{
		r: r, s: s, src: src, opts: opts, platform: platform, sn: r.snapshotter(opts.Snapshotter),
		meta: newMetadata(s.content, src), meter: newMeter(opts.Progress),
	}
	todo, err := im.survey(ctx)
	if err != nil {
		return im.report, err
	}
	if len(todo) == 0 {
		return im.report, im.removeStale(ctx)
	}
	err = im.run(ctx, todo)
	im.report.Bytes = im.meter.sent()
	if err == nil {
		im.awaitCRI(ctx, todo)
	}
	return im.report, err
}

// survey finds what each image needs and sorts out those that need nothing more.
func (im *importer) survey(ctx context.Context) (todo []*tree, err error) {
	for _, img := range im.src.Images() {
		t, err := im.meta.resolve(ctx, img, im.platform)
		if err != nil {
			return nil, im.explain(ctx, img.Name, err)
		}
		if t.records, err = im.records(img); err != nil {
			return nil, im.explain(ctx, img.Name, err)
		}
		done, err := im.isComplete(ctx, t)
		if err != nil {
			return nil, im.r.wrap(ctx, "look for image "+img.Name, err)
		}
		if !done {
			todo = append(todo, t)
			continue
		}
		for _, rec := range t.records {
			im.note(&im.report.Present, rec.Name)
		}
	}
	return todo, nil
}

// run brings the images in under a lease, which it removes whatever happens.
func (im *importer) run(ctx context.Context, todo []*tree) (err error) {
	lease, err := im.s.openLease(ctx)
	if err != nil {
		return im.r.wrap(ctx, "make a lease", err)
	}
	im.lease = lease.ID
	defer func() {
		if cerr := im.closeLease(ctx, lease); err == nil {
			err = cerr
		}
	}()
	ctx = leases.WithLease(ctx, lease.ID)
	send, err := im.missing(ctx, todo)
	if err != nil {
		return err
	}
	// Only now: what a killed import sent of these images is under the new lease and stays.
	if err := im.removeStale(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return im.send(gctx, send) })
	for _, line := range lines(todo, im.r.writers()) {
		g.Go(func() error { return im.finishAll(gctx, line) })
	}
	return g.Wait()
}

func (im *importer) removeStale(ctx context.Context) error {
	return im.r.wrap(ctx, "clean up after an earlier import", im.s.removeStale(ctx))
}

// closeLease waits for the collection of what a failed import left, so that a full disk has its room back.
func (im *importer) closeLease(ctx context.Context, lease leases.Lease) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
	defer cancel()
	abort := im.s.abortIngests(ctx, func(ref string) bool { return leaseOf(ref) == lease.ID })
	if err := im.s.leases.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		return im.r.wrap(ctx, "delete lease "+lease.ID, err)
	}
	return im.r.wrap(ctx, "abort unfinished blobs", abort)
}

// missing lists the blobs to send, each once, in the order of need, and puts those that are there under the
// lease: nothing else may hold them. One that is in neither place ends the import before it wrote anything.
func (im *importer) missing(ctx context.Context, todo []*tree) ([]ocispec.Descriptor, error) {
	var send []ocispec.Descriptor
	im.arrived = arrivals{}
	for _, t := range todo {
		for _, desc := range t.blobs() {
			if im.arrived[desc.Digest] != nil {
				continue
			}
			im.arrived[desc.Digest] = make(chan struct{})
			there, err := im.hold(ctx, desc)
			if err != nil {
				return nil, im.r.wrap(ctx, "look for blob "+desc.Digest.String(), err)
			}
			switch {
			case there:
				im.arrived.mark(desc.Digest)
			case !im.meta.held[desc.Digest]:
				return nil, im.explain(ctx, t.image.Name, &missingError{desc})
			default:
				send = append(send, desc)
				im.meter.expect(desc.Size)
			}
		}
	}
	return send, nil
}

// hold leases a blob first and looks for it then: the other way round it could be collected in between.
func (im *importer) hold(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	res := leases.Resource{ID: desc.Digest.String(), Type: "content"}
	if err := im.s.leases.AddResource(ctx, leases.Lease{ID: im.lease}, res); err != nil {
		return false, err
	}
	info, there, err := hasBlob(ctx, im.s.content, desc)
	if err == nil && !there && info.Digest != "" {
		return false, fmt.Errorf("containerd has %d bytes where the manifest says %d", info.Size, desc.Size)
	}
	return there, err
}

// lines deals images out to n workers. Images of one target stay in one line: their layers are the same.
func lines(todo []*tree, n int) [][]*tree {
	out := make([][]*tree, n)
	line := map[string]int{}
	for _, t := range todo {
		i, ok := line[t.image.Target.Digest]
		if !ok {
			i = len(line) % n
			line[t.image.Target.Digest] = i
		}
		out[i] = append(out[i], t)
	}
	return slices.DeleteFunc(out, func(l []*tree) bool { return len(l) == 0 })
}

// arrivals says which blobs are in containerd: a closed channel each. The map does not change while it is
// used by several goroutines.
type arrivals map[digest.Digest]chan struct{}

func (a arrivals) mark(d digest.Digest) { close(a[d]) }

func (a arrivals) wait(ctx context.Context, ds ...digest.Digest) error {
	for _, d := range ds {
		select {
		case <-a[d]:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// keyedMutex is one mutex a key.
type keyedMutex struct {
	mu   sync.Mutex
	keys map[string]*sync.Mutex
}

func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.keys == nil {
		k.keys = map[string]*sync.Mutex{}
	}
	m, ok := k.keys[key]
	if !ok {
		m = &sync.Mutex{}
		k.keys[key] = m
	}
	k.mu.Unlock()
	m.Lock()
	return m.Unlock
}
