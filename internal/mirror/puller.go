package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Upstreams say where images come from that are not in the cache. Registries that are not named are asked at
// https://HOST, and only at public addresses.
type Upstreams struct {
	Named   []Upstream
	MinFree int64 // bytes that a transfer leaves free on the cache's disk
}

// puller brings what is asked for from upstreams into a store.
type puller struct {
	store   *Store
	log     *slog.Logger
	lim     limits
	minFree int64
	named   map[string]*upstream
	others  *lru[string, *upstream]
	shared  *http.Transport // of others
	close   []func()

	mu    sync.Mutex
	fills map[digest.Digest]*fill
	calls map[string]*manifestCall
	fresh *lru[Reference, time.Time] // when a tag was last compared with its upstream

	tagLooks      *looks[string]
	referrerLooks *looks[ocispec.Descriptor]
	listed        *lru[string, listed]
}

// Bounds of what a puller does and remembers.
const (
	maxFills  = 16 // of one upstream at once
	maxOthers = 256
	maxFresh  = 16 << 10
)

func newPuller(s *Store, cfg Upstreams, lim limits) (*puller, error) {
	p := &puller{store: s, log: s.log, lim: lim, minFree: cfg.MinFree, named: map[string]*upstream{},
		others: newLRU[string, *upstream](maxOthers),
		fills:  map[digest.Digest]*fill{}, calls: map[string]*manifestCall{}, fresh: newLRU[Reference, time.Time](maxFresh),
		tagLooks: newLooks[string](), referrerLooks: newLooks[ocispec.Descriptor](), listed: newLRU[string, listed](maxListed)}
	var err error
	if p.shared, err = p.transport(Upstream{}, false); err != nil {
		return nil, err
	}
	for _, u := range cfg.Named {
		tr, err := p.transport(u, true)
		if err != nil {
			return nil, err
		}
		if p.named[canonicalRegistry(u.Host)], err = p.upstream(u, tr); err != nil {
			return nil, err
		}
		s.counters.name(canonicalRegistry(u.Host))
	}
	return p, nil
}

func (p *puller) transport(cfg Upstream, named bool) (*http.Transport, error) {
	tr, err := newTransport(cfg, named, p.lim)
	if err == nil {
		p.close = append(p.close, tr.CloseIdleConnections)
	}
	return tr, err
}

func (p *puller) upstream(cfg Upstream, tr *http.Transport) (*upstream, error) {
	u, err := newUpstream(cfg, tr, p.lim)
	if err == nil {
		u.breaker.run = p.background
		u.count = p.store.counters
	}
	return u, err
}

// background runs what ends with the store.
func (p *puller) background(fn func(context.Context)) {
	p.store.wg.Go(func() { fn(p.store.ctx) })
}

// closeIdle closes connections that nobody uses.
func (p *puller) closeIdle() {
	for _, c := range p.close {
		c()
	}
}

// at is the upstream of a repository.
func (p *puller) at(n Name) (*upstream, error) {
	if first, _, _ := strings.Cut(n.Repository, "/"); first == ProbeRepository {
		return nil, fmt.Errorf("%s: %w: it exists nowhere", n, errRefused)
	}
	if u, ok := p.named[n.Registry]; ok {
		return u, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if u, ok := p.others.get(n.Registry); ok {
		return u, nil
	}
	u, err := p.upstream(Upstream{Host: n.Registry}, p.shared)
	if err == nil {
		p.others.put(n.Registry, u, 1)
	}
	return u, err
}

// blob joins or starts the transfer of a blob and waits until it has begun. The caller leaves the fill. With
// a nil fill, the blob is in the cache.
func (p *puller) blob(ctx context.Context, n Name, d digest.Digest) (*fill, error) {
	for {
		f := p.join(n, d)
		select {
		case <-f.begun:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.enter() {
			return f, nil
		}
		err := f.failed()
		if err == nil {
			return nil, nil //nolint:nilnil // said above
		}
		// What another repository was refused may be granted to this one.
		if f.name == n || errors.Is(err, errUnavailable) {
			return nil, err
		}
	}
}

// join gives the transfer that runs, or starts one.
func (p *puller) join(n Name, d digest.Digest) *fill {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := p.fills[d]; ok {
		return f
	}
	f := newFill(n, d)
	p.fills[d] = f
	p.background(func(ctx context.Context) {
		err := p.transfer(ctx, f)
		if err != nil {
			p.log.Info("blob not pulled", "name", n.String(), "digest", d.String(), "error", err)
		}
		p.mu.Lock()
		delete(p.fills, d)
		p.mu.Unlock()
		f.end(err)
	})
	return f
}

// transfer brings one blob into the cache.
func (p *puller) transfer(ctx context.Context, f *fill) error {
	if p.has(f.digest) { // it came between the look and the start
		return nil
	}
	u, err := p.at(f.name)
	if err != nil {
		return err
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.store.readOnly {
		return fail("MER-003", p.store.dir, "the cache was opened read-only", "", "", nil)
	}
	w, err := p.store.writer() // before anything is asked for: a cache that cannot be written gets nothing
	if err != nil {
		return err
	}
	defer w.close()
	c := call{method: http.MethodGet, repository: f.name.Repository, verb: "blobs", ref: f.digest.String()}
	resp, err := u.do(ctx, c)
	if err != nil {
		return err
	}
	body := &resumed{ctx: ctx, u: u, call: c, body: resp.Body, size: resp.ContentLength}
	defer func() { body.Close() }()
	if err := p.room(resp.ContentLength); err != nil {
		return err
	}
	err = w.put(blobPath(f.digest), func(out io.Writer) error { return f.copyFrom(body, out, resp.ContentLength) })
	if _, source := errors.AsType[*sourceError](err); err != nil && !source {
		return writeError(p.store.dir, "the blob "+f.digest.String(), err)
	}
	return err
}

// has says whether a blob is in the cache and not known to be bad.
func (p *puller) has(d digest.Digest) bool {
	b, err := p.store.openBlob(d)
	if err != nil {
		return false
	}
	b.file.Close()
	return true
}

// room refuses what would not fit.
func (p *puller) room(size int64) error {
	free, err := freeSpace(p.store.dir)
	if err != nil {
		return err
	}
	if need := max(size, 0) + p.minFree; free < need {
		return fail("MER-002", p.store.dir, fmt.Sprintf("%d bytes must be free and %d are", need, free),
			"what is in the cache is whole and is served", "free some space: df -h "+p.store.dir, unix.ENOSPC)
	}
	return nil
}

// size asks how long a blob is without bringing it in.
func (p *puller) size(ctx context.Context, n Name, d digest.Digest) (int64, error) {
	u, err := p.at(n)
	if err != nil {
		return 0, err
	}
	resp, err := u.do(ctx, call{method: http.MethodHead, repository: n.Repository, verb: "blobs", ref: d.String()})
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, fmt.Errorf("%s %s: %w: it does not say how long the blob is", n, d, errUnavailable)
	}
	return resp.ContentLength, nil
}
