package preload

import (
	"cmp"
	"slices"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Archive is what Inspect found out about an image archive or OCI layout directory: all of it verified. It is
// kept as JSON in the ledger, so that an archive that did not change is not read again.
type Archive struct {
	Path  string      `json:"path"`
	Stamp Fingerprint `json:"stamp"`

	Size        int64       `json:"size"`             // bytes of the file, or of all files of the directory
	SHA256      string      `json:"sha256"`           // hex, of the file; of a directory: of its index.json
	Format      Format      `json:"format"`           // "docker-archive", "oci-archive" or "oci-layout"
	Combined    bool        `json:"combined"`         // an OCI layout with docker's manifest.json beside it
	Compression Compression `json:"compression"`      // "" when plain
	Window      int64       `json:"window,omitempty"` // largest zstd window in bytes

	Images   []Image  `json:"images"`
	Sizes    []Sizes  `json:"sizes"`              // by platform
	Nameless []string `json:"nameless,omitempty"` // digests of images without a name: these are not imported
}

// Image is one name in an archive. An image with two names is there twice.
type Image struct {
	Name      string     `json:"name"`             // normalised: "docker.io/library/busybox:1.36"
	Stored    string     `json:"stored,omitempty"` // as the archive writes it, when that is different
	Digest    string     `json:"digest"`           // of the index or manifest
	MediaType string     `json:"mediaType"`
	Platforms []Platform `json:"platforms"`
}

// Platform is an image's manifest for one platform.
type Platform struct {
	Platform string   `json:"platform,omitempty"` // "linux/arm64"; empty: not said anywhere
	Manifest string   `json:"manifest"`           // digest
	Config   string   `json:"config,omitempty"`   // digest: the image id
	Missing  []string `json:"missing,omitempty"`  // digests that the archive does not hold
}

// Complete says that everything that the platform needs is in the archive.
func (p Platform) Complete() bool { return len(p.Missing) == 0 }

// Sizes are the bytes of all images of an archive for one platform, what they share counted once.
type Sizes struct {
	Platform string `json:"platform,omitempty"`
	Content  int64  `json:"content"`  // blobs as they are in the archive
	Unpacked int64  `json:"unpacked"` // layers unpacked: an estimate where the packed form does not say
}

// For is the image's manifest for a node's platform; ok is false when it has none. A complete one is
// preferred, and the closest of several.
func (i Image) For(platform string) (p Platform, ok bool) {
	for _, c := range i.Platforms {
		if !Runs(platform, c.Platform) {
			continue
		}
		better := !p.Complete() && c.Complete() || p.Complete() == c.Complete() && c.Platform == platform
		if !ok || better {
			p, ok = c, true
		}
	}
	return p, ok
}

// Names are the image names of the archive, sorted, each once.
func (a Archive) Names() []string {
	var names []string
	for _, i := range a.Images {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// SizesFor sums what a node of a platform takes from the archive.
func (a Archive) SizesFor(platform string) Sizes {
	sum := Sizes{Platform: platform}
	for _, s := range a.Sizes {
		if s.Platform == platform || Runs(platform, s.Platform) {
			sum.Content += s.Content
			sum.Unpacked += s.Unpacked
		}
	}
	return sum
}

// Fingerprint tells whether a file changed, without reading it.
type Fingerprint struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
	Changed time.Time `json:"changed"`
	Dev     uint64    `json:"dev"`
	Inode   uint64    `json:"inode"`
}

// FingerprintOf takes what counts from a file's description.
func FingerprintOf(fi host.FileInfo) Fingerprint {
	return Fingerprint{
		Size: fi.Size, ModTime: fi.ModTime.UTC(), Changed: fi.Changed.UTC(), Dev: fi.Dev, Inode: fi.Inode,
	}
}

// Equal compares times as instants.
func (f Fingerprint) Equal(o Fingerprint) bool {
	return f.Size == o.Size && f.Dev == o.Dev && f.Inode == o.Inode &&
		f.ModTime.Equal(o.ModTime) && f.Changed.Equal(o.Changed)
}

// Known remembers archives that were inspected before. Known answers only for one that did not change since:
// Archive.Unchanged says so.
type Known interface {
	Known(path string, fi host.FileInfo) (Archive, bool)
}

// Unchanged says that fi describes the very file that was inspected. A hard link made to it since counts as a
// change (of ctime): whoever made it can vouch for it with At.
func (a Archive) Unchanged(fi host.FileInfo) bool { return a.Stamp.Equal(FingerprintOf(fi)) }

// At is the archive with the fingerprint of fi, for a caller who knows that the content is the same.
func (a Archive) At(fi host.FileInfo) Archive {
	a.Path, a.Stamp = cmp.Or(fi.Path, a.Path), FingerprintOf(fi)
	return a
}

// Inspected is a Known made of a list.
type Inspected []Archive

// Known implements Known.
func (l Inspected) Known(path string, fi host.FileInfo) (Archive, bool) {
	for _, a := range l {
		if a.Path == path && a.Unchanged(fi) {
			return a, true
		}
	}
	return Archive{}, false
}
