package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// figures are what a server gave, one value a round.
type figures struct {
	speed []float64 // GB/s
	cost  []float64 // CPU-s per GB
	peak  []float64 // MB
	rates []float64 // requests/s
	p99   []float64 // ms
	each  []float64 // us of CPU a request
}

// warm starts the servers with the image in their caches.
func (b *bench) warm(ctx context.Context) (map[kind]*server, func(), error) {
	t := &tree{root: filepath.Join(b.dir, "warm")}
	cache := tree{root: filepath.Join(t.root, string(ours))}
	cache.edgeprep(b.img, repository, tag)
	static := tree{root: filepath.Join(t.root, string(nginx))}
	static.static(b.img)
	registry := tree{root: filepath.Join(t.root, string(distribution))}
	registry.distribution(b.img, repository, tag)
	if err := errors.Join(cache.err, static.err, registry.err); err != nil {
		return nil, nil, err
	}
	servers := map[kind]*server{}
	stop := func() {
		for _, s := range servers {
			s.stop()
		}
	}
	for _, k := range b.kinds() {
		s, err := b.programs.start(ctx, setup{kind: k, root: filepath.Join(t.root, string(k)), probe: manifestPath(b.img.manifest.digest.String())})
		if err == nil {
			servers[k] = s
			_, err = pull(ctx, s.addr, b.img) // edgeprep verifies what it serves for the first time
			if k == nginx {
				err = nil // it knows no HEAD of a tag's digest; its pages are warm by the first round
			}
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return servers, stop, nil
}

// order is the servers of a round: forth and back.
func order(kinds []kind, round int) []kind {
	if round%2 == 1 {
		kinds = slices.Clone(kinds)
		slices.Reverse(kinds)
	}
	return kinds
}

func (b *bench) warmBlobs(ctx context.Context) ([]row, error) {
	servers, stop, err := b.warm(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	var rows []row
	aims := map[int]goal{1: atLeast(1.05, 0.9, "%.2f"), 8: atLeast(1.3, 1.1, "%.2f"), 64: atLeast(1.3, 1.2, "%.2f")}
	var costs []row
	for _, clients := range []int{1, 8, 64} {
		all := map[kind]*figures{}
		for round := -1; round < b.rounds; round++ { // the first one is not counted
			for _, k := range order(b.kinds(), round+2) {
				if all[k] == nil || round < 0 {
					all[k] = &figures{}
				}
				if err := b.stream(ctx, servers[k], clients, all[k]); err != nil {
					return nil, err
				}
			}
			b.say("blobs, %d clients: %s", clients, summary(all, func(f *figures) []float64 { return f.speed }, "%.2f GB/s"))
		}
		speeds := func(f *figures) []float64 { return f.speed }
		cost := func(f *figures) []float64 { return f.cost }
		rows = append(rows, aims[clients].row(fmt.Sprintf("warm blobs, GB/s ÷ nginx, %d clients", clients),
			median(ratios(all[ours].speed, figuresOf(all, nginx).speed)), compare(all, speeds, "%.2f GB/s")))
		costs = append(costs, atMost(1, 1.25, "%.2f").row(fmt.Sprintf("CPU-s per GB ÷ nginx, %d clients", clients),
			median(ratios(all[ours].cost, figuresOf(all, nginx).cost)), compare(all, cost, "%.3f CPU-s/GB")))
		if clients == 64 {
			peaks := func(f *figures) []float64 { return f.peak }
			costs = append(costs, atMost(30, 40, "%.0f MB").row("peak memory, 64 clients", median(all[ours].peak), compare(all, peaks, "%.0f MB")))
		}
	}
	return append(rows, costs...), nil
}

func figuresOf(all map[kind]*figures, k kind) *figures {
	if f := all[k]; f != nil {
		return f
	}
	return &figures{}
}

// stream measures one server for one round.
func (b *bench) stream(ctx context.Context, s *server, clients int, f *figures) error {
	if err := forgetPeak(s.pid()); err != nil {
		return err
	}
	st := startStream(ctx, s.addr, b.img, clients)
	time.Sleep(b.round / 10) // until all clients are at it
	start, bytes := time.Now(), st.total.Load()
	before, err := cpu(s.pid())
	if err != nil {
		return err
	}
	time.Sleep(b.round)
	took, bytes := time.Since(start), st.total.Load()-bytes
	after, err := cpu(s.pid())
	if err := errors.Join(err, st.stop()); err != nil {
		return err
	}
	mb, err := peak(s.pid())
	gb := float64(bytes) / 1e9
	f.speed = append(f.speed, gb/took.Seconds())
	f.cost = append(f.cost, (after-before).Seconds()/gb)
	f.peak = append(f.peak, mb)
	return err
}

func (b *bench) manifests(ctx context.Context) ([]row, error) {
	servers, stop, err := b.warm(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	all := map[kind]*figures{}
	for round := -1; round < b.rounds; round++ {
		for _, k := range order(b.kinds(), round+2) {
			if all[k] == nil || round < 0 {
				all[k] = &figures{}
			}
			if err := b.hammer(ctx, servers[k], all[k]); err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
		}
		b.say("manifests, 64 clients: %s", summary(all, func(f *figures) []float64 { return f.rates }, "%.0f/s"))
	}
	return []row{
		atLeast(45000, 30000, "%.0f/s").row("manifest GET by tag, 64 clients", median(all[ours].rates),
			compare(all, func(f *figures) []float64 { return f.rates }, "%.0f/s")),
		atMost(10, 15, "%.1f ms").row("the same, p99", median(all[ours].p99),
			compare(all, func(f *figures) []float64 { return f.p99 }, "%.1f ms")),
		{what: "the same, CPU a request", measured: fmt.Sprintf("%.1f us", median(all[ours].each)),
			others: compare(all, func(f *figures) []float64 { return f.each }, "%.1f us")},
	}, nil
}

func (b *bench) hammer(ctx context.Context, s *server, f *figures) error {
	before, err := cpu(s.pid())
	if err != nil {
		return err
	}
	var r rate
	if b.programs.wrk != "" {
		r, err = wrk(ctx, b.programs.wrk, s.addr, manifestPath(tag), 64, b.round)
	} else {
		r, err = hammer(ctx, s.addr, manifestPath(tag), 64, b.round)
	}
	if err != nil {
		return err
	}
	after, err := cpu(s.pid())
	f.rates = append(f.rates, r.perSecond)
	f.p99 = append(f.p99, ms(r.p99))
	f.each = append(f.each, float64((after-before).Microseconds())/(r.perSecond*r.took.Seconds()))
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// compare lists the medians of all but ours, summary of all.
func compare(all map[kind]*figures, get func(*figures) []float64, format string) string {
	return list(all, get, format, ours)
}

func summary(all map[kind]*figures, get func(*figures) []float64, format string) string {
	return list(all, get, format, "")
}

func list(all map[kind]*figures, get func(*figures) []float64, format string, but kind) string {
	var out []string
	for _, k := range []kind{ours, nginx, distribution, direct} {
		if f := all[k]; f != nil && k != but {
			if v := get(f); len(v) > 0 && !math.IsNaN(v[0]) {
				out = append(out, string(k)+" "+fmt.Sprintf(format, median(v)))
			}
		}
	}
	return strings.Join(out, ", ")
}
