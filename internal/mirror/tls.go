package mirror

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often files that may be replaced under a running server are looked at, at most.
const lookEvery = time.Second

// watchedFiles says when files changed. It looks only when it is asked: there is nothing that runs.
type watchedFiles struct {
	names  []string
	looked time.Time
	seen   []fileKey
}

// changed says whether a file is another one than the last time that this said so.
func (f *watchedFiles) changed(now time.Time) bool {
	if f.seen != nil && now.Sub(f.looked) < lookEvery && !now.Before(f.looked) {
		return false
	}
	f.looked = now
	keys := make([]fileKey, len(f.names))
	same := f.seen != nil
	for i, n := range f.names {
		if fi, err := os.Stat(n); err == nil { // through links: that is how Kubernetes and certbot replace files
			keys[i] = keyOf(fi)
		}
		same = same && keys[i] == f.seen[i]
	}
	f.seen = keys
	return !same
}

// certificates are the data port's TLS files. They are read again when they changed; a pair that does not
// match, as between the two renames of a rotation, leaves the one that is in use.
type certificates struct {
	cert, key, clientCA string
	log                 *slog.Logger

	mu      sync.Mutex
	files   watchedFiles
	config  *tls.Config
	expires time.Time
	failed  uint64 // reloads that failed
}

// newCertificates reads the files for the first time.
func newCertificates(cfg Config, log *slog.Logger) (*certificates, error) {
	if cfg.TLSCert == "" && cfg.TLSKey == "" {
		if cfg.TLSClientCA != "" {
			return nil, fail("MER-070", cfg.TLSClientCA, "client certificates need TLS, and there is no certificate", "",
				"set [mirror.tls] cert and key, too", nil)
		}
		return nil, nil //nolint:nilnil // no TLS
	}
	c := &certificates{cert: cfg.TLSCert, key: cfg.TLSKey, clientCA: cfg.TLSClientCA, log: log}
	c.files.names = []string{c.cert, c.key}
	if c.clientCA != "" {
		c.files.names = append(c.files.names, c.clientCA)
	}
	c.files.changed(time.Now())
	return c, c.load()
}

// load reads the files.
func (c *certificates) load() error {
	cert, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fail("MER-012", c.cert, "the TLS certificate or key cannot be used", "",
			"set [mirror.tls] cert and key to a matching pair of PEM files", err)
	}
	// Over HTTP/2 one connection carries a third of what it can.
	t := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	if c.clientCA != "" {
		if t.ClientCAs, err = readPool(c.clientCA); err != nil {
			return fail("MER-070", c.clientCA, "the CA of client certificates cannot be used", "",
				"set [mirror.tls] client_ca to a PEM file with certificates", err)
		}
		// Who shows none may have a token; guard decides.
		t.ClientAuth = tls.VerifyClientCertIfGiven
		t.SessionTicketsDisabled = true // a resumed session would outlive a CA that was taken away
	}
	c.config, c.expires = t, cert.Leaf.NotAfter
	return nil
}

func readPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in it")
	}
	return pool, nil
}

// current is the configuration of the next connection.
func (c *certificates) current(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.files.changed(time.Now()) {
		return c.config, nil
	}
	if err := c.load(); err != nil {
		c.failed++
		c.log.Error("TLS files changed and cannot be used; those from before stay in use", "error", err)
	} else {
		c.log.Info("TLS files changed and are in use", "certificate", c.cert, "until", c.expires)
	}
	return c.config, nil
}

// state says until when the certificate is good, and how many reloads failed.
func (c *certificates) state() (expires time.Time, failed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expires, c.failed
}
