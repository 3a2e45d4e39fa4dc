package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	chunk   = 256 << 10 // one read: fits the second-level cache, so that hashing and writing find it there
	inFlow  = 4         // chunks between reading and hashing
	window  = 64 << 20  // one copy_file_range: how often progress and cancellation are looked at
	flushed = 32 << 20  // how much is handed to the disk at a time, to keep it busy from the start
)

// transfer copies the source into dst. The hash is made, in the same pass, only when one is asked for:
// otherwise the kernel copies and no byte is seen.
func (p *placement) transfer(ctx context.Context, dst *os.File) (string, error) {
	if p.opts.SHA256 != "" {
		return p.hashed(ctx, dst)
	}
	n, err := p.inKernel(ctx, dst)
	if err != nil {
		return "", err
	}
	if n < p.opts.Size {
		err = p.stream(ctx, dst, n, nil)
	}
	return "", err
}

// inKernel copies with copy_file_range as far as the file systems support it.
func (p *placement) inKernel(ctx context.Context, dst *os.File) (int64, error) {
	var done int64
	for done < p.opts.Size {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		off := done
		n, err := unix.CopyFileRange(int(p.src.Fd()), &off, int(dst.Fd()), nil, int(min(window, p.opts.Size-done)), 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) {
			return done, err
		}
		if err != nil || n == 0 { // not supported between these two, or /proc-like: read it instead
			return done, nil //nolint:nilerr // as said above
		}
		done += int64(n)
		p.report(done)
		flush(dst, done-int64(n), int64(n))
	}
	return done, nil
}

// hashed copies with reading and hashing in two goroutines: on the small processors of edge nodes the hash
// costs more than the copy.
func (p *placement) hashed(ctx context.Context, dst *os.File) (string, error) {
	g, ctx := errgroup.WithContext(ctx)
	free, full := make(chan []byte, inFlow), make(chan []byte, inFlow)
	for range inFlow {
		free <- make([]byte, chunk)
	}
	h := sha256.New()
	g.Go(func() error {
		for b := range full {
			h.Write(b)
			free <- b[:cap(b)]
		}
		return nil
	})
	g.Go(func() error {
		defer close(full)
		return p.stream(ctx, dst, 0, func(b []byte) []byte {
			full <- b
			return <-free
		})
	})
	err := g.Wait()
	return sum(h), err
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// stream reads from offset at to the end and writes. Each written chunk goes to seen, which gives the next
// buffer; nil keeps one.
func (p *placement) stream(ctx context.Context, dst *os.File, at int64, seen func([]byte) []byte) error {
	buf := make([]byte, chunk)
	for start := at; at < p.opts.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := p.src.ReadAt(buf[:min(chunk, p.opts.Size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return errors.Join(p.changed(), io.ErrUnexpectedEOF)
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return err
		}
		at += int64(n)
		if at-start >= flushed || at == p.opts.Size {
			flush(dst, start, at-start)
			start = at
		}
		p.report(at)
		if seen != nil {
			buf = seen(buf[:n])
		}
	}
	return nil
}

func (p *placement) report(n int64) {
	if p.opts.Done != nil {
		p.opts.Done(n)
	}
}

// flush starts writing a range to the disk and does not wait; the fsync at the end then has little to do.
func flush(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}
