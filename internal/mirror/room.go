package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// room refuses what would not fit, with all that is still to come in. f, if not nil, is the transfer that the
// room is taken for, and there is how much of it is on the disk already.
func (p *puller) room(ctx context.Context, f *fill, there, size int64) error {
	used := p.used.now(ctx) // may take a while; not under the lock
	p.mu.Lock()
	defer p.mu.Unlock()
	own := max(size-there, 0)
	need := own
	for _, other := range p.fills {
		if other != f {
			need += other.remaining()
		}
	}
	free, err := freeSpace(p.store.dir)
	if err != nil {
		return err
	}
	if free < need+p.minFree {
		return fail("MER-002", p.store.dir, fmt.Sprintf("%d bytes must be free and %d are", need+p.minFree, free),
			"what is in the cache is whole and is served", "free some space: df -h "+diag.Word(p.store.dir), unix.ENOSPC)
	}
	if limit := p.used.limit(); limit > 0 && used+need > limit {
		return fail("MER-050", p.store.dir, fmt.Sprintf("%d bytes more would make the cache longer than max_cache, %d", need, limit),
			"what is in the cache is whole and is served", "remove what is not needed with edgeprep mirror prune, or set [mirror.limits] max_cache", unix.EDQUOT)
	}
	if f != nil {
		f.plan(size)
	}
	return nil
}

// cacheSize knows about how long the blobs of a cache are together. It looks when it is asked, in the
// background of the last look's outcome, and seldom enough that looking costs little.
type cacheSize struct {
	store *Store
	max   int64

	mu    sync.Mutex
	bytes int64
	at    time.Time     // of the last look; zero: none yet
	took  time.Duration // it
	look  chan struct{} // closed when the look that runs is done; nil: none runs
}

const (
	sizeAge    = 5 * time.Second // a look is good for so long at least,
	sizeFactor = 20              // or for so many times what it took
)

func newCacheSize(s *Store, limit int64) *cacheSize { return &cacheSize{store: s, max: limit} }

func (c *cacheSize) limit() int64 {
	if c == nil {
		return 0
	}
	return c.max
}

// now is the size as it was a short while ago. Only the first time does it wait for a look.
func (c *cacheSize) now(ctx context.Context) int64 {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	if c.look == nil && time.Since(c.at) > max(sizeAge, sizeFactor*c.took) {
		c.look = make(chan struct{})
		c.store.wg.Go(c.measure)
	}
	first, look := c.at.IsZero(), c.look
	c.mu.Unlock()
	if first && look != nil {
		select {
		case <-look:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

func (c *cacheSize) measure() {
	start := time.Now()
	n := c.store.size()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes, c.at, c.took = n, time.Now(), time.Since(start)
	close(c.look)
	c.look = nil
}

// add counts what came in since the last look.
func (c *cacheSize) add(n int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += n
}

// size is how long the blobs are together.
func (s *Store) size() (n int64) {
	//nolint:errcheck // what cannot be read does not count
	filepath.WalkDir(s.path(dirBlobs), func(_ string, e fs.DirEntry, err error) error {
		if s.ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // the others count
		}
		if fi, err := e.Info(); err == nil {
			n += fi.Size()
		}
		return nil
	})
	return n
}

// keeping remembers why blobs are not kept, for Health.
type keeping struct {
	mu    sync.Mutex
	err   error
	since time.Time
	n     int
}

func isUnkept(err error) bool {
	_, ok := errors.AsType[*unkeptError](err)
	return ok
}

// unkept notes the outcome of a transfer.
func (p *puller) unkept(err error) error {
	k := &p.keeping
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		k.err, k.n = nil, 0
	case isUnkept(err):
		if k.err == nil {
			k.since = time.Now().UTC()
		}
		k.err = err
		k.n++
	}
	return err
}

// notes say what is wrong with the keeping of blobs.
func (p *puller) notes() []string {
	k := &p.keeping
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		return nil
	}
	return []string{fmt.Sprintf("since %s blobs are passed on without being kept, %d so far: %v", k.since.Format(time.DateTime), k.n, k.err)}
}
