package preload_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func frame(t testing.TB, b []byte, window int) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z.Reset(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const marker = `{"imageLayoutVersion":"1.0.0"}`

// ociTar is an OCI archive with the given index.json, and blobs by content.
func ociTar(index string, blobs ...string) []imagetest.Entry {
	entries := []imagetest.Entry{
		{Name: "oci-layout", Content: []byte(marker)}, {Name: "index.json", Content: []byte(index)},
	}
	for _, b := range blobs {
		entries = append(entries, imagetest.Entry{
			Name: "blobs/sha256/" + digest.FromString(b).Encoded(), Content: []byte(b),
		})
	}
	return entries
}

func entry(mediaType, content, name string) string {
	b, err := json.Marshal(map[string]any{
		"mediaType": mediaType, "digest": digest.FromString(content).String(), "size": len(content),
		"annotations": map[string]string{"io.containerd.image.name": name},
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func index(entries ...string) string {
	return `{"schemaVersion":2,"manifests":[` + strings.Join(entries, ",") + `]}`
}

const (
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
)

// nested is an index within an index, depth deep.
func nested(depth int) []imagetest.Entry {
	inner := `{"schemaVersion":2,"manifests":[]}`
	blobs := []string{inner}
	for range depth {
		inner = index(entry(ociIndex, inner, ""))
		blobs = append(blobs, inner)
	}
	return ociTar(index(entry(ociIndex, inner, "a.example/b:1")), blobs...)
}

func TestHostile(t *testing.T) {
	t.Parallel()
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[]}`,
		entry("application/vnd.oci.image.config.v1+json", config, ""))
	named := func(name string) string { return index(entry(ociManifest, manifest, name)) }
	both := `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`
	big := `{"schemaVersion":2,"pad":"` + strings.Repeat("x", 5<<20) + `"}`
	tests := []struct {
		name    string
		entries []imagetest.Entry
		want    string // id; "" is fine
	}{
		{"minimal", ociTar(named("a.example/b:1"), manifest, config), ""},
		{"names by ref.name only", ociTar(strings.ReplaceAll(named("a.example/b:1"),
			"io.containerd.image.name", "org.opencontainers.image.ref.name"), manifest, config), ""},
		{"bare tag as name", ociTar(strings.ReplaceAll(named("v1"),
			"io.containerd.image.name", "org.opencontainers.image.ref.name"), manifest, config), "NOD-106"},
		{"no name", ociTar(strings.ReplaceAll(named("a.example/b:1"), "io.containerd", "x"), manifest, config), "NOD-106"},
		{"name that is none", ociTar(named("A B"), manifest, config), "NOD-109"},
		{"name of another digest", ociTar(named("a.example/b@sha256:"+strings.Repeat("0", 64)), manifest, config), "NOD-119"},
		{"index too large", ociTar(big), "NOD-107"},
		{"manifest too large", ociTar(index(entry(ociManifest, big, "a.example/b:1")), big), "NOD-107"},
		{"index broken", ociTar(`{"manifests":[`), "NOD-108"},
		{"index missing", ociTar("")[:1], "NOD-108"},
		{"unknown layout version", append([]imagetest.Entry{{Name: "oci-layout",
			Content: []byte(`{"imageLayoutVersion":"9"}`)}}, ociTar(named("a.example/b:1"), manifest, config)[1:]...), "NOD-108"},
		{"digest that is a path", ociTar(index(`{"mediaType":"` + ociManifest + `","digest":"sha256:../../../etc/passwd","size":1,` +
			`"annotations":{"io.containerd.image.name":"a.example/b:1"}}`)), "NOD-108"},
		{"negative size", ociTar(index(`{"mediaType":"`+ociManifest+`","digest":"`+digest.FromString(manifest).String()+
			`","size":-1,"annotations":{"io.containerd.image.name":"a.example/b:1"}}`), manifest), "NOD-108"},
		{"size that is not so", ociTar(strings.Replace(named("a.example/b:1"), `"size":`, `"size":9`, 1), manifest, config), "NOD-103"},
		{"manifest and index at once", ociTar(index(entry(ociManifest, both, "a.example/b:1")), both), "NOD-108"},
		{"no image", ociTar(index(entry("text/plain", "x", "a.example/b:1")), "x"), "NOD-108"},
		{"empty index", ociTar(index()), "NOD-104"},
		{"nested", nested(3), ""},
		{"nested too deep", nested(6), "NOD-107"},
		{"nested JSON", ociTar(strings.Repeat("[", 1<<20)), "NOD-108"},
		{"blob is a symlink", append(ociTar(named("a.example/b:1"), config), imagetest.Entry{
			Name: "blobs/sha256/" + digest.FromString(manifest).Encoded(), Link: "/etc/passwd"}), ""},
		{"path traversal", append(ociTar(named("a.example/b:1"), manifest, config), imagetest.Entry{
			Name: "../../../../tmp/edgeprep-traversal", Content: []byte("x")}), ""},
		{"last of two wins", append(ociTar(`broken`, manifest, config), ociTar(named("a.example/b:1"))[1]), ""},
		{"last of two wins, broken", append(ociTar(named("a.example/b:1"), manifest, config), ociTar("broken")[1]), "NOD-108"},
		{"only files", []imagetest.Entry{{Name: "readme", Content: []byte("x")}}, "NOD-104"},
		{"docker: no config", docker(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]`), "NOD-103"},
		{"docker: no layer", docker(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["x"]}]`, "c.json",
			`{"rootfs":{"diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`), "NOD-103"},
		{"docker: more layers than the config knows", docker(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["x"]}]`, "c.json", config), "NOD-108"},
		{"docker: null", docker(`null`), "NOD-108"},
		{"docker: an object", docker(`{}`), "NOD-108"},
		{"docker: no tags", docker(`[{"Config":"c.json","RepoTags":null,"Layers":[]}]`, "c.json", config), "NOD-106"},
		{"docker: layer is a link out", append(docker(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l/layer.tar"]}]`, "c.json",
			`{"rootfs":{"diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`),
			imagetest.Entry{Name: "l/layer.tar", Link: "../../../../etc/passwd"}), "NOD-103"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, packed := range []bool{false, true} {
				var b bytes.Buffer
				if err := imagetest.WriteTar(&b, tt.entries); err != nil {
					t.Fatal(err)
				}
				content := b.Bytes()
				if packed {
					content = frame(t, content, 1<<20)
				}
				path := file(t, content)
				_, err := inspect(t, path)
				if got := id(err); got != tt.want && (tt.want != "" || err != nil) {
					t.Errorf("packed %v: %v, want %q", packed, err, tt.want)
				}
				src, oerr := preload.Open(t.Context(), node(t), path)
				if oerr == nil {
					_ = src.Close()
				}
				if (oerr == nil) != (err == nil) {
					t.Errorf("packed %v: Inspect says %v, Open says %v", packed, err, oerr)
				}
			}
		})
	}
}

