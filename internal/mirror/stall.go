package mirror

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stallTimeout is how long a client may take nothing of what is sent to it, else it would hold its connection,
// and its upstream's, for ever. One that takes a little now and then is let be: its link is slow.
const stallTimeout = 5 * time.Minute

// listenTCP listens without multipath TCP, which Go would take: its sockets have no TCP_USER_TIMEOUT.
func listenTCP(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", addr)
}

// limitStalls lets the kernel cut the connections of a listener on which nothing moves. It knows what a client
// took; a wrapper around the connection that did would cost the sendfile of every blob.
// Linux: tcp(7), TCP_USER_TIMEOUT; sockets that are accepted inherit it.
func limitStalls(l net.Listener, d time.Duration) error {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return fmt.Errorf("limit for stalled clients: %w", err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds())) //nolint:gosec // a descriptor fits
	})
	if err == nil {
		err = set
	}
	if err != nil {
		return fmt.Errorf("limit for stalled clients: %w", err)
	}
	return nil
}
