package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// errStalled ends a body of which nothing comes any more.
var errStalled = errors.New("the upstream stopped sending")

// watched is a body that ends when nothing comes for a while. The timer runs only during a read: a slow disk
// here is not the upstream's fault.
type watched struct {
	body      io.ReadCloser
	ctx       context.Context
	cancel    context.CancelCauseFunc
	limit     time.Duration
	timer     *time.Timer
	newcomers *patience // who may end it earlier
}

func watch(body io.ReadCloser, limit time.Duration, ctx context.Context, cancel context.CancelCauseFunc, p *patience) *watched { //nolint:revive // the context is the body's own
	w := &watched{body: body, ctx: ctx, cancel: cancel, limit: limit, newcomers: p}
	w.timer = time.AfterFunc(limit, func() { cancel(errStalled) })
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.limit)
	w.newcomers.waiting(w.cancel)
	n, err := w.body.Read(p)
	w.newcomers.done(n > 0)
	w.timer.Stop()
	if cause := context.Cause(w.ctx); err != nil && !errors.Is(err, io.EOF) && (errors.Is(cause, errStalled) || errors.Is(cause, errNudged)) {
		err = cause
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	err := w.body.Close()
	w.cancel(nil)
	return err
}

// pace spreads reads so that all bodies of an upstream together keep to its rate.
type pace struct {
	rate int64 // bytes per second; 0: no limit
	mu   sync.Mutex
	next time.Time
}

// took waits until n more bytes may be read.
func (p *pace) took(ctx context.Context, n int) error {
	if p.rate <= 0 || n == 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	wait := p.next.Sub(now)
	p.mu.Unlock()
	return sleep(ctx, wait)
}

// maxBroken is how often in a row a body may break off without having brought much.
const maxBroken = 4

// resumed reads a blob's body and asks for the rest when it breaks off.
type resumed struct {
	ctx    context.Context
	u      *upstream
	call   call
	body   io.ReadCloser
	size   int64 // -1: not known, so it cannot be resumed
	pos    int64
	last   int64 // where the body broke off before
	broken int
}

func (r *resumed) Read(p []byte) (int, error) {
	if rate := r.u.pace.rate; rate > 0 { // a tenth of a second at once
		p = p[:min(int64(len(p)), max(rate/10, 4<<10))]
	}
	for {
		n, err := r.body.Read(p)
		r.pos += int64(n)
		r.u.tally().received.Add(uint64(max(n, 0)))
		switch {
		case n > 0:
			return n, r.u.pace.took(r.ctx, n)
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && (r.pos >= r.size || r.size < 0):
			return 0, io.EOF
		}
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// open opens the body of a blob from call.from on, and says how long the whole blob is, or -1.
func (u *upstream) open(ctx context.Context, c call) (*resumed, int64, error) {
	resp, err := u.do(ctx, c) //nolint:bodyclose // it becomes the body that Close closes
	if err != nil {
		return nil, 0, err
	}
	r := &resumed{ctx: ctx, u: u, call: c, body: resp.Body, pos: c.from, last: c.from, size: resp.ContentLength}
	if r.size >= 0 && resp.StatusCode == http.StatusPartialContent {
		r.size += c.from
	}
	if err := r.align(resp); err != nil {
		r.Close() //nolint:errcheck // nothing is lost
		return nil, 0, err
	}
	return r, r.size, nil
}

// again opens the body at the position that was reached.
func (r *resumed) again(cause error) error {
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	if r.pos-r.last >= 1<<20 {
		r.broken = 0
	}
	r.last = r.pos
	if !errors.Is(cause, errNudged) {
		r.broken++
	}
	if r.broken > maxBroken || r.size < 0 {
		return fmt.Errorf("%w: the body broke off at byte %d of %d: %w", errUnavailable, r.pos, r.size, cause)
	}
	r.body.Close()
	if err := sleep(r.ctx, r.u.lim.retry*time.Duration(max(0, r.broken-1))); err != nil {
		return err
	}
	r.call.from = r.pos
	resp, err := r.u.do(r.ctx, r.call) //nolint:bodyclose // it becomes the body that Close closes
	if err != nil {
		return err
	}
	r.body = resp.Body
	return r.align(resp)
}

// align makes the new body begin at the position: an upstream may ignore a range. That the bytes are those of
// the same content is for the digest to find out.
func (r *resumed) align(resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		if want := fmt.Sprintf("bytes %d-", r.pos); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			return fmt.Errorf("%w: asked for %s it sent %q", errUnavailable, want, clip(resp.Header.Get("Content-Range")))
		}
		return nil
	}
	if _, err := io.CopyN(io.Discard, r.body, r.pos); err != nil {
		return fmt.Errorf("%w: %w", errUnavailable, err)
	}
	return nil
}

func (r *resumed) Close() error { return r.body.Close() }
