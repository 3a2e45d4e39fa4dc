// Package distros holds what edgeprep knows of each Kubernetes distribution: one TOML file each. The format
// is described in internal/distro.
package distros

import "embed"

// FS holds the descriptors, NAME.toml.
//
//go:embed *.toml
var FS embed.FS
