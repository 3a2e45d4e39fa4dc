package mirror

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Pattern selects references. It is written like one: "busybox" is every tag and digest of
// docker.io/library/busybox, "busybox:1.*" some of its tags, "ghcr.io/team/**" all below it. In the name "*",
// "?" and "[a-z]" stay within one component, "**" is any number of components; "**" alone is everything.
type Pattern struct {
	text   string
	name   string // over registry/repository
	tag    string // empty: every
	digest string
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// wildcards are the characters that are not literal in a pattern.
const wildcards = `*?[\`

// ParsePattern reads a pattern.
func ParsePattern(s string) (Pattern, error) {
	p := Pattern{text: s}
	name, d, byDigest := strings.Cut(s, "@")
	if byDigest {
		p.digest = d
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, p.tag = name[:i], name[i+1:]
		if p.tag == "" {
			return p, fmt.Errorf("pattern %q: there is no tag after the colon", s)
		}
	}
	p.name = fullName(name)
	return p, p.check(byDigest)
}

// fullName fills in what references may leave out: docker.io and library/. A first component with a wildcard
// is the registry.
func fullName(s string) string {
	first, rest, ok := strings.Cut(s, "/")
	switch {
	case s == "**":
		return s
	case !ok:
		return DefaultRegistry + "/library/" + s
	case strings.ContainsAny(first, wildcards):
		return s
	case strings.ContainsAny(first, ".:") || first == "localhost":
		first = canonicalRegistry(first)
		return first + "/" + canonicalRepository(first, rest)
	}
	return DefaultRegistry + "/" + s
}

func (p Pattern) check(byDigest bool) error {
	for _, part := range append(strings.Split(p.name, "/"), p.tag, p.digest) {
		if _, err := path.Match(part, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", p.text, err)
		}
	}
	literal := func(s string) bool { return !strings.ContainsAny(s, wildcards) }
	registry, repository, _ := strings.Cut(p.name, "/")
	switch {
	case literal(p.name) && !(Name{registry, repository}).valid(),
		p.tag != "" && literal(p.tag) && !validTag(p.tag),
		byDigest && (p.digest == "" || literal(p.digest) && digest.Digest(p.digest).Validate() != nil):
		return fmt.Errorf("pattern %q: no reference is written like that", p.text)
	}
	return nil
}

// Match says whether a reference, which points to the digest d, is selected. A pattern with a digest selects
// every tag that points to it; one with tag and digest selects either.
func (p Pattern) Match(r Reference, d digest.Digest) bool {
	if !matchGlob(p.name, r.Name.String()) {
		return false
	}
	switch {
	case p.digest != "" && matchGlob(p.digest, d.String()):
		return true
	case p.tag != "":
		return r.Tag != "" && matchGlob(p.tag, r.Tag)
	}
	return p.digest == ""
}

// Patterns select what any of them does.
type Patterns []Pattern

// ParsePatterns reads patterns.
func ParsePatterns(list []string) (Patterns, error) {
	var out Patterns
	for _, s := range list {
		p, err := ParsePattern(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Match says whether any of the patterns selects a reference.
func (ps Patterns) Match(r Reference, d digest.Digest) bool {
	return slices.ContainsFunc(ps, func(p Pattern) bool { return p.Match(r, d) })
}

// Select gives the entries that any of the patterns selects, all when there is none, and the patterns that
// select nothing.
func (ps Patterns) Select(list []Entry) (chosen []Entry, idle []Pattern) {
	if len(ps) == 0 {
		return list, nil
	}
	used := make([]bool, len(ps))
	for _, e := range list {
		hit := false
		ref, err := ParseReference(e.Reference)
		for i, p := range ps {
			if err == nil && p.Match(ref, digest.Digest(e.Digest)) {
				used[i], hit = true, true
			}
		}
		if hit {
			chosen = append(chosen, e)
		}
	}
	for i, p := range ps {
		if !used[i] {
			idle = append(idle, p)
		}
	}
	return chosen, idle
}

// matchGlob compares names by component: each is a pattern of path.Match, "**" is any number of them, at the
// end at least one. "x**" at the end is every name that begins with x.
func matchGlob(pattern, name string) bool {
	first, rest, more := strings.Cut(pattern, "/")
	if !more && strings.HasSuffix(first, "**") {
		return name != "" && strings.HasPrefix(name, strings.TrimSuffix(first, "**"))
	}
	head, tail, deeper := strings.Cut(name, "/")
	if first == "**" {
		return matchGlob(rest, name) || deeper && matchGlob(pattern, tail)
	}
	if ok, err := path.Match(first, head); !ok || err != nil || more != deeper {
		return false
	}
	return !more || matchGlob(rest, tail)
}
