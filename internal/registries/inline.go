package registries

import (
	"fmt"
	"path"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// inlineMirrors finds registry settings of the old kind, which cannot stand beside config_path: with mirrors
// or configs.*.tls next to it containerd starts, but without its CRI plugin.
func (c *containerdConfig) inlineMirrors() *diag.Diagnostic {
	for _, i := range c.counting() {
		f := c.files[i]
		id, ok := c.registryOwner(f)
		if !ok {
			continue
		}
		key, there := inlineKey(f, id)
		if !there {
			continue
		}
		return newDiag(idInline, f.at(key...), "registry mirrors are configured inline: "+strings.Join(key[2:], "."),
			"containerd loads no CRI plugin when these stand next to config_path, and 2.x announces their removal",
			"move them to hosts.toml files and delete [plugins."+quoted(id)+".registry.mirrors] and .configs:\n"+c.migration(f, id))
	}
	return nil
}

// inlineKey is the first inline setting that conflicts with config_path.
func inlineKey(f configFile, id string) ([]string, bool) {
	for _, h := range f.tableKeys(registryKey(id, "mirrors")) {
		return registryKey(id, "mirrors", h), true
	}
	for _, h := range f.tableKeys(registryKey(id, "configs")) {
		if key := registryKey(id, "configs", h, "tls"); len(f.tableKeys(key)) > 0 {
			return key, true
		}
	}
	return nil, false
}

func (f configFile) tableKeys(at []string) []string {
	v, _ := f.doc.Get(at...)
	t, _ := v.(map[string]any)
	return sortedKeys(t)
}

// migration is a shell script that writes the inline settings as hosts.toml files.
func (c *containerdConfig) migration(f configFile, id string) string {
	dir := defaultCertsD
	if s, ok := c.configPath(); ok {
		dir = want(s.value, "")
	}
	var b strings.Builder
	for _, h := range f.tableKeys(registryKey(id, "mirrors")) {
		name := h
		if h == "*" {
			name = defaultDir
		}
		endpoints, _ := f.strings(registryKey(id, "mirrors", h, "endpoint")...)
		at := path.Join(dir, name)
		fmt.Fprintf(&b, "mkdir -p %q && cat > %q <<'EOF'\n", at, path.Join(at, hostsFile))
		for _, e := range endpoints {
			fmt.Fprintf(&b, "[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n%s", quoted(e), f.inlineTLS(id, e))
		}
		b.WriteString("EOF\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// inlineTLS are the lines of configs.HOST that an endpoint uses.
func (f configFile) inlineTLS(id, endpoint string) string {
	e, _ := k3sEndpoint(endpoint)
	var b strings.Builder
	text := func(key string) string {
		v, _ := f.doc.Get(registryKey(id, "configs", e.Host(), "tls", key)...)
		s, _ := v.(string)
		return s
	}
	if ca := text("ca_file"); ca != "" {
		fmt.Fprintf(&b, "  ca = %s\n", quoted(ca))
	}
	if cert, key := text("cert_file"), text("key_file"); cert != "" {
		fmt.Fprintf(&b, "  client = [[%s, %s]]\n", quoted(cert), quoted(key))
	}
	if v, _ := f.doc.Get(registryKey(id, "configs", e.Host(), "tls", "insecure_skip_verify")...); v == true {
		b.WriteString("  skip_verify = true\n")
	}
	if len(f.tableKeys(registryKey(id, "configs", e.Host(), "auth"))) > 0 {
		b.WriteString("  # hosts.toml cannot hold the credentials of configs." + quoted(e.Host()) + ".auth: that table may stay\n")
	}
	return b.String()
}
