package kubelet

import (
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/distro"
)

// Removed is a flag with which this version of kubelet does not start.
type Removed struct {
	distro.Arg
	Name  string
	Since string // "1.35"
}

// RemovedFlags are those of the node's flags that its kubelet does not know any more. A version that is not known
// gives none.
func RemovedFlags(args []distro.Arg, version string) []Removed {
	minor, ok := Minor(version)
	if !ok {
		return nil
	}
	var out []Removed
	for _, a := range args {
		name, _, _ := strings.Cut(a.Text, "=")
		if since, ok := removedIn()[name]; ok && minor >= since {
			out = append(out, Removed{Arg: a, Name: name, Since: "1." + strconv.Itoa(since)})
		}
	}
	return out
}

// removedIn is the minor version in which a flag went.
// kubernetes: CHANGELOG-1.24 (dockershim, dynamic configuration), pull requests 114017, 122082, 133779.
func removedIn() map[string]int {
	return map[string]int{
		"cni-bin-dir":                  24,
		"cni-cache-dir":                24,
		"cni-conf-dir":                 24,
		"docker-endpoint":              24,
		"dynamic-config-dir":           24,
		"image-pull-progress-deadline": 24,
		"network-plugin":               24,
		"network-plugin-mtu":           24,
		"container-runtime":            27,
		"keep-terminated-pod-volumes":  31,
		"pod-infra-container-image":    35,
	}
}

// Minor is the minor version of Kubernetes: 37 of "v1.37.2+k3s1".
func Minor(version string) (int, bool) {
	major, rest, ok := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if !ok || major != "1" {
		return 0, false
	}
	text, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(text)
	return n, err == nil
}
