package registries

import "slices"

// Written is a registries.yaml as k3s and RKE2 understand it.
type Written struct {
	File    string
	Mirrors []WrittenMirror // in the order of the file
	Configs []WrittenConfig
}

// WrittenMirror is one entry of mirrors.
type WrittenMirror struct {
	Registry string // "*": every registry without its own
	Line     int
	Hosts    []HostEntry
	Rewrites map[string]string // regular expression to replacement, on the repository
}

// WrittenConfig is one entry of configs. What it holds is used for endpoints of that host and for nothing else.
type WrittenConfig struct {
	Host      string
	Line      int
	Auth, TLS bool
}

// Config is the entry for an endpoint's host.
func (w *Written) Config(host string) (WrittenConfig, bool) {
	// k3s: pkg/agent/containerd/config.go configForHost; "*" is only for the registry itself
	i := slices.IndexFunc(w.Configs, func(c WrittenConfig) bool { return c.Host == host })
	if i < 0 {
		return WrittenConfig{}, false
	}
	return w.Configs[i], true
}

func (d *yamlDoc) written() *Written {
	w := &Written{File: d.file}
	for _, kv := range pairs(child(d.root(), "mirrors")) {
		body := d.body.Mirrors[kv[0].Value]
		m := WrittenMirror{Registry: kv[0].Value, Line: kv[0].Line, Rewrites: body.Rewrites}
		for _, s := range body.Endpoints {
			if ep, ok := k3sEndpoint(s); ok {
				m.Hosts = append(m.Hosts, d.host(ep))
			}
		}
		w.Mirrors = append(w.Mirrors, m)
	}
	for _, kv := range pairs(child(d.root(), "configs")) {
		c := d.body.Configs[kv[0].Value]
		w.Configs = append(w.Configs, WrittenConfig{Host: kv[0].Value, Line: kv[0].Line, Auth: c.Auth != nil, TLS: c.TLS != nil})
	}
	return w
}

// host is an endpoint with what configs says of its host.
func (d *yamlDoc) host(e Endpoint) HostEntry {
	h := HostEntry{Endpoint: e, Capabilities: []string{"pull", "resolve"}}
	c := d.body.Configs[e.Host()]
	if c.TLS == nil {
		return h
	}
	h.CA, h.ClientCert, h.ClientKey = c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile
	h.SkipVerify, h.TLSSet = c.TLS.InsecureSkipVerify, true
	for _, f := range []string{h.CA, h.ClientCert, h.ClientKey} {
		if f != "" {
			h.Files = append(h.Files, f)
		}
	}
	return h
}
