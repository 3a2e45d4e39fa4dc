package preload_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/preload"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseReference(t *testing.T) {
	t.Parallel()
	tests := map[string]preload.Ref{
		"busybox": {Name: "docker.io/library/busybox:latest", Familiar: "busybox:latest",
			Host: "docker.io", Repository: "library/busybox", Tag: "latest"},
		"index.docker.io/library/busybox:1.36": {Name: "docker.io/library/busybox:1.36", Familiar: "busybox:1.36",
			Host: "docker.io", Repository: "library/busybox", Tag: "1.36"},
		"rancher/mirrored-pause:3.6": {Name: "docker.io/rancher/mirrored-pause:3.6", Familiar: "rancher/mirrored-pause:3.6",
			Host: "docker.io", Repository: "rancher/mirrored-pause", Tag: "3.6"},
		"localhost/app:1": {Name: "localhost/app:1", Familiar: "localhost/app:1",
			Host: "localhost", Repository: "app", Tag: "1"},
		"[fd00::1]:5000/a/b:1": {Name: "[fd00::1]:5000/a/b:1", Familiar: "[fd00::1]:5000/a/b:1",
			Host: "[fd00::1]:5000", Repository: "a/b", Tag: "1"},
		"quay.io/a/b@" + someDigest: {Name: "quay.io/a/b@" + someDigest, Familiar: "quay.io/a/b@" + someDigest,
			Host: "quay.io", Repository: "a/b", Digest: someDigest},
		"quay.io/a/b:1.0@" + someDigest: {Name: "quay.io/a/b@" + someDigest, Familiar: "quay.io/a/b@" + someDigest,
			Host: "quay.io", Repository: "a/b", Tag: "1.0", Digest: someDigest},
	}
	for in, want := range tests {
		got, err := preload.ParseReference(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", in, d)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", " ", "a/B", "a b", "https://quay.io/a", "a:", "a@sha256:12", "a@md5:d41d8cd98f00b204e9800998ecf8427e",
		"../a", strings.Repeat("a", 64), strings.Repeat("a/", 200) + "a", "a:" + strings.Repeat("1", 129),
	} {
		if in == strings.Repeat("a", 64) {
			in = strings.TrimPrefix(someDigest, "sha256:") // an image id is no reference
		}
		if r, err := preload.ParseReference(in); err == nil {
			t.Errorf("%q is taken for %+v", in, r)
		}
	}
}

// FuzzParseReference: what is accepted is exactly what containerd's normalisation accepts, gives its result,
// and is stable under a second parse.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"busybox", "a/b:1", "localhost:5000/x", "q.io/a@" + someDigest, "q.io/a:1@" + someDigest, "[::1]:5/a", "A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := preload.ParseReference(s)
		want, werr := reference.ParseDockerRef(s)
		if (err == nil) != (werr == nil) {
			t.Fatalf("%q: %v, but distribution/reference says %v", s, err, werr)
		}
		if err != nil {
			return
		}
		if got.Name != want.String() {
			t.Errorf("%q: %s, want %s", s, got.Name, want)
		}
		again, err := preload.ParseReference(got.Name)
		if err != nil || again.Name != got.Name {
			t.Errorf("%q: %q becomes %q (%v)", s, got.Name, again.Name, err)
		}
		short, err := preload.ParseReference(got.Familiar)
		if err != nil || short.Name != got.Name {
			t.Errorf("%q: the short form %q becomes %q (%v)", s, got.Familiar, short.Name, err)
		}
	})
}

func TestReadRequired(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "required.txt")
	text := "\ufeff# images of the site\r\n\r\nbusybox:1.36 # shell\r\n  quay.io/a/b:1\t\r\ndocker.io/library/busybox:1.36\r\nlast"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := preload.ReadRequired(node(t), path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range got {
		names = append(names, r.String())
	}
	want := []string{"docker.io/library/busybox:1.36", "quay.io/a/b:1", "docker.io/library/last:latest"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

func TestReadRequiredErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "required.txt")
	if _, err := preload.ReadRequired(node(t), path); !errors.Is(err, os.ErrNotExist) || id(err) != "NOD-110" {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("a:1\nNot/An image\n\nb:2\nhttps://x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := preload.ReadRequired(node(t), path)
	r := diag.Of(err)
	if len(r) != 2 || r[0].Where.Line != 2 || r[1].Where.Line != 5 || r[0].Where.File != path {
		t.Errorf("%v", err)
	}
}
