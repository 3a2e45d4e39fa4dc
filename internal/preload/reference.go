package preload

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// Ref is an image reference in all its forms. Two references that mean the same image are equal in Name.
type Ref struct {
	// Name is what containerd and CRI look an image up by: host, repository, and the digest or else the tag,
	// "docker.io/library/busybox:1.36". With both, the digest counts and the tag is left out.
	Name       string `json:"name"`
	Familiar   string `json:"familiar"`   // what people write: "busybox:1.36"
	Host       string `json:"host"`       // "docker.io"
	Repository string `json:"repository"` // "library/busybox"
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest,omitempty"`
}

// String is Name.
func (r Ref) String() string { return r.Name }

// ParseReference reads a reference as kubelet and containerd do: docker.io, library/ and :latest are
// implied.
// containerd: core/images/archive/reference.go; kubernetes: pkg/util/parsers
func ParseReference(s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, fmt.Errorf("%q is not an image reference: %w", s, err)
	}
	r := Ref{Host: reference.Domain(named), Repository: reference.Path(named)}
	named = reference.TagNameOnly(named)
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest().String()
		if named, err = reference.WithDigest(reference.TrimNamed(named), d.Digest()); err != nil {
			return Ref{}, fmt.Errorf("%q is not an image reference: %w", s, err)
		}
	}
	r.Name, r.Familiar = named.String(), reference.FamiliarString(named)
	return r, nil
}

// isFull tells a reference from a bare tag ("1.36"), which some tools write where a reference belongs.
// containerd: core/images/archive/reference.go refTranslator
func isFull(s string) bool { return strings.ContainsAny(s, "/:@") }
