package preload_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func node(t testing.TB) host.FS {
	t.Helper()
	h, err := local.New(local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return h.FS()
}

func standard(t testing.TB, o imagetest.Options) *imagetest.Set {
	t.Helper()
	s, err := imagetest.Standard(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, s *imagetest.Set, f imagetest.Form) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images")
	if err := s.WriteArchive(path, f); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) host.ImageSource {
	t.Helper()
	src, err := preload.Open(t.Context(), node(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

func names(src host.ImageSource) map[string]string {
	m := map[string]string{}
	for _, i := range src.Images() {
		m[i.Name] = i.Target.Digest
	}
	return m
}

// forms are all the ways that an archive file can be.
func forms() []imagetest.Form {
	var out []imagetest.Form
	for _, l := range []imagetest.Layout{imagetest.Docker, imagetest.OCI, imagetest.Combined} {
		for _, c := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip, imagetest.Zstd} {
			out = append(out, imagetest.Form{Layout: l, Compression: c})
		}
	}
	return out
}

func label(f imagetest.Form) string { return string(f.Layout) + "." + string(f.Compression) }

func TestOpenOCI(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip})
	for _, f := range forms() {
		if f.Layout == imagetest.Docker {
			continue
		}
		t.Run(label(f), func(t *testing.T) {
			t.Parallel()
			src := open(t, write(t, s, f))
			if d := cmp.Diff(s.Digests(), names(src)); d != "" {
				t.Error(d)
			}
			checkBlobs(t, s, src)
		})
	}
}

func TestOpenLayoutDirectory(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{})
	dir := t.TempDir()
	if err := s.WriteLayout(dir, imagetest.Form{}); err != nil {
		t.Fatal(err)
	}
	src := open(t, dir)
	if d := cmp.Diff(s.Digests(), names(src)); d != "" {
		t.Error(d)
	}
	checkBlobs(t, s, src)
}

// checkBlobs reads everything that the set has by Each, and in parallel by Open where that works.
func checkBlobs(t *testing.T, s *imagetest.Set, src host.ImageSource) {
	t.Helper()
	want := slices.Sorted(slices.Values(s.Blobs()))
	var listed, got []string
	for _, d := range src.Blobs() {
		listed = append(listed, d.Digest)
	}
	slices.Sort(listed)
	if d := cmp.Diff(want, listed); d != "" {
		t.Errorf("Blobs: %s", d)
	}
	err := src.Each(t.Context(), func(host.Descriptor) bool { return true }, func(d host.Descriptor, r io.Reader) error {
		got = append(got, d.Digest)
		return match(s, d, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Each: %s", d)
	}
	checkOpen(t, s, src)
}

func checkOpen(t *testing.T, s *imagetest.Set, src host.ImageSource) {
	t.Helper()
	var wg sync.WaitGroup
	for _, d := range src.Blobs() {
		wg.Go(func() {
			r, err := src.Open(t.Context(), d.Digest)
			if errors.Is(err, host.ErrNotSeekable) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if err := match(s, d, r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func match(s *imagetest.Set, d host.Descriptor, r io.Reader) error {
	b, err := io.ReadAll(r)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(b, s.Blob(d.Digest)):
		return errors.New(d.Digest + " has other bytes")
	case d.Size != int64(len(b)) || d.MediaType == "":
		return errors.New(d.Digest + " is described wrongly")
	}
	return nil
}

// A docker-archive has no manifests. The made-up ones must be the same whatever the packing, reach the
// image's config and layers, and be readable.
func TestOpenDocker(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{Compression: imagetest.Gzip})
	var first map[string]string
	for _, f := range forms() {
		if f.Layout != imagetest.Docker {
			continue
		}
		src := open(t, write(t, s, f))
		if first == nil {
			first = names(src)
		}
		if d := cmp.Diff(first, names(src)); d != "" {
			t.Error(d)
		}
		if src.Images()[0].Target.Platform != "linux/amd64" {
			t.Errorf("platform: %+v", src.Images()[0])
		}
		checkDigests(t, src)
	}
	for _, n := range []string{imagetest.WebName, imagetest.WebAlias, imagetest.APIName, imagetest.PauseName} {
		if first[n] == "" {
			t.Errorf("%s is not among %v", n, first)
		}
	}
}

func checkDigests(t *testing.T, src host.ImageSource) {
	t.Helper()
	n := 0
	err := src.Each(t.Context(), func(host.Descriptor) bool { return true }, func(d host.Descriptor, r io.Reader) error {
		n++
		got, err := digest.FromReader(r)
		if err == nil && got.String() != d.Digest {
			t.Errorf("%s has the digest %s", d.Digest, got)
		}
		return err
	})
	if err != nil || n != len(src.Blobs()) {
		t.Errorf("%d of %d blobs, %v", n, len(src.Blobs()), err)
	}
}

func TestEachStops(t *testing.T) {
	t.Parallel()
	s := standard(t, imagetest.Options{})
	boom := errors.New("boom")
	for _, f := range forms() {
		src := open(t, write(t, s, f))
		err := src.Each(t.Context(), func(host.Descriptor) bool { return true },
			func(host.Descriptor, io.Reader) error { return boom })
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", label(f), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = src.Each(ctx, func(d host.Descriptor) bool { return d.Size > 2000 },
			func(_ host.Descriptor, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s, canceled: %v", label(f), err)
		}
	}
}

func TestOpenMissingFile(t *testing.T) {
	t.Parallel()
	_, err := preload.Open(t.Context(), node(t), filepath.Join(t.TempDir(), "none.tar"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
