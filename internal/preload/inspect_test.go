package preload_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/progress"
)

func inspect(t testing.TB, path string) (preload.Archive, error) {
	t.Helper()
	return preload.Inspect(t.Context(), node(t), path, nil, nil)
}

// id is the id of the one diagnostic that an error is.
func id(err error) string {
	if d := diag.Of(err); len(d) > 0 {
		return d[0].ID
	}
	return fmt.Sprint(err)
}

func TestInspectForms(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip})
	formats := map[imagetest.Layout]preload.Format{
		imagetest.Docker: preload.DockerArchive, imagetest.OCI: preload.OCIArchive, imagetest.Combined: preload.OCIArchive,
	}
	compressions := map[imagetest.Compression]preload.Compression{
		imagetest.Plain: preload.Plain, imagetest.Gzip: preload.Gzip, imagetest.Zstd: preload.Zstd,
	}
	for _, f := range forms() {
		t.Run(label(f), func(t *testing.T) {
			t.Parallel()
			path := write(t, s, f)
			a, err := inspect(t, path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(b)
			if a.SHA256 != hex.EncodeToString(sum[:]) || a.Size != int64(len(b)) || a.Path != path {
				t.Errorf("sha256 %s, size %d, path %s", a.SHA256, a.Size, a.Path)
			}
			if a.Format != formats[f.Layout] || a.Compression != compressions[f.Compression] ||
				a.Combined != (f.Layout == imagetest.Combined) {
				t.Errorf("%s %q combined %v", a.Format, a.Compression, a.Combined)
			}
			checkImages(t, s, f, a)
			checkJSON(t, a)
		})
	}
}

func checkImages(t *testing.T, s *imagetest.Set, f imagetest.Form, a preload.Archive) {
	t.Helper()
	for _, i := range a.Images {
		want, ok := s.Image(i.Name)
		if !ok {
			t.Errorf("%s is not in the set", i.Name)
			continue
		}
		p, ok := i.For("linux/amd64")
		if !ok || !p.Complete() || p.Config != want.Platforms[0].Config {
			t.Errorf("%s: %+v", i.Name, i.Platforms)
		}
		if f.Layout != imagetest.Docker && (i.Digest != want.Digest || len(i.Platforms) != 2) {
			t.Errorf("%s: %+v, want %s", i.Name, i, want.Digest)
		}
	}
	n := len(s.Names())
	if f.Layout == imagetest.Docker {
		n-- // the name by digest
	}
	if len(a.Images) != n {
		t.Errorf("images: %v", a.Names())
	}
}

func checkJSON(t *testing.T, a preload.Archive) {
	t.Helper()
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var back preload.Archive
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, back); d != "" {
		t.Error(d)
	}
}

// What an archive unpacks to is known exactly for raw and gzip layers; two images share the base.
func TestInspectSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip} {
		s := standard(t, imagetest.Options{Compression: c, LayerSize: 100_000})
		a, err := inspect(t, write(t, s, imagetest.Form{Layout: imagetest.OCI}))
		if err != nil {
			t.Fatal(err)
		}
		var content, unpacked int64
		seen := map[string]bool{}
		for _, i := range s.Images {
			p := i.Platforms[0]
			for n, d := range slices.Concat([]string{p.Manifest, p.Config}, p.Layers) {
				if !seen[d] {
					seen[d] = true
					content += int64(len(s.Blob(d)))
					if n > 1 {
						unpacked += int64(len(s.Blob(p.DiffIDs[n-2])))
					}
				}
			}
		}
		if got := a.SizesFor("linux/amd64"); got.Content != content || got.Unpacked != unpacked {
			t.Errorf("%s: %+v, want %d and %d", c, got, content, unpacked)
		}
	}
}

func TestInspectLayoutDirectory(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{})
	dir := t.TempDir()
	if err := s.WriteLayout(dir, imagetest.Form{}); err != nil {
		t.Fatal(err)
	}
	a, err := inspect(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.Format != preload.OCILayout || a.SHA256 == "" || a.Size == 0 {
		t.Errorf("%+v", a)
	}
	checkImages(t, s, imagetest.Form{Layout: imagetest.OCI}, a)

	if fi, err := preload.Describe(node(t), dir); err != nil || !a.Unchanged(fi) {
		t.Errorf("described as %+v, %v", fi, err)
	}
	web, _ := s.Image(imagetest.WebName)
	layer := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(web.Platforms[1].Layers[1], "sha256:"))
	again := func() bool {
		_, err := preload.Inspect(t.Context(), closed{node(t)}, dir, preload.Inspected{a}, nil)
		return err == nil
	}
	if !again() {
		t.Error("an unchanged directory is read again")
	}
	flip(t, layer, 700)
	if again() {
		t.Error("a changed directory is not read again")
	}
	if _, err = inspect(t, dir); id(err) != "NOD-103" || !strings.Contains(err.Error(), imagetest.WebName) {
		t.Errorf("flipped: %v", err)
	}
	if err := os.Remove(layer); err != nil {
		t.Fatal(err)
	}
	a, err = inspect(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(a.Images, func(i preload.Image) bool { return i.Name == imagetest.WebName })
	if p, _ := a.Images[i].For("linux/arm64"); !slices.Equal(p.Missing, []string{web.Platforms[1].Layers[1]}) {
		t.Errorf("missing: %+v", p)
	}
}

