package imagetest_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func standard(t *testing.T, o imagetest.Options) *imagetest.Set {
	t.Helper()
	s, err := imagetest.Standard(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStandardIsDeterministic(t *testing.T) {
	t.Parallel()
	for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip, imagetest.Zstd} {
		o := imagetest.Options{Compression: c}
		a, b := standard(t, o), standard(t, o)
		if d := cmp.Diff(a.Digests(), b.Digests()); d != "" {
			t.Errorf("%s layers: two builds differ: %s", c, d)
		}
	}
}

func TestStandardShapes(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Binary: []byte("\x7fELF")})
	d := s.Digests()
	if d[imagetest.WebName] != d[imagetest.WebAlias] || d[imagetest.WebName] == d[imagetest.APIName] {
		t.Errorf("digests: %v", d)
	}
	web, _ := s.Image(imagetest.WebName)
	api, _ := s.Image(imagetest.APIName)
	if web.Platforms[0].Layers[0] != api.Platforms[0].Layers[0] {
		t.Error("web and api share no layer")
	}
	if web.Platforms[0].Layers[1] == web.Platforms[1].Layers[1] {
		t.Error("two platforms have the same layer")
	}
	sensor, _ := s.Image(imagetest.SensorName)
	if want := "ghcr.io/edgeprep/edge-sensor@" + sensor.Digest; !slices.Contains(sensor.Names, want) {
		t.Errorf("names %v, want %s among them", sensor.Names, want)
	}
	if shell, _ := s.Image(imagetest.ShellName); len(shell.Platforms) != 1 {
		t.Errorf("shell: %+v", shell)
	}
}

// The library that most tools use must find nothing wrong with what is made here.
func TestLayoutIsValid(t *testing.T) {
	t.Parallel()
	for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip, imagetest.Zstd} {
		dir := t.TempDir()
		if err := standard(t, imagetest.Options{Compression: c}).WriteLayout(dir, imagetest.Form{}); err != nil {
			t.Fatal(err)
		}
		p, err := layout.FromPath(dir)
		if err != nil {
			t.Fatal(err)
		}
		idx, err := p.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		var opts []validate.Option
		if c != imagetest.Gzip { // validate unpacks every layer as gzip
			opts = append(opts, validate.Fast)
		}
		if err := validate.Index(idx, opts...); err != nil {
			t.Errorf("%s layers: %v", c, err)
		}
	}
}

func TestDockerArchiveIsValid(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip})
	for _, l := range []imagetest.Layout{imagetest.Docker, imagetest.Combined} {
		path := filepath.Join(t.TempDir(), "images.tar")
		if err := s.WriteArchive(path, imagetest.Form{Layout: l}); err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag("edge-web:stable")
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(path, &tag)
		if err != nil {
			t.Fatalf("%s: %v", l, err)
		}
		checkDockerImage(t, s, img)
	}
}

func checkDockerImage(t *testing.T, s *imagetest.Set, img v1.Image) {
	t.Helper()
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	got, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	web, _ := s.Image(imagetest.WebAlias)
	if want := web.Platforms[0].Config; got.String() != want {
		t.Errorf("config %s, want %s", got, want)
	}
}

func TestOnePlatform(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{})
	both, one := filepath.Join(t.TempDir(), "b.tar"), filepath.Join(t.TempDir(), "o.tar")
	for path, p := range map[string][]string{both: nil, one: {"linux/arm64"}} {
		if err := s.WriteArchive(path, imagetest.Form{Layout: imagetest.OCI, Platforms: p}); err != nil {
			t.Fatal(err)
		}
	}
	b, o := size(t, both), size(t, one)
	if o < b*45/100 || o > b*60/100 {
		t.Errorf("one platform has %d bytes of %d", o, b)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}
