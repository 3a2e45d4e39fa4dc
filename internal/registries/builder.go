package registries

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// builder collects the resources of one node.
type builder struct {
	fs     host.FS
	node   distro.Node
	policy Policy
	result Result
	seen   map[string]bool // ids
}

func (b *builder) add(r resource.Resource) {
	if !b.seen[r.ID] {
		b.seen[r.ID] = true
		b.result.Resources = append(b.result.Resources, r)
	}
}

// dir wants a directory and those above it, all but the first level, as they are if they exist. They are
// wanted whether they exist or not: what is wanted must not depend on what an earlier run made.
func (b *builder) dir(p string) (id string) {
	parts := strings.Split(strings.Trim(path.Clean(p), "/"), "/")
	prev := ""
	for i := 2; i <= len(parts); i++ {
		at := "/" + strings.Join(parts[:i], "/")
		id = resource.ID(resource.KindDir, at)
		r := resource.Resource{ID: id, Kind: resource.KindDir, Dir: &resource.Dir{Path: at, Mode: 0o755, Keep: true}, Why: "holds registries configuration"}
		if prev != "" {
			r.After = []string{prev}
		}
		b.add(r)
		prev = id
	}
	return id
}

// file wants a file, below directories that it wants too.
func (b *builder) file(f resource.File, why string) (id string) {
	id = resource.ID(resource.KindFile, f.Path)
	r := resource.Resource{ID: id, Kind: resource.KindFile, File: &f, Why: why}
	if dir := b.dir(path.Dir(f.Path)); dir != "" {
		r.After = []string{dir}
	}
	b.add(r)
	return id
}

// shared wants a file that is somebody else's too: content made from the bytes old, nil when there is none.
func (b *builder) shared(p string, old, content []byte, mode fs.FileMode, why string) (id string) {
	f := resource.File{Path: p, Content: content, Mode: mode, Shared: true}
	if old != nil {
		sum := sha256.Sum256(old)
		f.Base = hex.EncodeToString(sum[:])
	}
	return b.file(f, why)
}

// restart wants the distribution's units to take in changes of the given files.
func (b *builder) restart(files ...string) {
	for _, u := range b.node.Registries.Restart {
		b.add(resource.Resource{
			ID: resource.ID(resource.KindUnit, u), Kind: resource.KindUnit, After: files,
			Unit: &resource.Unit{Name: u, Foreign: true, RestartOn: files},
			Why:  "reads its registries configuration only when it starts",
		})
	}
}

// read is the content of a file; nil when there is none.
func read(f host.FS, p string) ([]byte, error) {
	data, err := f.ReadFile(p, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, newDiag(idRead, diag.Where{File: p}, "it cannot be read: "+err.Error(), "", "ls -ld "+p)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// resolve follows symlinks at the end of p, so that a file that is linked to is written in its own place.
func resolve(f host.FS, p string) string {
	for range 8 {
		info, err := f.Lstat(p)
		if err != nil || info.Type != host.TypeSymlink {
			return p
		}
		if t := info.Target; path.IsAbs(t) {
			p = path.Clean(t)
		} else {
			p = path.Join(path.Dir(p), t)
		}
	}
	return p
}
