package manifest

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// fetchers are the kinds whose controllers fetch something at run time, and the keys that say from where.
func fetchers() map[string][]string {
	return map[string][]string{
		"HelmChart":       {"chart", "repo"}, // k3s-io/helm-controller
		"HelmRepository":  {"url"},           // fluxcd/source-controller, as are the next three
		"GitRepository":   {"url"},
		"OCIRepository":   {"url"},
		"Bucket":          {"endpoint"},
		"HelmRelease":     {"repository", "git", "url"},
		"Application":     {"repoURL"}, // argoproj/argo-cd
		"ApplicationSet":  {"repoURL"},
		"AppProject":      {"sourceRepos"},
		"GitRepo":         {"repo"}, // rancher/fleet
		"ClusterRepo":     {"url", "gitRepo"},
		"HelmOp":          {"repo"},
		"Kustomization":   {"resources"}, // kustomize: a resource may be a URL
		"CatalogSource":   {"address"},   // operator-framework
		"ClusterTemplate": {"url"},
	}
}

// sources collects what the object's controller fetches. A chart that is inside the object is not fetched.
func (p *parser) sources(kind string, n *yaml.Node) []Source {
	keys := fetchers()[kind]
	if len(keys) == 0 || text(get(get(n, "spec"), "chartContent")) != "" {
		return nil
	}
	var out []Source
	p.visit(n, "", 0, func(key string, v *yaml.Node) {
		if slices.Contains(keys, key) && isRemote(v.Value) {
			out = append(out, Source{Key: key, URL: v.Value, Line: v.Line})
		}
	})
	return out
}

// visit shows every scalar with the key that it belongs to.
func (p *parser) visit(n *yaml.Node, key string, depth int, fn func(key string, v *yaml.Node)) {
	n = resolved(n)
	p.nodes++
	if n == nil || depth > maxDepth || p.nodes > maxNodes {
		return
	}
	switch n.Kind {
	case yaml.ScalarNode:
		fn(key, n)
	case yaml.SequenceNode:
		for _, e := range n.Content {
			p.visit(e, key, depth+1, fn)
		}
	case yaml.MappingNode:
		for k, v := range pairs(n) {
			p.visit(v, k.Value, depth+1, fn)
		}
	}
}

// remote is a URL, or git's own form user@host:path.
var remote = regexp.MustCompile(`^(?:(?:https?|oci|git|ssh|git\+ssh)://|[a-z]+@[^/]+:)`)

func isRemote(s string) bool { return remote.MatchString(s) }

// apiServer is the placeholder that helm-controller's job fills with the API server's own address: charts that a
// distribution serves from its disk. k3s-io/klipper-helm: entry
const apiServer = "%{KUBERNETES_API}%"

// Local says whether the source is inside the cluster or site: the cluster's own domain, a private address, a name
// that only a site's resolver knows.
func (s Source) Local() bool {
	_, rest, ok := strings.Cut(s.URL, "://")
	if !ok {
		_, rest, _ = strings.Cut(s.URL, "@")
	}
	host, _, _ := strings.Cut(rest, "/")
	if host == apiServer {
		return true
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return private(a)
	}
	if a, err := netip.ParseAddrPort(host); err == nil {
		return private(a.Addr())
	}
	name, _, _ := strings.Cut(host, ":")
	return !strings.Contains(name, ".") || slices.ContainsFunc([]string{".svc", ".local", ".internal", ".lan", ".home.arpa", ".localdomain"}, func(d string) bool { return strings.HasSuffix(name, d) })
}

func private(a netip.Addr) bool { return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() }

// signatures are the rules of policy engines that verify images with the help of a public certificate authority
// or transparency log: without keys of one's own they ask the internet.
func (p *parser) signatures(kind string, n *yaml.Node) []Text {
	switch kind {
	case "ClusterPolicy", "Policy": // kyverno: spec.rules[].verifyImages
	case "ClusterImagePolicy": // sigstore/policy-controller: spec.authorities[]
		return p.keyless(n, 0)
	default:
		return nil
	}
	var out []Text
	spec := get(n, "spec")
	if rules := get(spec, "rules"); rules != nil && rules.Kind == yaml.SequenceNode {
		for _, r := range rules.Content {
			out = append(out, p.keyless(get(r, "verifyImages"), 0)...)
		}
	}
	return out
}

// keyless finds attestors that need Fulcio's certificates, or an entry in a log.
func (p *parser) keyless(n *yaml.Node, depth int) []Text {
	n = resolved(n)
	p.nodes++
	if n == nil || depth > maxDepth || p.nodes > maxNodes {
		return nil
	}
	var out []Text
	switch n.Kind {
	case yaml.SequenceNode:
		for _, e := range n.Content {
			out = append(out, p.keyless(e, depth+1)...)
		}
	case yaml.MappingNode:
		for k, v := range pairs(n) {
			switch {
			case k.Value == "keyless":
				out = append(out, Text{Where: "keyless", Image: "Fulcio's certificates", Line: k.Line})
			case (k.Value == "rekor" || k.Value == "ctlog") && text(get(v, "ignoreTlog")) != "true" && !(Source{URL: text(get(v, "url"))}).Local():
				out = append(out, Text{Where: k.Value, Image: text(get(v, "url")), Line: k.Line})
			default:
				out = append(out, p.keyless(v, depth+1)...)
			}
		}
	}
	return out
}
