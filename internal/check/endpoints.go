package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/registries"
)

// configured is one host that the runtime asks for images, as its configuration has it.
type configured struct {
	registries.HostEntry
	registry string // for which it was found first
	file     string
	source   string // file:line
	last     bool   // nothing is tried after it
}

// registryHosts are docker.io and the registries of the required references.
func (e *Env) registryHosts() []string {
	out := e.requiredHosts()
	if !slices.Contains(out, "docker.io") {
		out = append([]string{"docker.io"}, out...)
	}
	return out
}

// configuredHosts are all hosts of all registries' files but the registries themselves, once for each file.
func (e *Env) configuredHosts(eff registries.Effective) []configured {
	var out []configured
	add := func(l registries.Lookup) {
		for _, c := range order(l) {
			same := func(o configured) bool {
				return o.Same(c.Endpoint) && o.file == c.file && slices.Equal(o.Files, c.Files)
			}
			if !slices.ContainsFunc(out, same) {
				out = append(out, c)
			}
		}
	}
	for _, h := range e.registryHosts() {
		add(eff.For(h))
	}
	for _, name := range eff.Names() {
		add(eff.Registries[name])
	}
	return out
}

// order is what the runtime asks for images of a registry, one after another, without the registry itself.
func order(l registries.Lookup) []configured {
	var out []configured
	for _, h := range l.Hosts {
		if isItself(l, h.Endpoint) {
			continue
		}
		out = append(out, configured{HostEntry: h, registry: l.Registry, file: l.File, source: at(l.File, h.Line)})
	}
	// a server that is asked already is asked again; right after itself that changes nothing
	if s := l.ServerHost; s.URL != "" && !l.Upstream && (len(out) == 0 || !out[len(out)-1].Same(s.Endpoint)) {
		out = append(out, configured{HostEntry: s, registry: l.Registry, file: l.File, source: at(l.File, s.Line)})
	}
	if n := len(out); n > 0 {
		out[n-1].last = !asksItself(l)
	}
	return out
}

// isItself says whether an endpoint is the registry that it stands for.
func isItself(l registries.Lookup, e registries.Endpoint) bool {
	return e.Host() == l.Registry || l.Registry == "docker.io" && e.Host() == "registry-1.docker.io"
}

// asksItself says whether the registry itself is asked, by whatever line.
func asksItself(l registries.Lookup) bool {
	return l.Upstream || slices.ContainsFunc(l.Endpoints, func(e registries.Endpoint) bool { return isItself(l, e) })
}

// at is file:line, or the file when the line is not known.
func at(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// hostOnly is a host without its port.
func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

// withRegistries gives the effective configuration, or the finding that it cannot be read.
func (e *Env) withRegistries() (registries.Effective, []Finding) {
	eff, err := e.memo.registries()
	if err != nil {
		return eff, []Finding{couldNotRun("registries configuration", err)}
	}
	return eff, nil
}

// failure is how far a mirror was reached.
type failure string

// The failures.
const (
	answered     failure = ""
	nameNotLocal failure = "name" // it is a name that this node does not know by itself
	refused      failure = "refused"
	silent       failure = "silent" // no answer in time
	unreachable  failure = "unreachable"
	speaksTLS    failure = "tls"   // configured as http
	speaksPlain  failure = "plain" // configured as https
	handshake    failure = "handshake"
	wrongAnswer  failure = "answer" // it accepts connections and is no web server
)

// probed is a mirror and what it said to GET /v2/ in exactly the configured scheme.
type probed struct {
	Mirror
	entry   registries.HostEntry // as the runtime has it; without a file, as edgeprep would write it
	failure failure
	text    string // why
	status  int
	asks    bool                // it wants a client certificate
	chain   []*x509.Certificate // what it showed
}

// source is the request by which all that was found out.
func (p probed) source() string { return "GET " + strings.TrimSuffix(p.URL, "/") + "/v2/" }

// withProbes is nil when the mirrors were asked, else the one finding that says why not.
func (e *Env) withProbes() []Finding {
	switch {
	case len(e.Mirrors) == 0:
		return []Finding{skip("mirror endpoints", "no mirror is configured")}
	case !e.memo.facts.Live && !e.MirrorsRun:
		return []Finding{deferred("mirror endpoints", "this is a mounted image or directory: its mirror does not run; run edgeprep check on the node")}
	}
	return nil
}

// probeEndpoints asks each mirror once. Only mirrors of this site are asked: another host of a hosts.toml may be
// anywhere.
func (e *Env) probeEndpoints(ctx context.Context) []probed {
	eff, err := e.memo.registries()
	var hosts []configured
	if err == nil {
		hosts = e.configuredHosts(eff)
	}
	out := make([]probed, len(e.Mirrors))
	parallel(len(out), func(i int) {
		m := e.Mirrors[i]
		p := probed{Mirror: m, entry: registries.HostEntry{Endpoint: registries.Endpoint{URL: m.URL, CA: m.CA, ClientCert: m.ClientCert, ClientKey: m.ClientKey}}}
		if i := slices.IndexFunc(hosts, func(c configured) bool { return c.Same(p.entry.Endpoint) }); i >= 0 {
			p.entry = hosts[i].HostEntry
		}
		e.probe(ctx, &p)
		out[i] = p
	})
	return out
}

// probe connects, and asks in the configured scheme.
func (e *Env) probe(ctx context.Context, p *probed) {
	u, err := url.Parse(p.URL)
	if err != nil || u.Host == "" {
		p.failure, p.text = unreachable, "it is not a URL"
		return
	}
	address, ok := e.addressOf(u)
	if !ok {
		p.failure, p.text = nameNotLocal, u.Hostname()+" is not in /etc/hosts"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*probeTimeout)
	defer cancel()
	if err := canConnect(ctx, address); err != nil {
		p.failure, p.text = dialFailure(err), err.Error()
		return
	}
	e.ask(ctx, p, u, address)
}

// addressOf is where an endpoint is, as far as this node knows by itself.
func (e *Env) addressOf(u *url.URL) (string, bool) {
	port := u.Port()
	if port == "" {
		port = map[bool]string{true: "443", false: "80"}[u.Scheme == "https"]
	}
	name := u.Hostname()
	if _, err := netip.ParseAddr(name); err == nil {
		return net.JoinHostPort(name, port), true
	}
	if isLoopback(name) {
		return net.JoinHostPort("127.0.0.1", port), true
	}
	if addrs := hostsFile(e.Reader.FS())[strings.ToLower(name)]; len(addrs) > 0 {
		return net.JoinHostPort(addrs[0], port), true
	}
	return "", false
}

func canConnect(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: probeTimeout}
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = c.Close() // nothing was sent
	}
	return err
}

