package check

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/registries"
)

// deaf is an address that drops connections: the queue of its listener is full and nobody accepts.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port)).String()
	c, err := net.Dial("tcp", address) // the one that the queue holds
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return address
}

func TestProbe(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	go func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
			c.Close()
		}
	}()
	n := hosttest.New(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(web.URL, "http://"))
	n.WriteFile("/etc/hosts", "127.0.0.1 near\n")
	e := &Env{Reader: n}
	for name, tc := range map[string]struct {
		url  string
		want failure
	}{
		"a web server":              {web.URL, answered},
		"by a name of /etc/hosts":   {"http://near:" + port, answered},
		"a name that needs DNS":     {"http://far:" + port, nameNotLocal},
		"nobody listens":            {"http://127.0.0.1:1", refused},
		"packets are dropped":       {"http://" + deaf(t), silent},
		"plain where TLS is wanted": {strings.Replace(web.URL, "http", "https", 1), speaksPlain},
		"something else than a web": {"http://" + raw.Addr().String(), wrongAnswer},
		"neither a web nor TLS":     {"https://" + raw.Addr().String(), speaksPlain},
		"no URL":                    {"127.0.0.1", unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := probed{Mirror: Mirror{URL: tc.url}}
			e.probe(context.Background(), &p)
			if p.failure != tc.want {
				t.Errorf("%q (%s), want %q", p.failure, p.text, tc.want)
			}
			if f := connectFinding(e, p); (f.Status == StatusFail) != (tc.want == silent) {
				t.Errorf("REG-21 is %s", f.Status)
			}
		})
	}
}

// TestAMirrorThatWantsACertificateIsARegistry: REG-11 took its refusal for the answer of something else.
func TestAMirrorThatWantsACertificateIsARegistry(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cert := newAuthority(t, "x").issue(clock().AddDate(1, 0, 0), "127.0.0.1")
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: version, MaxVersion: version}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		e := &Env{Reader: hosttest.New(t)}
		p := probed{Mirror: Mirror{URL: srv.URL}, entry: registries.HostEntry{Endpoint: registries.Endpoint{URL: srv.URL}}}
		e.probe(t.Context(), &p)
		if p.failure != handshake || len(p.chain) == 0 {
			t.Errorf("%q (%s), %d certificates", p.failure, p.text, len(p.chain))
		}
		if f := schemeFinding(e, p); f.Status != StatusPass {
			t.Errorf("REG-11: %+v", f)
		}
		e.memo = &memo{registries: func() (registries.Effective, error) { return registries.Effective{}, nil }}
		if f := authFinding(e, p); f.Status != StatusWarn || !strings.Contains(f.Observed, "it refuses without credentials") {
			t.Errorf("REG-22: %+v", f)
		}
	}
}

func TestListeners(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/proc/net/tcp", "  sl  local_address rem_address   st tx_queue\n"+
		"   0: 0100007F:1388 00000000:0000 0A 0\n   1: 0B00000A:1388 0C00000A:C350 01 0\n   2: 00000000:1389 00000000:0000 0A 0\nrubbish\n   3: zz:1388 0 0A\n   4: 01:1388 0 0A\n")
	n.WriteFile("/proc/net/tcp6", "   0: 00000000000000000000000001000000:1388 00000000000000000000000000000000:0000 0A 0\n")
	if diff := cmp.Diff([]string{"127.0.0.1:5000", "[::1]:5000"}, listeners(n.FS(), 5000)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	n.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", "1-2,5000-5002,x\n")
	if !reserved(n.FS(), 5001) || reserved(n.FS(), 5003) || !reserved(n.FS(), 2) {
		t.Error("reserved ports are read wrongly")
	}
}

func TestUnitProxies(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/systemd/system.conf", "[Manager]\nDefaultEnvironment=HTTP_PROXY=http://default:1\n")
	n.WriteFile("/etc/systemd/system.conf.d/x.conf", "[Manager]\nDefaultEnvironment=\"NO_PROXY=10.0.0.0/8\"\n")
	n.WriteFile("/etc/systemd/system/k3s.service", "[Service]\nEnvironment=http_proxy=http://small:1\nEnvironmentFile=-/etc/default/%N\n")
	n.WriteFile("/etc/default/k3s", "CONTAINERD_HTTP_PROXY='http://own:1'\nHTTPS_PROXY=tls:1\n")
	n.UnitState().Add(host.Unit{Name: "k3s.service", Active: "active", Fragment: "/etc/systemd/system/k3s.service"})
	for starts, want := range map[bool]string{true: "http://own:1", false: "http://default:1"} {
		p, err := unitProxies(t.Context(), n, "k3s.service", starts)
		if err != nil {
			t.Fatal(err)
		}
		if p.http.value != want || p.https.value != "tls:1" || p.no.value != "10.0.0.0/8" || p.https.source != "/etc/default/k3s" {
			t.Errorf("starts %v: %+v", starts, p)
		}
		through := p.config().ProxyFunc()
		for raw, proxied := range map[string]bool{"http://10.0.0.1:5000": false, "http://192.0.2.1:5000": true, "http://127.0.0.1:5000": false, "http://localhost:5000": false} {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if via, err := through(u); err != nil || (via != nil) != proxied {
				t.Errorf("%s goes through %v, %v", raw, via, err)
			}
		}
	}
}

// TestProxiesOfTheDefaultFile: egress was not tried through the proxy of /etc/default/k3s, which the unit names as %N.
func TestProxiesOfTheDefaultFile(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/systemd/system/k3s.service", "[Service]\nEnvironmentFile=-/etc/default/%N\n")
	n.WriteFile("/etc/default/k3s", "HTTPS_PROXY=http://10.1.1.1:3128\n")
	n.UnitState().Add(host.Unit{Name: "k3s.service", Active: "active", Fragment: "/etc/systemd/system/k3s.service"})
	if all := Proxies(t.Context(), n, []string{"k3s.service"}, nil); len(all) != 1 || all[0].String() != "10.1.1.1:3128 (/etc/default/k3s)" {
		t.Errorf("%v", all)
	}
}
