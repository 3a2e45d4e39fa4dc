package registries

import (
	"fmt"
	"strings"
)

// hostsHeader marks a hosts.toml as edgeprep's. k3s deletes files that begin with its own header; ours stay.
const hostsHeader = "# Written by edgeprep. Changes are lost at the next apply."

// dialTimeout bounds what a mirror costs that drops packets; containerd's own is 30 s per request.
// Known from 2.0.7 and 2.1.0 on, ignored before.
const dialTimeout = "2s"

// RenderHosts is the hosts.toml that sends every pull to the endpoints, in their order, and nowhere else.
//
// It works on containerd 1.6 to 2.4: server must be there or containerd appends the upstream; a file with only
// a server is refused before 1.7.32; a capability that is not known makes the whole file ignored; fetches
// ignore capabilities, so the server must be a mirror too.
func RenderHosts(endpoints []Endpoint) []byte {
	var b strings.Builder
	first := endpoints[0]
	fmt.Fprintf(&b, "%s\n\nserver = %s\n", hostsHeader, quoted(first.URL))
	fmt.Fprintf(&b, "dial_timeout = %q\n", dialTimeout)
	b.WriteString(hostsTLS(first, ""))
	for _, e := range endpoints {
		// A table header each: containerd 2.x takes the order from headers only.
		fmt.Fprintf(&b, "\n[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = %q\n", quoted(e.URL), dialTimeout)
		b.WriteString(hostsTLS(e, "  "))
	}
	return []byte(b.String())
}

// hostsTLS are the lines of an endpoint's TLS files.
// containerd: core/remotes/docker/config/hosts.go, parseHostConfig (client: pairs of certificate and key).
func hostsTLS(e Endpoint, indent string) string {
	out := ""
	if e.CA != "" {
		out += fmt.Sprintf("%sca = %s\n", indent, quoted(e.CA))
	}
	if e.ClientCert != "" {
		out += fmt.Sprintf("%sclient = [[%s, %s]]\n", indent, quoted(e.ClientCert), quoted(e.ClientKey))
	}
	return out
}
