package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// fill is one transfer of a blob from an upstream into the cache, for however many readers. It writes a
// temporary file; readers follow it at their own speed and none of them, nor their leaving, touches it.
type fill struct {
	name   Name
	digest digest.Digest
	begun  chan struct{} // closed once size and file are known, or the fill ended before
	landed chan struct{} // closed at the end: the blob is durable, or failed is why not

	mu       sync.Mutex
	size     int64
	file     *os.File // a descriptor of its own: the writer closes the other one
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

// begin lets readers in.
func (f *fill) begin(file *os.File, size int64) {
	f.mu.Lock()
	f.file, f.size = file, size
	f.mu.Unlock()
	close(f.begun)
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

// limit waits until there is more than pos to read, and says how far.
func (f *fill) limit(ctx context.Context, pos int64) (int64, error) {
	for {
		f.mu.Lock()
		end, changed := min(f.written, f.size-holdBack), f.changed
		verified, ended, err := f.verified, f.ended, f.err
		f.mu.Unlock()
		switch {
		case verified:
			return f.size, nil
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

// copyFrom writes the body to the file, and holds back its tail from readers until it is known to be right.
func (f *fill) copyFrom(body io.Reader, out io.Writer, size int64) error {
	file, ok := out.(*os.File)
	if !ok {
		return errors.New("not a file")
	}
	if size >= 0 {
		own, err := duplicate(file)
		if err != nil {
			return err
		}
		f.begin(own, size)
	}
	h := f.digest.Verifier()
	n, err := f.pump(body, io.MultiWriter(file, h), size)
	switch {
	case err != nil:
		return err
	case size >= 0 && n != size:
		return &sourceError{fmt.Errorf("%w: %s is not %d bytes long: %w", errUnavailable, f.digest, size, errCorrupt)}
	case !h.Verified():
		return &sourceError{fmt.Errorf("%w: %s: %w", errUnavailable, f.digest, errCorrupt)}
	}
	f.pass()
	return nil
}

// maxUnknown bounds a body whose length its upstream does not say.
const maxUnknown = 8 << 30

func (f *fill) pump(body io.Reader, out io.Writer, size int64) (int64, error) {
	if size < 0 {
		size = maxUnknown
	}
	buf := make([]byte, wakeBytes)
	r := io.LimitReader(body, size+1)
	for total := int64(0); ; {
		n, err := r.Read(buf)
		if _, werr := out.Write(buf[:n]); werr != nil {
			return total, werr
		}
		total += int64(n)
		if n > 0 {
			f.wrote(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, &sourceError{err}
		}
	}
}

// duplicate gives a second descriptor of a file that may be renamed or removed.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("second descriptor of %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil //nolint:gosec // a descriptor is not negative
}

// follower reads a fill as it comes in.
type follower struct {
	fill *fill
	ctx  context.Context
	pos  int64
}

func (r *follower) Read(p []byte) (int, error) {
	if r.pos >= r.fill.size {
		return 0, io.EOF
	}
	end, err := r.fill.limit(r.ctx, r.pos)
	if err != nil {
		return 0, err
	}
	n, err := r.fill.file.ReadAt(p[:min(int64(len(p)), end-r.pos)], r.pos)
	r.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Seek moves the position.
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
