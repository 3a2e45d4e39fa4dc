// Command images makes the image archives that docs/try-it.md uses, from one static program:
//
//	images -binary /bin/busybox -pause registry.k8s.io/pause:3.6 -out DIR
//
// preload.tar holds a pause image and an application that runs; mirror.tar holds an image that is only for
// the mirror.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func main() {
	binary := flag.String("binary", "/bin/busybox", "static program; it is the shell of the images")
	pause := flag.String("pause", "registry.k8s.io/pause:3.6", "name of the sandbox image")
	out := flag.String("out", ".", "folder for the archives")
	flag.Parse()
	if err := write(*binary, *pause, *out); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func write(binary, pause, out string) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	form := imagetest.Form{Layout: imagetest.Combined}
	for file, names := range map[string][]string{
		"preload.tar": {pause, "docker.io/library/edge-app:1.0"},
		"mirror.tar":  {"quay.io/edge/late:2.1"},
	} {
		var specs []imagetest.ImageSpec
		for _, n := range names {
			specs = append(specs, imagetest.ImageSpec{Names: []string{n}, Platforms: []string{"linux/" + runtime.GOARCH},
				Cmd: []string{"/bin/sleep", "1000000"}, Layers: []imagetest.LayerSpec{{Seed: n, Size: 1 << 20, Files: []imagetest.File{
					{Path: "bin/busybox", Mode: 0o755, Content: program},
					{Path: "bin/sh", Link: "busybox"}, {Path: "bin/sleep", Link: "busybox"}}}}})
		}
		set, err := imagetest.Build(specs...)
		if err != nil {
			return err
		}
		if err := set.WriteArchive(filepath.Join(out, file), form); err != nil {
			return err
		}
	}
	return nil
}
