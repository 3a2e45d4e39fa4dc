package check

import (
	"bytes"
	"os"
	"strings"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const registriesYAML = "/etc/rancher/k3s/registries.yaml"

// hosts is a hosts.toml with these hosts, each with a dial_timeout, that ends at the last.
func hosts(urls ...string) string {
	var b strings.Builder
	b.WriteString("server = \"" + urls[len(urls)-1] + "\"\ndial_timeout = \"2s\"\n")
	for _, u := range urls {
		b.WriteString("[host.\"" + u + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"2s\"\n")
	}
	return b.String()
}

// mirrored is a registries.yaml with the mirror for all registries and docker.io, and more below its mirrors.
func (s *site) mirrored(more string) string {
	u := "{endpoint: [\"" + s.env.Mirrors[0].URL + "\"]}\n"
	return "mirrors:\n  \"*\": " + u + "  docker.io: " + u + more
}

// REGFaults are those of the registries configuration and its endpoints.
func REGFaults() map[string]fault {
	return map[string]fault{
		"FI-16: inline mirrors stand beside config_path": {check: "REG-03", says: "NOD-223", inject: func(s *site) {
			s.rewrite("/etc/containerd/config.toml", func(b []byte) []byte {
				return append(b, []byte("[plugins.'io.containerd.cri.v1.images'.registry.mirrors.\"docker.io\"]\nendpoint = [\"http://127.0.0.1:5000\"]\n")...)
			})
		}},
		"registries.yaml is a directory": {make: k3sStarted, check: "REG-06", says: "NOD-213", inject: func(s *site) {
			s.remove(registriesYAML)
			s.node.Mkdir(registriesYAML)
		}},
		"Docker Hub by the name of its server": {check: "REG-07", says: "registry-1.docker.io", also: []string{"REG-04", "REG-16"}, inject: func(s *site) {
			s.node.WriteFile(certsD+"/registry-1.docker.io/hosts.toml", hosts(s.env.Mirrors[0].URL))
			for _, dir := range []string{"/docker.io", "/_default"} {
				s.remove(certsD + dir + "/hosts.toml")
				s.remove(certsD + dir)
			}
			for _, h := range []string{"quay.io", "ghcr.io", "registry.k8s.io"} {
				s.node.WriteFile(certsD+"/"+h+"/hosts.toml", hosts(s.env.Mirrors[0].URL))
			}
		}},
		"a useless entry beside the right one": {check: "REG-07", says: "itself goes to the mirrors", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile(certsD+"/index.docker.io/hosts.toml", hosts(s.env.Mirrors[0].URL))
		}},
		"FI-15: a directory with another host hides _default": {check: "REG-08", says: "10.9.9.9", also: []string{"REG-04", "REG-16"}, inject: func(s *site) {
			s.node.WriteFile(certsD+"/quay.io/hosts.toml", hosts("http://10.9.9.9:5000"))
			s.noPulls()
		}},
		"a registry that nobody needs has a directory of its own": {check: "REG-08", says: "10.9.9.9", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile(certsD+"/registry.local/hosts.toml", hosts("http://10.9.9.9:5000"))
		}},
		"a mirror is not asked for tags": {check: "REG-10", says: "NOD-236", inject: func(s *site) {
			s.rewrite(certsD+"/_default/hosts.toml", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"pull", "resolve"`), []byte(`"pull"`)) })
		}},
		"TLS settings under the registry, not under its endpoint": {make: k3sStarted, check: "REG-14", says: "10.9.9.9:5000", also: []string{"REG-04"}, inject: func(s *site) {
			s.node.WriteFile(registriesYAML, s.mirrored("  quay.io: {endpoint: [\""+s.env.Mirrors[0].URL+"\", \"https://10.9.9.9:5000\"]}\nconfigs:\n  quay.io: {tls: {ca_file: /etc/ca.pem}}\n"))
		}},
		"a rewrite that the mirror does not know": {make: k3sStarted, check: "REG-15", says: "never for " + imagetest.APIName, inject: func(s *site) {
			s.rewrites("quay.io", `"^edgeprep/(.*)": "quay/$1"`)
		}},
		"a rewrite without an anchor": {make: k3sStarted, check: "REG-15", says: "in their middle", status: StatusWarn, inject: func(s *site) {
			s.rewrites("quay.io", `"nothing/": "more/"`)
		}},
		"a rewrite that is no regular expression": {make: k3sStarted, check: "REG-15", says: "missing closing )", inject: func(s *site) {
			s.rewrites("quay.io", `"^(": "x"`)
		}},
		"Spegel has moved the files": {check: "REG-26", says: "moved files", status: StatusWarn, inject: func(s *site) { s.node.Mkdir(certsD + "/_backup") }},
		"Spegel is started": {check: "REG-26", says: "by a manifest on this disk", status: StatusWarn, inject: func(s *site) {
			s.retarget("ghcr.io/spegel-org/spegel:v1", imagetest.WebName)
			s.staticPod("ghcr.io/spegel-org/spegel:v1", "IfNotPresent")
		}},
		"a fallback that this release loses": {make: k3sStarted, check: "REG-28", says: "may not ask", status: StatusWarn, also: []string{"REG-09"}, inject: func(s *site) {
			s.env.Node.Gates.StarMirror = false
			s.fallBack()
		}},
	}
}

// noPulls: nothing that is pulled arrives.
func (s *site) noPulls() {
	s.containerd().CRI().OnPull = func(string) error { return os.ErrDeadlineExceeded }
}

// rewrites gives one registry of a started k3s a mirror with these rewrites, and what is rendered of it.
func (s *site) rewrites(registry, rules string) {
	u := s.env.Mirrors[0].URL
	s.node.WriteFile(registriesYAML, s.mirrored("  "+registry+":\n    endpoint: [\""+u+"\"]\n    rewrite: {"+rules+"}\n"))
	from, to, _ := strings.Cut(rules, ": ")
	s.node.WriteFile(s.env.Node.Runtime.CertsD+"/"+registry+"/hosts.toml", "[host]\n[host.\""+u+"/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n"+
		"  [host.\""+u+"/v2\".rewrite]\n    "+from+" = "+to+"\n")
}

// fallBack lets k3s try the registries themselves behind the mirror.
func (s *site) fallBack() {
	s.remove(s.env.Node.Registries.DropIn)
	for _, dir := range []string{"/_default", "/docker.io"} {
		s.rewrite(s.env.Node.Runtime.CertsD+dir+"/hosts.toml", func(b []byte) []byte { return append([]byte("server = \"\"\n"), b...) })
	}
}
