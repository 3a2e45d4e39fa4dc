package faults

import (
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// dns makes the upstream a name that a server of the test resolves, in a mount namespace with a resolv.conf of
// its own.
func (b *bench) dns(t *testing.T, wrap []string) (string, []string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.53.53.53:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go answers(pc, &b.deaf)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.53.53.53\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(b.o.addr)
	if err != nil {
		t.Fatal(err)
	}
	b.o.srv.SetKeepAlivesEnabled(false) // a connection that is kept needs no name
	in := []string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf}
	return "http://origin.test:" + port, append(in, wrap...)
}

func dnsGone(_ *testing.T, b *bench) func() {
	b.deaf.Store(true)
	return func() { b.deaf.Store(false) }
}

// answers says 127.0.0.1 to every question for an IPv4 address. RFC 1035 section 4.
func answers(pc net.PacketConn, deaf *atomic.Bool) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if deaf.Load() || n < 17 {
			continue
		}
		end := 12
		for end < n && buf[end] != 0 {
			end += int(buf[end]) + 1
		}
		if end += 5; end > n {
			continue
		}
		out := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, buf[12:end]...)
		if buf[end-3] == 1 { // type A
			out[7] = 1
			out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
		}
		pc.WriteTo(out, from)
	}
}
