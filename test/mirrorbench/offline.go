package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// blackHole is an address where nobody answers, not even the connection: a socket whose queue is full.
type blackHole struct {
	fd    int
	addr  string
	conns []net.Conn
}

func newBlackHole() (*blackHole, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	h := &blackHole{fd: fd}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	if err != nil {
		h.close()
		return nil, err
	}
	name, err := unix.Getsockname(fd)
	sa, ok := name.(*unix.SockaddrInet4)
	if err != nil || !ok {
		h.close()
		return nil, errors.Join(err, errors.New("no address"))
	}
	h.addr = fmt.Sprintf("127.0.0.1:%d", sa.Port)
	for { // until a connection is not taken any more
		c, err := net.DialTimeout("tcp", h.addr, 300*time.Millisecond)
		if err != nil {
			return h, nil //nolint:nilerr // that is what was wanted
		}
		h.conns = append(h.conns, c)
	}
}

func (h *blackHole) close() {
	for _, c := range h.conns {
		c.Close()
	}
	unix.Close(h.fd) // nothing is lost
}

// offlineTimes are what requests took while the upstream was black-holed, in ms.
type offlineTimes struct {
	firstHit, hit, firstMiss, miss float64 // hit and miss are the 99th percentile
}

// offlineTimes measures hits and misses, each from a new start on: the first one finds the upstream missing.
func (b *bench) offlineTimes(ctx context.Context, root, upstream string) (t offlineTimes, err error) {
	hits := []string{manifestPath(tag), blobPath(b.img.blobs[0])}
	if t.firstHit, t.hit, err = b.answers(ctx, setup{kind: ours, root: root, upstream: upstream, probe: "/v2/"}, 200, 2000, hits); err != nil {
		return t, err
	}
	misses := []string{manifestPath("not-there"), manifestPath("not-there-either")}
	count := 200 // each waits for the upstream
	if upstream == "" {
		count = 2000
	}
	t.firstMiss, t.miss, err = b.answers(ctx, setup{kind: ours, root: root, upstream: upstream, probe: "/v2/"}, 404, count, misses)
	return t, err
}

// answers asks for the paths in turn and gives the time of the first answer and the 99th percentile of the others.
func (b *bench) answers(ctx context.Context, s setup, status, count int, paths []string) (first, p99 float64, err error) {
	srv, err := b.programs.start(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer srv.stop()
	c, err := dial(ctx, srv.addr)
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	var times []time.Duration
	for i := range count + 1 {
		path, start := paths[i%len(paths)], time.Now()
		r, err := c.small("GET", path)
		if err == nil && r.status != status {
			err = fmt.Errorf("%s: status %d", path, r.status)
		}
		if err != nil {
			return 0, 0, err
		}
		times = append(times, time.Since(start))
	}
	rest := slices.Sorted(slices.Values(times[1:]))
	return ms(times[0]), ms(percentile(rest, 0.99)), nil
}

func (b *bench) offline(ctx context.Context) ([]row, error) {
	hole, err := newBlackHole()
	if err != nil {
		return nil, err
	}
	defer hole.close()
	t := &tree{root: filepath.Join(b.dir, "offline")}
	t.edgeprep(b.img, repository, tag)
	if t.err != nil {
		return nil, t.err
	}
	on, err := b.offlineTimes(ctx, t.root, hole.addr)
	if err != nil {
		return nil, err
	}
	never, err := b.offlineTimes(ctx, t.root, "")
	if err != nil {
		return nil, err
	}
	b.say("black-holed: %+v; never: %+v (ms)", on, never)
	return []row{
		atMost(2, 5, "%.1f ms").row("upstream black-holed: hit, p99", on.hit, fmt.Sprintf("the one hit that finds it out %.0f ms", on.firstHit)),
		atMost(2000, 2000, "%.0f ms").row("upstream black-holed: first miss", on.firstMiss, ""),
		atMost(50, 50, "%.0f ms").row("upstream black-holed: later misses, p99", on.miss, ""),
		atMost(2, 2, "%.1f ms").row("upstream never: miss, p99", never.miss, fmt.Sprintf("hit, p99 %.1f ms", never.hit)),
	}, nil
}

// landed waits until the image is in a cache and its server writes no more: that goes on after the client has it.
func (b *bench) landed(ctx context.Context, root string, pid int) error {
	want := []string{filepath.Join(root, "refs/docker.io", repository, "_tags", tag)}
	for _, f := range b.img.blobs {
		want = append(want, filepath.Join(root, "blobs/sha256", f.hex()[:2], f.hex()))
	}
	last := int64(-1)
	for ctx.Err() == nil {
		now, err := written(pid)
		if err != nil {
			return err
		}
		missing := slices.ContainsFunc(want, func(p string) bool { _, err := os.Stat(p); return err != nil })
		if !missing && now == last {
			return nil
		}
		last = now
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// costOfHit counts what hits write to disk and ask of the upstream.
func (b *bench) costOfHit(ctx context.Context) ([]row, error) {
	o, err := newOrigin(b.img, shape{})
	if err != nil {
		return nil, err
	}
	defer o.close()
	s, err := b.programs.start(ctx, setup{kind: ours, root: filepath.Join(b.dir, "hit"), upstream: o.addr(), probe: "/v2/"})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	for range 2 { // the second one is all hits
		if _, err := pull(ctx, s.addr, b.img); err != nil {
			return nil, err
		}
	}
	if err := b.landed(ctx, filepath.Join(b.dir, "hit"), s.pid()); err != nil { // what the pull writes is not the hits'
		return nil, err
	}
	asked := o.requests.Load()
	before, err := written(s.pid())
	if err != nil {
		return nil, err
	}
	if _, err := hammer(ctx, s.addr, manifestPath(tag), 8, b.round); err != nil {
		return nil, err
	}
	for range 5 {
		if _, err := pull(ctx, s.addr, b.img); err != nil {
			return nil, err
		}
	}
	after, err := written(s.pid())
	return []row{
		atMost(0, 0, "%.0f B").row("disk writes in a hit's path", float64(after-before), ""),
		atMost(0, 0, "%.0f").row("upstream calls in a hit's path", float64(o.requests.Load()-asked), ""),
	}, err
}
