package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// fill is one transfer of a blob from an upstream into the cache, for however many readers. It writes a
// temporary file; readers follow it at their own speed and none of them, nor their leaving, touches it.
type fill struct {
	name     Name
	digest   digest.Digest
	begun    chan struct{} // closed once size and file are known, or the fill ended before
	upstream patience      // with its upstream
	landed   chan struct{} // closed at the end: the blob is durable, or failed is why not

	mu       sync.Mutex
	planned  int64 // the size that room was found for
	size     int64
	file     *os.File // a descriptor of its own: the writer closes the other one
	doubt    bool     // readers get nothing before all is verified
	users    int      // the fill itself and its readers; the last one closes file
	written  int64
	shown    int64 // what readers were woken for
	waking   bool
	verified bool
	ended    bool
	err      error
	changed  chan struct{} // closed and made anew when there is something to see
}

// Readers are woken when as much is there, or after as long: waking them for each packet costs more than the
// copying.
const (
	wakeBytes = 256 << 10
	wakeAfter = 10 * time.Millisecond
)

func newFill(n Name, d digest.Digest) *fill {
	return &fill{name: n, digest: d, size: -1, users: 1, begun: make(chan struct{}), landed: make(chan struct{}), changed: make(chan struct{})}
}

// begin lets readers in. What an earlier transfer left is in the file already; in doubt they wait.
func (f *fill) begin(file *os.File, size, there int64, doubt bool) {
	f.mu.Lock()
	f.file, f.size, f.written, f.doubt = file, size, there, doubt
	f.mu.Unlock()
	close(f.begun)
}

// restart forgets what was in the file, of which no reader had anything.
func (f *fill) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written, f.shown, f.doubt = 0, 0, false
}

// plan notes the room that is taken for it.
func (f *fill) plan(size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planned = size
}

// remaining is how much is still to come.
func (f *fill) remaining() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(0, f.planned-f.written)
}

// wrote counts bytes that are in the file.
func (f *fill) wrote(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += int64(n)
	switch {
	case f.shown == 0 || f.written-f.shown >= wakeBytes:
		f.wake()
	case !f.waking:
		f.waking = true
		time.AfterFunc(wakeAfter, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.waking = false
			f.wake()
		})
	}
}

// wake wakes the readers; mu is held.
func (f *fill) wake() {
	f.shown = f.written
	close(f.changed)
	f.changed = make(chan struct{})
}

// pass lets readers have the tail: size and digest are right.
func (f *fill) pass() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verified = true
	f.wake()
}

// end is the end of the fill. What was verified stays good for its readers, also when it could not be kept.
func (f *fill) end(err error) {
	f.mu.Lock()
	begun := f.file != nil
	f.ended, f.err = true, err
	f.wake()
	f.mu.Unlock()
	if !begun {
		close(f.begun)
	}
	close(f.landed)
	f.leave()
}

// enter is a reader that comes; false: there is no file to follow, the fill has ended or has no known size.
func (f *fill) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil || f.users == 0 || f.ended && !f.verified {
		return false
	}
	f.users++
	return true
}

// leave is a reader that goes.
func (f *fill) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users == 0 && f.file != nil {
		f.file.Close()
	}
}

// failed is why the fill ended without the blob.
func (f *fill) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// limit waits until readers may have more than pos, and says how far.
func (f *fill) limit(ctx context.Context, pos int64) (int64, error) {
	return f.reached(ctx, pos, func() int64 {
		if f.doubt {
			return 0
		}
		return min(f.written, f.size-holdBack)
	})
}

// came waits until more than pos came in, and says how much.
func (f *fill) came(ctx context.Context, pos int64) (int64, error) {
	return f.reached(ctx, pos, func() int64 { return min(f.written, f.size-1) })
}

