package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

const caPath, otherCAPath = "/etc/edgeprep/ca.pem", "/etc/edgeprep/other-ca.pem"

// authority signs certificates of mirrors.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	a := authority{t: t, key: newKey(t)}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: clock().AddDate(-1, 0, 0), NotAfter: clock().AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a authority) pem() string { return toPEM(a.cert.Raw) }

func toPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// issue gives a certificate for these addresses.
func (a authority) issue(until time.Time, addresses ...string) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "mirror"}, NotBefore: clock().AddDate(-1, 0, 0), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, s := range addresses {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(s))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// front puts a server before the mirror: what handle answers is its own. With a certificate it speaks TLS.
func (s *site) front(cert *tls.Certificate, handle func(http.ResponseWriter, *http.Request) bool) {
	s.t.Helper()
	to, err := url.Parse(s.env.Mirrors[0].URL)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	pass := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handle == nil || !handle(w, r) {
			pass.ServeHTTP(w, r)
		}
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that end are what is tested
	if cert != nil {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	s.t.Cleanup(srv.Close)
	s.env.Mirrors[0].URL = srv.URL
}

// tlsSite is a healthy node whose mirror speaks https.
func tlsSite(t *testing.T, tpl template) *site {
	t.Helper()
	s := kubeadmSite(t, tpl)
	a := newAuthority(t, "site CA")
	s.node.WriteFile(caPath, a.pem())
	s.node.WriteFile(otherCAPath, newAuthority(t, "another CA").pem())
	s.https(a.issue(time.Now().AddDate(1, 0, 0), "127.0.0.1", "10.0.0.11"))
	return s
}

// https lets the mirror show a certificate, and points the runtime at it.
func (s *site) https(cert tls.Certificate) {
	s.t.Helper()
	s.front(&cert, nil)
	s.env.Mirrors[0].CA = caPath
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(s.node.ReadFile(caPath)))
	s.way = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	s.trust(caPath)
}

// trust writes hosts.toml files with a CA file.
func (s *site) trust(ca string) {
	u := s.env.Mirrors[0].URL
	for _, dir := range []string{"/_default", "/docker.io"} {
		s.node.WriteFile(certsD+dir+"/hosts.toml", "server = \""+u+"\"\nca = \""+ca+"\"\n[host.\""+u+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \""+ca+"\"\n")
	}
}

// behind adds a host behind the mirror in the entry for all registries.
func (s *site) behind(host, more string) {
	u := s.env.Mirrors[0].URL
	s.way = near{s.way}
	s.node.WriteFile(certsD+"/_default/hosts.toml", "server = \""+u+"\"\n[host.\""+u+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n[host.\""+host+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n"+more)
}

// near reaches this machine alone.
type near struct{ http.RoundTripper }

func (n near) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() != "127.0.0.1" {
		return nil, fmt.Errorf("no route to %s", r.URL.Host)
	}
	return n.RoundTripper.RoundTrip(r)
}

func TestHTTPSMirrorPasses(t *testing.T) {
	t.Parallel()
	s := tlsSite(t, newTemplate(t))
	r := s.run(Options{})
	if r.Verdict != VerdictPass {
		t.Errorf("%s: %+v", r.Verdict, r.Missing)
	}
	for _, id := range []string{"REG-11", "REG-12", "REG-13"} {
		if x, _ := r.Result(id); x.Status != StatusPass {
			t.Errorf("%s is %s: %+v", id, x.Status, x.Findings)
		}
	}
}
