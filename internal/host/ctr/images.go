package ctr

import (
	"context"
	"fmt"
	"maps"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Images lists every image record of the namespace.
func (r *Runtime) Images(ctx context.Context) ([]host.Image, error) {
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.listImages(ctx)
	if err != nil {
		return nil, r.wrap(ctx, "list images", err)
	}
	return list, nil
}

func (s *services) listImages(ctx context.Context) ([]host.Image, error) {
	resp, err := s.images.List(ctx, &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	out := make([]host.Image, 0, len(resp.Images))
	for _, i := range resp.Images {
		out = append(out, imageFromAPI(i))
	}
	return out, nil
}

// getImage finds a record; ok is false when there is none.
func (s *services) getImage(ctx context.Context, name string) (img host.Image, ok bool, err error) {
	resp, err := s.images.Get(ctx, &imagesapi.GetImageRequest{Name: name})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return host.Image{}, false, nil
	}
	if err != nil {
		return host.Image{}, false, err
	}
	return imageFromAPI(resp.Image), true, nil
}

// SetImage makes a record or replaces target and labels of one. CRI adds a label of its own afterwards.
func (r *Runtime) SetImage(ctx context.Context, img host.Image) error {
	if _, err := parseDigest(img.Target.Digest); err != nil {
		return fmt.Errorf("image %s: %w", img.Name, err)
	}
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return err
	}
	return r.wrap(ctx, "set image "+img.Name, s.putImage(ctx, img, "target", "labels"))
}

// putImage updates the fields of a record, or creates the record.
func (s *services) putImage(ctx context.Context, img host.Image, fields ...string) error {
	api := imageToAPI(img)
	_, err := s.images.Update(ctx, &imagesapi.UpdateImageRequest{
		Image: api, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields},
	})
	if err = errgrpc.ToNative(err); !errdefs.IsNotFound(err) {
		return err
	}
	_, err = s.images.Create(ctx, &imagesapi.CreateImageRequest{Image: api})
	return errgrpc.ToNative(err)
}

// RemoveImage removes a record and, before it returns, the content that nothing else refers to.
func (r *Runtime) RemoveImage(ctx context.Context, name string) error {
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return err
	}
	_, err = s.images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: name, Sync: true})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return nil
	}
	return r.wrap(ctx, "remove image "+name, err)
}

func imageFromAPI(i *imagesapi.Image) host.Image {
	t := i.GetTarget()
	return host.Image{
		Name:   i.GetName(),
		Labels: i.GetLabels(),
		Target: host.Descriptor{
			MediaType: t.GetMediaType(), Digest: t.GetDigest(), Size: t.GetSize(), Annotations: t.GetAnnotations(),
		},
	}
}

// imageToAPI leaves the platform out: an image record's target has none in the API.
func imageToAPI(i host.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name:   i.Name,
		Labels: maps.Clone(i.Labels),
		Target: &types.Descriptor{
			MediaType: i.Target.MediaType, Digest: i.Target.Digest, Size: i.Target.Size, Annotations: i.Target.Annotations,
		},
	}
}

// descriptor is host's descriptor in OCI's type.
func descriptor(d host.Descriptor) (ocispec.Descriptor, error) {
	dgst, err := parseDigest(d.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	out := ocispec.Descriptor{MediaType: d.MediaType, Digest: dgst, Size: d.Size, Annotations: d.Annotations}
	if d.Platform != "" {
		p, err := platforms.Parse(d.Platform)
		if err != nil {
			return out, fmt.Errorf("platform %q: %w", d.Platform, err)
		}
		out.Platform = &p
	}
	return out, nil
}

// hostDescriptor is the inverse of descriptor.
func hostDescriptor(d ocispec.Descriptor) host.Descriptor {
	out := host.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
	if d.Platform != nil {
		out.Platform = platforms.Format(*d.Platform)
	}
	return out
}

// digests lists the digests of descriptors.
func digests(ds []ocispec.Descriptor) []digest.Digest {
	out := make([]digest.Digest, 0, len(ds))
	for _, d := range ds {
		out = append(out, d.Digest)
	}
	return out
}
