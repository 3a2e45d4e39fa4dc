package mirror

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
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
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	n    int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	tmpl := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a.cert = a.sign(t, tmpl, tmpl, a.key)
	a.file = filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600))
	return a
}

func (a *authority) sign(t testing.TB, tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	a.n++
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(a.n), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, a.key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

// pair writes a certificate for 127.0.0.1, for a server or a client, over cert and key.
func (a *authority) pair(t testing.TB, cert, key string) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := a.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, k)
	der, err := x509.MarshalECPrivateKey(k)
	must(t, err)
	must(t, writeFile(cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))))
	must(t, writeFile(key, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))))
	return c
}

// secured is a server with TLS, a client CA and tokens, and the files that it has them from.
type secured struct {
	*Server
	ca              *authority
	cert, key, toks string
	log             *LogQueue
	logged          *bytes.Buffer
	stop            func() error
}

const goodToken = "0123456789abcdef-one"

func newSecured(t *testing.T, store *Store) *secured {
	t.Helper()
	s := &secured{ca: newAuthority(t), logged: &bytes.Buffer{}}
	dir := t.TempDir()
	s.cert, s.key, s.toks = filepath.Join(dir, "c"), filepath.Join(dir, "k"), filepath.Join(dir, "t")
	s.ca.pair(t, s.cert, s.key)
	must(t, writeFile(s.toks, "# who may pull\n"+goodToken+"\n"))
	s.log = NewLogQueue(s.logged)
	t.Cleanup(func() { s.log.Close(time.Minute) })
	s.Server, s.stop = start(t, Config{Cache: store.Dir(), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0", TLSCert: s.cert, TLSKey: s.key,
		TLSClientCA: s.ca.file, Tokens: s.toks, Logger: slog.New(slog.NewTextHandler(s.log, nil))})
	return s
}

// ask asks on a connection of its own, with a client certificate if there is one.
func (s *secured) ask(t testing.TB, path string, client *tls.Certificate, header ...string) *http.Response {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if client != nil {
		c.Certificates = []tls.Certificate{*client}
	}
	tr := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+path, http.NoBody)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return &http.Response{Status: err.Error()}
	}
	resp.Body.Close()
	return resp
}

const webManifest = "/v2/library/edge-web/manifests/1.0"

func TestOnlyWhoHasACertificateOrATokenMayPull(t *testing.T) {
	t.Parallel()
	store, _ := loaded(t)
	s := newSecured(t, store)
	dir := t.TempDir()
	s.ca.pair(t, dir+"/c", dir+"/k")
	own, err := tls.LoadX509KeyPair(dir+"/c", dir+"/k")
	must(t, err)
	newAuthority(t).pair(t, dir+"/oc", dir+"/ok")
	foreign, err := tls.LoadX509KeyPair(dir+"/oc", dir+"/ok")
	must(t, err)
	basic := func(password string) string {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth("edge", password)
		return r.Header.Get("Authorization")
	}
	for name, c := range map[string]struct {
		client *tls.Certificate
		auth   string
		want   int
	}{
		"nothing": {nil, "", 401}, "certificate": {&own, "", 200}, "certificate of another": {&foreign, "", 0},
		"bearer": {nil, "Bearer " + goodToken, 200}, "lower case": {nil, "bearer " + goodToken, 200}, "basic": {nil, basic(goodToken), 200},
		"wrong": {nil, basic("x" + goodToken), 401}, "part": {nil, "Bearer " + goodToken[:16], 401}, "empty": {nil, basic(""), 401},
		"no scheme": {nil, goodToken, 401}, "comment": {nil, "Bearer # who may pull", 401}, "certificate, wrong token": {&own, basic("x"), 200},
	} {
		for _, p := range []string{"/v2/", webManifest} {
			a := s.ask(t, p, c.client, "Authorization", c.auth)
			if a.StatusCode != c.want {
				t.Errorf("%s: %s: %s, want %d", name, p, a.Status, c.want)
			}
			if challenge := a.Header.Get("WWW-Authenticate"); (challenge != "") != (c.want == 401) || c.want == 401 && !strings.HasPrefix(challenge, "Basic ") {
				t.Errorf("%s: %q", name, challenge)
			}
		}
	}
	if !s.notifier().answers(t.Context()) {
		t.Error("the watchdog takes a mirror that asks for tokens for dead")
	}
	m := scrape(t, metricsURL(s.Server))
	refused := m[`edgeprep_mirror_requests_total{outcome="refused",registry="other"}`] + // until somebody is let in, its registry has no label
		m[`edgeprep_mirror_requests_total{outcome="refused",registry="docker.io"}`]
	if refused == 0 || m["edgeprep_mirror_certificate_expiry_timestamp_seconds"] < float64(time.Now().Unix()) {
		t.Errorf("%v", m)
	}
	must(t, s.stop())
	s.log.Close(time.Minute)
	if strings.Contains(s.logged.String(), goodToken) {
		t.Error("a token is in the log")
	}
	if !strings.Contains(s.logged.String(), "outcome=refused") {
		t.Error("refusals are not logged")
	}
}

