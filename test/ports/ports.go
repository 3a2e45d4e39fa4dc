// Package ports gives tests addresses that stay theirs while nobody listens at them.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports that the kernel does not hand out by itself (net.ipv4.ip_local_port_range begins at 32768). A server
// that is killed and started again at a port of that range would now and then find that a client's connection
// had taken it meanwhile.
const first, last = 10000, 32000

// Free is an address of the loopback, "127.0.0.1:PORT", that nobody listens at now, and that no connection
// takes while a test's server is down.
func Free(t testing.TB) string {
	t.Helper()
	l := Listen(t)
	defer l.Close()
	return l.Addr().String()
}

// Listen listens at such an address.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first))); err == nil {
			return l
		}
	}
	t.Fatal(err)
	return nil
}
