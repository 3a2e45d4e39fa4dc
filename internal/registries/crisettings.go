package registries

import (
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
)

// CRI is what the settings of containerd's CRI plugin say, as this containerd reads them. The zero value is a
// node without a config.toml.
type CRI struct {
	config *containerdConfig
}

// ReadCRI reads config.toml and its imports. Findings about the files themselves are ReadEffective's.
func ReadCRI(f host.FS, n distro.Node) (CRI, error) {
	if n.Runtime.Config == "" {
		return CRI{}, nil
	}
	c, err := loadContainerd(f, resolve(f, n.Runtime.Config), parseRelease(n.Runtime.Version))
	return CRI{config: c}, err
}

// Setting is the value that counts: of the key old in tables up to version 2, of key in those from 3 on. Without
// one the value is nil.
func (c CRI) Setting(old, key string) (value any, at diag.Where) {
	if c.config == nil {
		return nil, at
	}
	for _, i := range c.config.counting() {
		f := c.config.files[i]
		for _, id := range c.config.pluginIDs(f) {
			name := old
			if id == cri3 {
				name = key
			}
			p := append([]string{"plugins", id}, strings.Split(name, ".")...)
			if v, ok := f.doc.Get(p...); ok {
				value, at = v, f.at(p...)
			}
		}
	}
	return value, at
}

// DroppedKey is a key of the CRI plugin's tables that this containerd does not read.
type DroppedKey struct {
	Key     string // below the plugin's table: "registry.configs.x.tls.ca_file"
	Where   diag.Where
	Nearest string // the known key of the same table that it may be meant for; empty: none is near
	// Gone says that containerd 1.x read it.
	Gone bool
}

// Dropped lists the keys that are set to something and have no effect. containerd says no more than "Ignoring
// unknown key in TOML" in its log. Of a containerd whose version is not known nothing is said.
func (c CRI) Dropped() []DroppedKey {
	if c.config == nil || !c.config.release.known() {
		return nil
	}
	var out []DroppedKey
	for _, i := range c.config.counting() {
		f := c.config.files[i]
		for _, id := range append(c.config.pluginIDs(f), criRuntime) {
			table, _ := f.doc.Get("plugins", id)
			t, ok := table.(map[string]any)
			if !ok || id == criRuntime && c.config.release.major == 1 {
				continue
			}
			known := c.config.release.knownKeys(id)
			for _, key := range leaves(t, nil) {
				if d, bad := known.judge(key); bad {
					d.Where = f.at(append([]string{"plugins", id}, key...)...)
					out = append(out, d)
				}
			}
		}
	}
	return out
}

// leaves are the paths of all values that say something: not of empty ones, which dumps of a configuration are
// full of.
func leaves(t map[string]any, at []string) [][]string {
	var out [][]string
	for _, k := range sortedKeys(t) {
		p := append(slices.Clone(at), k)
		switch v := t[k].(type) {
		case map[string]any:
			out = append(out, leaves(v, p)...)
		case []any:
			if len(v) > 0 {
				out = append(out, p)
			}
		default:
			if v != "" && v != false && v != int64(0) && v != float64(0) {
				out = append(out, p)
			}
		}
	}
	return out
}

// keySet is a set of patterns: "*" stands for one part of a key, "**" for all the rest.
type keySet struct {
	known, gone []string
}

func (s keySet) judge(key []string) (d DroppedKey, bad bool) {
	is := func(pattern string) bool { return matchesKey(strings.Split(pattern, "."), key) }
	d = DroppedKey{Key: strings.Join(key, ".")}
	if slices.ContainsFunc(s.gone, is) {
		d.Gone = true
		return d, true
	}
	if slices.ContainsFunc(s.known, is) {
		return d, false
	}
	d.Nearest = diag.Nearest(key[len(key)-1], s.beside(key))
	return d, true
}

func matchesKey(pattern, key []string) bool {
	for i, p := range pattern {
		switch {
		case p == "**":
			return true
		case i >= len(key) || p != "*" && p != key[i]:
			return false
		}
	}
	return len(pattern) == len(key)
}

// beside are the last parts of the known keys of the same table.
func (s keySet) beside(key []string) []string {
	var out []string
	for _, pattern := range s.known {
		p := strings.Split(pattern, ".")
		if len(p) == len(key) && matchesKey(p[:len(p)-1], key[:len(key)-1]) {
			out = append(out, p[len(p)-1])
		}
	}
	return out
}
