package registries

import (
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// Endpoint is a mirror.
type Endpoint struct {
	URL string `json:"url"`          // "http://127.0.0.1:5000"
	CA  string `json:"ca,omitempty"` // node path of the CA file that its certificate is checked with; https only
	// Node paths of what containerd shows where a mirror asks for a client certificate; https only.
	ClientCert string `json:"clientCert,omitempty"`
	ClientKey  string `json:"clientKey,omitempty"`
}

// Same says whether two endpoints are the same server and path; a final slash or /v2 makes no difference.
func (e Endpoint) Same(o Endpoint) bool { return canonical(e.URL) == canonical(o.URL) }

// Host is the endpoint's host:port.
func (e Endpoint) Host() string {
	if u, err := url.Parse(e.URL); err == nil {
		return u.Host
	}
	return ""
}

// TLS says whether the endpoint is spoken to by https.
func (e Endpoint) TLS() bool { return strings.HasPrefix(e.URL, "https://") }

// canonical is a URL for comparison: no final slash or /v2, no default port, lower case.
func canonical(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return raw
	}
	hostport := strings.ToLower(u.Host)
	switch u.Scheme {
	case "http":
		hostport = strings.TrimSuffix(hostport, ":80")
	case "https":
		hostport = strings.TrimSuffix(hostport, ":443")
	}
	p := strings.TrimSuffix(path.Clean("/"+u.Path), "/v2")
	return u.Scheme + "://" + hostport + strings.TrimSuffix(p, "/")
}

// containsEndpoint says whether list names the mirror e.
func containsEndpoint(list []Endpoint, e Endpoint) bool { return slices.ContainsFunc(list, e.Same) }

// hostPattern is a registry host as references have it (distribution: reference/regexp.go); no slash can pass,
// so that it is safe as the name of a directory.
var hostPattern = regexp.MustCompile(`^(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)(:[0-9]{1,5})?$`)

// ValidHost says whether s can be the registry host of a reference.
func ValidHost(s string) bool { return len(s) <= 255 && hostPattern.MatchString(s) }

// loopback says whether a registry host is this machine: not an upstream, so not mirrored unasked.
func loopback(registry string) bool {
	name := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		name = h
	}
	if name == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && a.IsLoopback()
}

func (p Policy) normalize() (Policy, error) {
	var bad diag.Report
	out := Policy{Upstream: p.Upstream, Former: p.Former}
	for _, e := range p.Endpoints {
		e, d := e.normalize()
		if d != nil {
			bad.Add(d)
		} else if !containsEndpoint(out.Endpoints, e) {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	if len(p.Endpoints) == 0 {
		bad.Add(newDiag(idEndpoint, diag.Where{Key: "registries.endpoints"}, "there is no mirror to point the runtime at",
			"", "set [registries] endpoints, or give this site a mirror with [mirror] mode"))
	}
	for _, h := range p.Hosts {
		switch {
		case h == "*" || h == "_default" || slices.Contains(out.Hosts, h):
		case !ValidHost(h):
			bad.Add(newDiag(idHost, diag.Where{Key: "registries.hosts"}, quoted(h)+" is not a registry host",
				"it is host or host:port, without scheme and path", `write it as "docker.io" or "registry.local:5000"`))
		default:
			out.Hosts = append(out.Hosts, h)
		}
	}
	slices.Sort(out.Hosts)
	return out, bad.Err()
}

// normalize checks the URL and takes off what containerd adds itself.
func (e Endpoint) normalize() (Endpoint, *diag.Diagnostic) {
	u, err := url.Parse(e.URL)
	fail := func(what string) (Endpoint, *diag.Diagnostic) {
		return e, newDiag(idEndpoint, diag.Where{Key: "registries.endpoints"}, quoted(e.URL)+" "+what, "", `write it as "http://10.0.0.1:5000"`)
	}
	switch {
	case err != nil:
		return fail("is not a URL")
	case !plainText(e.URL) || !plainText(e.CA+e.ClientCert+e.ClientKey):
		return fail("has characters that are not printable ASCII")
	case u.Scheme != "http" && u.Scheme != "https":
		return fail("has no scheme; http:// or https:// must be said")
	case u.Host == "" || u.Hostname() == "":
		return fail("has no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fail("has more than scheme, host, port and path")
	}
	p := strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v2")
	out := Endpoint{URL: u.Scheme + "://" + u.Host + strings.TrimSuffix(p, "/")}
	if e.CA != "" && u.Scheme == "https" {
		// On http a ca makes containerd try https first (containerd: core/remotes/docker/config/hosts.go).
		out.CA = e.CA
	}
	if e.ClientCert != "" && e.ClientKey != "" && u.Scheme == "https" {
		out.ClientCert, out.ClientKey = e.ClientCert, e.ClientKey
	}
	for _, f := range []string{out.CA, out.ClientCert, out.ClientKey} {
		if f != "" && !path.IsAbs(f) {
			return e, newDiag(idEndpoint, diag.Where{Key: "registries.endpoints"}, "the file "+quoted(f)+" is not an absolute path", "", "write its full path")
		}
	}
	return out, nil
}

// sameTLS says whether two endpoints are trusted and shown the same.
func (e Endpoint) sameTLS(o Endpoint) bool {
	return e.CA == o.CA && e.ClientCert == o.ClientCert && e.ClientKey == o.ClientKey
}

// tlsFiles are the files as registries.yaml names them, in the order that they are written in.
func (e Endpoint) tlsFiles() [][2]string {
	var out [][2]string
	for _, f := range [][2]string{{"ca_file", e.CA}, {"cert_file", e.ClientCert}, {"key_file", e.ClientKey}} {
		if f[1] != "" {
			out = append(out, f)
		}
	}
	return out
}

// plainText says whether s can be quoted the same way in TOML, YAML and Go.
func plainText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
