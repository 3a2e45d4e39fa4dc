package ctr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

const (
	// containerd: internal/cri/labels PinnedImageLabelKey; honoured since 1.6.22 and 1.7.3, ignored before.
	pinLabel, pinValue = "io.cri-containerd.pinned", "pinned"
	// containerd: pkg/labels LabelUncompressed, which pulls set too.
	uncompressedLabel = "containerd.io/uncompressed"
	// containerd: core/metadata/gc.go; the image's config holds its snapshot.
	snapshotLabel = "containerd.io/gc.ref.snapshot."
)

// finishAll completes images one after the other; the order is the one in which their blobs are sent.
func (im *importer) finishAll(ctx context.Context, trees []*tree) error {
	for _, t := range trees {
		if err := im.finish(ctx, t); err != nil {
			return im.explain(ctx, t.image.Name, err)
		}
	}
	return nil
}

// finish makes a complete image of blobs: references against collection, snapshots, and then its records.
func (im *importer) finish(ctx context.Context, t *tree) error {
	if im.opts.Unpack {
		if err := im.unpack(ctx, t); err != nil {
			return err
		}
	}
	if err := im.arrived.wait(ctx, digests(t.blobs())...); err != nil {
		return err
	}
	for d, labels := range im.references(t) {
		if err := im.s.label(ctx, d, labels); err != nil {
			return err
		}
	}
	for _, rec := range t.records {
		if err := im.record(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// references are the labels by which an image's content holds together for the garbage collector, as
// containerd's own importer and puller set them.
// containerd: core/images SetChildrenMappedLabels
func (im *importer) references(t *tree) map[digest.Digest]map[string]string {
	out := map[digest.Digest]map[string]string{}
	for _, p := range t.parents {
		labels, count := map[string]string{}, map[string]int{}
		for _, child := range p.children {
			for _, key := range images.ChildGCLabels(child) {
				n := count[key]
				count[key]++
				if n > 0 || key[len(key)-1] == '.' {
					key = fmt.Sprintf("%s%d", key, n)
				}
				labels[key] = child.Digest.String()
			}
		}
		out[p.desc.Digest] = labels
	}
	return out
}

// label adds labels to a blob.
func (s *services) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	fields := make([]string, 0, len(labels))
	for key := range labels {
		fields = append(fields, "labels."+key)
	}
	slices.Sort(fields)
	if _, err := s.content.Update(ctx, content.Info{Digest: d, Labels: labels}, fields...); err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	return nil
}

// unpackError says which layer could not be unpacked.
type unpackError struct {
	layer digest.Digest
	err   error
}

func (e *unpackError) Error() string { return fmt.Sprintf("unpack layer %s: %v", e.layer, e.err) }

func (e *unpackError) Unwrap() error { return e.err }

// unpack commits the layers to the snapshotter, each as soon as it is there.
func (im *importer) unpack(ctx context.Context, t *tree) error {
	if err := im.arrived.wait(ctx, t.config.Digest); err != nil {
		return err
	}
	layers, err := im.meta.diffs(ctx, t)
	if err != nil {
		return err
	}
	var chain []digest.Digest
	var done, total int64
	for _, l := range layers {
		total += l.Blob.Size
	}
	for _, l := range layers {
		if err := im.arrived.wait(ctx, l.Blob.Digest); err != nil {
			return err
		}
		if err := im.applyLayer(ctx, l, chain); err != nil {
			return err
		}
		chain = append(chain, l.Diff.Digest)
		done += l.Blob.Size
		im.meter.unpacked(t.image.Name, done, total)
	}
	return im.s.label(ctx, t.config.Digest, im.snapshotReference(chain))
}

// applyLayer unpacks a layer onto a chain. Two images that share their first layers do not do it twice.
func (im *importer) applyLayer(ctx context.Context, l rootfs.Layer, chain []digest.Digest) error {
	defer im.layers.lock(identity.ChainID(append(slices.Clone(chain), l.Diff.Digest)).String())()
	applied, err := rootfs.ApplyLayerWithOpts(ctx, l, chain, im.s.snapshots(im.sn), im.s.diff, nil, nil)
	if err != nil {
		return &unpackError{l.Blob.Digest, err}
	}
	if !applied {
		return nil
	}
	return im.s.label(ctx, l.Blob.Digest, map[string]string{uncompressedLabel: l.Diff.Digest.String()})
}

func (im *importer) snapshotReference(chain []digest.Digest) map[string]string {
	return map[string]string{snapshotLabel + im.sn: identity.ChainID(chain).String()}
}

// diffs pairs an image's layers with their uncompressed digests, by position.
func (m *metadata) diffs(ctx context.Context, t *tree) ([]rootfs.Layer, error) {
	config, err := m.imageConfig(ctx, t.config)
	if err != nil {
		return nil, err
	}
	blobs := t.rootFSLayers()
	if len(blobs) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("the manifest has %d layers, the config %d", len(blobs), len(config.RootFS.DiffIDs))
	}
	layers := make([]rootfs.Layer, len(blobs))
	for i, b := range blobs {
		if err := config.RootFS.DiffIDs[i].Validate(); err != nil {
			return nil, fmt.Errorf("the config names diff id %q: %w", config.RootFS.DiffIDs[i], err)
		}
		layers[i].Blob = b
		layers[i].Diff = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: config.RootFS.DiffIDs[i]}
	}
	return layers, nil
}

