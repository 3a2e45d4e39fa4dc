package mirror

import (
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func platformString(p *ocispec.Platform) string {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// platformRank says how well an image's platform fits a node's: 0 not at all, else the higher the better. The
// rules are those of containerd's default matcher: arm runs older arm, amd64 runs a lower level.
// containerd/platforms v1.0.0-rc.5: compare.go, platformVector.
func platformRank(node, image string) int {
	nos, narch, nv := splitPlatform(node)
	ios, iarch, iv := splitPlatform(image)
	if nos != ios || narch != iarch || iv > nv {
		return 0
	}
	return iv
}

// splitPlatform gives the variant as a number, with the default of the architecture.
func splitPlatform(s string) (os, arch string, variant int) {
	os, rest, _ := strings.Cut(s, "/")
	arch, v, _ := strings.Cut(rest, "/")
	switch arch {
	case "x86_64", "x86-64":
		arch = "amd64"
	case "aarch64":
		arch = "arm64"
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(v, "v")); err == nil && n > 0 {
		return os, arch, n
	}
	switch arch {
	case "arm":
		return os, arch, 7
	case "arm64":
		return os, arch, 8
	}
	return os, arch, 1
}
