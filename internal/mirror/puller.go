package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Upstreams say where images come from that are not in the cache. Registries that are not named are asked at
// https://HOST, and only at public addresses.
type Upstreams struct {
	Named []Upstream
	// What would leave less than MinFree bytes free on the cache's disk, or make its blobs together longer than
	// MaxCache, goes to those who asked for it and is not kept. MaxCache 0: no limit.
	MinFree, MaxCache int64
	// Registries that may be asked: "*.example.com", "**"; deny wins; without allow every one may be. What is in the
	// cache is served in any case.
	AllowRegistries, DenyRegistries []string
	Ask                             HelperFunc // asks credential helpers; nil: none can be asked
}

// puller brings what is asked for from upstreams into a store.
type puller struct {
	store   *Store
	log     *slog.Logger
	lim     limits
	minFree int64
	used    *cacheSize // nil: it may be of any size
	boot    string
	keeping keeping
	named   map[string]*upstream
	others  *lru[string, *upstream]
	shared  *http.Transport // of others
	close   []func()
	helper  HelperFunc
	allow   []string // registries
	deny    []string

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
	p := &puller{store: s, log: s.log, lim: lim, minFree: cfg.MinFree, boot: bootID(), named: map[string]*upstream{},
		others: newLRU[string, *upstream](maxOthers),
		fills:  map[digest.Digest]*fill{}, calls: map[string]*manifestCall{}, fresh: newLRU[Reference, time.Time](maxFresh),
		tagLooks: newLooks[string](), referrerLooks: newLooks[ocispec.Descriptor](), listed: newLRU[string, listed](maxListed)}
	p.helper, p.allow, p.deny = cfg.Ask, canonicalRegistries(cfg.AllowRegistries), canonicalRegistries(cfg.DenyRegistries)
	if cfg.MaxCache > 0 {
		p.used = newCacheSize(s, cfg.MaxCache)
	}
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
		u.count, u.ask = p.store.counters, p.helper
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

func canonicalRegistries(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, canonicalRegistry(s))
	}
	return out
}

// at is the upstream of a repository.
func (p *puller) at(n Name) (*upstream, error) {
	if n.probe() {
		return nil, fmt.Errorf("%s: %w: it exists nowhere", n, errRefused)
	}
	if matchesAny(p.deny, n.Registry) || len(p.allow) > 0 && !matchesAny(p.allow, n.Registry) {
		return nil, fmt.Errorf("%s: %w by the site's lists of registries", n.Registry, errRefused)
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
		f.upstream.nudge(p.lim.nudge)
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
	w, err := p.writer() // before anything is asked for: a cache that cannot be written gets nothing
	if err != nil {
		return p.unkept(&unkeptError{err: err})
	}
	defer w.close()
	part := w.partial(ctx, f.digest, p.boot)
	defer part.leave()
	err = p.receive(ctx, u, f, part)
	if errors.Is(err, errRange) && part.size > 0 { // what was left here is longer than the blob
		part.remove()
		err = p.receive(ctx, u, f, part)
	}
	if errors.Is(err, errCorrupt) && part.doubt && part.restart() == nil {
		f.restart()
		err = p.receive(ctx, u, f, part)
	}
	if errors.Is(err, errCorrupt) {
		part.remove()
	}
	return p.unkept(err)
}

// writer opens the cache for what comes in.
func (p *puller) writer() (*writer, error) {
	if p.store.readOnly {
		return nil, fail("MER-003", p.store.dir, "the cache was opened read-only", "", "", nil)
	}
	return p.store.writer()
}

// receive brings in what of a blob is not in the file yet, and makes the file the blob.
func (p *puller) receive(ctx context.Context, u *upstream, f *fill, part *partial) error {
	body, size, err := u.open(ctx, call{method: http.MethodGet, repository: f.name.Repository, verb: "blobs",
		ref: f.digest.String(), from: part.size, patience: &f.upstream})
	if err != nil {
		return err
	}
	defer func() { body.Close() }()
	if err := p.room(ctx, f, part.size, size); err != nil {
		return &unkeptError{err: err}
	}
	what := "the blob " + f.digest.String()
	if err := part.create(); err != nil {
		return &unkeptError{err: writeError(p.store.dir, what, err)}
	}
	err = f.receive(body, part, size)
	if _, source := errors.AsType[*sourceError](err); err != nil && source {
		return err
	}
	if err == nil {
		err = part.commit()
	}
	if err != nil {
		out := &unkeptError{err: writeError(p.store.dir, what, err), at: part.size}
		if !part.doubt {
			out.state = cloneHash(part.hash)
		}
		part.remove() // its readers have it open
		return out
	}
	p.used.add(part.size)
	return nil
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
