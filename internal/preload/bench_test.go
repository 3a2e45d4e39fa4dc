package preload_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// cpu reports processor time, which a busy machine does not spoil as it does the clock.
func cpu(b *testing.B) func() {
	before := used(b)
	return func() { b.ReportMetric(float64(used(b)-before)/1e6/float64(b.N), "cpu-ms/op") }
}

// used is the processor time of this process and of the programs that it ran.
func used(b *testing.B) int64 {
	var sum int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += u.Utime.Nano() + u.Stime.Nano()
	}
	return sum
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

// BenchmarkHashing holds one inspection, and as many as there are cores at once, against openssl's digest of
// the same files. An inspection digests a plain archive twice, as a file and blob by blob; "digested" counts both.
func BenchmarkHashing(b *testing.B) {
	paths := benchPlain(b, max(2, runtime.GOMAXPROCS(0)))
	fs := node(b)
	for way, hash := range map[string]func([]string) error{
		"openssl": opensslSHA256,
		"sha256":  func(files []string) error { return sideBySide(files, sha256File) },
		"inspect": func(files []string) error {
			_, err := preload.InspectAll(b.Context(), fs, files, nil, nil)
			return err
		},
	} {
		for _, n := range []int{1, len(paths)} {
			b.Run(fmt.Sprintf("%s/files-%d", way, n), func(b *testing.B) { digested(b, paths[:n], way, hash) })
		}
	}
}

// benchPlain writes archives of 512 MiB that do not compress.
func benchPlain(b *testing.B, n int) []string {
	b.Helper()
	var paths []string
	for i := range n {
		spec := imagetest.ImageSpec{Names: []string{fmt.Sprintf("registry.local/big:%d", i)}, Platforms: []string{"linux/amd64"}}
		for l := range 4 {
			spec.Layers = append(spec.Layers, imagetest.LayerSpec{Seed: fmt.Sprint(i, l), Size: 128 << 20, Random: 100})
		}
		set, err := imagetest.Build(spec)
		if err != nil {
			b.Fatal(err)
		}
		paths = append(paths, filepath.Join(b.TempDir(), fmt.Sprintf("%d.tar", i)))
		if err := set.WriteArchive(paths[i], imagetest.Form{Layout: imagetest.Combined}); err != nil {
			b.Fatal(err)
		}
	}
	return paths
}

// digested reports how much is digested in a second, and in a second of processor time.
func digested(b *testing.B, files []string, way string, hash func([]string) error) {
	var size int64
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		size += fi.Size()
	}
	b.SetBytes(size)
	if way == "inspect" {
		size *= 2
	}
	before := used(b)
	for b.Loop() {
		if err := hash(files); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)*float64(b.N)/1e6/(float64(used(b)-before)/1e9), "digested-MB/cpu-s")
}

func opensslSHA256(files []string) error {
	return sideBySide(files, func(file string) error {
		return exec.Command("openssl", "dgst", "-sha256", file).Run()
	})
}

func sideBySide(files []string, do func(string) error) error {
	var g errgroup.Group
	for _, f := range files {
		g.Go(func() error { return do(f) })
	}
	return g.Wait()
}

func sha256File(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{sha256.New()}, struct{ io.Reader }{f}, make([]byte, 256<<10))
	return err
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
