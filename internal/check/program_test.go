package check

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"io"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerOf is a layer of some entries: "NAME" a program for amd64, "NAME -> TARGET" a symlink, "NAME => TARGET" a
// hard link, "NAME #!PROGRAM" a script.
func layerOf(t *testing.T, packed bool, entries ...string) io.Reader {
	t.Helper()
	var out bytes.Buffer
	to := io.Writer(&out)
	if packed {
		z := gzip.NewWriter(&out)
		defer z.Close()
		to = z
	}
	w := tar.NewWriter(to)
	for _, e := range entries {
		h, body := tar.Header{Name: e, Mode: 0o755, Typeflag: tar.TypeReg}, programOf(elf.EM_X86_64)
		for sep, kind := range map[string]byte{" -> ": tar.TypeSymlink, " => ": tar.TypeLink} {
			if name, target, ok := strings.Cut(e, sep); ok {
				h.Name, h.Linkname, h.Typeflag, body = name, target, kind, nil
			}
		}
		if name, interp, ok := strings.Cut(e, " #!"); ok {
			h.Name, body = name, []byte("#! "+interp+" -e\necho\n")
		}
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

func TestEntrypoint(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		layers [][]string
		config ocispec.ImageConfig
		want   string // the program; empty: none
	}{
		"absolute":                    {[][]string{{"app"}}, ocispec.ImageConfig{Entrypoint: []string{"/app"}, Cmd: []string{"x"}}, "/app"},
		"in the default path":         {[][]string{{"usr/bin/app"}}, ocispec.ImageConfig{Cmd: []string{"app"}}, "/usr/bin/app"},
		"in the image's path":         {[][]string{{"opt/app", "usr/bin/app"}}, ocispec.ImageConfig{Env: []string{"PATH=/opt"}, Cmd: []string{"app"}}, "/opt/app"},
		"below the directory":         {[][]string{{"srv/app"}}, ocispec.ImageConfig{WorkingDir: "/srv", Cmd: []string{"./app"}}, "/srv/app"},
		"links in two layers":         {[][]string{{"usr/bin/busybox", "bin -> usr/bin"}, {"usr/bin/sh -> busybox"}}, ocispec.ImageConfig{Cmd: []string{"/bin/sh"}}, "/bin/sh"},
		"a hard link":                 {[][]string{{"bin/busybox", "bin/sh => bin/busybox"}}, ocispec.ImageConfig{Cmd: []string{"sh"}}, "/bin/sh"},
		"a script":                    {[][]string{{"run #!/bin/sh", "bin/sh"}}, ocispec.ImageConfig{Cmd: []string{"/run"}}, "/bin/sh"},
		"taken away":                  {[][]string{{"app"}, {".wh.app"}}, ocispec.ImageConfig{Cmd: []string{"/app"}}, ""},
		"its directory taken away":    {[][]string{{"a/b/app"}, {".wh.a"}}, ocispec.ImageConfig{Cmd: []string{"/a/b/app"}}, ""},
		"its directory emptied":       {[][]string{{"a/app"}, {"a/.wh..wh..opq", "a/other"}}, ocispec.ImageConfig{Cmd: []string{"/a/app"}}, ""},
		"put again after":             {[][]string{{"a/app"}, {"a/.wh..wh..opq", "a/app"}}, ocispec.ImageConfig{Cmd: []string{"/a/app"}}, "/a/app"},
		"a link in a circle":          {[][]string{{"a -> b", "b -> a"}}, ocispec.ImageConfig{Cmd: []string{"/a"}}, ""},
		"a link out of the image":     {[][]string{{"app -> ../../../../etc/passwd"}}, ocispec.ImageConfig{Cmd: []string{"/app"}}, ""},
		"scripts that run each other": {[][]string{{"a #!/b", "b #!/a"}}, ocispec.ImageConfig{Cmd: []string{"/a"}}, ""},
		"nothing":                     {[][]string{{"app"}}, ocispec.ImageConfig{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]file{}
			for i, entries := range tc.layers {
				l, err := readLayer(t.Context(), layerOf(t, i == 0, entries...))
				if err != nil {
					t.Fatal(err)
				}
				l.over(files)
			}
			got, f, ok := entrypoint(files, tc.config)
			if (ok && f.isELF) != (tc.want != "") || tc.want != "" && got != tc.want {
				t.Errorf("%q, %+v, %v; want %q", got, f, ok, tc.want)
			}
		})
	}
}

func TestBigEndianPrograms(t *testing.T) {
	t.Parallel()
	head := programOf(elf.EM_NONE)
	head[elf.EI_DATA], head[19] = byte(elf.ELFDATA2MSB), byte(elf.EM_S390)
	if f := readHead(head); !f.isELF || f.machine != elf.EM_S390 {
		t.Errorf("%+v", f)
	}
}

func TestLayersThatAreNone(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{"text": strings.Repeat("no tar ", 200), "cut gzip": "\x1f\x8b\x08\x00", "cut zstd": "\x28\xb5\x2f\xfd\x00"} {
		if _, err := readLayer(t.Context(), strings.NewReader(data)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
