// Command archives makes large image archives for benchmarks: plain tars in the form that edgeprep writes, one
// image of four incompressible layers in each.
//
//	archives -count 10 -mib 1024 -out DIR
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const layers = 4

func main() {
	count := flag.Int("count", 10, "number of archives")
	mib := flag.Int64("mib", 1024, "size of each in MiB")
	out := flag.String("out", ".", "folder for the archives")
	flag.Parse()
	for i := range *count {
		if err := write(*out, i, *mib<<20); err != nil {
			fmt.Fprintln(os.Stderr, "archives:", err)
			os.Exit(1)
		}
	}
}

func write(dir string, i int, size int64) error {
	spec := imagetest.ImageSpec{
		Names: []string{fmt.Sprintf("registry.local/bench/app%02d:1", i)}, Platforms: []string{"linux/" + runtime.GOARCH},
	}
	for l := range layers {
		spec.Layers = append(spec.Layers, imagetest.LayerSpec{Seed: fmt.Sprintf("%d-%d", i, l), Size: size / layers, Random: 100})
	}
	set, err := imagetest.Build(spec)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, fmt.Sprintf("app%02d.tar", i))
	if err := set.WriteArchive(file, imagetest.Form{Layout: imagetest.Combined}); err != nil {
		return err
	}
	fmt.Println(file)
	return nil
}
