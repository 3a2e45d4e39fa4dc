package ctr_test

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// cost is what one way took. Processor time counts containerd and its client.
type cost struct{ wall, cpu time.Duration }

// compare measures each way with a fresh daemon.
func compare(b *testing.B, version, file, name string) {
	b.Helper()
	took := map[string]cost{}
	for way, args := range map[string][]string{"ctr": {"--no-unpack"}, "ctr+unpack": nil} {
		d := ctrtest.Start(b, version)
		took[way] = measure(d, syscall.RUSAGE_CHILDREN, func() {
			if _, err := d.Ctr(append(append([]string{"images", "import"}, args...), file)...); err != nil {
				b.Fatal(err)
			}
		})
	}
	for way, unpack := range map[string]bool{"content": false, "content+unpack": true} {
		d := ctrtest.Start(b, version)
		r := newRuntime(b, d)
		opts := host.ImportOptions{Platform: platform, Unpack: unpack, Pin: true}
		for _, again := range []string{"", " again"} {
			took[way+again] = measure(d, syscall.RUSAGE_SELF, func() {
				rep, err := r.Import(b.Context(), open(b, file), opts)
				if err != nil || len(rep.Created)+len(rep.Present) != 2 {
					b.Fatalf("%+v, %v", rep, err)
				}
			})
		}
		if _, ok := records(b, r)[name]; !ok {
			b.Fatal("no record")
		}
	}
	report(b, took)
}

func measure(d *ctrtest.Daemon, who int, f func()) cost {
	cpu := func() time.Duration {
		var ru syscall.Rusage
		_ = syscall.Getrusage(who, &ru)
		return d.CPU() + time.Duration(ru.Utime.Nano()+ru.Stime.Nano())
	}
	unix.Sync() // what is measured must not wait for what was written before
	before, start := cpu(), time.Now()
	f()
	return cost{time.Since(start), cpu() - before}
}

func report(b *testing.B, took map[string]cost) {
	b.Helper()
	for _, row := range []struct{ way, base, metric string }{
		{"content", "ctr", "content"}, {"content+unpack", "ctr+unpack", "unpack"},
		{"content again", "ctr", "content-again"}, {"content+unpack again", "ctr+unpack", "again"},
	} {
		ours, theirs := took[row.way], took[row.base]
		wall, cpu := float64(ours.wall)/float64(theirs.wall), float64(ours.cpu)/float64(theirs.cpu)
		b.Logf("%-20s %6.2f s (cpu %5.2f), %s %6.2f s (cpu %5.2f): %.3f, cpu %.3f", row.way, ours.wall.Seconds(), ours.cpu.Seconds(),
			row.base, theirs.wall.Seconds(), theirs.cpu.Seconds(), wall, cpu)
		b.ReportMetric(wall, row.metric+"/ctr")
		b.ReportMetric(cpu, row.metric+"-cpu/ctr")
	}
}
