package registries

import (
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
)

func effectiveContainerd(f host.FS, n distro.Node) (Effective, error) {
	e := Effective{Registries: map[string]Lookup{}}
	r := parseRelease(n.Runtime.Version)
	if n.Runtime.Config == "" {
		e.ConfigPath = want(n.Registries.CertsD, n.Runtime.CertsD)
		e.Dirs = []string{e.ConfigPath}
		return e, e.readDirs(f, r, false)
	}
	c, err := loadContainerd(f, resolve(f, n.Runtime.Config), r)
	if found := diag.Of(err); len(found) > 0 {
		e.Problems, e.Source = found, found[0].Where
		return e, nil
	}
	if err != nil {
		return e, err
	}
	if d := c.blocked(); d != nil {
		e.Problems = append(e.Problems, d)
	}
	if d := c.wrongTable(); d != nil {
		if s, ok := c.configPath(); ok && single(s.value) {
			d = warning(d) // misleading, but the right table says what counts
		}
		e.Problems = append(e.Problems, d)
	}
	c.directories(&e)
	return e, e.readDirs(f, r, false)
}

// directories finds what containerd looks into, and says why when that is nothing.
func (c *containerdConfig) directories(e *Effective) {
	s, ok := c.configPath()
	e.Source = diag.Where{File: c.main}
	e.ConfigPath = s.value
	if ok {
		e.Source = c.files[s.file].at(registryKey(s.id, "config_path")...)
	}
	value := s.value
	if !ok && c.release.atLeast(2, 2, 0) {
		value = builtinList
	}
	const fix = "run: edgeprep apply"
	switch {
	case value == "":
		e.Problems = append(e.Problems, newDiag(idNoConfigPath, e.Source, "config_path is not set", "containerd reads no hosts.toml and pulls from upstream", fix))
	case single(value):
		e.Dirs = []string{value}
	case len(splitList(value)) < 2:
		e.Problems = append(e.Problems, newDiag(idRelative, e.Source, "config_path "+quoted(value)+" is not an absolute directory", "it depends on where containerd was started", fix))
	case c.splits():
		e.Dirs = splitList(value)
		e.Problems = append(e.Problems, warning(newDiag(idColon, e.Source, "config_path "+quoted(value)+" is a list", "containerd 2.1 and later pull as if it were empty", fix)))
	default:
		what := "config_path " + quoted(value) + " is a list"
		if !ok {
			what = "config_path is not set, and the built-in " + quoted(value) + " is a list"
		}
		e.Problems = append(e.Problems, newDiag(idColon, e.Source, what, "containerd 2.1 and later take it for the name of one directory, find nothing, and pull from upstream", fix))
	}
}

// splits says whether a list is read as one: before 2.1, and where a setting forces pulls past the transfer
// service (containerd: internal/cri/config CheckLocalImagePullConfigs).
func (c *containerdConfig) splits() bool {
	if c.release.known() && !c.release.atLeast(2, 1, 0) {
		return true
	}
	if !c.release.known() {
		return false
	}
	for _, i := range c.counting() {
		f := c.files[i]
		for _, id := range c.pluginIDs(f) {
			get := func(key string) any { v, _ := f.doc.Get("plugins", id, key); return v }
			downloads := get("max_concurrent_downloads")
			if get("use_local_image_pull") == true || get("discard_unpacked_layers") == true || get("image_pull_with_sync_fs") == true ||
				get("disable_snapshot_annotations") == false || downloads != nil && downloads != int64(3) ||
				len(f.tableKeys(registryKey(id, "configs")))+len(f.tableKeys(registryKey(id, "auths"))) > 0 {
				return true
			}
		}
	}
	return false
}
