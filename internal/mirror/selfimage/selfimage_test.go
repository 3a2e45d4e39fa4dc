package selfimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/preload"
)

// built is a static edgeprep, built once for all tests.
func built(t *testing.T) string {
	t.Helper()
	build.Do(func() {
		out := filepath.Join(buildDir, "edgeprep")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "github.com/edgeprep/edgeprep/cmd/edgeprep")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, b)
		}
	})
	return filepath.Join(buildDir, "edgeprep")
}

var (
	build    sync.Once
	buildDir string
)

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "edgeprep-selfimage-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(buildDir)
	os.Exit(code)
}

func write(t *testing.T, o Options) (*Image, []byte) {
	t.Helper()
	img, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := img.Write(&b); err != nil {
		t.Fatal(err)
	}
	return img, b.Bytes()
}

func TestImage(t *testing.T) {
	t.Parallel()
	program := built(t)
	roots := []byte("-----BEGIN CERTIFICATE-----\n")
	img, archive := write(t, Options{Binary: program, Roots: roots})
	if _, again := write(t, Options{Binary: program, Roots: roots}); !bytes.Equal(archive, again) {
		t.Error("the same program made two archives")
	}
	if other, _ := write(t, Options{Binary: program}); other.Name != img.Name || other.Digest == img.Digest {
		t.Errorf("without roots: %+v, with: %+v", other, img)
	}
	if max := 40_000_000; len(archive) > max {
		t.Errorf("the archive has %d bytes, more than %d", len(archive), max)
	}
	t.Logf("%s, %d bytes", img.Name, len(archive))
	checkArchive(t, img, archive)
	checkLayer(t, archive, program)
}

// checkArchive reads it as apply does.
func checkArchive(t *testing.T, img *Image, archive []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "m.tar")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := local.New(local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := preload.Inspect(t.Context(), h.FS(), file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Combined || len(a.Images) != 1 || a.Images[0].Name != img.Name || a.Images[0].Digest != img.Digest || a.Images[0].Stored != "" {
		t.Errorf("%+v", a)
	}
	if p, ok := a.Images[0].For("linux/" + runtime.GOARCH); !ok || !p.Complete() {
		t.Errorf("%+v", a.Images[0])
	}
}

func checkLayer(t *testing.T, archive []byte, program string) {
	t.Helper()
	want, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		names = append(names, h.Name)
		if err != nil || h.Size < 1<<20 {
			continue
		}
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		for l := tar.NewReader(z); ; {
			h, err := l.Next()
			if err != nil {
				break
			}
			data, _ := io.ReadAll(l)
			switch {
			case h.ModTime.Unix() != 0 || (h.Uid != 0 && h.Name != "var/lib/edgeprep/mirror/"):
				t.Errorf("%+v", h)
			case h.Name == "usr/local/bin/edgeprep" && (!bytes.Equal(data, want) || h.Mode != 0o755):
				t.Error("the program in the image is another one")
			case h.Name == "var/lib/edgeprep/mirror/" && h.Uid != UID:
				t.Errorf("%+v", h)
			}
		}
	}
	if !slices.Equal(names[:3], []string{"manifest.json", "oci-layout", "index.json"}) {
		t.Error(names)
	}
}

func TestTheTagIsTheProgram(t *testing.T) {
	t.Parallel()
	program := built(t)
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if got, err := fullName("", data); err != nil || got != "edgeprep.local/mirror:"+hex.EncodeToString(sum[:])[:12] {
		t.Error(got, err)
	}
	for in, want := range map[string]string{"registry.example:5000/mirror": "registry.example:5000/mirror:latest", "mirror:1": "docker.io/library/mirror:1"} {
		if got, err := fullName(in, data); err != nil || got != want {
			t.Error(got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	program := built(t)
	other := map[string]string{"amd64": "linux/arm64"}[runtime.GOARCH]
	if other == "" {
		other = "linux/amd64"
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		id   string
		says string
	}{
		{Options{Binary: script}, "MER-080", "not a Linux program"},
		{Options{Binary: mustLook(t, "go")}, "MER-080", "not edgeprep"},
		{Options{Binary: program, Platform: other}, "MER-082", "go build"},
		{Options{Binary: program, Name: "Not A Name"}, "MER-083", "--tag"},
		{Options{Binary: program, Name: "a.example/b@sha256:" + strings.Repeat("0", 64)}, "MER-083", "digest"},
	} {
		_, err := Build(t.Context(), c.o)
		ds := diag.Of(err)
		if len(ds) != 1 || ds[0].ID != c.id || !strings.Contains(ds[0].Text(), c.says) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
	if _, err := Build(t.Context(), Options{Binary: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func mustLook(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A program that needs a loader cannot run in an image without libraries. Linking one takes minutes from nothing, so
// a header of the static one is made into the loader's.
func TestDynamicallyLinkedIsRefused(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(built(t))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_NOTE })
	if at < 0 {
		t.Fatal("no header to change")
	}
	first := f.ByteOrder.Uint64(data[32:]) // e_phoff of ELF64; a program header has 56 bytes
	f.ByteOrder.PutUint32(data[first+uint64(at)*56:], uint32(elf.PT_INTERP))
	out := filepath.Join(t.TempDir(), "edgeprep")
	if err := os.WriteFile(out, data, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Build(t.Context(), Options{Binary: out})
	ds := diag.Of(err)
	if len(ds) != 1 || ds[0].ID != "MER-081" || !strings.Contains(ds[0].Fix, "CGO_ENABLED=0 GOOS=linux GOARCH="+runtime.GOARCH) {
		t.Error(err)
	}
}
