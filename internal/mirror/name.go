package mirror

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// DefaultRegistry is the registry of names that do not say one.
const DefaultRegistry = "docker.io"

// ProbeRepository is the first component of repositories that exist nowhere. A runtime that is asked to pull
// one proves by the miss it causes that it asks this mirror; it is never looked for upstream.
const ProbeRepository = "edgeprep-probe"

// ProbeRegistry is a registry that exists nowhere. Who asks for a known repository with ?ns= of it proves by the
// refusal that ns counts; it is never looked for upstream. RFC 6761, section 6.4: .invalid names no host.
const ProbeRegistry = "edgeprep-probe.invalid"

// maxName is the length limit of "registry/repository". distribution/reference v0.6.0: NameTotalLengthMax.
const maxName = 255

// Name is a repository in a registry.
type Name struct {
	Registry   string `json:"registry"`   // "docker.io", "registry.example:5000"; lower case
	Repository string `json:"repository"` // "library/busybox"
}

// String is registry/repository.
func (n Name) String() string { return n.Registry + "/" + n.Repository }

// probe says whether it exists nowhere, by design.
func (n Name) probe() bool {
	first, _, _ := strings.Cut(n.Repository, "/")
	return first == ProbeRepository || n.Registry == ProbeRegistry
}

// valid says whether both parts follow the reference grammar. What is valid is safe as a path: no component
// is empty, begins with "." or "_", or holds a separator.
func (n Name) valid() bool {
	return validRegistry(n.Registry) && validRepository(n.Repository) &&
		len(n.Registry)+1+len(n.Repository) <= maxName
}

// Reference is a name with a tag, a digest, or both.
type Reference struct {
	Name
	Tag    string        `json:"tag,omitempty"`
	Digest digest.Digest `json:"digest,omitempty"`
}

// String is the reference as a runtime would write it, with the registry.
func (r Reference) String() string {
	s := r.Name.String()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// ParseReference reads "busybox", "ghcr.io/a/b:1" or "a/b@sha256:…" as docker and kubelet do: docker.io,
// library/ and latest are filled in.
func ParseReference(s string) (Reference, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Reference{}, fmt.Errorf("reference %q: %w", s, err)
	}
	named = reference.TagNameOnly(named)
	r := Reference{Name: Name{Registry: strings.ToLower(reference.Domain(named)), Repository: reference.Path(named)}}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest()
		if err := r.Digest.Validate(); err != nil {
			return Reference{}, fmt.Errorf("reference %q: %w", s, err)
		}
	}
	if !r.valid() || !validTag(r.Tag) && r.Tag != "" {
		return Reference{}, fmt.Errorf("reference %q: not a valid name", s)
	}
	return r, nil
}

// canonicalRegistry folds case and the aliases of Docker Hub.
func canonicalRegistry(s string) string {
	s = strings.ToLower(s)
	switch s {
	case "index.docker.io", "registry-1.docker.io":
		return DefaultRegistry
	}
	return s
}

// canonicalRepository adds Docker Hub's library/.
func canonicalRepository(registry, repository string) string {
	if registry == DefaultRegistry && !strings.Contains(repository, "/") {
		return "library/" + repository
	}
	return repository
}

// validRegistry is host[:port] as in distribution/reference v0.6.0 (domainAndPort), lower case.
func validRegistry(s string) bool {
	host := s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		return end > 1 && only(s[1:end], isHexColon) && validPort(s[end+1:])
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host = s[:i]
		if !validPort(s[i:]) {
			return false
		}
	}
	for label := range strings.SplitSeq(host, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

// validPort is "" or ":digits".
func validPort(s string) bool {
	return s == "" || len(s) > 1 && s[0] == ':' && only(s[1:], isDigit)
}

func validLabel(s string) bool {
	return s != "" && isAlnum(s[0]) && isAlnum(s[len(s)-1]) && only(s, func(c byte) bool { return isAlnum(c) || c == '-' })
}

// validRepository is one or more components joined by "/".
func validRepository(s string) bool {
	for c := range strings.SplitSeq(s, "/") {
		if !validComponent(c) {
			return false
		}
	}
	return true
}

// validComponent is alphanumeric runs joined by ".", "_", "__" or dashes: distribution/reference v0.6.0,
// pathComponent.
func validComponent(s string) bool {
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && isAlnum(s[i]) {
			i++
		}
		if i == start {
			return false
		}
		if i == len(s) {
			return true
		}
		sep := separator(s[i:])
		if sep == 0 {
			return false
		}
		i += sep
	}
	return false
}

// separator is the length of the separator that s begins with.
func separator(s string) int {
	switch s[0] {
	case '.':
		return 1
	case '_':
		if strings.HasPrefix(s, "__") {
			return 2
		}
		return 1
	}
	return len(s) - len(strings.TrimLeft(s, "-"))
}

// validTag is [\w][\w.-]{0,127}.
func validTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return only(s, func(c byte) bool {
		return isAlnum(c) || c >= 'A' && c <= 'Z' || c == '_' || c == '.' || c == '-'
	})
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool    { return c >= '0' && c <= '9' }
func isAlnum(c byte) bool    { return isDigit(c) || c >= 'a' && c <= 'z' }
func isHexColon(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c == ':' }
