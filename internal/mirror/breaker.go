package mirror

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// aliveFor is how long an answer proves that an upstream is there.
const aliveFor = 30 * time.Second

// breaker knows whether an upstream is there, so that one that is not costs nothing. It asks nothing by itself:
// a request that comes while it is open starts one probe in the background and waits only a moment for it.
type breaker struct {
	lim limits
	now func() time.Time
	run func(func(context.Context)) // starts what ends with the store

	mu     sync.Mutex
	open   bool
	good   time.Time     // last answer
	took   time.Duration // how long the last probe took that was answered: a far upstream needs longer
	paused time.Time     // the upstream asked not to be asked until then
	sign   *sign         // a probe that runs
}

// sign is a probe that runs.
type sign struct {
	done chan struct{}
	err  error // valid once done is closed
}

// ready waits until the upstream has given a sign of life, for as long as is worth it.
func (b *breaker) ready(ctx context.Context, probe func(context.Context) error) error {
	b.mu.Lock()
	now := b.now()
	if now.Before(b.paused) {
		defer b.mu.Unlock()
		return fmt.Errorf("%w: it asked not to be asked before %s", errUnavailable, b.paused.Format(time.TimeOnly))
	}
	if !b.open && now.Sub(b.good) < aliveFor {
		b.mu.Unlock()
		return nil
	}
	wait := b.lim.contact
	if b.open {
		wait = min(b.lim.contact, b.lim.open+2*b.took) // else the first pull after an outage is lost on a slow link
	}
	s := b.probing(probe)
	b.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-s.done:
		if s.err != nil {
			return fmt.Errorf("%w: %w", errUnavailable, s.err)
		}
		return nil
	case <-t.C:
		b.trip()
		return errUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
}

// probing joins or starts the probe; mu is held.
func (b *breaker) probing(probe func(context.Context) error) *sign {
	if b.sign != nil {
		return b.sign
	}
	s := &sign{done: make(chan struct{})}
	b.sign = s
	b.run(func(ctx context.Context) {
		begin := b.now()
		s.err = probe(ctx)
		b.mu.Lock()
		b.sign = nil
		b.open = s.err != nil
		if s.err == nil {
			b.good = b.now()
			b.took = b.good.Sub(begin)
		}
		b.mu.Unlock()
		close(s.done)
	})
	return s
}

// isOpen says whether the upstream counts as not there.
func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open || b.now().Before(b.paused)
}

// answered notes an answer.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open, b.good = false, b.now()
}

// trip notes that it is not there.
func (b *breaker) trip() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = true
}

// pause lets it alone for a while.
func (b *breaker) pause(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = b.now().Add(d)
}
