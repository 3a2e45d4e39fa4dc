package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// freshFor is how long a tag is served without comparing it with its upstream.
const freshFor = time.Minute

// manifestCall is one look for a manifest at an upstream, for however many clients.
type manifestCall struct {
	name     Name
	upstream patience // with its upstream
	done     chan struct{}
	rec      record
	data     []byte
	from     outcome
	err      error         // the fields above are valid once done is closed
	kept     chan struct{} // closed when the manifest is in the cache, or will not be
}

// image reads a manifest of the cache.
func (s *Store) image(ref Reference) (record, []byte, error) {
	rec, err := s.lookup(ref)
	if err != nil {
		return record{}, nil, err
	}
	data, err := s.sized(rec.descriptor())
	return rec, data, err
}

// manifest gives a manifest: from the cache when that is all there is to know, else from its upstream. A tag
// of the cache is compared with its upstream, but that never takes it away or makes a client wait for long:
// it is served as it is when the upstream is not there, does not answer in time, or does not have it any more.
func (p *puller) manifest(ctx context.Context, ref Reference) (hit, outcome, error) {
	found, err := p.store.answer(ref)
	cached := err == nil
	if cached && (ref.Digest != "" || p.isFresh(ref)) {
		return found, outcomeHit, nil
	}
	u, uerr := p.at(ref.Name)
	switch {
	case uerr != nil && cached:
		return found, outcomeHit, nil
	case uerr != nil:
		return hit{}, outcomeMiss, uerr
	}
	c := p.ask(u, ref, found.rec)
	if !cached {
		return c.wait(ctx, nil)
	}
	if u.breaker.isOpen() {
		return found, outcomeStale, nil
	}
	t := time.NewTimer(p.lim.answer)
	defer t.Stop()
	asked, from, err := c.wait(ctx, t.C)
	if err != nil {
		return found, outcomeStale, nil // the cached one is the answer
	}
	return asked, from, nil
}

// wait waits for the outcome, or for enough.
func (c *manifestCall) wait(ctx context.Context, enough <-chan time.Time) (hit, outcome, error) {
	select {
	case <-c.done:
		return hit{rec: c.rec, data: c.data}, c.from, c.err
	case <-enough:
		return hit{}, outcomeMiss, errUnavailable
	case <-ctx.Done():
		return hit{}, outcomeMiss, ctx.Err()
	}
}

func (p *puller) isFresh(ref Reference) bool {
	at, ok := p.fresh.get(ref)
	return ok && time.Since(at) < freshFor
}

// ask joins or starts the look for a manifest. known is the record of the cache, if there is one.
func (p *puller) ask(u *upstream, ref Reference, known record) *manifestCall {
	key := ref.String()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.calls[key]; ok {
		c.upstream.nudge(p.lim.nudge)
		return c
	}
	c := &manifestCall{name: ref.Name, done: make(chan struct{}), kept: make(chan struct{})}
	p.calls[key] = c
	p.background(func(ctx context.Context) {
		c.rec, c.data, c.from, c.err = p.look(ctx, u, ref, known, &c.upstream)
		if c.err != nil {
			p.log.Log(ctx, levelOf(c.err, known), "manifest not pulled", "reference", key, "error", c.err)
		}
		p.settle(ctx, c, ref)
	})
	return c
}

// settle lets the clients have the outcome, and keeps what came in. They do not wait for the disk: until all is
// written, the call answers whoever asks for the tag, or for the digest that it turned out to have.
func (p *puller) settle(ctx context.Context, c *manifestCall, ref Reference) {
	keys := []string{ref.String()}
	fill := c.err == nil && c.from == outcomeFill
	p.mu.Lock()
	if own := (Reference{Name: ref.Name, Digest: c.rec.Digest}).String(); fill && p.calls[own] == nil {
		p.calls[own] = c
		keys = append(keys, own)
	}
	p.mu.Unlock()
	close(c.done)
	if fill {
		// A mirror that is told to stop first finishes what a client has been given.
		if err := p.keep(context.WithoutCancel(ctx), ref, c.rec, c.data); err != nil {
			p.log.Warn("manifest served and not kept", "reference", ref.String(), "error", err)
		}
		p.store.hits.forget(ref)
	}
	if c.err == nil && ref.Digest == "" {
		p.fresh.put(ref, time.Now(), 1)
	}
	p.mu.Lock()
	for _, k := range keys {
		delete(p.calls, k)
	}
	p.mu.Unlock()
	close(c.kept)
}

// kept waits until a manifest that came in is in the cache, or will not be.
func (p *puller) kept(ctx context.Context, ref Reference) {
	p.mu.Lock()
	c := p.calls[ref.String()]
	p.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case <-c.kept:
	case <-ctx.Done():
	}
}

// settled waits until the manifests of a repository that clients were given are in the cache, or will not be: a
// list must not lack what the same client has pulled.
func (p *puller) settled(ctx context.Context, n Name) {
	for _, c := range p.given(n) {
		select {
		case <-c.kept:
		case <-ctx.Done():
			return
		}
	}
}

