package registries

import (
	"fmt"
	"strings"
)

// release is a containerd version; the zero value is an unknown one.
type release struct{ major, minor, patch int }

// parseRelease reads "1.7.35", "v2.1.5-k3s1" or "1.6.20~ds1".
func parseRelease(s string) release {
	var r release
	s = strings.TrimPrefix(s, "v")
	if n, _ := fmt.Sscanf(s, "%d.%d.%d", &r.major, &r.minor, &r.patch); n < 2 {
		return release{}
	}
	return r
}

func (r release) known() bool { return r.major > 0 }

// atLeast is false for an unknown version.
func (r release) atLeast(major, minor, patch int) bool {
	switch {
	case r.major != major:
		return r.major > major
	case r.minor != minor:
		return r.minor > minor
	}
	return r.known() && r.patch >= patch
}

// HasDialTimeout says whether a containerd of that version knows the key dial_timeout of hosts.toml; an unknown
// version does not.
func HasDialTimeout(version string) bool { return parseRelease(version).atLeast(2, 0, 7) }

// maxConfig is the highest version of config.toml that this containerd reads; 0: not known.
func (r release) maxConfig() int {
	switch {
	case !r.known():
		return 0
	case r.atLeast(2, 3, 0):
		return 4
	case r.atLeast(2, 0, 0):
		return 3
	}
	return 2
}
