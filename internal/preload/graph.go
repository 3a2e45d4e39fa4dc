package preload

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Format is how an archive is laid out.
type Format string

// The formats, by the names that skopeo and podman use.
const (
	DockerArchive Format = "docker-archive"
	OCIArchive    Format = "oci-archive"
	OCILayout     Format = "oci-layout" // a directory
)

// The media types of docker's own, which OCI's mirror.
const (
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGz  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// graph is what an archive means: its images and the blobs that they reach.
type graph struct {
	format   Format
	combined bool // an OCI layout with docker's manifest.json beside it
	images   []namedImage
	nameless []string // digests of images that have no name at all
	blobs    []*blob  // that are there, in the order of the source
}

// blob is content that is there: a member's, or made up here.
type blob struct {
	desc   host.Descriptor
	member *member
	inline []byte
	users  []string // image names, for messages
}

// namedImage is one name of one image.
type namedImage struct {
	name    Ref
	stored  string // as the archive writes it
	target  host.Descriptor
	content *content
}

// content is what is below an index or manifest.
type content struct {
	platforms []platformContent
}

// platformContent is one manifest.
type platformContent struct {
	platform string // empty: not known
	manifest string
	config   string
	blobs    []string // digests, the manifest's own first
	missing  []string
}

// resolver follows an archive's description of its images.
type resolver struct {
	ctx      context.Context // of the one resolution that a resolver lives for
	inv      *inventory
	locate   func(digest.Digest) *member // nil result: not there
	blobs    map[string]*blob
	contents map[string]*content
	nodes    int
	user     string // name of the image that is being followed
}

func newResolver(ctx context.Context, inv *inventory) *resolver {
	r := &resolver{ctx: ctx, inv: inv, blobs: map[string]*blob{}, contents: map[string]*content{}}
	r.locate = func(d digest.Digest) *member { return inv.members[blobName(d)] }
	return r
}

// resolve reads an inventory as containerd would: an OCI layout if it is one, else a docker-archive.
// containerd: core/images/archive/importer.go ImportIndex
func resolve(ctx context.Context, inv *inventory) (*graph, error) {
	marker, ok, err := inv.document(ocispec.ImageLayoutFile)
	if err != nil {
		return nil, err
	}
	if ok {
		var l ocispec.ImageLayout
		if err := decode(marker, ocispec.ImageLayoutFile, &l); err != nil {
			return nil, err
		}
		switch l.Version {
		case ocispec.ImageLayoutVersion:
			return newResolver(ctx, inv).resolveOCI()
		case "": // containerd takes it for no layout
		default:
			return nil, malformed("the OCI layout has version %q; only %s is known", l.Version, ocispec.ImageLayoutVersion)
		}
	}
	if _, ok := inv.members[dockerIndex]; ok {
		return newResolver(ctx, inv).resolveDocker()
	}
	return nil, &flaw{
		id: idFormat, what: "not an image archive: neither oci-layout nor manifest.json is in it",
		fix: "write it with: docker save -o FILE NAME:TAG",
	}
}

func (r *resolver) resolveOCI() (*graph, error) {
	b, ok, err := r.inv.document(ocispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, malformed("the OCI layout has no index.json")
	}
	var idx ocispec.Index
	if err := decode(b, ocispec.ImageIndexFile, &idx); err != nil {
		return nil, err
	}
	_, combined := r.inv.members[dockerIndex]
	g := &graph{format: OCIArchive, combined: combined}
	for _, desc := range idx.Manifests {
		if err := r.add(g, desc, ociName(desc)); err != nil {
			return nil, err
		}
	}
	return r.finish(g), nil
}

// ociName is the name that containerd gives an entry of index.json; empty when it has none.
// containerd: client/import.go
func ociName(desc ocispec.Descriptor) string {
	if n := desc.Annotations[annotationName]; n != "" {
		return n
	}
	if n := desc.Annotations[ocispec.AnnotationRefName]; isFull(n) {
		return n
	}
	return ""
}

// annotationName carries a full name. containerd: core/images/annotations.go
const annotationName = "io.containerd.image.name"

// add takes an entry of the outer index in.
func (r *resolver) add(g *graph, desc ocispec.Descriptor, name string) error {
	img := namedImage{stored: name}
	if name != "" {
		var err error
		if img.name, err = nameOf(name, desc.Digest); err != nil {
			return err
		}
	}
	r.user = cmp.Or(img.name.Name, desc.Digest.String())
	c, err := r.top(desc)
	if err != nil {
		return err
	}
	if name == "" {
		g.nameless = append(g.nameless, desc.Digest.String())
		return nil
	}
	img.content, img.target = c, describe(desc)
	if img.target.Platform == "" && len(c.platforms) == 1 && !isIndex(desc.MediaType) {
		img.target.Platform = c.platforms[0].platform
	}
	g.images = append(g.images, img)
	return nil
}

// nameOf normalises a name and holds it against the digest it names.
func nameOf(name string, d digest.Digest) (Ref, error) {
	ref, err := ParseReference(name)
	if err != nil {
		return Ref{}, &flaw{
			id: idReference, what: "an image in the archive has a name that is none", err: err,
			fix: "export it again by its full name, registry/repository:tag",
		}
	}
	if ref.Digest != "" && ref.Digest != d.String() {
		return Ref{}, &flaw{
			id: idNameDigest, what: fmt.Sprintf("the image named %s has the digest %s", name, d),
			why: "what asks for that digest would get something else",
			fix: "export it again as an OCI layout, which keeps digests",
		}
	}
	return ref, nil
}

// finish drops names said twice and puts blobs in the order of the source.
func (r *resolver) finish(g *graph) *graph {
	seen := map[[2]string]bool{}
	named := map[string]bool{}
	g.images = slices.DeleteFunc(g.images, func(i namedImage) bool {
		key := [2]string{i.name.Name, i.target.Digest}
		twice := seen[key]
		seen[key], named[i.target.Digest] = true, true
		return twice
	})
	g.nameless = slices.DeleteFunc(g.nameless, func(d string) bool { return named[d] })
	for _, b := range r.blobs {
		g.blobs = append(g.blobs, b)
	}
	slices.SortFunc(g.blobs, func(a, b *blob) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(a.desc.Digest, b.desc.Digest))
	})
	return g
}

// order of a blob: those made up here come first.
func (b *blob) order() int {
	if b.member == nil {
		return -1
	}
	return b.member.order
}

func decode(b []byte, name string, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		f := malformed("%s in the archive cannot be read", name)
		f.err = err
		return f
	}
	return nil
}

func describe(d ocispec.Descriptor) host.Descriptor {
	out := host.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size}
	if d.Platform != nil {
		out.Platform = formatPlatform(*d.Platform)
	}
	return out
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}
