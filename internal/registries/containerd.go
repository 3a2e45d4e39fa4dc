package registries

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// The plugins that hold the registry settings: config version 1 names the first, 2 the second, 3 and 4 the
// third. containerd 2.x translates the older ones.
const (
	cri1 = "cri"
	cri2 = "io.containerd.grpc.v1.cri"
	cri3 = "io.containerd.cri.v1.images"
)

// maxImports bounds what a chain of imports may make us read.
const maxImports = 200

// containerdConfig is config.toml and what it imports.
type containerdConfig struct {
	main    string
	release release
	files   []configFile // in the order in which containerd merges them; empty: there is no main file
}

// configFile is one of them.
type configFile struct {
	path    string
	data    []byte
	doc     *tomledit.Doc
	version int // 0: not said
}

// loadContainerd reads config.toml and its imports (containerd: cmd/containerd/server/config LoadConfig).
func loadContainerd(f host.FS, main string, r release) (*containerdConfig, error) {
	c := &containerdConfig{main: main, release: r}
	pending := []string{main}
	loaded := map[string]bool{}
	for len(pending) > 0 {
		p := pending[0]
		pending = pending[1:]
		if loaded[p] {
			continue
		}
		if len(loaded) >= maxImports {
			return nil, newDiag(idImport, diag.Where{File: main}, fmt.Sprintf("it imports more than %d files", maxImports), "", "shorten its imports")
		}
		loaded[p] = true
		file, err := loadConfigFile(f, p)
		if errors.Is(err, fs.ErrNotExist) && p == main {
			return c, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, c.missingImport(p)
		}
		if err != nil {
			return nil, err
		}
		c.files = append(c.files, file)
		imports, err := file.imports(f)
		if err != nil {
			return nil, err
		}
		pending = append(pending, imports...)
	}
	return c, nil
}

func loadConfigFile(f host.FS, p string) (configFile, error) {
	data, err := read(f, p)
	if err != nil {
		return configFile{}, err
	}
	if data == nil {
		return configFile{}, fs.ErrNotExist
	}
	doc, err := tomledit.Parse(data)
	if err != nil {
		return configFile{}, newDiag(idTOML, syntaxWhere(p, err), "it is not TOML: "+syntaxText(err), "containerd does not start with it",
			"correct it; containerd config dump tells whether it is valid")
	}
	file := configFile{path: p, data: data, doc: doc}
	if v, ok := doc.Get("version"); ok {
		n, isInt := v.(int64)
		if !isInt {
			return configFile{}, newDiag(idVersions, file.at("version"), "version is not a number", "containerd does not start with it", "write version = 2")
		}
		file.version = int(n)
	}
	return file, nil
}

func (c *containerdConfig) missingImport(p string) error {
	w := diag.Where{File: c.main, Key: "imports"}
	for _, f := range c.files {
		if list, ok := f.strings("imports"); ok {
			for i, s := range list {
				if f.absolute(s) == p {
					w = f.at("imports", strconv.Itoa(i))
				}
			}
		}
	}
	return newDiag(idImport, w, "it imports "+p+", which does not exist", "containerd does not start with it", "remove the import or restore the file")
}

// imports are the files that f imports, patterns expanded.
func (f configFile) imports(files host.FS) ([]string, error) {
	list, _ := f.strings("imports")
	var out []string
	for _, s := range list {
		p := f.absolute(s)
		if !strings.Contains(p, "*") {
			out = append(out, p)
			continue
		}
		found, err := glob(files, p)
		if err != nil {
			return nil, newDiag(idImport, f.at("imports"), "the import "+quoted(s)+" cannot be expanded: "+err.Error(), "", "correct the pattern")
		}
		out = append(out, found...)
	}
	return out, nil
}

func (f configFile) absolute(s string) string {
	s = path.Clean(s)
	if !path.IsAbs(s) {
		s = path.Join(path.Dir(f.path), s)
	}
	return s
}

func (f configFile) strings(at ...string) ([]string, bool) {
	v, ok := f.doc.Get(at...)
	if !ok {
		return nil, false
	}
	return stringList(v)
}

func (f configFile) at(p ...string) diag.Where {
	w := diag.Where{File: f.path, Key: strings.Join(p, ".")}
	if pos, ok := f.doc.Index().Nearest(p...); ok {
		w.Line, w.Col = pos.Line, pos.Col
	}
	return w
}

// glob expands a pattern as filepath.Glob does, in the node's file system.
func glob(f host.FS, pattern string) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	at := []string{"/"}
	for _, part := range strings.Split(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range at {
			next = append(next, matches(f, dir, part)...)
		}
		at = next
	}
	return at, nil
}

// matches are the entries of dir that match one part of a pattern. What cannot be read matches nothing, as in
// filepath.Glob.
func matches(f host.FS, dir, part string) []string {
	if !strings.ContainsAny(part, `*?[\`) {
		p := path.Join(dir, part)
		if _, err := f.Lstat(p); err != nil {
			return nil
		}
		return []string{p}
	}
	list, err := f.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range list {
		name := path.Base(e.Path)
		if ok, _ := path.Match(part, name); ok {
			out = append(out, path.Join(dir, name))
		}
	}
	slices.Sort(out)
	return out
}

// mergedVersion is the config version after the merge before 2.3.5: a later file that names one wins.
func (c *containerdConfig) mergedVersion() int {
	v := 0
	for _, f := range c.files {
		if f.version != 0 {
			v = f.version
		}
	}
	return v
}

// migratesEach says whether this containerd translates each file by its own version. 2.3.0 to 2.3.4 translate
// each but refuse mixed ones; the fix was first seen in 2.3.7.
func (r release) migratesEach() bool { return r.atLeast(2, 3, 5) }

// replaces says whether an imported file replaces a plugin's whole table (1.x) instead of being merged into it.
// An unknown containerd with a version that only 2.x reads merges.
func (c *containerdConfig) replaces() bool {
	if c.release.known() {
		return c.release.major == 1
	}
	return c.mergedVersion() <= 2
}

// pluginIDs are the names under which this containerd finds the registry settings in f, the first wins.
func (c *containerdConfig) pluginIDs(f configFile) []string {
	v := f.version
	if !c.release.migratesEach() {
		v = c.mergedVersion()
	}
	switch {
	case c.replaces() && v <= 1:
		return []string{cri1}
	case c.replaces():
		return []string{cri2}
	case v <= 1:
		return []string{cri2, cri1, cri3}
	case v == 2:
		return []string{cri2, cri3}
	}
	return []string{cri3}
}

// home is the name under which a new setting goes into f.
func (c *containerdConfig) home(f configFile) string {
	ids := c.pluginIDs(f)
	for _, id := range ids {
		if _, ok := f.doc.Get("plugins", id); ok {
			return id
		}
	}
	v := f.version
	if v == 0 {
		v = c.mergedVersion()
	}
	switch {
	case v <= 1:
		return cri1
	case v == 2:
		return cri2
	}
	return cri3
}
