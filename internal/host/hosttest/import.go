package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Import implements host.RuntimeControl.
func (r *Runtime) Import(ctx context.Context, src host.ImageSource, opts host.ImportOptions) (host.ImportReport, error) {
	if err := r.enter("Import", names(src)...); err != nil {
		return host.ImportReport{}, err
	}
	r.mu.Unlock()
	lease := r.takeLease()
	defer r.with(func() { delete(r.leases, lease) })
	rep := host.ImportReport{}
	if err := r.content(ctx, src, opts, &rep); err != nil {
		return rep, err
	}
	var errs []error
	for _, img := range src.Images() {
		r.with(func() { errs = append(errs, r.record(img, opts, &rep)) })
	}
	return rep, errors.Join(errs...)
}

func names(src host.ImageSource) []string {
	var out []string
	for _, img := range src.Images() {
		out = append(out, img.Name)
	}
	return out
}

// content stores what is missing, manifests of the platform first: they say what else is needed.
func (r *Runtime) content(ctx context.Context, src host.ImageSource, opts host.ImportOptions, rep *host.ImportReport) error {
	store := func(d host.Descriptor, in io.Reader) error {
		b, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		if Digest(b) != d.Digest || int64(len(b)) != d.Size {
			return fmt.Errorf("blob %s: unexpected content of %d bytes", d.Digest, len(b))
		}
		r.with(func() { r.blobs[d.Digest] = b })
		rep.Bytes += d.Size
		if opts.Progress != nil {
			opts.Progress(host.ImportProgress{Phase: "content", Done: rep.Bytes})
		}
		return nil
	}
	absent := func(d host.Descriptor) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, ok := r.blobs[d.Digest]
		return !ok
	}
	// As often as an image is deep: index, manifest, what that names.
	for range 3 {
		wanted := map[string]bool{}
		r.with(func() {
			for _, img := range src.Images() {
				r.collect(img.Target, opts.Platform, wanted)
			}
		})
		want := func(d host.Descriptor) bool { return wanted[d.Digest] && absent(d) }
		if err := src.Each(ctx, want, store); err != nil {
			return err
		}
	}
	return nil
}

// document is what matters of an index or a manifest.
type document struct {
	Manifests []descriptor `json:"manifests"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS      string `json:"os"`
		Arch    string `json:"architecture"`
		Variant string `json:"variant"`
	} `json:"platform"`
}

func (d descriptor) matches(platform string) bool {
	if d.Platform == nil || platform == "" {
		return true
	}
	p := d.Platform.OS + "/" + d.Platform.Arch
	return p == platform || p+"/"+d.Platform.Variant == platform || strings.HasPrefix(platform, p+"/")
}

func isManifest(mediaType string) bool {
	return strings.Contains(mediaType, "manifest") || strings.Contains(mediaType, "index")
}

// collect notes the digests of everything that d needs on the platform, as far as it is known.
func (r *Runtime) collect(d host.Descriptor, platform string, into map[string]bool) {
	into[d.Digest] = true
	b, ok := r.blobs[d.Digest]
	if !ok || !isManifest(d.MediaType) {
		return
	}
	var doc document
	if json.Unmarshal(b, &doc) != nil {
		return
	}
	for _, m := range doc.Manifests {
		if m.matches(platform) {
			r.collect(host.Descriptor{MediaType: m.MediaType, Digest: m.Digest}, platform, into)
		}
	}
	for _, l := range doc.Layers {
		into[l.Digest] = true
	}
	if doc.Config != nil {
		into[doc.Config.Digest] = true
	}
}

// manifest is the manifest of d for the platform.
func (r *Runtime) manifest(d host.Descriptor, platform string) (host.Descriptor, error) {
	b, ok := r.blobs[d.Digest]
	if !ok {
		return d, fmt.Errorf("blob %s: not found", d.Digest)
	}
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		return d, err
	}
	if doc.Config != nil {
		return d, nil
	}
	for _, m := range doc.Manifests {
		if _, here := r.blobs[m.Digest]; m.matches(platform) && (here || platform != "") {
			return r.manifest(host.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}, platform)
		}
	}
	return d, fmt.Errorf("%s: no manifest for %s", d.Digest, platform)
}

// complete says what is missing of an image.
func (r *Runtime) complete(img host.Image, platform string) error {
	m, err := r.manifest(img.Target, platform)
	if err != nil {
		return fmt.Errorf("image %s is not complete: %w", img.Name, err)
	}
	need := map[string]bool{}
	r.collect(m, platform, need)
	for d := range need {
		if _, ok := r.blobs[d]; !ok {
			return fmt.Errorf("image %s is not complete: blob %s is missing", img.Name, d)
		}
	}
	return nil
}

// record makes the records of one image.
func (r *Runtime) record(img host.Image, opts host.ImportOptions, rep *host.ImportReport) error {
	if err := r.complete(img, opts.Platform); err != nil {
		return err
	}
	if opts.Unpack {
		m, err := r.manifest(img.Target, opts.Platform)
		if err != nil {
			return err
		}
		r.unpacked[m.Digest+" "+snapshotterOr(opts.Snapshotter)] = true
	}
	r.put(img, opts.Labels, rep)
	if !opts.Pin {
		return nil
	}
	labels := maps.Clone(opts.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[pinLabel] = pinValue
	img.Name = repository(img.Name) + "@" + img.Target.Digest
	r.put(img, labels, rep)
	return nil
}

// put makes a record, or keeps one that says the same.
func (r *Runtime) put(img host.Image, labels map[string]string, rep *host.ImportReport) {
	old, ok := r.images[img.Name]
	img.Labels = maps.Clone(old.Labels)
	if img.Labels == nil {
		img.Labels = map[string]string{}
	}
	maps.Copy(img.Labels, labels)
	if ok && old.Target.Digest == img.Target.Digest && maps.Equal(old.Labels, img.Labels) {
		rep.Present = append(rep.Present, img.Name)
		return
	}
	r.images[img.Name] = img
	rep.Created = append(rep.Created, img.Name)
}

// repository is a reference without tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}
