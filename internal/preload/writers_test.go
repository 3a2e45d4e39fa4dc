package preload_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// What other programs write must be read: here containerd's exporter, which nerdctl, ctr and docker use, and
// go-containerregistry, which crane, ko and skopeo-like tools use.

func (s memoryStore) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	return content.Info{Digest: d, Size: int64(len(s.blobs[d]))}, nil
}

func storeOf(s *imagetest.Set) memoryStore {
	m := memoryStore{blobs: map[digest.Digest][]byte{}}
	for _, d := range s.Blobs() {
		m.blobs[digest.Digest(d)] = s.Blob(d)
	}
	return m
}

func TestReadContainerdExport(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip})
	tests := map[string]archive.ExportOpt{
		"all platforms": archive.WithAllPlatforms(),
		"one platform":  archive.WithPlatform(platforms.OnlyStrict(ocispec.Platform{OS: "linux", Architecture: "amd64"})),
	}
	for label, opt := range tests {
		var b bytes.Buffer
		opts := []archive.ExportOpt{opt}
		for _, i := range s.Images {
			d := ocispec.Descriptor{MediaType: i.MediaType, Digest: digest.Digest(i.Digest), Size: i.Size}
			opts = append(opts, archive.WithManifest(d, i.Names...))
		}
		if err := archive.Export(t.Context(), storeOf(s), &b, opts...); err != nil {
			t.Fatal(err)
		}
		a, err := inspect(t, file(t, b.Bytes()))
		if err != nil {
			t.Fatalf("%s: %v", label, err)
		}
		for _, i := range a.Images {
			p, ok := i.For("linux/amd64")
			if want, _ := s.Image(i.Name); i.Digest != want.Digest || !ok || !p.Complete() {
				t.Errorf("%s: %+v", label, i)
			}
		}
		if len(a.Images) != len(s.Names()) || a.Combined != (label == "one platform") {
			t.Errorf("%s: combined %v, %v", label, a.Combined, a.Names())
		}
	}
}

func TestReadTarballOfGGCR(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip, Platforms: []string{"linux/amd64"}})
	web, _ := s.Image(imagetest.WebName)
	dir := t.TempDir()
	if err := s.WriteLayout(dir, imagetest.Form{}); err != nil {
		t.Fatal(err)
	}
	l, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(web.Platforms[0].Manifest)
	if err != nil {
		t.Fatal(err)
	}
	img, err := l.Image(h)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(imagetest.WebName)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(ref, img, &b); err != nil {
		t.Fatal(err)
	}
	a, err := inspect(t, file(t, b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	p, ok := a.Images[0].For("linux/amd64")
	if a.Format != preload.DockerArchive || a.Names()[0] != imagetest.WebName || !ok || p.Config != web.Platforms[0].Config {
		t.Errorf("%+v", a)
	}
	theirs, err := imported(t, b.Bytes())
	if err != nil || theirs[imagetest.WebName] != a.Images[0].Digest {
		t.Errorf("%s, containerd says %v (%v)", a.Images[0].Digest, theirs, err)
	}
}

// Old versions of docker save write a layer that two images share as a symlink the second time.
func TestReadDockerSymlinkedLayer(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Platforms: []string{"linux/amd64"}})
	img, _ := s.Image(imagetest.PauseName)
	p := img.Platforms[0]
	path := pack(t, []imagetest.Entry{
		{Name: "c.json", Content: s.Blob(p.Config)}, {Name: "aaa/layer.tar", Content: s.Blob(p.DiffIDs[0])},
		{Name: "bbb/layer.tar", Link: "../aaa/layer.tar"},
		{Name: "manifest.json", Content: []byte(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["bbb/layer.tar"]}]`)},
	})
	if _, err := inspect(t, path); err != nil {
		t.Error(err)
	}
	checkDigests(t, open(t, path))
}

// stopping cancels in the middle of a read.
type stopping struct {
	host.FS
	cancel context.CancelFunc
}

func (s stopping) Open(path string) (host.File, error) {
	f, err := s.FS.Open(path)
	return stoppingFile{f, s.cancel}, err
}

type stoppingFile struct {
	host.File
	cancel context.CancelFunc
}

func (f stoppingFile) ReadAt(p []byte, off int64) (int, error) {
	if off > 2<<20 {
		f.cancel()
	}
	return f.File.ReadAt(p, off)
}

// A canceled inspection ends at once and leaves no goroutine (TestMain sees to that).
func TestInspectCanceled(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{LayerSize: 1 << 20, Random: 90, Platforms: []string{"linux/amd64"}})
	for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip, imagetest.Zstd} {
		path := write(t, s, imagetest.Form{Layout: imagetest.Combined, Compression: c})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := preload.Inspect(ctx, stopping{node(t), cancel}, path, nil, nil)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", c, err)
		}
		if _, err := preload.InspectAll(ctx, node(t), []string{path}, nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%q, all: %v", c, err)
		}
		cancel()
	}
}

// failing is a disk that gives out in the middle.
type failing struct{ host.FS }

func (f failing) Open(path string) (host.File, error) {
	file, err := f.FS.Open(path)
	return failingFile{file}, err
}

type failingFile struct{ host.File }

var errDisk = errors.New("input/output error")

func (f failingFile) ReadAt(p []byte, off int64) (int, error) {
	if off > 1<<20 {
		return 0, errDisk
	}
	return f.File.ReadAt(p, off)
}

// A failing disk is not taken for a damaged archive: copying it again would not help.
func TestInspectReadError(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{LayerSize: 1 << 20, Random: 90, Platforms: []string{"linux/amd64"}})
	for _, f := range forms() {
		_, err := preload.Inspect(t.Context(), failing{node(t)}, write(t, s, f), nil, nil)
		if !errors.Is(err, errDisk) || id(err) != "NOD-101" {
			t.Errorf("%s: %v", label(f), err)
		}
	}
}
