package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// The media types of docker's first image manifest, which containerd refuses since 2.1. containerd: RELEASES.md
const (
	schema1       = "application/vnd.docker.distribution.manifest.v1+json"
	schema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// variant is what a node would start of an image.
type variant struct {
	schema1  bool
	platform string   // of the config; empty: it names none
	offered  []string // platforms of an index that has none for the node
	config   ocispec.Image
	layers   []ocispec.Descriptor
}

// resolveVariant goes from an index or manifest to the config for a platform. Whether all is there and unchanged
// is for others to say.
func resolveVariant(ctx context.Context, b blobs, target host.Descriptor, platform string) (variant, error) {
	d := ocispec.Descriptor{MediaType: target.MediaType, Digest: digest.Digest(target.Digest)}
	for range 4 {
		var m struct {
			SchemaVersion int                  `json:"schemaVersion"`
			Manifests     []ocispec.Descriptor `json:"manifests"`
			Config        ocispec.Descriptor   `json:"config"`
			Layers        []ocispec.Descriptor `json:"layers"`
		}
		if d.MediaType == schema1 || d.MediaType == schema1Signed {
			return variant{schema1: true}, nil
		}
		if err := readJSON(ctx, b, d.Digest.String(), &m); err != nil {
			return variant{}, err
		}
		switch {
		case m.SchemaVersion == 1:
			return variant{schema1: true}, nil
		case m.Config.Digest != "":
			v := variant{layers: m.Layers}
			if err := readJSON(ctx, b, m.Config.Digest.String(), &v.config); err != nil {
				return v, err
			}
			if v.config.OS != "" && v.config.Architecture != "" {
				v.platform = platformName(v.config.Platform)
			}
			return v, nil
		}
		next, offered := choose(m.Manifests, platform)
		if next == nil {
			return variant{offered: offered}, nil
		}
		d = *next
	}
	return variant{}, errors.New("its indexes are nested too deeply")
}

// choose takes the manifest for a platform: an exact match first, as containerd prefers it.
func choose(list []ocispec.Descriptor, platform string) (found *ocispec.Descriptor, offered []string) {
	for i, c := range list {
		if c.Platform == nil {
			continue
		}
		p := platformName(*c.Platform)
		offered = append(offered, p)
		if p == platform {
			return &list[i], offered
		}
		if found == nil && preload.Runs(platform, p) {
			found = &list[i]
		}
	}
	return found, offered
}

func readJSON(ctx context.Context, b blobs, d string, into any) error {
	r, err := b.OpenBlob(ctx, d)
	if err != nil {
		return fmt.Errorf("read %s: %w", d, err)
	}
	body, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read %s: %w", d, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s is not JSON: %w", d, err)
	}
	return nil
}
