package mirror

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of the lists that are asked for.
const (
	maxLooks  = 4                // at once: each may hold some megabytes
	lookFor   = 30 * time.Second // in the background; clients wait less when the cache has something
	maxListed = 8 << 20          // bytes of tags that are remembered
)

// look is one list that is asked for at an upstream, for however many clients.
type look[T any] struct {
	done chan struct{}
	list []T
	err  error // the fields above are valid once done is closed
}

// looks are the lists that are being asked for.
type looks[T any] struct {
	mu    sync.Mutex
	m     map[string]*look[T]
	slots chan struct{}
}

func newLooks[T any]() *looks[T] {
	return &looks[T]{m: map[string]*look[T]{}, slots: make(chan struct{}, maxLooks)}
}

// start joins or begins a look.
func (l *looks[T]) start(p *puller, key string, ask func(context.Context) ([]T, error)) *look[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k, ok := l.m[key]; ok {
		return k
	}
	k := &look[T]{done: make(chan struct{})}
	l.m[key] = k
	p.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, lookFor)
		defer cancel()
		select {
		case l.slots <- struct{}{}:
			k.list, k.err = ask(ctx)
			<-l.slots
		case <-ctx.Done():
			k.err = ctx.Err()
		}
		l.mu.Lock()
		delete(l.m, key)
		l.mu.Unlock()
		close(k.done)
	})
	return k
}

// wait gives the list when it comes in time.
func (k *look[T]) wait(ctx context.Context, limit time.Duration) ([]T, error) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-k.done:
		return k.list, k.err
	case <-t.C:
		return nil, fmt.Errorf("%w: the list did not come within %s", errUnavailable, limit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listed is a list of tags that was read completely.
type listed struct {
	tags []string // sorted
	at   time.Time
}

// tags lists the tags that a repository has upstream and in the cache, sorted. When the cache has some, the
// upstream's list is waited for only shortly and does without. A page after the first goes on in the list that
// the first was cut from, if it is not too old.
func (p *puller) tags(ctx context.Context, n Name, later bool) ([]string, error) {
	p.settled(ctx, n)
	cached, err := p.store.tags(n)
	has := err == nil
	if l, ok := p.listed.get(n.String()); ok && later && time.Since(l.at) < freshFor {
		return union(l.tags, cached), nil
	}
	u, err := p.at(n)
	if err == nil && (!has || !u.breaker.isOpen()) {
		limit := lookFor
		if has {
			limit = p.lim.answer
		}
		k := p.tagLooks.start(p, n.String(), func(ctx context.Context) ([]string, error) { return p.askTags(ctx, u, n) })
		var tags []string
		if tags, err = k.wait(ctx, limit); err == nil {
			return union(tags, cached), nil
		}
	}
	if has {
		return cached, nil
	}
	return nil, err
}

func (p *puller) askTags(ctx context.Context, u *upstream, n Name) ([]string, error) {
	tags, err := u.tags(ctx, n.Repository)
	if err != nil {
		p.log.Info("tags not listed", "name", n.String(), "error", err)
		return nil, err
	}
	slices.Sort(tags)
	weight := 0
	for _, t := range tags {
		weight += len(t) + 16
	}
	p.listed.put(n.String(), listed{tags, time.Now()}, weight)
	return tags, nil
}

// union merges two lists into a sorted one that is never nil: in JSON an empty list must not be null.
func union(a, b []string) []string {
	out := append(append([]string{}, a...), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// referrers lists what refers to a digest upstream. It waits only shortly: the cache has an answer, too, and
// if it is that there are none.
func (p *puller) referrers(ctx context.Context, n Name, subject digest.Digest) ([]ocispec.Descriptor, error) {
	u, err := p.at(n)
	if err != nil {
		return nil, err
	}
	k := p.referrerLooks.start(p, n.String()+"@"+subject.String(), func(ctx context.Context) ([]ocispec.Descriptor, error) {
		return u.referrers(ctx, n, subject)
	})
	return k.wait(ctx, p.lim.answer)
}
