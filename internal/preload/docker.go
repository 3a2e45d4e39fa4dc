package preload

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerIndex is the list of images in a docker-archive.
const dockerIndex = "manifest.json"

// dockerItem is an entry of it.
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// resolveDocker makes manifests for a docker-archive, which has none: the very bytes that containerd makes,
// so that digests agree with what its own import gives.
// containerd: core/images/archive/importer.go
func (r *resolver) resolveDocker() (*graph, error) {
	b, _, err := r.inv.document(dockerIndex)
	if err != nil {
		return nil, err
	}
	var items []dockerItem
	if err := decode(b, dockerIndex, &items); err != nil {
		return nil, err
	}
	held := map[digest.Digest]*member{}
	r.locate = func(d digest.Digest) *member { return held[d] }
	g := &graph{format: DockerArchive}
	for _, it := range items {
		desc, err := r.synthesize(it, held)
		if err != nil {
			return nil, err
		}
		names := it.RepoTags
		if len(names) == 0 {
			names = []string{""}
		}
		for _, n := range names {
			if err := r.add(g, desc, n); err != nil {
				return nil, err
			}
		}
	}
	return r.finish(g), nil
}

// synthesize makes the manifest of one item and notes where its blobs are.
func (r *resolver) synthesize(it dockerItem, held map[digest.Digest]*member) (ocispec.Descriptor, error) {
	r.user = list(append(it.RepoTags[:len(it.RepoTags):len(it.RepoTags)], it.Config), 1)
	if len(it.Layers) > maxNodes-r.nodes {
		return ocispec.Descriptor{}, limit("%s has %d layers", r.user, len(it.Layers))
	}
	config, image, err := r.dockerConfig(it, held)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest := struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        ocispec.Descriptor   `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
	}{2, dockerManifest, config, make([]ocispec.Descriptor, len(it.Layers))}
	for i, name := range it.Layers {
		if manifest.Layers[i], err = r.dockerLayer(name, image.RootFS.DiffIDs[i], held); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make the manifest of %s: %w", r.user, err)
	}
	desc := ocispec.Descriptor{MediaType: dockerManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}
	r.blobs[desc.Digest.String()] = &blob{desc: describe(desc), inline: b}
	return desc, nil
}

func (r *resolver) dockerConfig(it dockerItem, held map[digest.Digest]*member) (ocispec.Descriptor, ocispec.Image, error) {
	var image ocispec.Image
	b, ok, err := r.inv.document(it.Config)
	if err != nil {
		return ocispec.Descriptor{}, image, err
	}
	if !ok {
		return ocispec.Descriptor{}, image, lacking(it.Config, r.user)
	}
	if err := decode(b, it.Config, &image); err != nil {
		return ocispec.Descriptor{}, image, err
	}
	if len(image.RootFS.DiffIDs) != len(it.Layers) {
		return ocispec.Descriptor{}, image, malformed("%s has %d layers in manifest.json and %d in its config",
			r.user, len(it.Layers), len(image.RootFS.DiffIDs))
	}
	d := digest.FromBytes(b)
	if c, ok := claimed(it.Config); ok && c != d {
		return ocispec.Descriptor{}, image, corrupt("the content of %s is damaged; it belongs to %s", c, r.user)
	}
	held[d] = r.inv.members[it.Config]
	return ocispec.Descriptor{MediaType: dockerConfig, Digest: d, Size: int64(len(b))}, image, nil
}

// dockerLayer describes a layer. diff, from the config, is the digest that it has when it is not packed:
// then nothing needs to be read to know it, and when it was read the two must agree.
func (r *resolver) dockerLayer(name string, diff digest.Digest, held map[digest.Digest]*member) (ocispec.Descriptor, error) {
	m, err := r.layerMember(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := r.inv.measure(r.ctx, m, measures{}); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: dockerLayer, Digest: diff, Size: m.size}
	inName, isClaimed := claimed(m.name)
	if m.sum.packed != Plain {
		desc.MediaType = dockerLayerGz
		if !isClaimed {
			if err := r.inv.measure(r.ctx, m, measures{digest: true}); err != nil {
				return ocispec.Descriptor{}, err
			}
			inName = digest.Digest(m.sum.digest)
		}
		desc.Digest = inName
	}
	if err := checkDescriptor(desc); err != nil {
		return ocispec.Descriptor{}, err
	}
	if m.sum.packed != Plain && m.sum.diff != "" && m.sum.diff != diff.String() ||
		m.sum.packed == Plain && isClaimed && inName != diff {
		return ocispec.Descriptor{}, corrupt("layer %s of %s does not have the digest that the image's config says (%s)",
			name, r.user, diff)
	}
	held[desc.Digest] = m
	return desc, nil
}

// layerMember finds a layer: `docker save` before 25 writes a layer that two images share once, and a symlink
// for the other. The target is a name in this archive and nothing else.
func (r *resolver) layerMember(name string) (*member, error) {
	if target, ok := r.inv.links[name]; ok {
		name = target
	}
	m, ok := r.inv.members[name]
	if !ok {
		return nil, lacking(name, r.user)
	}
	return m, nil
}

func lacking(name, user string) *flaw {
	return &flaw{
		id: idCorrupt, what: fmt.Sprintf("%q of %s is not in the archive", name, user),
		why: "the image cannot be imported", fix: "make the archive again",
	}
}
