package preload_test

import (
	"crypto/sha256"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// The floor of an inspection is one digest over the file: BenchmarkSHA256 is what openssl and sha256sum do.
// An inspection also digests every blob.

// cpu reports processor time, which a busy machine does not spoil as it does the clock.
func cpu(b *testing.B) func() {
	before := used(b)
	return func() { b.ReportMetric(float64(used(b)-before)/1e6/float64(b.N), "cpu-ms/op") }
}

func used(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func benchSet(b *testing.B) *imagetest.Set {
	b.Helper()
	return standard(b, imagetest.Options{LayerSize: 64 << 20, Random: 60, Platforms: []string{"linux/amd64"}})
}

func benchInspect(b *testing.B, f imagetest.Form) {
	path := write(b, benchSet(b), f)
	fi, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(fi.Size())
	fs := node(b)
	defer cpu(b)()
	for b.Loop() {
		if _, err := preload.Inspect(b.Context(), fs, path, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInspect(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchInspect(b, imagetest.Form{Layout: imagetest.Combined}) })
	b.Run("docker", func(b *testing.B) { benchInspect(b, imagetest.Form{Layout: imagetest.Docker}) })
	b.Run("zstd", func(b *testing.B) {
		benchInspect(b, imagetest.Form{Layout: imagetest.Combined, Compression: imagetest.Zstd})
	})
	b.Run("gzip", func(b *testing.B) {
		benchInspect(b, imagetest.Form{Layout: imagetest.Combined, Compression: imagetest.Gzip})
	})
}

func BenchmarkSHA256(b *testing.B) {
	path := write(b, benchSet(b), imagetest.Form{Layout: imagetest.Combined})
	defer cpu(b)()
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(sha256.New(), f)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		_ = f.Close()
	}
}

func BenchmarkOpen(b *testing.B) {
	path := write(b, benchSet(b), imagetest.Form{Layout: imagetest.Docker})
	fs := node(b)
	for b.Loop() {
		src, err := preload.Open(b.Context(), fs, path)
		if err != nil {
			b.Fatal(err)
		}
		_ = src.Close()
	}
}
