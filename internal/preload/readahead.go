package preload

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// Digesting a file and the blobs in it is twice the work of sha256sum. So reading and the file's digest are
// done aside, and the bytes are handed over without a copy.
const (
	chunkSize = 1 << 20
	chunks    = 6
)

// readAhead reads a file once, for its digest and for whoever calls Read.
type readAhead struct {
	ready, digest, free chan *chunk
	stop                chan struct{}
	wg                  sync.WaitGroup
	hash                hash.Hash
	err                 error // of the source; valid when ready is closed

	current *chunk
	rest    []byte
}

type chunk struct {
	buf  []byte
	n    int
	refs atomic.Int32
}

// newReadAhead starts reading src. also gets every byte, in order; report, how many there were.
func newReadAhead(src *io.SectionReader, also io.Writer, report func(int64)) *readAhead {
	r := &readAhead{
		ready: make(chan *chunk, chunks), digest: make(chan *chunk, chunks), free: make(chan *chunk, chunks),
		stop: make(chan struct{}), hash: sha256.New(),
	}
	for left := src.Size(); len(r.free) < chunks; left -= chunkSize {
		r.free <- &chunk{buf: make([]byte, max(1, min(left, chunkSize)))} // small files need little
	}
	r.wg.Go(func() { r.read(src, report) })
	r.wg.Go(func() { r.sum(also) })
	return r
}

func (r *readAhead) read(src io.Reader, report func(int64)) {
	defer close(r.digest)
	defer close(r.ready)
	for total := int64(0); ; {
		var c *chunk
		select {
		case c = <-r.free:
		case <-r.stop:
			return
		}
		n, err := io.ReadFull(src, c.buf)
		if n > 0 {
			total += int64(n)
			c.n = n
			c.refs.Store(2)
			r.digest <- c // there is room for every chunk
			r.ready <- c
			report(total)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				r.err = err
			}
			return
		}
	}
}

func (r *readAhead) sum(also io.Writer) {
	w := io.MultiWriter(r.hash, also)
	for c := range r.digest {
		_, _ = w.Write(c.buf[:c.n]) // neither a hash nor the window scanner fails
		r.release(c)
	}
}

func (r *readAhead) release(c *chunk) {
	if c.refs.Add(-1) == 0 {
		r.free <- c
	}
}

func (r *readAhead) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.current != nil {
			r.release(r.current)
			r.current = nil
		}
		c, ok := <-r.ready
		if !ok {
			if r.err != nil {
				return 0, r.err
			}
			return 0, io.EOF
		}
		r.current, r.rest = c, c.buf[:c.n]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// sha256 is the digest in hex, after Read gave io.EOF.
func (r *readAhead) sha256() string {
	r.wg.Wait()
	return hex.EncodeToString(r.hash.Sum(nil))
}

// Close ends the work at any time.
func (r *readAhead) Close() {
	close(r.stop)
	r.wg.Wait()
}