// closed opens nothing: what is known must not be read.
type closed struct{ host.FS }

func (closed) Open(string) (host.File, error) { return nil, errors.New("opened") }

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestInspectKnown(t *testing.T) {
	t.Parallel()
	path := write(t, standard(t, imagetest.Options{}), imagetest.Form{Layout: imagetest.Combined})
	first, err := inspect(t, path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := preload.Inspect(t.Context(), closed{node(t)}, path, preload.Inspected{first}, nil)
	if err != nil {
		t.Fatalf("an unchanged archive is read again: %v", err)
	}
	if d := cmp.Diff(first, again); d != "" {
		t.Error(d)
	}
	// Same size, same mtime: only ctime tells.
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, path, fi.Size()/2)
	if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if _, err := preload.Inspect(t.Context(), closed{node(t)}, path, preload.Inspected{first}, nil); err == nil {
		t.Error("a changed archive with the old mtime is taken for known")
	}
}

// An archive cut anywhere must not pass: also where tar readers see a regular end, between two files.
func TestInspectTruncated(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip, LayerSize: 8 << 10})
	for _, f := range forms() {
		t.Run(label(f), func(t *testing.T) {
			t.Parallel()
			whole, err := os.ReadFile(write(t, s, f))
			if err != nil {
				t.Fatal(err)
			}
			cuts := []int{0, 1, len(whole) / 4, len(whole) / 2, len(whole) * 99 / 100, len(whole) - 1}
			if f.Compression == imagetest.Plain {
				cuts = cuts[:len(cuts)-1] // after one of the two end blocks nothing is missing
				for at := 512; at < len(whole)-1024; at += 512 {
					cuts = append(cuts, at)
				}
			}
			for _, n := range cuts {
				_, err := preload.Inspect(t.Context(), memory{"/cut": whole[:n]}, "/cut", nil, nil)
				if got := id(err); got != "NOD-102" && (n > 1024 || got != "NOD-104") {
					t.Errorf("cut at %d of %d: %v", n, len(whole), err)
				}
			}
		})
	}
}

// A flipped bit in any file that an image reaches is found, and the image named.
func TestInspectFlippedInOCI(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip, LayerSize: 8 << 10})
	whole, err := os.ReadFile(write(t, s, imagetest.Form{Layout: imagetest.Combined}))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "flipped.tar")
	for _, d := range s.Blobs() {
		b := slices.Clone(whole)
		b[bytes.Index(b, s.Blob(d))+len(s.Blob(d))/2] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := inspect(t, path)
		if id(err) != "NOD-103" || !strings.Contains(err.Error(), d) || !strings.Contains(diag.Of(err)[0].Fix, path) ||
			!slices.ContainsFunc(s.Names(), func(n string) bool { return strings.Contains(err.Error(), n) }) {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestInspectFlippedInDocker(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{LayerSize: 8 << 10, Platforms: []string{"linux/amd64"}})
	whole, err := os.ReadFile(write(t, s, imagetest.Form{Layout: imagetest.Docker}))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range s.Images {
		for _, d := range i.Platforms[0].Layers {
			b := slices.Clone(whole)
			b[bytes.Index(b, s.Blob(d))+len(s.Blob(d))/2] ^= 1
			path := filepath.Join(t.TempDir(), "flipped.tar")
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := inspect(t, path); id(err) != "NOD-103" {
				t.Errorf("layer %s: %v", d, err)
			}
		}
	}
}

// Some tools put packed layers into a docker-archive: nothing but the image's config can tell damage in them.
func TestInspectDockerPackedLayers(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip, LayerSize: 8 << 10, Platforms: []string{"linux/amd64"}})
	img, _ := s.Image(imagetest.APIName)
	p := img.Platforms[0]
	entries := func(layer []byte) []imagetest.Entry {
		return []imagetest.Entry{
			{Name: "config.json", Content: s.Blob(p.Config)},
			{Name: "a.tar.gz", Content: s.Blob(p.Layers[0])}, {Name: "b.tar.gz", Content: layer},
			{Name: "manifest.json", Content: []byte(
				`[{"Config":"config.json","RepoTags":["a:1"],"Layers":["a.tar.gz","b.tar.gz"]}]`)},
		}
	}
	good := s.Blob(p.Layers[1])
	a, err := inspect(t, pack(t, entries(good)))
	if err != nil || a.Names()[0] != "docker.io/library/a:1" {
		t.Fatalf("%v %v", a.Names(), err)
	}
	for _, at := range []int{0, 20, len(good) / 2, len(good) - 6} {
		bad := slices.Clone(good)
		bad[at] ^= 1
		if _, err := inspect(t, pack(t, entries(bad))); id(err) != "NOD-103" {
			t.Errorf("flipped at %d: %v", at, err)
		}
	}
}

