package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// startup measures the time from the start of a process to its first manifest, with many in its cache.
func (b *bench) startup(ctx context.Context) ([]row, error) {
	cache, registry := tree{root: filepath.Join(b.dir, "many", string(ours))}, tree{root: filepath.Join(b.dir, "many", string(distribution))}
	files := &tree{root: filepath.Join(b.dir, "many", "files")}
	files.dir("x")
	for n := range b.many {
		m, err := put(files.root, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[],"annotations":{"n":"%d"}}`,
			b.img.blobs[0].digest, b.img.blobs[0].size, n))
		if err != nil {
			return nil, err
		}
		img, repo, tag := &image{manifest: m}, fmt.Sprintf("team/app%03d", n/20), fmt.Sprintf("v%d", n%20)
		cache.edgeprep(img, repo, tag)
		registry.distribution(img, repo, tag)
	}
	if err := errors.Join(files.err, cache.err, registry.err); err != nil {
		return nil, err
	}
	all := map[kind]*figures{}
	for round := -1; round < 2*b.rounds; round++ {
		for _, k := range []kind{ours, distribution} {
			if !b.programs.has(k) {
				continue
			}
			if all[k] == nil || round < 0 {
				all[k] = &figures{}
			}
			if err := b.startOnce(ctx, k, all[k]); err != nil {
				return nil, err
			}
		}
	}
	times := func(f *figures) []float64 { return f.p99 }
	b.say("start: %s", summary(all, times, "%.1f ms"))
	return []row{
		atMost(0.2, 0.2, "%.2f").row(fmt.Sprintf("start with %d manifests to the first answer ÷ distribution", b.many),
			median(ratios(all[ours].p99, figuresOf(all, distribution).p99)), list(all, times, "%.1f ms", "")),
		atMost(20, 20, "%.0f MB").row("the same, memory", median(all[ours].peak), compare(all, func(f *figures) []float64 { return f.peak }, "%.0f MB")),
	}, nil
}

func (b *bench) startOnce(ctx context.Context, k kind, f *figures) error {
	s, err := b.programs.start(ctx, setup{kind: k, root: filepath.Join(b.dir, "many", string(k)), probe: "/v2/team/app000/manifests/v1"})
	if err != nil {
		return err
	}
	defer s.stop()
	f.p99 = append(f.p99, float64(s.ready)/float64(time.Millisecond))
	mb, err := peak(s.pid())
	f.peak = append(f.peak, mb)
	return err
}
