package socket_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	return func() {
		srv.Stop()
		<-done
	}
}

func newConn(t *testing.T, path string) *socket.Conn {
	t.Helper()
	c := socket.New(path)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// The service is absent, comes, goes and comes back: each time the answer is right and quick.
func TestComesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	c := newConn(t, path)
	want := func(up bool) {
		t.Helper()
		start := time.Now()
		err := c.Probe(t.Context())
		if err == nil {
			_, err = c.Ready(t.Context())
		}
		if up && err != nil || !up && !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("up is %v: %v", up, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	}
	want(false)
	stop := serve(t, path)
	want(true)
	stop()
	want(false)
	if err := os.WriteFile(path, nil, 0o600); err != nil { // no socket at all
		t.Fatal(err)
	}
	want(false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	stop = serve(t, path)
	defer stop()
	want(true)
}

func TestRelativePath(t *testing.T) {
	if _, err := newConn(t, "run/containerd.sock").Ready(t.Context()); err == nil || errors.Is(err, host.ErrUnavailable) {
		t.Errorf("%v: want an error about the path", err)
	}
}

func TestClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	defer serve(t, path)()
	c := socket.New(path)
	if _, err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Ready(t.Context()); err == nil {
		t.Error("used after Close")
	}
}

// A socket that accepts and says nothing does not hold up a caller who gives up.
func TestHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newConn(t, path).Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the caller's deadline", err)
	}
}
