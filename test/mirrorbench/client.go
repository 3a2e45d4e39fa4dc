package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// conn is one HTTP/1.1 connection that costs next to nothing: bodies are thrown away inside the kernel.
type conn struct {
	tcp *net.TCPConn
	raw syscall.RawConn
	buf []byte
}

func dial(ctx context.Context, addr string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.New("not a TCP connection")
	}
	raw, err := tcp.SyscallConn()
	return &conn{tcp: tcp, raw: raw, buf: make([]byte, 64<<10)}, err
}

func (c *conn) close() { c.tcp.Close() }

// reply is an answer whose body may not be read yet.
type reply struct {
	status int
	length int64
	digest digest.Digest
	body   []byte // its begin, that came with the header
}

func requestText(method, addr, path string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: containerd/2.4.2\r\nAccept: application/vnd.oci.image.manifest.v1+json, */*\r\n\r\n", method, path, addr)
}

// ask sends a request and reads the header of the answer.
func (c *conn) ask(method, path string) (reply, error) {
	if _, err := c.tcp.Write(requestText(method, c.tcp.RemoteAddr().String(), path)); err != nil {
		return reply{}, err
	}
	n := 0
	for {
		m, err := c.tcp.Read(c.buf[n:])
		if err != nil {
			return reply{}, err
		}
		n += m
		if end := bytes.Index(c.buf[:n], []byte("\r\n\r\n")); end >= 0 {
			r, err := parseReply(c.buf[:end+4])
			r.body = c.buf[end+4 : n]
			if method == "HEAD" {
				r.length = 0
			}
			return r, err
		}
	}
}

func parseReply(h []byte) (r reply, err error) {
	if len(h) < 12 {
		return r, errors.New("short header")
	}
	if r.status, err = strconv.Atoi(string(h[9:12])); err != nil {
		return r, err
	}
	r.digest = digest.Digest(headerField(h, "docker-content-digest: "))
	r.length, err = strconv.ParseInt(headerField(h, "content-length: "), 10, 64)
	return r, err
}

// headerField finds a header; name is lower case, with colon and space.
func headerField(h []byte, name string) string {
	for line := range bytes.Lines(h) {
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return string(bytes.TrimSpace(line[len(name):]))
		}
	}
	return ""
}

// drop throws bytes away inside the kernel: recv(2), MSG_TRUNC of a stream socket, tcp(7).
func (c *conn) drop(n int64, got func(int64)) error {
	for n > 0 {
		var m uintptr
		var errno syscall.Errno
		err := c.raw.Read(func(fd uintptr) bool {
			m, _, errno = unix.Syscall6(unix.SYS_RECVFROM, fd, 0, uintptr(n), unix.MSG_TRUNC, 0, 0) //nolint:gosec // a length
			return errno != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case errno != 0:
			return errno
		case m == 0:
			return io.ErrUnexpectedEOF
		}
		n -= int64(m) //nolint:gosec // at most n
		got(int64(m)) //nolint:gosec // at most n
	}
	return nil
}

// discard gets a path and throws its body away; got is told of its bytes as they come in.
func (c *conn) discard(path string, got func(int64)) error {
	r, err := c.ask("GET", path)
	if err == nil && r.status != 200 {
		err = fmt.Errorf("%s: status %d", path, r.status)
	}
	if err != nil {
		return err
	}
	got(int64(len(r.body)))
	return c.drop(r.length-int64(len(r.body)), got)
}

// verified gets a blob as containerd does: read and hashed. first is told when its first byte is here.
func (c *conn) verified(f file, first func()) error {
	r, err := c.ask("GET", blobPath(f))
	if err != nil {
		return err
	}
	h := sha256.New()
	h.Write(r.body) // a hash does not fail
	left := r.length - int64(len(r.body))
	told := len(r.body) > 0
	if told {
		first()
	}
	for left > 0 {
		n, err := c.tcp.Read(c.buf)
		if err != nil {
			return err
		}
		if !told {
			told = true
			first()
		}
		h.Write(c.buf[:n]) // a hash does not fail
		left -= int64(n)
	}
	if got := hex.EncodeToString(h.Sum(nil)); r.status != 200 || got != f.hex() {
		return fmt.Errorf("blob %s: status %d, digest %s", f.digest, r.status, got)
	}
	return nil
}

// small gets a small body whole.
func (c *conn) small(method, path string) (reply, error) {
	r, err := c.ask(method, path)
	if err != nil {
		return r, err
	}
	body := bytes.Clone(r.body)
	for int64(len(body)) < r.length {
		n, err := c.tcp.Read(c.buf)
		if err != nil {
			return r, err
		}
		body = append(body, c.buf[:n]...)
	}
	r.body = body
	return r, nil
}

// stream keeps clients downloading the image's blobs, from different ones on, until stop ends, and counts.
type stream struct {
	total  atomic.Int64
	cancel context.CancelFunc
	g      *errgroup.Group
}

func startStream(ctx context.Context, addr string, img *image, clients int) *stream {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	s := &stream{cancel: cancel, g: g}
	for i := range clients {
		g.Go(func() error { return s.client(ctx, addr, img, i) })
	}
	return s
}

func (s *stream) client(ctx context.Context, addr string, img *image, i int) error {
	c, err := dial(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil // it was stopped before it began
		}
		return err
	}
	defer c.close()
	defer context.AfterFunc(ctx, c.close)()
	for ; ; i++ {
		err := c.discard(blobPath(img.blobs[i%len(img.blobs)]), func(n int64) { s.total.Add(n) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
}

func (s *stream) stop() error {
	s.cancel()
	return s.g.Wait()
}

// pulled is how long a pull took.
type pulled struct {
	total time.Duration
	first time.Duration // from the first request of a blob to its first byte
}

// pull does what containerd does: HEAD of the tag, the manifest by digest, config and layers three at a time,
// each verified.
func pull(ctx context.Context, addr string, img *image) (pulled, error) {
	start := time.Now()
	c, err := dial(ctx, addr)
	if err != nil {
		return pulled{}, err
	}
	r, err := c.small("HEAD", manifestPath(tag))
	if err == nil && r.status != 200 {
		err = fmt.Errorf("HEAD of the tag: status %d", r.status)
	}
	if err == nil {
		r, err = c.small("GET", manifestPath(img.manifest.digest.String()))
	}
	if err == nil && (r.status != 200 || digest.FromBytes(r.body) != img.manifest.digest) {
		err = fmt.Errorf("manifest: status %d, %d bytes", r.status, len(r.body))
	}
	if err != nil {
		c.close()
		return pulled{}, err
	}
	p, err := pullBlobs(ctx, c, addr, img)
	p.total = time.Since(start)
	return p, err
}

func pullBlobs(ctx context.Context, c *conn, addr string, img *image) (p pulled, err error) {
	start := time.Now()
	var once sync.Once
	work := make(chan file, len(img.blobs))
	for _, b := range img.blobs {
		work <- b
	}
	close(work)
	var g errgroup.Group
	for range 3 {
		own := c
		c = nil
		g.Go(func() (err error) {
			if own == nil {
				if own, err = dial(ctx, addr); err != nil {
					return err
				}
			}
			defer own.close()
			for b := range work {
				if err := own.verified(b, func() { once.Do(func() { p.first = time.Since(start) }) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return p, g.Wait()
}
