package mirror

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// start serves a cache until the test ends, and gives its end.
func start(t *testing.T, cfg Config) (*Server, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Listen(ctx, cfg)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop := func() error { cancel(); return <-done }
	t.Cleanup(cancel)
	return s, stop
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "s")
}

func TestServe(t *testing.T) {
	t.Parallel()
	store, set := loaded(t)
	sock := socketPath(t)
	var logged bytes.Buffer
	s, stop := start(t, Config{Cache: store.Dir(), Listen: "127.0.0.1:0", Admin: sock, AccessLog: true,
		Logger: slog.New(slog.NewJSONHandler(&logged, nil))})
	pullAll(t, s.URL(), set)
	nonce := ProbeRepository + "/n0nce"
	if a := get(t, s.URL()+"/v2/"+nonce+"/manifests/x?ns=quay.io", "User-Agent", "containerd/2.4.2"); a.StatusCode != 404 {
		t.Errorf("probe: %s", a.Status)
	}
	admin := AdminClient(sock)
	misses, err := admin.Misses(t.Context(), nonce)
	if err != nil || len(misses) != 1 || misses[0].NS != "quay.io" || misses[0].Agent != "containerd/2.4.2" || misses[0].Reference != "x" {
		t.Errorf("%+v %v", misses, err)
	}
	if other, err := admin.Misses(t.Context(), "none"); len(other) != 0 || err != nil {
		t.Errorf("%+v %v", other, err)
	}
	h, err := admin.Health(t.Context())
	if err != nil || h.Status != "ok" || h.Cache != store.Dir() || h.Listen != s.Addr().String() || h.PID != os.Getpid() {
		t.Errorf("%+v %v", h, err)
	}
	for _, p := range []string{"/misses", "/healthz", "/v2/misses"} {
		if a := get(t, s.URL()+p); a.StatusCode != 404 {
			t.Errorf("%s on the data port: %s", p, a.Status)
		}
	}
	must(t, stop())
	if _, err := admin.Health(t.Context()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("stopped: %v", err)
	}
	if n := strings.Count(logged.String(), `"outcome":"hit"`); n < len(set.Images) || !strings.Contains(logged.String(), `"outcome":"miss"`) {
		t.Errorf("%d hits logged", n)
	}
	if v, err := store.Verify(t.Context(), false, nil); err != nil || len(v.Foreign) > 0 {
		t.Errorf("serving left %+v %v", v.Foreign, err)
	}
}

// A server must be there when its disk comes late.
func TestServeBeforeTheCacheIsThere(t *testing.T) {
	t.Parallel()
	full, set := loaded(t)
	dir := filepath.Join(tempDir(t), "later")
	s, stop := start(t, Config{Cache: dir, Listen: "127.0.0.1:0"})
	if a := get(t, s.URL()+"/v2/library/edge-web/manifests/1.0"); a.StatusCode != 404 {
		t.Error(a.Status)
	}
	must(t, os.Rename(full.Dir(), dir))
	pullAll(t, s.URL(), set)
	must(t, stop())
}

func TestAdminSocketOfAKilledServer(t *testing.T) {
	t.Parallel()
	sock := socketPath(t)
	must(t, os.MkdirAll(filepath.Dir(sock), 0o755))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	_, stop := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0", Admin: sock})
	if _, err := AdminClient(sock).Health(t.Context()); err != nil {
		t.Error(err)
	}
	second, stopSecond := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0", Admin: sock})
	if a := get(t, second.URL()+"/v2/"); a.StatusCode != 200 { // it serves, without taking the other's socket
		t.Error(a.Status)
	}
	must(t, stopSecond())
	if _, err := AdminClient(sock).Health(t.Context()); err != nil {
		t.Errorf("the first one's socket: %v", err)
	}
	must(t, stop())
}