func docker(manifest string, file ...string) []imagetest.Entry {
	entries := []imagetest.Entry{{Name: "manifest.json", Content: []byte(manifest)}}
	for i := 0; i+1 < len(file); i += 2 {
		entries = append(entries, imagetest.Entry{Name: file[i], Content: []byte(file[i+1])})
	}
	return entries
}

func TestHostileFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content []byte
		want    string
	}{
		"empty":           {nil, "NOD-104"},
		"text":            {[]byte(strings.Repeat("hello\n", 500)), "NOD-104"},
		"zeros":           {make([]byte, 10240), "NOD-104"},
		"lz4":             {[]byte("\x04\x22\x4d\x18 and so on"), "NOD-105"},
		"xz":              {[]byte("\xfd7zXZ\x00 and so on"), "NOD-105"},
		"gzip of nothing": {[]byte("\x1f\x8b\x08"), "NOD-102"},
		"sparse":          {rawTar(t, &tar.Header{Name: "index.json", Size: 5, PAXRecords: map[string]string{}}, "GNU.sparse.major"), "NOD-107"},
		"huge size":       {huge(t), "NOD-102"},
		"long name":       {rawTar(t, &tar.Header{Name: strings.Repeat("n/", 3000) + "n", Size: 5}, ""), "NOD-107"},
		"window 256 MiB":  {[]byte("\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00"), "NOD-105"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := inspect(t, file(t, tt.content)); id(err) != tt.want {
				t.Errorf("Inspect: %v, want %s", err, tt.want)
			}
			if _, err := preload.Open(t.Context(), node(t), file(t, tt.content)); id(err) != tt.want {
				t.Errorf("Open: %v, want %s", err, tt.want)
			}
		})
	}
}

// rawTar has one file of five bytes; sparse is written over a harmless PAX key of the same length, because
// archive/tar does not write sparse files.
func rawTar(t testing.TB, h *tar.Header, sparse string) []byte {
	t.Helper()
	h.Mode, h.Format = 0o644, tar.FormatPAX
	if sparse != "" {
		h.PAXRecords["EDG.sparse.major"] = "1"
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if sparse == "" {
		return b.Bytes()
	}
	return bytes.Replace(b.Bytes(), []byte("EDG.sparse.major"), []byte(sparse), 1)
}

// huge says that it has 8 EiB and ends after five bytes.
func huge(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "index.json", Size: 1<<62 + 5, Mode: 0o644, Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
