package ctr_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// BenchmarkImport brings an image of ten layers and about 1 GB uncompressed in, and compares with
// `ctr images import` of the same daemon in the same run:
//
//	go test -run '^$' -bench Import -benchtime 1x ./internal/host/ctr
//
// Goals: content 0.3 of ctr's time, with unpacking 0.6, again 0.02.
func BenchmarkImport(b *testing.B) {
	for _, layers := range []imagetest.Compression{imagetest.Plain, imagetest.Gzip, imagetest.Zstd} {
		file, name := benchArchive(b, layers)
		for _, v := range ctrtest.Versions() {
			label := "raw"
			if layers != imagetest.Plain {
				label = string(layers)
			}
			b.Run(fmt.Sprintf("%s/containerd-%s", label, v), func(b *testing.B) {
				for range b.N {
					compare(b, v, file, name)
				}
			})
		}
	}
}

func benchArchive(b *testing.B, c imagetest.Compression) (file, name string) {
	b.Helper()
	name = "registry.local/big:1"
	spec := imagetest.ImageSpec{Names: []string{name}, Platforms: []string{platform}}
	for i := range 10 {
		spec.Layers = append(spec.Layers, imagetest.LayerSpec{
			Seed: fmt.Sprint("layer", i), Size: 100 << 20, Random: 50, Compression: c,
		})
	}
	set, err := imagetest.Build(spec)
	if err != nil {
		b.Fatal(err)
	}
	file = filepath.Join(b.TempDir(), "big.tar")
	if err := set.WriteArchive(file, imagetest.Form{Layout: imagetest.OCI}); err != nil {
		b.Fatal(err)
	}
	return file, name
}

// compare measures each way with a fresh daemon.
func compare(b *testing.B, version, file, name string) {
	b.Helper()
	took := map[string]time.Duration{"sha256": hashTime(b, file)}
	for way, args := range map[string][]string{"ctr": {"--no-unpack"}, "ctr+unpack": nil} {
		d := ctrtest.Start(b, version)
		start := time.Now()
		if _, err := d.Ctr(append(append([]string{"images", "import"}, args...), file)...); err != nil {
			b.Fatal(err)
		}
		took[way] = time.Since(start)
	}
	for way, unpack := range map[string]bool{"content": false, "content+unpack": true} {
		d := ctrtest.Start(b, version)
		r := newRuntime(b, d)
		opts := host.ImportOptions{Platform: platform, Unpack: unpack, Pin: true}
		for _, again := range []string{"", " again"} {
			start := time.Now()
			src := open(b, file)
			rep, err := r.Import(b.Context(), src, opts)
			took[way+again] = time.Since(start)
			if err != nil || len(rep.Created)+len(rep.Present) != 2 {
				b.Fatalf("%+v, %v", rep, err)
			}
		}
		if _, ok := records(b, r)[name]; !ok {
			b.Fatal("no record")
		}
	}
	for way, base := range map[string]string{
		"content": "ctr", "content+unpack": "ctr+unpack", "content again": "ctr", "content+unpack again": "ctr+unpack",
	} {
		b.Logf("%-22s %6.2f s  %.3f of %s (%.2f s)", way, took[way].Seconds(), float64(took[way])/float64(took[base]), base, took[base].Seconds())
	}
	b.ReportMetric(float64(took["content"])/float64(took["ctr"]), "content/ctr")
	b.ReportMetric(float64(took["content+unpack"])/float64(took["ctr+unpack"]), "unpack/ctr")
	b.ReportMetric(float64(took["content+unpack again"])/float64(took["ctr+unpack"]), "again/ctr")
	b.ReportMetric(float64(took["content"])/float64(took["sha256"]), "content/sha256")
}

// hashTime is the least that any import of these bytes costs here and now.
func hashTime(b *testing.B, file string) time.Duration {
	b.Helper()
	start := time.Now()
	content, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256(content)
	if hex.EncodeToString(sum[:]) == "" {
		b.Fatal("no sum")
	}
	return time.Since(start)
}
