package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// LocalDir is where a node keeps descriptors of its own.
const LocalDir = "/etc/edgeprep/distros"

// maxDescriptor bounds a descriptor's size.
const maxDescriptor = 1 << 20

// Load reads the built-in descriptors (package distros) and those below LocalDir, which replace one of the
// same id or add one. local may be nil. All problems of all files are reported at once.
func Load(builtin fs.FS, local host.FS) (Descriptors, error) {
	set, err := loadBuiltin(builtin)
	if err != nil || local == nil {
		return set, err
	}
	entries, err := local.ReadDir(LocalDir)
	if errors.Is(err, fs.ErrNotExist) {
		return set, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the descriptors in %s: %w", LocalDir, err)
	}
	var found diag.Report
	for _, e := range entries {
		file := path.Join(LocalDir, path.Base(e.Path))
		if path.Ext(file) != ".toml" {
			continue
		}
		data, err := local.ReadFile(file, maxDescriptor)
		if err != nil {
			return nil, fmt.Errorf("read the descriptor %s: %w", file, err)
		}
		d, ds := parse(file, data)
		found.Add(ds...)
		if d != nil {
			d.Local = true
			set = set.with(d)
		}
	}
	if err := found.Err(); err != nil {
		return nil, err
	}
	return set, nil
}

func loadBuiltin(builtin fs.FS) (Descriptors, error) {
	files, err := fs.Glob(builtin, "*.toml")
	if err != nil {
		return nil, fmt.Errorf("list the built-in descriptors: %w", err)
	}
	var set Descriptors
	var found diag.Report
	for _, file := range files {
		data, err := fs.ReadFile(builtin, file)
		if err != nil {
			return nil, fmt.Errorf("read the built-in descriptor %s: %w", file, err)
		}
		d, ds := parse("distros/"+file, data)
		found.Add(ds...)
		if d != nil {
			set = set.with(d)
		}
	}
	return set, found.Err()
}

// with puts d in the place of the one of the same id, else into the order of the ids.
func (ds Descriptors) with(d *Descriptor) Descriptors {
	at, same := slices.BinarySearchFunc(ds, d, func(a, b *Descriptor) int { return strings.Compare(a.ID, b.ID) })
	if same {
		out := slices.Clone(ds)
		out[at] = d
		return out
	}
	return slices.Insert(slices.Clone(ds), at, d)
}
