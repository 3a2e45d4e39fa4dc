package preload

import (
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// formatPlatform is "linux/arm64", normalised; empty when os or architecture is not known.
func formatPlatform(p ocispec.Platform) string {
	if p.OS == "" || p.Architecture == "" || p.OS == "unknown" {
		return ""
	}
	p = platforms.Normalize(p)
	return platforms.Format(ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
}

// Runs says whether an image for platform image runs on a node of platform node: an arm/v7 node takes arm/v6
// images, as containerd does. A platform that is not known runs nowhere.
func Runs(node, image string) bool {
	n, err := platforms.Parse(node)
	if err != nil {
		return false
	}
	i, err := platforms.Parse(image)
	return err == nil && platforms.Only(n).Match(i)
}
