package preload_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// containerd's own importer is the oracle: whatever both accept must come to the same names and digests.
// (Not the other way round: what containerd lets pass and is refused here is the point of this package.)

// imported is what containerd makes of a plain tar: name → digest of the target.
func imported(t testing.TB, tar []byte) (map[string]string, error) {
	t.Helper()
	store := memoryStore{blobs: map[digest.Digest][]byte{}}
	desc, err := archive.ImportIndex(t.Context(), store, bytes.NewReader(tar))
	if err != nil {
		return nil, err
	}
	b, err := content.ReadBlob(t.Context(), store, desc)
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, m := range idx.Manifests {
		name := m.Annotations["io.containerd.image.name"]
		if name == "" {
			name = m.Annotations[ocispec.AnnotationRefName]
		}
		if name != "" {
			out[name] = m.Digest.String()
		}
	}
	return out, nil
}

// compare holds what is read here against what containerd makes of it.
func compare(t *testing.T, tar []byte) {
	t.Helper()
	fs := memory{"/images.tar": tar}
	a, err := preload.Inspect(t.Context(), fs, "/images.tar", nil, nil)
	src, oerr := preload.Open(t.Context(), fs, "/images.tar")
	if oerr == nil {
		defer src.Close()
	}
	if err != nil {
		return
	}
	if oerr != nil {
		t.Fatalf("Inspect takes it, Open does not: %v", oerr)
	}
	theirs, err := imported(t, tar)
	if err != nil {
		t.Fatalf("containerd refuses what is accepted here: %v", err)
	}
	for _, i := range a.Images {
		stored := i.Name
		if i.Stored != "" && a.Format != preload.DockerArchive {
			stored = i.Stored
		}
		if theirs[stored] != i.Digest && !strings.Contains(stored, "@") {
			t.Errorf("%s is %s here and %q in containerd (%v)", stored, i.Digest, theirs[stored], theirs)
		}
	}
	for _, i := range src.Images() {
		if !hasImage(a, i) {
			t.Errorf("Open gives %s %s, Inspect %v", i.Name, i.Target.Digest, a.Names())
		}
	}
	err = src.Each(t.Context(), func(host.Descriptor) bool { return true }, func(d host.Descriptor, r io.Reader) error {
		n, err := io.Copy(io.Discard, r)
		if n != d.Size {
			t.Errorf("%s has %d bytes of %d", d.Digest, n, d.Size)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func hasImage(a preload.Archive, i host.Image) bool {
	for _, x := range a.Images {
		if x.Name == i.Name && x.Digest == i.Target.Digest {
			return true
		}
	}
	return false
}

// TestSameAsContainerd is the oracle on good archives.
func TestSameAsContainerd(t *testing.T) {
	t.Parallel()
	for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip, imagetest.Zstd} {
		s := standard(t, imagetest.Options{Compression: c})
		for _, f := range forms() {
			if f.Compression != imagetest.Plain {
				continue
			}
			b, err := os.ReadFile(write(t, s, f))
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := imported(t, b)
			if err != nil {
				t.Fatal(err)
			}
			src := open(t, file(t, b))
			for name, digest := range names(src) {
				if theirs[name] != digest {
					t.Errorf("%s, %s layers: %s is %s here and %q in containerd", label(f), c, name, digest, theirs[name])
				}
			}
			if len(theirs) != len(names(src)) {
				t.Errorf("%s: containerd has %v", label(f), theirs)
			}
		}
	}
}

func FuzzArchive(f *testing.F) {
	s, err := imagetest.Standard(imagetest.Options{LayerSize: 700, Compression: imagetest.Gzip})
	if err != nil {
		f.Fatal(err)
	}
	for _, form := range forms() {
		var b bytes.Buffer
		form.Compression = imagetest.Plain
		if err := s.Select(imagetest.PauseName).Write(&b, form); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(compare)
}

// FuzzLayout fuzzes what a tar says instead of the tar: the fuzzer's time goes to the JSON in it.
func FuzzLayout(f *testing.F) {
	s, err := imagetest.Standard(imagetest.Options{LayerSize: 700})
	if err != nil {
		f.Fatal(err)
	}
	one := s.Select(imagetest.PauseName)
	for _, l := range []imagetest.Layout{imagetest.OCI, imagetest.Docker} {
		entries, err := one.Entries(imagetest.Form{Layout: l})
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range entries {
			if e.Name == "index.json" || e.Name == "manifest.json" {
				f.Add(l == imagetest.Docker, e.Content)
			}
		}
	}
	f.Fuzz(func(t *testing.T, docker bool, text []byte) {
		layout, replaced := imagetest.OCI, "index.json"
		if docker {
			layout, replaced = imagetest.Docker, "manifest.json"
		}
		entries, err := one.Entries(imagetest.Form{Layout: layout})
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if e.Name == replaced {
				entries[i].Content = text
			}
		}
		var b bytes.Buffer
		if err := imagetest.WriteTar(&b, entries); err != nil {
			t.Fatal(err)
		}
		compare(t, b.Bytes())
	})
}

// memory is a file system of files in memory.
type memory map[string][]byte

func (m memory) Lstat(path string) (host.FileInfo, error) {
	b, ok := m[path]
	if !ok {
		return host.FileInfo{}, iofs.ErrNotExist
	}
	return host.FileInfo{Path: path, Type: host.TypeFile, Size: int64(len(b))}, nil
}
func (m memory) Stat(path string) (host.FileInfo, error) { return m.Lstat(path) }
func (m memory) Open(path string) (host.File, error) {
	b, ok := m[path]
	if !ok {
		return nil, iofs.ErrNotExist
	}
	return memoryFile{bytes.NewReader(b)}, nil
}
func (m memory) ReadFile(path string, _ int64) ([]byte, error) {
	if b, ok := m[path]; ok {
		return b, nil
	}
	return nil, iofs.ErrNotExist
}
func (memory) ReadDir(string) ([]host.FileInfo, error) { return nil, errors.New("not a directory") }
func (memory) Space(string) (host.Space, error)        { return host.Space{}, nil }
func (memory) Label(string) (string, error)            { return "", nil }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }
