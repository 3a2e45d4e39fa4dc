package local_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/local"
)

const benchSize = 256 << 20

// BenchmarkPlace compares Place with cp and sync of the same file, in the same run.
func BenchmarkPlace(b *testing.B) {
	dir := b.TempDir()
	content := make([]byte, benchSize)
	rand.Read(content)
	sum := sha256.Sum256(content)
	src := filepath.Join(dir, "source")
	if err := os.WriteFile(src, content, 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("sync", src).CombinedOutput(); err != nil {
		b.Fatalf("%v %s", err, out)
	}
	h, err := local.New(local.Options{Root: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cp", func(b *testing.B) {
		b.SetBytes(benchSize)
		for b.Loop() {
			dst := filepath.Join(dir, "cp")
			_ = os.Remove(dst)
			if out, err := exec.Command("sh", "-c", "cp --reflink=never "+src+" "+dst+" && sync "+dst).CombinedOutput(); err != nil { //nolint:gosec // a test's own path
				b.Fatalf("%v %s", err, out)
			}
		}
	})
	for name, want := range map[string]string{"plain": "", "hashed": hex.EncodeToString(sum[:])} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				_, err := h.Files().Place(context.Background(), "/source", "/placed", host.PlaceOptions{
					Meta: host.Meta{Mode: 0o644}, Size: benchSize, SHA256: want,
					Allow: func(m host.PlaceMethod) bool { return m == host.PlaceCopy },
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