func dialFailure(err error) failure {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout():
		return silent
	}
	return unreachable
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// ask sends GET /v2/. No proxy: the mirror itself has to answer.
func (e *Env) ask(ctx context.Context, p *probed, u *url.URL, address string) {
	var mu sync.Mutex
	var chain []*x509.Certificate
	var asks bool
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: u.Hostname(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			asks = true
			return e.clientPair(p.entry), nil
		},
		InsecureSkipVerify: true, //nolint:gosec // what was shown is judged afterwards, so that the finding can say what is wrong with it
		VerifyConnection: func(s tls.ConnectionState) error {
			mu.Lock()
			defer mu.Unlock()
			chain = s.PeerCertificates
			return nil
		},
	}
	tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, network, address)
		}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Scheme+"://"+u.Host+"/v2/", http.NoBody)
	if err != nil {
		p.failure, p.text = unreachable, err.Error()
		return
	}
	req.Header.Set("User-Agent", "edgeprep-check")
	resp, err := tr.RoundTrip(req)
	mu.Lock()
	p.chain, p.asks = chain, asks
	mu.Unlock()
	if err != nil {
		p.failure, p.text = answerFailure(err, u.Scheme == "https" && len(chain) == 0), err.Error()
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // only looked at for one sentence
	p.status = resp.StatusCode
	if u.Scheme == "http" && resp.StatusCode == http.StatusBadRequest && strings.Contains(string(body), "HTTPS") {
		p.failure, p.text = speaksTLS, strings.TrimSpace(string(body)) // net/http and nginx say so in words
	}
}

// answerFailure says what is wrong with an answer that is not HTTP in the configured scheme.
func answerFailure(err error, duringHandshake bool) failure {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return speaksPlain
	case strings.Contains(err.Error(), `\x15\x03`): // an alert of TLS where a status line should be
		return speaksTLS
	case dialFailure(err) == silent:
		return silent
	case duringHandshake, strings.Contains(err.Error(), "remote error: tls:"): // it wants another certificate than it was shown
		return handshake
	}
	return wrongAnswer
}

// clientPair is what the runtime shows, or nothing; what cannot be used is found by REG-12.
func (e *Env) clientPair(h registries.HostEntry) *tls.Certificate {
	none := &tls.Certificate{}
	if h.ClientCert == "" || h.ClientKey == "" {
		return none
	}
	cert, err := e.Reader.FS().ReadFile(h.ClientCert, maxPEM)
	if err != nil {
		return none
	}
	key, err := e.Reader.FS().ReadFile(h.ClientKey, maxPEM)
	if err != nil {
		return none
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return none
	}
	return &pair
}

// maxPEM bounds files of certificates and keys.
const maxPEM = 1 << 20

// hostsFile is /etc/hosts: lower-case names to addresses.
func hostsFile(f host.FS) map[string][]string {
	out := map[string][]string{}
	for _, line := range textLines(f, "/etc/hosts") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if _, err := netip.ParseAddr(words[0]); err != nil {
			continue
		}
		for _, name := range words[1:] {
			name = strings.ToLower(name)
			out[name] = append(out[name], words[0])
		}
	}
	return out
}
