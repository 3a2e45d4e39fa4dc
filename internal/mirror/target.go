package mirror

import (
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
)

// op is what a request asks for.
type op string

const (
	opPing      op = "ping"
	opManifest  op = "manifest"
	opBlob      op = "blob"
	opTags      op = "tags"
	opReferrers op = "referrers"
)

// target is a request, resolved to a registry and repository.
type target struct {
	op   op
	raw  string // the name as it is in the path
	ns   string // the ns parameter as it was sent
	name Name
	// ref is the tag or digest as it was sent; tag and digest are set when it is valid.
	ref    string
	tag    string
	digest digest.Digest
}

// reference is what a manifest request asks for.
func (t target) reference() Reference { return Reference{Name: t.name, Tag: t.tag, Digest: t.digest} }

// parseTarget reads a request path. ok is false when it is none of the distribution API's pull paths; a path
// with an invalid name or reference is ok and not valid, so that it can be a recorded miss.
func parseTarget(p, ns, defaultRegistry string) (t target, ok bool) {
	rest, ok := strings.CutPrefix(p, "/v2")
	if !ok {
		return target{}, false
	}
	if rest == "" || rest == "/" {
		return target{op: opPing}, true
	}
	t, ok = splitTarget(strings.TrimPrefix(rest, "/"))
	if !ok || !strings.HasPrefix(rest, "/") {
		return target{}, false
	}
	t.ns = ns
	t.name = resolveName(t.raw, ns, defaultRegistry)
	return t, true
}

// splitTarget splits at the end: a repository component may be called "blobs".
func splitTarget(s string) (target, bool) {
	s, last, ok := cutLast(s)
	if !ok {
		return target{}, false
	}
	name, verb, ok := cutLast(s)
	if !ok {
		return target{}, false
	}
	t := target{raw: name, ref: last}
	switch {
	case verb == "manifests":
		t.op = opManifest
		if d := digest.Digest(last); strings.Contains(last, ":") {
			t.setDigest(d)
		} else if validTag(last) {
			t.tag = last
		}
	case verb == "blobs":
		t.op = opBlob
		t.setDigest(digest.Digest(last))
	case verb == "referrers":
		t.op = opReferrers
		t.setDigest(digest.Digest(last))
	case verb == "tags" && last == "list":
		t.op = opTags
	default:
		return target{}, false
	}
	return t, true
}

func (t *target) setDigest(d digest.Digest) {
	if d.Validate() == nil {
		t.digest = d
	}
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// resolveName applies the mirror's name rule: ns wins; else a first component with "." or ":", or localhost,
// is the registry; else the default registry.
func resolveName(raw, ns, defaultRegistry string) Name {
	registry, repository := ns, raw
	if ns == "" {
		registry = defaultRegistry
		first, rest, ok := strings.Cut(raw, "/")
		first = withPort(first)
		if ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
			registry, repository = first, rest
		}
	}
	registry = canonicalRegistry(registry)
	return Name{Registry: registry, Repository: canonicalRepository(registry, repository)}
}

// withPort reads host__port as host:port. The reference grammar has no colon in a path, so that clients that ask
// in path style (CRI-O, podman, skopeo, crane) could not name a registry with a port; "__" is in no host name.
func withPort(s string) string {
	host, port, ok := strings.Cut(s, "__")
	if ok && port != "" && only(port, isDigit) {
		return host + ":" + port
	}
	return s
}

// requestPath is the inverse: path and query that ask a mirror for a reference's repository.
func requestPath(n Name, verb, ref string) string {
	return "/v2/" + n.Repository + "/" + verb + "/" + ref + "?ns=" + url.QueryEscape(n.Registry)
}
