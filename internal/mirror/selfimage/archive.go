package selfimage

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is a file of the archive.
type entry struct {
	name string
	size int64
	open func() (io.ReadCloser, error)
}

// Write writes the image as an archive: an OCI layout with its full name in io.containerd.image.name, and
// docker's manifest.json as the first entry, so that every loader takes it and the digest stays.
func (i *Image) Write(w io.Writer) error {
	list, err := i.entries()
	if err != nil {
		return fmt.Errorf("archive of the mirror's image: %w", err)
	}
	tw := tar.NewWriter(w)
	for _, e := range list {
		if err := e.write(tw); err != nil {
			return fmt.Errorf("archive of the mirror's image: %s: %w", e.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("archive of the mirror's image: %w", err)
	}
	return nil
}

func (e entry) write(tw *tar.Writer) error {
	h := &tar.Header{Name: e.name, Mode: 0o644, Size: e.size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	r, err := e.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(tw, r)
	return err
}

func text(name string, data []byte) entry {
	return entry{name, int64(len(data)), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(data))), nil }}
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func (i *Image) entries() ([]entry, error) {
	m, err := i.image.Manifest()
	if err != nil {
		return nil, err
	}
	raw, err := i.image.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := i.image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := i.image.Layers()
	if err != nil {
		return nil, err
	}
	docker, err := json.Marshal([]map[string]any{{"Config": blobPath(m.Config.Digest), "RepoTags": []string{i.Name}, "Layers": []string{blobPath(m.Layers[0].Digest)}}})
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(i.index(int64(len(raw))))
	if err != nil {
		return nil, err
	}
	hash, err := v1.NewHash(i.Digest)
	if err != nil {
		return nil, err
	}
	return []entry{
		text("manifest.json", docker), text("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), text("index.json", index),
		text(blobPath(hash), raw), text(blobPath(m.Config.Digest), config),
		{blobPath(m.Layers[0].Digest), m.Layers[0].Size, layers[0].Compressed},
	}, nil
}

// index names the image as containerd's exporter does.
// containerd: client/import.go and core/images/annotations.go
func (i *Image) index(size int64) ocispec.Index {
	parts := append(strings.Split(i.Platform, "/"), "", "")
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(i.Digest), Size: size,
		Platform:    &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]},
		Annotations: map[string]string{"io.containerd.image.name": i.Name, ocispec.AnnotationRefName: i.Name[strings.LastIndexByte(i.Name, ':')+1:]},
	}}}
}
