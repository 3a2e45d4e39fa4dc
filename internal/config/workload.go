package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// workload checks [mirror.workload]: a key that the form does not use would be a silent mistake.
func (p *problems) workload(s *Site) {
	w := s.Mirror.Workload
	if w.Form != "" {
		p.enum("mirror.workload.form", w.Form, FormStaticPod, FormDaemonSet, FormDeployment)
	}
	p.absolute("mirror.workload.self_archive", w.SelfArchive)
	p.size("mirror.workload.size", w.Size)
	if s.Mirror.Mode != string(ModeWorkload) {
		return
	}
	for i, u := range s.Upstreams {
		if strings.HasPrefix(u.CredentialsFile, "env:") {
			p.at("CFG-044", fmt.Sprintf("upstream[%d].credentials_file", i), "a mirror in Kubernetes does not have the environment of this machine", "",
				`credentials_file = "/etc/edgeprep/pull-secret"`)
		}
		if u.CredentialsHelper != "" {
			p.at("CFG-044", fmt.Sprintf("upstream[%d].credentials_helper", i), "a mirror in Kubernetes does not have the programs of this machine", "",
				`credentials_file = "/etc/edgeprep/pull-secret"`)
		}
	}
	if w.Form == FormDeployment {
		p.deployment(s)
		return
	}
	for key, set := range map[string]bool{"node_port": w.NodePort != 0, "storage_class": w.StorageClass != "", "size": w.Size != ""} {
		if set {
			p.at("CFG-042", "mirror.workload."+key, key+" has no effect but with form = \"deployment\"",
				"the other forms keep the cache in a directory of the node ([mirror] cache) and listen on [mirror] listen", "remove it")
		}
	}
	if w.Form == FormDaemonSet {
		p.daemonSet(s)
	}
}

func (p *problems) deployment(s *Site) {
	w := s.Mirror.Workload
	if w.Size == "" {
		p.at("CFG-040", "mirror.workload.size", "a deployment needs the size of its volume", "no cluster guesses it", `size = "40GiB"`)
	}
	if w.NodePort < 0 || w.NodePort > 65535 {
		p.at("CFG-041", "mirror.workload.node_port", fmt.Sprintf("node_port = %d is not a port", w.NodePort), "", fmt.Sprintf("node_port = %d", DefaultNodePort))
	}
	if s.Mirror.Listen != "" {
		p.at("CFG-042", "mirror.listen", "listen has no effect with form = \"deployment\"", "nodes reach it by their own address and node_port", "remove it")
	}
}

func (p *problems) daemonSet(s *Site) {
	for i, n := range s.Nodes {
		if n.Mirror == "none" {
			p.at("CFG-043", fmt.Sprintf("node[%d].mirror", i), fmt.Sprintf("node %q has mirror = \"none\", but a daemonset runs on every node", n.Name), "",
				`form = "static-pod"`)
		}
	}
	host, _, err := net.SplitHostPort(s.Mirror.Listen)
	addr, aerr := netip.ParseAddr(host)
	if err == nil && aerr == nil && !addr.IsLoopback() && len(s.Nodes) > 1 {
		p.at("CFG-043", "mirror.listen", "one listen address for the daemonset of several nodes", "each node has another one",
			"remove listen (each mirror then listens on its node's address), or listen = \"127.0.0.1:5000\"")
	}
}