func (f *fill) reached(ctx context.Context, pos int64, look func() int64) (int64, error) {
	for {
		f.mu.Lock()
		end, changed := look(), f.changed
		verified, ended, err := f.verified, f.ended, f.err
		f.mu.Unlock()
		_, unkept := errors.AsType[*unkeptError](err)
		switch {
		case verified:
			return f.size, nil
		case unkept && end > pos: // what is in the file is as good as before
			return end, nil
		case ended && err != nil:
			return 0, err
		case end > pos:
			return end, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// wait waits until the whole blob is there and right.
func (f *fill) wait(ctx context.Context) error {
	_, err := f.limit(ctx, f.size)
	return err
}

// receive writes a body to the file, and holds back its tail from readers until it is known to be right.
func (f *fill) receive(body io.Reader, part *partial, size int64) error {
	if size >= 0 && f.file == nil {
		own, err := part.reader()
		if err != nil {
			return err
		}
		f.begin(own, size, part.size, part.doubt)
	}
	err := f.pump(body, part, size)
	switch {
	case err != nil:
		return err
	case size >= 0 && part.size != size:
		return &sourceError{fmt.Errorf("%w: %s is not %d bytes long: %w", errUnavailable, f.digest, size, errCorrupt)}
	case !part.right():
		return &sourceError{fmt.Errorf("%w: %s: %w", errUnavailable, f.digest, errCorrupt)}
	}
	f.pass()
	return nil
}

// maxUnknown bounds a body whose length its upstream does not say.
const maxUnknown = 8 << 30

func (f *fill) pump(body io.Reader, part *partial, size int64) error {
	if size < 0 {
		size = maxUnknown
	}
	r := io.LimitReader(body, size+1-part.size)
	h := startHashing(part.hash)
	defer h.end()
	length := max(1, min(wakeBytes, size+1-part.size))
	bufs := [2][]byte{make([]byte, length), make([]byte, length)}
	for i := 0; ; i ^= 1 {
		n, err := r.Read(bufs[i])
		if n > 0 {
			if werr := part.write(bufs[i][:n]); werr != nil {
				return werr
			}
			h.add(bufs[i][:n])
			f.wrote(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &sourceError{err}
		}
	}
}

// hashBeside is from how many bytes on another goroutine hashes them: to wake it costs as much as hashing a few.
const hashBeside = 128 << 10

// hashing hashes what comes in, large parts beside their being written and the next ones being read.
type hashing struct {
	hash hash.Hash
	next chan []byte
	idle chan struct{} // holds one while nothing is being hashed
}

func startHashing(h hash.Hash) *hashing {
	out := &hashing{hash: h, next: make(chan []byte), idle: make(chan struct{}, 1)}
	out.idle <- struct{}{}
	go func() {
		for b := range out.next {
			h.Write(b)
			out.idle <- struct{}{}
		}
	}()
	return out
}

// add has b hashed, which must stay as it is until the next add returned.
func (h *hashing) add(b []byte) {
	<-h.idle
	if len(b) >= hashBeside {
		h.next <- b
		return
	}
	h.hash.Write(b)
	h.idle <- struct{}{}
}

// end waits until all is hashed.
func (h *hashing) end() {
	<-h.idle
	close(h.next)
}

// follower reads a fill as it comes in. When the fill cannot go on because of the disk, or the disk does not give back
// what was written, it goes on by a transfer of its own.
type follower struct {
	fill   *fill
	ctx    context.Context
	pos    int64
	open   func(start unkeptError, pos int64) (*direct, error)
	direct *direct // not nil: it has taken over
}

func (r *follower) Read(p []byte) (int, error) {
	if r.direct != nil {
		return r.direct.Read(p)
	}
	if r.pos >= r.fill.size {
		return 0, io.EOF
	}
	end, err := r.fill.limit(r.ctx, r.pos)
	if err == nil {
		var n int
		n, err = r.fill.file.ReadAt(p[:min(int64(len(p)), end-r.pos)], r.pos)
		r.pos += int64(n)
		if n > 0 {
			return n, nil
		}
		err = &unkeptError{err: err}
	}
	unkept, ok := errors.AsType[*unkeptError](err)
	if !ok {
		return 0, err
	}
	if r.direct, err = r.open(*unkept, r.pos); err != nil {
		return 0, err
	}
	return r.direct.Read(p)
}

// Seek moves the position; only before the first Read.
func (r *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.fill.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	r.pos = offset
	return offset, nil
}

func (r *follower) close() {
	if r.direct != nil {
		r.direct.close()
	}
	r.fill.leave()
}