// soon looks again until it is so: files are looked at once a second.
func soon(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// Certificates, client CA and tokens are replaced under a running server; broken ones leave those in use.
func TestCertificatesAndTokensAreReadAgain(t *testing.T) {
	t.Parallel()
	store, _ := loaded(t)
	s := newSecured(t, store)
	serial := func() int64 {
		a := s.ask(t, "/v2/", nil, "Authorization", "Bearer "+goodToken)
		if a.TLS == nil {
			return 0
		}
		return a.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	first := serial()
	key, err := os.ReadFile(s.key)
	must(t, err)
	must(t, writeFile(s.key, "broken"))
	failed := func() float64 {
		return scrape(t, metricsURL(s.Server))["edgeprep_mirror_certificate_reload_failures_total"]
	}
	soon(t, "the broken key is seen", func() bool { return serial() == first && failed() > 0 })
	must(t, writeFile(s.key, string(key)))
	second := s.ca.pair(t, s.cert, s.key).SerialNumber.Int64()
	soon(t, "the new certificate is in use", func() bool { return serial() == second })

	admits := func(token string) bool {
		return s.ask(t, webManifest, nil, "Authorization", "Bearer "+token).StatusCode == 200
	}
	const other = "0123456789abcdef-two"
	must(t, writeFile(s.toks, goodToken+"\n"+other+"\n"))
	soon(t, "both tokens are good", func() bool { return admits(other) && admits(goodToken) })
	must(t, writeFile(s.toks, other+"\n"))
	soon(t, "the old token is good no more", func() bool { return !admits(goodToken) })
	must(t, os.Remove(s.toks))
	if !admits(other) {
		t.Error("a file that is gone took the tokens with it")
	}
	must(t, s.stop())
	s.log.Close(time.Minute)
	for _, want := range []string{"TLS files changed and cannot be used", "TLS files changed and are in use", "tokens changed and are in use"} {
		if !strings.Contains(s.logged.String(), want) {
			t.Errorf("not in the log: %s", want)
		}
	}
	if strings.Contains(s.logged.String(), other) {
		t.Error("a token is in the log")
	}
}

func TestServerRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	dir := t.TempDir()
	cert, key := dir+"/c", dir+"/k"
	ca.pair(t, cert, key)
	tokens := func(mode fs.FileMode, text string) string {
		f, err := os.CreateTemp(dir, "t")
		must(t, err)
		_, err = f.WriteString(text)
		must(t, err)
		must(t, f.Chmod(mode))
		must(t, f.Close())
		return f.Name()
	}
	for name, c := range map[string]struct {
		id  string
		cfg Config
	}{
		"client CA is a key":     {"MER-070", Config{TLSCert: cert, TLSKey: key, TLSClientCA: key}},
		"client CA without TLS":  {"MER-070", Config{TLSClientCA: ca.file}},
		"no tokens file":         {"MER-071", Config{Tokens: dir + "/none"}},
		"tokens for everybody":   {"MER-071", Config{Tokens: tokens(0o644, goodToken)}},
		"tokens of a group":      {"MER-071", Config{Tokens: tokens(0o660, goodToken)}},
		"no token":               {"MER-071", Config{Tokens: tokens(0o600, "# none yet\n\n")}},
		"short token":            {"MER-071", Config{Tokens: tokens(0o600, "secret\n")}},
		"user:password with one": {"MER-071", Config{Tokens: tokens(0o600, "user "+goodToken+"\n")}},
	} {
		c.cfg.Cache, c.cfg.Listen = dir+"/cache", "127.0.0.1:0"
		s, err := Listen(t.Context(), c.cfg)
		if err == nil {
			s.Close()
		}
		if ds := diag.Of(err); len(ds) != 1 || ds[0].ID != c.id || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), goodToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := Listen(t.Context(), Config{Cache: dir + "/cache", Listen: "127.0.0.1:0", Tokens: tokens(0o640, goodToken)})
	must(t, err)
	must(t, s.Close())
}

// edgeprep's own client proves a mirror that asks for a certificate.
func TestClientWithACertificate(t *testing.T) {
	t.Parallel()
	store, set := loaded(t)
	s := newSecured(t, store)
	dir := t.TempDir()
	s.ca.pair(t, dir+"/c", dir+"/k")
	read := func(p string) []byte {
		b, err := os.ReadFile(p)
		must(t, err)
		return b
	}
	c, err := NewClient(s.URL(), ClientOptions{CA: read(s.ca.file), ClientCert: read(dir + "/c"), ClientKey: read(dir + "/k")})
	must(t, err)
	defer c.Close()
	if r, err := c.Walk(t.Context(), imagetest.WebName, "linux/amd64", true); err != nil || !r.OK() || r.Digest != set.Digests()[imagetest.WebName] {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := NewClient(s.URL(), ClientOptions{ClientCert: read(dir + "/c"), ClientKey: read(s.key)}); len(diag.Of(err)) != 1 {
		t.Errorf("a pair that does not match: %v", err)
	}
	must(t, s.stop())
}
