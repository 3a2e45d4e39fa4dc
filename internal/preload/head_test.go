package preload

import (
	"testing"

	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestReadHead(t *testing.T) {
	t.Parallel()
	set, err := imagetest.Standard(imagetest.Options{LayerSize: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	n := hosttest.New(t)
	for name, f := range map[string]imagetest.Form{
		"plain": {Layout: imagetest.Docker}, "gz": {Layout: imagetest.OCI, Compression: imagetest.Gzip},
		"zst": {Layout: imagetest.OCI, Compression: imagetest.Zstd, Window: 1 << 16},
	} {
		if err := set.WriteArchive(n.Path("/"+name), f); err != nil {
			t.Fatal(err)
		}
	}
	n.WriteFile("/empty", "")
	n.WriteFile("/text", "reference\n")
	n.WriteFile("/xz", "\xfd7zXZ\x00rest")
	n.WriteFile("/lz4", "\x04\x22\x4d\x18rest")
	for name, want := range map[string]Head{
		"plain": {Tar: true}, "gz": {Compression: Gzip}, "zst": {Compression: Zstd, Window: 1 << 16},
		"empty": {}, "text": {}, "xz": {Compression: xz}, "lz4": {Compression: lz4},
	} {
		if got, err := ReadHead(n.FS(), "/"+name); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	if _, err := ReadHead(n.FS(), "/none"); err == nil {
		t.Error("a file that is not there has a head")
	}
}

// FuzzHead: nothing that a file may begin with stops it.
func FuzzHead(f *testing.F) {
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x88\x00\x00"))
	f.Add([]byte("\x50\x2a\x4d\x18\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := headOf(b); got.Window < 0 || got.Window > 0 && got.Compression != Zstd {
			t.Errorf("%+v", got)
		}
	})
}

func TestPackedByName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Compression{
		"a.tar": Plain, "A.TAR": Plain, "a.tar.gz": Gzip, "a.tgz": Gzip, "a.tzst": Zstd, "a.tar.bz2": Bzip2, "a.tar.lz4": lz4, "a.tar.xz": xz,
	} {
		if got, ok := PackedByName(name); !ok || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "a", "a.txt", "tar", "a.tar.sha256", "a.tar.partial"} {
		if got, ok := PackedByName(name); ok {
			t.Errorf("%s is packed with %q", name, got)
		}
	}
}