func TestListenErrors(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	plain := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(plain, nil, 0o644))
	for id, cfg := range map[string]Config{
		"MER-010": {Cache: t.TempDir(), Listen: l.Addr().String()},
		"MER-011": {Cache: t.TempDir(), Listen: "192.0.2.1:5000"},
		"MER-012": {Cache: t.TempDir(), Listen: "127.0.0.1:0", TLSCert: plain, TLSKey: plain},
		"MER-001": {Cache: plain, Listen: "127.0.0.1:0"},
	} {
		_, err := Listen(t.Context(), cfg)
		if ds := diag.Of(err); len(ds) != 1 || ds[0].ID != id {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A running download is finished, for a while, when the server is told to stop.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 12<<20)
	store := open(t, tempDir(t))
	load(t, store, sourceOf(set))
	s, stop := start(t, Config{Cache: store.Dir(), Listen: "127.0.0.1:0"})
	conn, err := net.Dial("tcp", s.Addr().String())
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /v2/x/blobs/"+layer+" HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	tr := &http.Transport{DisableKeepAlives: true}
	for err == nil { // until it does not take anyone new
		var r *http.Response
		if r, err = (&http.Client{Transport: tr}).Get(s.URL() + "/v2/"); err == nil {
			r.Body.Close()
		}
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, set.Blob(layer)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	must(t, <-stopped)
}

func TestNotify(t *testing.T) {
	dir, err := os.MkdirTemp("", "n")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/n", Net: "unixgram"})
	must(t, err)
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", dir+"/n")
	t.Setenv("WATCHDOG_USEC", "60000")
	_, stop := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0"})
	next := func() string {
		buf := make([]byte, 100)
		must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, err := c.Read(buf)
		must(t, err)
		return string(buf[:n])
	}
	if got := next(); got != "READY=1" {
		t.Error(got)
	}
	if got := next(); got != "WATCHDOG=1" {
		t.Error(got)
	}
	must(t, stop())
	got := next()
	for got == "WATCHDOG=1" {
		got = next()
	}
	if got != "STOPPING=1" {
		t.Error(got)
	}
}

// A client that sends its header byte by byte, or never, is cut off by a limit that is set.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	s := &Server{log: slog.New(slog.DiscardHandler)}
	srv := s.server(http.NotFoundHandler())
	if srv.ReadHeaderTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 || srv.WriteTimeout != 0 {
		t.Errorf("%+v", srv)
	}
}

func TestServeTLS(t *testing.T) {
	t.Parallel()
	store, set := loaded(t)
	cert, key, ca := certificate(t)
	s, stop := start(t, Config{Cache: store.Dir(), Listen: "127.0.0.1:0", TLSCert: cert, TLSKey: key})
	c, err := NewClient(s.URL(), ClientOptions{CA: ca})
	must(t, err)
	defer c.Close()
	r, err := c.Walk(t.Context(), imagetest.WebName, "linux/arm64", true)
	if err != nil || !r.OK() || r.Digest != set.Digests()[imagetest.WebName] {
		t.Errorf("%+v %v", r, err)
	}
	conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	must(t, err)
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("protocol %q", p)
	}
	untrusted, err := NewClient(s.URL(), ClientOptions{})
	must(t, err)
	if _, err := untrusted.Resolve(t.Context(), imagetest.WebName); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("untrusted: %v", err)
	}
	must(t, stop())
}

func certificate(t *testing.T) (cert, key string, ca []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	must(t, err)
	kder, err := x509.MarshalECPrivateKey(k)
	must(t, err)
	dir := t.TempDir()
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	cert, key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	must(t, os.WriteFile(cert, ca, 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder}), 0o600))
	return cert, key, ca
}

// A mirror whose cache is missing serves, and says at its start that it keeps nothing and what to type.
func TestMissingCacheIsSaidAtStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	var log bytes.Buffer // a handler writes under its own lock, and all is over when it is read
	ctx, stop := context.WithCancel(t.Context())
	s, err := Listen(ctx, Config{Cache: dir, Listen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "mkdir -p "+dir) {
		t.Errorf("log: %s", log.String())
	}
}
