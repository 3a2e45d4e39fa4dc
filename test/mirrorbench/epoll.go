package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rate is what many small requests gave.
type rate struct {
	perSecond float64
	p99       time.Duration
	took      time.Duration
}

// hammer sends the same small request over many connections, each as soon as the last was answered, from one
// thread that waits for all of them with epoll.
func hammer(ctx context.Context, addr, path string, clients int, d time.Duration) (rate, error) {
	h := &hammerer{request: requestText("GET", addr, path), buf: make([]byte, 64<<10)}
	defer h.close()
	for range clients {
		c, err := dial(ctx, addr)
		if err != nil {
			return rate{}, err
		}
		defer c.close()
		if err := h.add(c); err != nil {
			return rate{}, err
		}
	}
	start := time.Now()
	if err := h.run(start, d); err != nil {
		return rate{}, err
	}
	took := time.Since(start)
	slices.Sort(h.times)
	return rate{perSecond: float64(len(h.times)) / took.Seconds(), p99: percentile(h.times, 0.99), took: took}, nil
}

func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)]
}

type hammerer struct {
	epoll   int
	request []byte
	buf     []byte
	socks   []*sock
	times   []time.Duration
	whole   int // the length of an answer that came in one piece
}

type sock struct {
	fd   int
	sent time.Time
	left int64 // of a body that has begun
}

// add takes a connection's own descriptor for a while: the caller keeps the connection open until the end.
func (h *hammerer) add(c *conn) (err error) {
	if h.socks == nil {
		if h.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
			return err
		}
	}
	s := &sock{}
	if err := c.raw.Control(func(fd uintptr) { s.fd = int(fd) }); err != nil { //nolint:gosec // a descriptor fits
		return err
	}
	h.socks = append(h.socks, s)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(len(h.socks) - 1)} //nolint:gosec // the index of the socket
	return unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, s.fd, &ev)
}

func (h *hammerer) close() { unix.Close(h.epoll) } // nothing is lost

func (h *hammerer) run(start time.Time, d time.Duration) error {
	for _, s := range h.socks {
		if err := h.send(s); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, len(h.socks))
	for time.Since(start) < d {
		n, err := unix.EpollWait(h.epoll, events, 5000)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return errors.New("no answer for 5 s")
		}
		for _, e := range events[:n] {
			if err := h.receive(h.socks[e.Fd]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *hammerer) send(s *sock) error {
	s.sent = time.Now()
	_, err := immediate(unix.SYS_WRITE, s.fd, h.request)
	return err
}

// immediate makes a system call that does not block without telling the scheduler of Go, which would cost more.
func immediate(call uintptr, fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))) //nolint:gosec // read(2) and write(2)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil //nolint:gosec // at most len(b)
}

// receive takes an answer; its header comes in one piece. Answers are alike, so most are known by their length.
func (h *hammerer) receive(s *sock) error {
	n, err := immediate(unix.SYS_READ, s.fd, h.buf)
	if err != nil {
		return err
	}
	if s.left > 0 || n != h.whole || !bytes.HasPrefix(h.buf, []byte("HTTP/1.1 200 ")) {
		if err := h.part(s, n); err != nil || s.left > 0 {
			return err
		}
	}
	h.times = append(h.times, time.Since(s.sent))
	return h.send(s)
}

// part takes a part of an answer, or one of a length that was not seen yet.
func (h *hammerer) part(s *sock, n int) error {
	got := int64(n)
	if s.left == 0 {
		end := bytes.Index(h.buf[:n], []byte("\r\n\r\n"))
		if end < 0 {
			return fmt.Errorf("%d bytes without a header's end", n)
		}
		r, err := parseReply(h.buf[:end+4])
		if err != nil || r.status != 200 {
			return fmt.Errorf("status %d: %w", r.status, err)
		}
		s.left, got = r.length, int64(n-end-4)
		if got == r.length {
			h.whole = n
		}
	}
	s.left -= got
	return nil
}
