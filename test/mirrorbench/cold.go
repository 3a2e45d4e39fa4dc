package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// direct is no server: the client asks the origin.
const direct kind = "direct"

// link is a case of cold pulls.
type link struct {
	name    string
	shape   shape
	clients int
	rounds  int
}

// coldFigures are what cold pulls gave, one value a round.
type coldFigures struct {
	total, first []float64 // s
	bytes        []float64 // of the image's size
	peak         []float64 // MB
	cost         []float64 // CPU-s per GB of what the clients got
}

// coldRound pulls the image once through a server that has nothing, by so many clients at once.
func (b *bench) coldRound(ctx context.Context, k kind, l link, f *coldFigures) error {
	o, err := newOrigin(b.img, l.shape)
	if err != nil {
		return err
	}
	defer o.close()
	addr, pid := o.addr(), 0
	if k != direct {
		root := filepath.Join(b.dir, "cold", string(k))
		defer os.RemoveAll(root)
		s, err := b.programs.start(ctx, setup{kind: k, root: root, upstream: o.addr(), probe: "/v2/"})
		if err != nil {
			return err
		}
		defer s.stop()
		addr, pid = s.addr, s.pid()
	}
	o.requests.Store(0)
	var before time.Duration
	if pid != 0 {
		if before, err = cpu(pid); err != nil {
			return err
		}
	}
	p, err := b.pullAll(ctx, addr, l.clients)
	if err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	f.total = append(f.total, p.total.Seconds())
	f.first = append(f.first, p.first.Seconds())
	f.bytes = append(f.bytes, float64(o.bytes.Load())/float64(b.img.size()+b.img.manifest.size))
	if pid != 0 {
		used, err := cpu(pid)
		f.cost = append(f.cost, (used-before).Seconds()*1e9/float64(int64(l.clients)*b.img.size()))
		mb, err2 := peak(pid)
		f.peak = append(f.peak, mb)
		return errors.Join(err, err2)
	}
	return nil
}

// pullAll pulls with all clients at once: the time of the last, the first byte of the median.
func (b *bench) pullAll(ctx context.Context, addr string, clients int) (pulled, error) {
	var mu sync.Mutex
	var out pulled
	var firsts []float64
	var g errgroup.Group
	for range clients {
		g.Go(func() error {
			p, err := pull(ctx, addr, b.img)
			mu.Lock()
			defer mu.Unlock()
			out.total = max(out.total, p.total)
			firsts = append(firsts, p.first.Seconds())
			return err
		})
	}
	err := g.Wait()
	out.first = time.Duration(median(firsts) * float64(time.Second))
	return out, err
}

func (b *bench) coldAll(ctx context.Context, l link) (map[kind]*coldFigures, error) {
	all := map[kind]*coldFigures{}
	kinds := append([]kind{direct}, b.kinds()...)
	for round := range l.rounds {
		for _, k := range order(kinds, round) {
			if all[k] == nil {
				all[k] = &coldFigures{}
			}
			one := l
			if k == direct {
				one.clients = 1 // what all are compared with
			}
			if err := b.coldRound(ctx, k, one, all[k]); err != nil {
				return nil, err
			}
			f := all[k]
			b.say("%s: %s %.2f s, first byte %.3f s, %.2f x the bytes", l.name, k, f.total[round], f.first[round], f.bytes[round])
		}
	}
	return all, nil
}

func coldList(all map[kind]*coldFigures, format string, get func(*coldFigures) float64) string {
	out := map[kind]*figures{}
	for k, f := range all {
		out[k] = &figures{speed: []float64{get(f)}}
	}
	return compare(out, func(f *figures) []float64 { return f.speed }, format)
}

func (b *bench) coldRows(ctx context.Context, l link, total, first goal, bytes *goal) ([]row, error) {
	all, err := b.coldAll(ctx, l)
	if err != nil {
		return nil, err
	}
	ratio := func(f *coldFigures) float64 { return median(ratios(f.total, all[direct].total)) }
	begin := func(f *coldFigures) float64 { return median(f.first) }
	share := func(f *coldFigures) float64 { return median(f.bytes) }
	rows := []row{
		total.row(l.name+", time ÷ direct", ratio(all[ours]), coldList(all, "%.2f", ratio)+fmt.Sprintf(" (%.2f s)", median(all[direct].total))),
		first.row(l.name+", first byte of a blob", begin(all[ours]), coldList(all, "%.3f s", begin)),
	}
	if bytes != nil {
		rows = append(rows, bytes.row(l.name+", upstream bytes ÷ image", share(all[ours]), coldList(all, "%.2f", share)))
	}
	mem := func(f *coldFigures) float64 { return median(f.peak) }
	cost := func(f *coldFigures) float64 { return median(f.cost) }
	return append(rows,
		row{what: l.name + ", peak memory", measured: fmt.Sprintf("%.0f MB", mem(all[ours])), others: coldList(all, "%.0f MB", mem)},
		row{what: l.name + ", CPU-s per GB", measured: fmt.Sprintf("%.2f", cost(all[ours])), others: coldList(all, "%.2f", cost)}), nil
}

func (b *bench) coldFast(ctx context.Context) ([]row, error) {
	return b.coldRows(ctx, link{"cold pull, fast upstream", shape{}, 1, 2*b.rounds + 1}, atMost(1.5, 1.7, "%.2f"), atMost(0.03, 0.03, "%.3f s"), nil)
}

// A link of 200 Mbit/s and 50 ms: all answers together get 25 MB/s, and each waits for one round trip, two
// when its connection is new.
func (b *bench) coldLink(ctx context.Context) ([]row, error) {
	return b.coldRows(ctx, link{"cold pull, 200 Mbit/s and 50 ms", shape{delay: 50 * time.Millisecond, link: 25e6}, 1, min(b.rounds, 3)},
		atMost(1.01, 1.03, "%.3f"), atMost(0.1, 0.1, "%.3f s"), nil)
}

func (b *bench) coldMany(ctx context.Context) ([]row, error) {
	bytes := atMost(1, 1.01, "%.2f")
	return b.coldRows(ctx, link{"20 clients, one cold image, 20 MB/s a stream", shape{delay: 20 * time.Millisecond, stream: 20e6}, 20, min(b.rounds, 3)},
		atMost(1.02, 1.02, "%.3f"), atMost(0.1, 0.1, "%.3f s"), &bytes)
}
