// Package socket connects to the gRPC services behind a Unix socket on this node. It says quickly and in one
// way when nobody is there, and finds the service again after it was restarted.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/edgeprep/edgeprep/internal/host"
)

const (
	// maxMessage is containerd's own limit (defaults.DefaultMaxRecvMsgSize); gRPC's 4 MiB is too small for
	// a node with many images.
	maxMessage = 16 << 20
	// readyWithin bounds the wait for a socket that accepts and then says nothing.
	readyWithin = 5 * time.Second
	// idleAfter is when an unused connection is dropped; the next call makes it again.
	idleAfter = time.Minute
)

// Conn is a connection that is made when it is first needed.
type Conn struct {
	path string
	opts []grpc.DialOption

	mu     sync.Mutex
	cc     *grpc.ClientConn
	closed bool
}

// New prepares a connection to the socket at path; nothing is dialled yet.
func New(path string, opts ...grpc.DialOption) *Conn {
	return &Conn{path: path, opts: opts}
}

// Path is the socket's path.
func (c *Conn) Path() string { return c.path }

// Close closes the connection. The Conn cannot be used after it.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.cc == nil {
		return nil
	}
	err := c.cc.Close()
	c.cc = nil
	return err
}

// Ready gives a connection on which calls will be answered, or an error that wraps host.ErrUnavailable at
// once when nobody listens.
func (c *Conn) Ready(ctx context.Context) (*grpc.ClientConn, error) {
	cc, err := c.client()
	if err != nil {
		return nil, err
	}
	if cc.GetState() == connectivity.Ready {
		return cc, nil
	}
	// gRPC would retry with a growing delay; a plain connect says at once whether somebody listens.
	if err := c.Probe(ctx); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		s := cc.GetState()
		switch s {
		case connectivity.Ready:
			return cc, nil
		case connectivity.TransientFailure:
			cc.ResetConnectBackoff()
		}
		cc.Connect()
		if !cc.WaitForStateChange(wait, s) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%s accepts connections but does not answer: %w", c.path, host.ErrUnavailable)
		}
	}
}

// Lazy gives the connection without waiting: for callers that wait for a service to come up themselves.
func (c *Conn) Lazy() (*grpc.ClientConn, error) { return c.client() }

func (c *Conn) client() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("%s: connection is closed", c.path)
	}
	if c.cc != nil {
		return c.cc, nil
	}
	if !filepath.IsAbs(c.path) {
		return nil, fmt.Errorf("socket %q is not an absolute path", c.path)
	}
	opts := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.path)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: readyWithin,
		}),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(idleAfter), // not everybody closes what is asked once
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}, c.opts...)
	// The authority must not be the path: servers refuse a slash in it. passthrough asks no resolver.
	cc, err := grpc.NewClient("passthrough:///localhost", opts...)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", c.path, err)
	}
	c.cc = cc
	return cc, nil
}

// Probe says whether somebody listens now: an error that wraps host.ErrUnavailable when not.
func (c *Conn) Probe(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: readyWithin}).DialContext(ctx, "unix", c.path)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Errorf("socket %s: %w: %w", c.path, err, host.ErrUnavailable)
	}
	return conn.Close()
}
