package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// Self finds this machine among the [[node]] tables: by name if one is given, else by hostname, machine id
// and address, in that order. A file without [[node]] is about this one machine, which has a mirror.
func (s Site) Self(name string, f host.Facts) (Node, error) {
	if len(s.Nodes) == 0 {
		return Node{Name: firstOf(name, f.Hostname), Mirror: "primary"}, nil
	}
	for _, match := range []func(Node) bool{
		func(n Node) bool { return name != "" && n.Name == name },
		func(n Node) bool { return name == "" && (n.Name == f.Hostname || n.Name == shortName(f.Hostname)) },
		func(n Node) bool { return name == "" && f.MachineID != "" && n.Name == f.MachineID },
		func(n Node) bool { return name == "" && hasAddress(f.Addresses, n.Address) },
	} {
		if i := slices.IndexFunc(s.Nodes, match); i >= 0 {
			return s.Nodes[i], nil
		}
	}
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return Node{}, &diag.Refused{Err: &diag.Diagnostic{ID: "NOD-003", Severity: diag.Error,
		What: fmt.Sprintf("this machine (hostname %q) is none of the nodes %s", firstOf(name, f.Hostname), strings.Join(names, ", ")),
		Why:  "a node that is not in the file would get another node's configuration",
		Fix:  "edgeprep apply --node " + names[0] + ", or set the hostname first"}}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func shortName(host string) string {
	short, _, _ := strings.Cut(host, ".")
	return short
}

func hasAddress(have []netip.Addr, s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && slices.Contains(have, a)
}

// HasMirror says whether a mirror runs on the node.
func (s Site) HasMirror(n Node) bool {
	return s.Mirror.Mode != string(ModeNone) && n.Mirror != "none"
}

// Listen is the address that the node's mirror listens on: as written, else its address where other nodes
// pull from it, else loopback. Of a deployment it is where the cluster's NodePort answers on the node.
func (s Site) Listen(n Node) string {
	switch {
	case s.onNodePort():
		return net.JoinHostPort(n.Address, strconv.Itoa(s.Mirror.Workload.NodePort))
	case s.Mirror.Listen != "":
		return s.Mirror.Listen
	case len(s.Nodes) > 1 && n.Address != "":
		return net.JoinHostPort(n.Address, "5000")
	}
	return DefaultListen
}

// Endpoints are the mirrors that the node's containerd is pointed at, in order: those that the file names,
// else its own, then the primary and the replicas. peers says whether more than the first may be listed: a
// lost mirror in the list costs a dial time-out per request, which only newer containerd can bound.
func (s Site) Endpoints(self Node, peers bool) []string {
	if len(s.Registries.Endpoints) > 0 {
		return slices.Clone(s.Registries.Endpoints)
	}
	if s.Mirror.Mode == string(ModeNone) {
		return nil
	}
	var urls []string
	if s.onNodePort() {
		urls = append(urls, s.mirrorURL(self)) // every node answers for the whole cluster
	} else if s.HasMirror(self) {
		urls = append(urls, s.mirrorURL(self))
	}
	for _, role := range []string{"primary", "replica"} {
		for _, n := range s.Nodes {
			if u := s.mirrorURL(n); n.Mirror == role && (!s.onNodePort() || n.Address != "") && !slices.Contains(urls, u) {
				urls = append(urls, u)
			}
		}
	}
	if !peers && len(urls) > 1 {
		urls = urls[:1]
	}
	return urls
}

// onNodePort says whether the mirror is reached by the cluster's NodePort.
func (s Site) onNodePort() bool {
	return s.Mirror.Mode == string(ModeWorkload) && s.Mirror.Workload.Form == FormDeployment
}

func (s Site) mirrorURL(n Node) string {
	if s.Mirror.TLS.Cert != "" {
		return "https://" + s.Listen(n)
	}
	return "http://" + s.Listen(n)
}

// PlainHTTPOffLoopback says whether images would cross a network without TLS.
func (s Site) PlainHTTPOffLoopback(self Node) bool {
	for _, e := range s.Endpoints(self, true) {
		rest, plain := strings.CutPrefix(e, "http://")
		host, _, err := net.SplitHostPort(strings.TrimRight(rest, "/"))
		addr, perr := netip.ParseAddr(host)
		if plain && (err != nil || perr != nil || !addr.IsLoopback()) && host != "localhost" {
			return true
		}
	}
	return false
}