// records are the image records of an image: its name, and with a pin the name by digest too, without which a
// pod that asks by digest finds the image absent. The pin is on that one: CRI rewrites the labels of the name
// that it pulls.
func (im *importer) records(img host.Image) ([]host.Image, error) {
	named := host.Image{Name: img.Name, Target: img.Target, Labels: maps.Clone(im.opts.Labels)}
	ref, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil || !im.opts.Pin { // containerd takes any name; an odd one has no form by digest
		return []host.Image{im.pin(named)}, nil //nolint:nilerr // as said above
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(ref), digest.Digest(img.Target.Digest))
	if err != nil {
		return nil, fmt.Errorf("name by digest: %w", err)
	}
	if canonical.String() == named.Name {
		return []host.Image{im.pin(named)}, nil
	}
	byDigest := host.Image{Name: canonical.String(), Target: named.Target, Labels: maps.Clone(im.opts.Labels)}
	return []host.Image{named, im.pin(byDigest)}, nil
}

func (im *importer) pin(rec host.Image) host.Image {
	if im.opts.Pin {
		rec.Labels = maps.Clone(rec.Labels)
		if rec.Labels == nil {
			rec.Labels = map[string]string{}
		}
		rec.Labels[pinLabel] = pinValue
	}
	return rec
}

// record makes or changes a record, keeping labels that are not ours.
func (im *importer) record(ctx context.Context, rec host.Image) error {
	same, err := im.s.hasRecord(ctx, rec)
	if err != nil {
		return fmt.Errorf("record %s: %w", rec.Name, err)
	}
	if same {
		im.note(&im.report.Present, rec.Name)
		return nil
	}
	fields := []string{"target"}
	for key := range rec.Labels {
		fields = append(fields, "labels."+key)
	}
	if err := im.s.putImage(ctx, rec, fields...); err != nil {
		return fmt.Errorf("record %s: %w", rec.Name, err)
	}
	im.note(&im.report.Created, rec.Name)
	return nil
}

func (im *importer) note(list *[]string, name string) {
	im.meter.mu.Lock()
	defer im.meter.mu.Unlock()
	if !slices.Contains(im.report.Created, name) && !slices.Contains(*list, name) {
		*list = append(*list, name)
	}
}

// hasRecord says whether a record is as wanted; further labels do not matter.
func (s *services) hasRecord(ctx context.Context, want host.Image) (bool, error) {
	got, ok, err := s.getImage(ctx, want.Name)
	if err != nil || !ok || got.Target.Digest != want.Target.Digest {
		return false, err
	}
	return hasLabels(got.Labels, want.Labels), nil
}

func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// isComplete says whether an image needs nothing more: records, content held together, snapshots.
func (im *importer) isComplete(ctx context.Context, t *tree) (bool, error) {
	for _, rec := range t.records {
		if ok, err := im.s.hasRecord(ctx, rec); !ok || err != nil {
			return false, err
		}
	}
	labels := im.references(t)
	for _, desc := range t.blobs() {
		info, ok, err := hasBlob(ctx, im.s.content, desc)
		if !ok || err != nil || !hasLabels(info.Labels, labels[desc.Digest]) {
			return false, err
		}
	}
	return im.isUnpacked(ctx, t)
}

func (im *importer) isUnpacked(ctx context.Context, t *tree) (bool, error) {
	if !im.opts.Unpack {
		return true, nil
	}
	layers, err := im.meta.diffs(ctx, t)
	if err != nil {
		return false, err
	}
	chain := diffIDs(layers)
	info, ok, err := hasBlob(ctx, im.s.content, t.config)
	if !ok || err != nil || !hasLabels(info.Labels, im.snapshotReference(chain)) {
		return false, err
	}
	return im.s.committed(ctx, im.sn, chain)
}

func diffIDs(layers []rootfs.Layer) []digest.Digest {
	var out []digest.Digest
	for _, l := range layers {
		out = append(out, l.Diff.Digest)
	}
	return out
}

// committed says whether the snapshotter has the layers; an image without any always has.
func (s *services) committed(ctx context.Context, snapshotter string, chain []digest.Digest) (bool, error) {
	if len(chain) == 0 {
		return true, nil
	}
	_, err := s.snapshots(snapshotter).Stat(ctx, identity.ChainID(chain).String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Unpacked says whether the layers of the image's manifest for the platform are committed; false for an
// image that is not there, not complete, or for other platforms only.
func (r *Runtime) Unpacked(ctx context.Context, name, platform, snapshotter string) (bool, error) {
	match, err := matcher(platform)
	if err != nil {
		return false, err
	}
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return false, err
	}
	img, ok, err := s.getImage(ctx, name)
	if err != nil || !ok {
		return false, r.wrap(ctx, "look for image "+name, err)
	}
	meta := newMetadata(s.content, nil)
	layers, err := meta.layersOf(ctx, img, match)
	var missing *missingError
	if errors.As(err, &missing) || errors.Is(err, errNoPlatform) {
		return false, nil
	}
	if err == nil {
		ok, err = s.committed(ctx, r.snapshotter(snapshotter), diffIDs(layers))
	}
	return ok, r.wrap(ctx, "image "+name, err)
}

func (m *metadata) layersOf(ctx context.Context, img host.Image, platform platforms.MatchComparer) ([]rootfs.Layer, error) {
	t, err := m.resolve(ctx, img, platform)
	if err != nil {
		return nil, err
	}
	return m.diffs(ctx, t)
}
