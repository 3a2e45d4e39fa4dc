package mirror

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errNudged ends a wait for an upstream that has said nothing for a while, so that it is asked again.
var errNudged = errors.New("the upstream is asked again")

// maxNudges is how often in a row it is asked again, without a sign of it: one that is only slow must get to
// its answer.
const maxNudges = 2

// patience is that of one transfer with its upstream. An upstream that went away in the middle is waited for;
// when it comes back, the old connection may lead nowhere and nobody would know for long. So whoever comes
// later and finds that nothing came for a while has it asked again. A nil one cannot be nudged.
type patience struct {
	mu     sync.Mutex
	since  time.Time
	cancel context.CancelCauseFunc // not nil: the upstream is being waited for
	nudges int                     // since its last sign
}

// waiting begins a wait.
func (p *patience) waiting(cancel context.CancelCauseFunc) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since, p.cancel = time.Now(), cancel
}

// done ends it; with a sign of the upstream or without.
func (p *patience) done(sign bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel = nil; sign {
		p.nudges = 0
	}
}

// nudge ends a wait that has lasted, or will if it lasts on.
func (p *patience) nudge(after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := p.since
	if rest := after - time.Since(since); rest > 0 {
		time.AfterFunc(rest, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.since.Equal(since) {
				p.again()
			}
		})
		return
	}
	p.again()
}

// again ends the wait that there is; mu is held.
func (p *patience) again() {
	if p.cancel == nil || p.nudges == maxNudges {
		return
	}
	p.nudges++
	p.cancel(errNudged)
	p.cancel = nil
}
