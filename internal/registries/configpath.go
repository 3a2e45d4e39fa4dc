package registries

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// builtinList is what containerd 2.2 and later use when config_path is not set.
const builtinList = "/etc/containerd/certs.d:/etc/docker/certs.d"

// defaultCertsD is where registry directories go when nothing says otherwise.
const defaultCertsD = "/etc/containerd/certs.d"

// setting is the config_path that counts.
type setting struct {
	file  int    // index of the file
	id    string // of the plugin
	value string
}

func registryKey(id string, more ...string) []string {
	return append([]string{"plugins", id, "registry"}, more...)
}

// registryOwner is the plugin name under which f has the registry table that counts.
func (c *containerdConfig) registryOwner(f configFile) (id string, ok bool) {
	for _, id := range c.pluginIDs(f) {
		if _, ok := f.doc.Get(registryKey(id)...); ok {
			return id, true
		}
	}
	return "", false
}

// counting are the indexes of the files whose registry settings count: all where they are merged; where the
// plugin's table is replaced, the last that has one.
func (c *containerdConfig) counting() []int {
	var out []int
	for i, f := range c.files {
		if slices.ContainsFunc(c.pluginIDs(f), func(id string) bool { _, ok := f.doc.Get("plugins", id); return ok }) {
			out = append(out, i)
		}
	}
	if c.replaces() && len(out) > 1 {
		out = out[len(out)-1:]
	}
	return out
}

// lastSet is the config_path that counts: the last one, also when it is empty (so merges containerd 2.4.2).
func (c *containerdConfig) lastSet() (s setting, ok bool) {
	for _, i := range c.counting() {
		f := c.files[i]
		id, there := c.registryOwner(f)
		if !there {
			continue
		}
		if v, set := f.doc.Get(registryKey(id, "config_path")...); set {
			text, _ := v.(string)
			s, ok = setting{file: i, id: id, value: text}, true
		}
	}
	return s, ok
}

// configPath is the setting that counts, ok when it says anything.
func (c *containerdConfig) configPath() (s setting, ok bool) {
	s, _ = c.lastSet()
	return s, s.value != ""
}

// target is where config_path is to be written when it must change: where it is set, else in the file whose
// table counts, else in the main file.
func (c *containerdConfig) target() setting {
	if s, ok := c.lastSet(); ok {
		return s
	}
	s := setting{}
	if at := c.counting(); c.replaces() && len(at) > 0 {
		s.file = at[0]
	}
	f := c.files[s.file]
	s.id = c.home(f)
	if id, ok := c.registryOwner(f); ok {
		s.id = id
	}
	return s
}

// wrongTable finds a config_path that stands where this containerd does not read it.
func (c *containerdConfig) wrongTable() *diag.Diagnostic {
	for _, f := range c.files {
		ids := c.pluginIDs(f)
		for _, id := range []string{cri1, cri2, cri3} {
			key := registryKey(id, "config_path")
			if v, ok := f.doc.Get(key...); ok && v != "" && !slices.Contains(ids, id) {
				return newDiag(idWrongTable, f.at(key...), "config_path stands in the table of plugin "+quoted(id)+", which is not read with config version "+strconv.Itoa(f.version),
					"", "move it to [plugins."+quoted(c.home(f))+".registry]")
			}
		}
	}
	return nil
}

// blocked is what makes it useless or unsafe to change the configuration.
func (c *containerdConfig) blocked() *diag.Diagnostic {
	for _, find := range []func() *diag.Diagnostic{c.badVersion, c.criDisabled, c.inlineMirrors} {
		if d := find(); d != nil {
			return d
		}
	}
	return nil
}

// badVersion finds versions that this containerd does not read, or not together.
func (c *containerdConfig) badVersion() *diag.Diagnostic {
	for _, f := range c.files {
		if m := c.release.maxConfig(); m > 0 && f.version > m {
			return newDiag(idVersions, f.at("version"), fmt.Sprintf("config version %d is not known to the installed containerd, which reads up to %d", f.version, m),
				"it does not start with this file", fmt.Sprintf("write it as version = %d, or install the containerd it was made for", m))
		}
	}
	if c.release.migratesEach() || c.release.major == 1 {
		return nil
	}
	for _, f := range c.files[min(1, len(c.files)):] {
		if first := c.files[0].version; f.version != 0 && f.version != first {
			return newDiag(idVersions, f.at("version"), fmt.Sprintf("config version %d differs from version %d of %s", f.version, first, c.files[0].path),
				"containerd 2.0 to 2.2 then lose the CRI settings of the main file, 2.3.0 to 2.3.4 do not start",
				fmt.Sprintf("write this file as version = %d, with the plugin names of that version", first))
		}
	}
	return nil
}

// criDisabled finds a disabled CRI plugin: Debian's and Docker's packages ship one.
func (c *containerdConfig) criDisabled() *diag.Diagnostic {
	for _, f := range c.files {
		list, _ := f.strings("disabled_plugins")
		for i, s := range list {
			if slices.Contains([]string{cri1, cri2, cri3, "io.containerd.cri.v1.runtime"}, s) {
				return newDiag(idCRIDisabled, f.at("disabled_plugins", strconv.Itoa(i)), "the CRI plugin is switched off by disabled_plugins = ["+quoted(s)+"]",
					"the kubelet cannot use this containerd", "take "+quoted(s)+" out of disabled_plugins in "+f.path+", then: systemctl restart containerd")
			}
		}
	}
	return nil
}

// single says whether a config_path is one absolute directory, the only form that every version reads.
func single(value string) bool {
	return path.IsAbs(value) && !strings.Contains(value, ":")
}

// want is the directory to use in place of value.
func want(value, fallback string) string {
	for _, p := range strings.Split(value, ":") {
		if path.IsAbs(p) {
			return path.Clean(p)
		}
	}
	if fallback != "" {
		return fallback
	}
	return defaultCertsD
}

// minimalConfig is a main file where there was none. containerd merges it into its built-in defaults, so
// nothing else changes. Version 2 is read by all of 1.6 to 2.4; those that know version 3 get that.
func minimalConfig(r release, dir string) []byte {
	version, id := 2, cri2
	if r.atLeast(2, 0, 0) {
		version, id = 3, cri3
	}
	return fmt.Appendf(nil, "# Written by edgeprep. What is not here keeps containerd's built-in default.\nversion = %d\n\n[plugins.%s.registry]\n  config_path = %s\n",
		version, quoted(id), quoted(dir))
}
