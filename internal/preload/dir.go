package preload

import (
	"errors"
	"io"
	iofs "io/fs"
	"path"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

// scanDir notes the files of an OCI layout directory. Only the names that such a layout has are looked at.
func scanDir(fs host.FS, dir string) (*inventory, error) {
	inv := newInventory()
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile, dockerIndex} {
		fi, err := fs.Stat(path.Join(dir, name))
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		inv.note(name, fi)
	}
	if inv.members[ocispec.ImageLayoutFile] == nil {
		return nil, &flaw{
			id: idFormat, what: "the directory is no OCI layout: it has no file named oci-layout",
			fix: "name the archives in it one by one, or by a pattern: " + path.Join(dir, "*.tar"),
		}
	}
	inv.open = func(m *member) (io.ReadCloser, error) { return fs.Open(path.Join(dir, m.name)) }
	return inv, inv.noteBlobs(fs, dir)
}

func (v *inventory) noteBlobs(fs host.FS, dir string) error {
	algorithms, err := fs.ReadDir(path.Join(dir, "blobs"))
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		if a.Type != host.TypeDir {
			continue
		}
		blobs, err := fs.ReadDir(path.Join(dir, "blobs", path.Base(a.Path)))
		if err != nil {
			return err
		}
		for _, b := range blobs {
			v.note(path.Join("blobs", path.Base(a.Path), path.Base(b.Path)), b)
		}
		if len(v.members) > maxMembers {
			return limit("the layout has more than %d files", maxMembers)
		}
	}
	return nil
}

func (v *inventory) note(name string, fi host.FileInfo) {
	if fi.Type == host.TypeFile {
		v.members[name] = &member{name: name, size: fi.Size, order: len(v.members), info: fi}
	}
}
