package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// containerd's config.toml, as far as detection needs it. Versions 1 and 2 have one CRI plugin, 3 (containerd
// 2.0) splits it, 4 (2.3) moves the socket to a plugin of its own; a newer containerd reads older versions.

// fact is a value and where it stands. It is set when Source is not empty.
type fact struct {
	Value  string
	Source string
}

// containerdConfig are the values of config.toml and of the files that it imports.
type containerdConfig struct {
	Version     int
	Root        fact
	Address     fact
	Snapshotter fact
	Sandbox     fact
	ConfigPath  fact
	Problem     string // why the file could not be read; the rest is empty then
}

// criTables names, for one version of the format, the keys of the values.
type criTables struct {
	plugin                                   []string // the CRI plugin that deals with images
	sandbox, snapshotter, configPath, socket []string
}

// criTablesOf is what containerd reads of doc; one says that it is a containerd 1.x.
func criTablesOf(version int, doc *tomledit.Doc, one bool) criTables {
	plugin, t := "io.containerd.cri.v1.images", criTables{
		sandbox: []string{"pinned_images", "sandbox"}, snapshotter: []string{"snapshotter"},
	}
	if version < 3 {
		plugin = "io.containerd.grpc.v1.cri"
		t.sandbox, t.snapshotter = []string{"sandbox_image"}, []string{"containerd", "snapshotter"}
	}
	if _, short := doc.Get("plugins", "cri"); version < 2 && (short || one) { // only 2.x takes long names too
		plugin = "cri"
	}
	t.plugin, t.configPath, t.socket = []string{"plugins", plugin}, []string{"registry", "config_path"}, []string{"grpc", "address"}
	if version >= 4 {
		t.socket = []string{"plugins", "io.containerd.server.v1.grpc", "address"}
	}
	// containerd: plugins/cri/images/plugin.go migrateConfig, v2.4.2: without a table of runtimes the
	// snapshotter of an older file is dropped.
	if _, ok := doc.Get("plugins", plugin, "containerd", "runtimes"); version < 3 && !one && !ok {
		t.snapshotter = nil
	}
	return t
}

// maxImports bounds how many files are followed; containerd itself stops at what it has seen.
const maxImports = 64

// readContainerdConfig reads file and its imports. one says that a containerd 1.x does: there the plugin table
// of an import takes the place of the whole earlier one; later versions merge. Without the file everything is
// empty: containerd looks for imports only in a file.
func readContainerdConfig(fsys host.FS, file string, one bool) containerdConfig {
	var c containerdConfig
	seen := map[string]bool{}
	c.read(fsys, file, one, seen)
	return c
}

func (c *containerdConfig) read(fsys host.FS, file string, one bool, seen map[string]bool) {
	if seen[file] || len(seen) >= maxImports || c.Problem != "" {
		return
	}
	seen[file] = true
	data, err := fsys.ReadFile(file, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.Problem = fmt.Sprintf("%s cannot be read: %v", file, err)
		return
	}
	doc, err := tomledit.Parse(data)
	if err != nil {
		c.Problem = fmt.Sprintf("%s is not TOML: %v", file, err)
		return
	}
	c.take(doc, file, one, len(seen) > 1)
	for _, pattern := range imports(doc) {
		if !path.IsAbs(pattern) {
			pattern = path.Join(path.Dir(file), pattern)
		}
		for _, f := range glob(fsys, pattern) {
			c.read(fsys, path.Clean(f), one, seen)
		}
	}
}

func imports(doc *tomledit.Doc) []string {
	list, _ := doc.Get("imports")
	items, _ := list.([]any)
	var out []string
	for _, i := range items {
		if s, ok := i.(string); ok && s != "" {
			out = append(out, s)
		}
	}
	return out
}

// take overrides what doc says.
func (c *containerdConfig) take(doc *tomledit.Doc, file string, one, imported bool) {
	v, _ := doc.Get("version")
	n, _ := v.(int64)
	if int(n) > c.Version {
		c.Version = int(n)
	}
	t := criTablesOf(int(n), doc, one)
	if _, ok := doc.Get(t.plugin...); ok && one && imported {
		c.Sandbox, c.ConfigPath, c.Snapshotter = fact{}, fact{}, fact{}
	}
	set := func(f *fact, keys ...string) {
		v, _ := doc.Get(keys...)
		if s, ok := v.(string); ok {
			*f = fact{s, at(doc, file, keys)}
		}
	}
	set(&c.Root, "root")
	set(&c.Address, t.socket...)
	if t.snapshotter != nil {
		set(&c.Snapshotter, slices.Concat(t.plugin, t.snapshotter)...)
	}
	set(&c.Sandbox, slices.Concat(t.plugin, t.sandbox)...)
	set(&c.ConfigPath, slices.Concat(t.plugin, t.configPath)...)
}

func at(doc *tomledit.Doc, file string, p []string) string {
	pos, _ := doc.Index().Nearest(p...)
	return fmt.Sprintf("%s:%d (%s)", file, pos.Line, p[len(p)-1])
}

// certsD is the one directory that containerd takes hosts.toml files from, empty when it is not said or a
// list: since 2.1 pulls do not split lists.
func (c containerdConfig) certsD() (dir, source string) {
	if p := c.ConfigPath.Value; path.IsAbs(p) && !strings.Contains(p, ":") {
		return path.Clean(p), c.ConfigPath.Source
	}
	return "", ""
}