// In a compressed archive any flipped bit is damage, wherever it is.
func TestInspectFlippedCompressed(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{LayerSize: 8 << 10})
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []imagetest.Compression{imagetest.Gzip, imagetest.Zstd} {
		whole, err := os.ReadFile(write(t, s, imagetest.Form{Layout: imagetest.OCI, Compression: c}))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "flipped")
		for range 40 {
			at := 12 + rng.IntN(len(whole)-12) // not gzip's header, whose time and system count for nothing
			b := slices.Clone(whole)
			b[at] ^= 1 << rng.IntN(8)
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := inspect(t, path); err == nil || !strings.HasPrefix(id(err), "NOD-10") {
				t.Errorf("%s flipped at %d of %d: %v", c, at, len(whole), err)
			}
		}
	}
}

func pack(t testing.TB, entries []imagetest.Entry) string {
	t.Helper()
	var b bytes.Buffer
	if err := imagetest.WriteTar(&b, entries); err != nil {
		t.Fatal(err)
	}
	return file(t, b.Bytes())
}

func file(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.tar")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspectOtherPlatformAbsent(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{})
	for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Zstd} {
		f := imagetest.Form{Layout: imagetest.OCI, Compression: c, Platforms: []string{"linux/arm64"}}
		a, err := inspect(t, write(t, s, f))
		if err != nil {
			t.Fatal(err)
		}
		arm, ok := a.Images[0].For("linux/arm64")
		amd, ok2 := a.Images[0].For("linux/amd64")
		if !ok || !ok2 || !arm.Complete() || amd.Complete() {
			t.Errorf("%+v", a.Images[0])
		}
	}
}

func TestInspectWindow(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{LayerSize: 256 << 10})
	for _, w := range []int{1 << 20, 8 << 20, 64 << 20} {
		a, err := inspect(t, write(t, s, imagetest.Form{Layout: imagetest.OCI, Compression: imagetest.Zstd, Window: w}))
		if err != nil || a.Window != int64(w) {
			t.Errorf("window %d, want %d (%v)", a.Window, w, err)
		}
	}
}

// The second frame of a file counts too.
func TestInspectWindowOfLaterFrame(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{LayerSize: 256 << 10})
	plain, err := os.ReadFile(write(t, s, imagetest.Form{Layout: imagetest.OCI}))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for i, window := range []int{1 << 20, 64 << 20} {
		half := plain[:len(plain)/2]
		if i == 1 {
			half = plain[len(plain)/2:]
			b.Write([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}) // a skippable frame
		}
		b.Write(frame(t, half, window))
	}
	a, err := inspect(t, file(t, b.Bytes()))
	if err != nil || a.Window != 64<<20 {
		t.Errorf("window %d (%v)", a.Window, err)
	}
}

func TestInspectAll(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{})
	good := write(t, s, imagetest.Form{Layout: imagetest.Docker})
	other := write(t, s, imagetest.Form{Layout: imagetest.OCI, Compression: imagetest.Zstd})
	var mu sync.Mutex
	ends := map[string]string{}
	sink := progress.Func(func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Type == progress.StepEnd {
			ends[e.Step] = e.Status
		}
	})
	got, err := preload.InspectAll(t.Context(), node(t), []string{good, other, good}, nil, sink)
	if err != nil || len(got) != 2 || got[0].Path != good || got[1].Path != other {
		t.Fatalf("%v %v", got, err)
	}
	if ends["inspect:"+good] != "ok" || ends["inspect:"+other] != "ok" {
		t.Errorf("events: %v", ends)
	}
	bad := []string{good, file(t, []byte("no tar")), filepath.Join(t.TempDir(), "none")}
	_, err = preload.InspectAll(t.Context(), node(t), bad, nil, nil)
	if r := diag.Of(err); len(r) != 2 || r[0].Where.File != bad[1] || r[1].Where.File != bad[2] {
		t.Errorf("%v", err)
	}
}

// growing is a file system whose file changes as soon as it is opened.
type growing struct {
	host.FS
	touch func()
}

func (g growing) Open(path string) (host.File, error) {
	defer g.touch()
	return g.FS.Open(path)
}

func TestInspectChangedMeanwhile(t *testing.T) {
	t.Parallel()
	path := write(t, standard(t, imagetest.Options{}), imagetest.Form{Layout: imagetest.OCI})
	fs := growing{node(t), func() {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if _, err := f.Write([]byte{0}); err != nil {
			t.Error(err)
		}
	}}
	if _, err := preload.Inspect(t.Context(), fs, path, nil, nil); id(err) != "NOD-101" {
		t.Errorf("%v", err)
	}
}
