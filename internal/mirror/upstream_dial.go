package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"
)

// dialer opens connections to upstreams. Whoever can reach the mirror can name any registry, so that one that
// the site file does not name is only asked at a public address. The address is checked when the socket is
// made: a name may resolve to anything, and to something else the next time.
type dialer struct {
	named   bool
	timeout time.Duration
	proxies sync.Map // host:port of proxies that the environment names
}

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nd := net.Dialer{Timeout: d.timeout}
	if _, isProxy := d.proxies.Load(addr); !isProxy {
		nd.Control = d.control
	}
	return nd.DialContext(ctx, network, addr)
}

func (d *dialer) control(_, addr string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", addr, err)
	}
	return d.check(ap.Addr())
}

// check refuses addresses. Link-local ones are refused for named upstreams, too: a cloud's metadata service
// is there, and a redirect may lead to it.
func (d *dialer) check(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) // RFC 6598
	switch {
	case a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified(),
		!d.named && (a.IsPrivate() || a.IsLoopback() || shared.Contains(a)):
		return fmt.Errorf("%s is not a public address: %w unless an [[upstream]] names the registry", a, errRefused)
	}
	return nil
}

// proxy is the environment's proxy for a request. It resolves names itself, so only literal addresses can be
// checked here.
func (d *dialer) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if err != nil || u == nil {
		return u, err
	}
	if a, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		if err := d.check(a); err != nil {
			return nil, err
		}
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "80"
	}
	d.proxies.Store(net.JoinHostPort(u.Hostname(), port), true)
	return u, nil
}

// newTransport makes the connections of one named upstream, or of all others. HTTP/1.1 only: over HTTP/2 all
// blobs would share one connection and its window.
func newTransport(cfg Upstream, named bool, lim limits) (*http.Transport, error) {
	tc, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	d := &dialer{named: named, timeout: lim.dial}
	return &http.Transport{
		Proxy: d.proxy, DialContext: d.dial, TLSClientConfig: tc, TLSHandshakeTimeout: lim.header,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		ResponseHeaderTimeout: lim.header, DisableCompression: true, IdleConnTimeout: time.Minute,
		MaxIdleConnsPerHost: 8, ReadBufferSize: 64 << 10, MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

func tlsConfig(cfg Upstream) (*tls.Config, error) {
	tc := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: cfg.Insecure} //nolint:gosec // the site file says so
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, certError(cfg, cfg.CA, err)
		}
		if tc.RootCAs, err = x509.SystemCertPool(); err != nil {
			tc.RootCAs = x509.NewCertPool()
		}
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, certError(cfg, cfg.CA, errors.New("no certificate in it"))
		}
	}
	if cfg.ClientCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.ClientCert, cfg.ClientKey)
		if err != nil {
			return nil, certError(cfg, cfg.ClientCert, err)
		}
		tc.Certificates = []tls.Certificate{cert}
	}
	return tc, nil
}

func certError(cfg Upstream, file string, err error) error {
	return fail("MER-021", file, "a certificate of the upstream "+cfg.Host+" cannot be used", "",
		"set ca, client_cert and client_key of the [[upstream]] to PEM files that the mirror may read", err)
}

// isDown says whether an error means that nobody is there, and not only that one request went wrong.
func isDown(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