// given are the calls that clients have the outcome of, and that are still being kept.
func (p *puller) given(n Name) []*manifestCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*manifestCall
	for _, c := range p.calls {
		select {
		case <-c.done:
			if c.name == n {
				out = append(out, c)
			}
		default:
		}
	}
	return out
}

// levelOf keeps the log of a node without a network quiet: what the cache has is served, and that the upstream is
// away is no news.
func levelOf(err error, known record) slog.Level {
	if known.Digest != "" && errors.Is(err, errUnavailable) {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// look asks the upstream, first only for the digest when the cache has one to compare with.
func (p *puller) look(ctx context.Context, u *upstream, ref Reference, known record, wait *patience) (record, []byte, outcome, error) {
	rec, data, err := p.store.image(ref)
	if err == nil && (ref.Digest != "" || p.isFresh(ref)) { // it came between the look and the start
		return rec, data, outcomeHit, nil
	}
	if known.Digest != "" && err == nil {
		c := call{method: http.MethodHead, repository: ref.Repository, verb: "manifests", ref: ref.Tag, patience: wait}
		resp, err := u.do(ctx, c)
		if err != nil {
			return record{}, nil, outcomeMiss, err
		}
		resp.Body.Close()
		if resp.Header.Get("Docker-Content-Digest") == known.Digest.String() {
			return rec, data, outcomeHit, nil
		}
	}
	rec, data, err = u.manifest(ctx, ref, wait)
	if err != nil {
		return record{}, nil, outcomeMiss, err
	}
	return rec, data, outcomeFill, nil
}

// manifest pulls a manifest and checks it.
func (u *upstream) manifest(ctx context.Context, ref Reference, wait *patience) (record, []byte, error) {
	c := call{method: http.MethodGet, repository: ref.Repository, verb: "manifests", ref: ref.Tag, patience: wait}
	if ref.Digest != "" {
		c.ref = ref.Digest.String()
	}
	var err error
	for range tries {
		var resp *http.Response
		if resp, err = u.do(ctx, c); err != nil {
			return record{}, nil, err
		}
		var data []byte
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		resp.Body.Close()
		u.tally().received.Add(uint64(len(data)))
		var rec record
		if err == nil {
			rec, err = checkManifest(ref, resp.Header, data)
		}
		if err == nil {
			return rec, data, nil
		}
		if werr := sleep(ctx, u.lim.retry); werr != nil {
			return record{}, nil, werr
		}
	}
	return record{}, nil, fmt.Errorf("%w: %s: %w", errUnavailable, ref, err)
}

// checkManifest makes the record of what an upstream sent, if it is what was asked for.
func checkManifest(ref Reference, h http.Header, data []byte) (record, error) {
	want := ref.Digest
	if said := digest.Digest(h.Get("Docker-Content-Digest")); want == "" && said.Validate() == nil {
		want = said
	}
	alg := digest.Canonical
	if want != "" {
		alg = want.Algorithm()
	}
	got := alg.FromBytes(data)
	if want != "" && got != want {
		return record{}, fmt.Errorf("manifest %s: %w", want, errCorrupt)
	}
	mt := baseType(h.Get("Content-Type"))
	if !isManifestType(mt) { // registries behind static servers say application/json
		mt = sniffManifest(data)
	}
	if _, err := parseManifest(data, mt); err != nil {
		return record{}, err
	}
	rec := record{Digest: got, MediaType: mt, Size: int64(len(data))}
	if rec.Size > maxManifest {
		return record{}, fmt.Errorf("manifest longer than %d bytes", maxManifest)
	}
	return rec, nil
}

// keep writes a manifest and its references: the bytes first, the tag last.
func (p *puller) keep(ctx context.Context, ref Reference, rec record, data []byte) error {
	if p.store.readOnly {
		return nil
	}
	if err := p.room(ctx, nil, 0, rec.Size); err != nil {
		return err
	}
	w, err := p.store.writer()
	if err != nil {
		return err
	}
	defer w.close()
	unlock, err := p.store.lock(ctx, unix.LOCK_SH, lockKeep)
	if err != nil {
		return err
	}
	defer unlock()
	if b, err := p.store.manifest(rec.Digest); err != nil || int64(len(b)) != rec.Size {
		if err := w.putBlob(ctx, rec.Digest, rec.Size, bytes.NewReader(data), func(int64) {}); err != nil {
			return writeError(p.store.dir, "the manifest of "+ref.String(), err)
		}
	}
	l := &loader{s: p.store, w: w}
	own := Reference{Name: ref.Name, Digest: rec.Digest}
	if _, _, err := l.record(own, rec); err != nil {
		return writeError(p.store.dir, "the reference "+own.String(), err)
	}
	if ref.Digest != "" {
		return nil
	}
	rec.Time = time.Now().UTC().Truncate(time.Second)
	if _, _, err := l.record(ref, rec); err != nil {
		return writeError(p.store.dir, "the reference "+ref.String(), err)
	}
	return nil
}
