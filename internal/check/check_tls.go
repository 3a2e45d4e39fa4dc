package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/registries"
)

func caFilesCheck() Check {
	return Check{
		ID: "REG-12", Title: "certificate files that the runtime is told of can be used",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-04"},
		Story: Story{
			Seen:    "every pull of that registry fails on the node itself: \"unable to read CA cert\"",
			Cause:   "one CA or client file that is missing or no PEM makes containerd give up on all hosts of the registry, also on a healthy second one",
			Look:    "every ca and client file of hosts.toml and registries.yaml: it is there, it is PEM, and a client's key is the certificate's",
			Fix:     "restore the file, or remove the line",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go"},
		},
		Run: func(_ context.Context, e *Env) []Finding { return e.registryFindings("REG-12", (*Env).tlsFiles) },
	}
}

func (e *Env) tlsFiles(eff registries.Effective) []Finding {
	var out []Finding
	for _, c := range e.configuredHosts(eff) {
		for _, file := range c.Files {
			f := pass(file, "", c.source)
			var err error
			if f.Observed, err = e.tlsFile(c.HostEntry, file); err != nil {
				e.unread(file, err.Error())
				f.Status, f.Expected, f.Observed = StatusFail, "a file that can be used for "+c.URL, err.Error()
				f.Remedy = Remedy{Text: "restore the file, or remove the line in " + c.source}
			}
			if !slices.ContainsFunc(out, func(o Finding) bool { return o.Subject == f.Subject && o.Status == f.Status }) {
				out = append(out, f)
			}
		}
	}
	if len(out) == 0 {
		return []Finding{skip("certificate files", "no registry file names one")}
	}
	return out
}

// tlsFile looks at one file in its role.
func (e *Env) tlsFile(h registries.HostEntry, file string) (string, error) {
	if file == h.ClientKey || file == h.ClientCert {
		if h.ClientCert == "" || h.ClientKey == "" {
			return "", errors.New("a client certificate without its key, or a key without its certificate")
		}
		pair, err := usablePair(e.Reader.FS(), h.ClientCert, h.ClientKey)
		if err != nil {
			return "", err
		}
		if file == h.ClientCert && pair.Leaf != nil {
			e.seenPlain(file, pair.Leaf)
		}
		return "certificate and key belong together", nil
	}
	certs, err := readCertificates(e.Reader.FS(), file)
	if err != nil {
		return "", err
	}
	e.seenPlain(file, certs...)
	return plural(len(certs), "certificate") + ", the first is " + certs[0].Subject.String(), nil
}

func usablePair(f host.FS, cert, key string) (tls.Certificate, error) {
	c, err := f.ReadFile(cert, maxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := f.ReadFile(key, maxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(c, k)
}

// readCertificates reads the certificates of a PEM file; one at least must be there.
func readCertificates(f host.FS, file string) ([]*x509.Certificate, error) {
	data, err := f.ReadFile(file, maxPEM)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return out, nil
}

func certificateCheck() Check {
	return Check{
		ID: "REG-13", Title: "the mirrors' certificates are signed by the configured CA, name every address, and last for the mission",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-11", "REG-12"},
		Story: Story{
			Seen:    "x509 name mismatch right after a failover; \"certificate has expired\" after storage",
			Cause:   "the certificate was issued for one address, for a year, or by another CA than the one that the runtime was given",
			Look:    "what each https mirror shows, or the file of [mirror.tls] where none runs: chain, names, and NotAfter against [checklist] power_on and mission",
			Fix:     "issue one certificate for all addresses that may become the mirror, valid beyond the mission",
			Sources: []string{"rancher/rke2#9439", "k3s-io/k3s#9839", "failure-modes: REG-13"},
		},
		Run: runCertificates,
	}
}

func runCertificates(_ context.Context, e *Env) []Finding {
	if !slices.ContainsFunc(e.wanted(), registries.Endpoint.TLS) {
		return []Finding{skip("mirror endpoints", "none speaks https")}
	}
	if fs := e.withProbes(); fs != nil {
		return append(e.certificateFile(), fs...)
	}
	var out []Finding
	for _, p := range e.memo.endpoints() {
		switch {
		case !p.entry.TLS():
		case len(p.chain) == 0:
			out = append(out, p.notAsked())
		default:
			e.seenPlain(p.URL, p.chain...)
			out = append(out, e.judgeChain(p.entry, p.chain, p.URL, "TLS handshake with "+p.URL)...)
		}
	}
	return out
}

// certificateFile judges the file of [mirror.tls] without a mirror that shows it.
func (e *Env) certificateFile() []Finding {
	file := e.Site.Mirror.TLS.Cert
	i := slices.IndexFunc(e.Mirrors, func(m Mirror) bool { return m.Admin != "" })
	if file == "" || i < 0 {
		return nil
	}
	chain, err := readCertificates(e.Reader.FS(), file)
	if err != nil {
		return []Finding{{Status: StatusFail, Subject: file, Expected: "the mirror's certificate", Observed: err.Error(), Source: "[mirror.tls] cert", Remedy: Remedy{Text: "bring the file, or correct [mirror.tls] cert"}}}
	}
	e.seenPlain(file, chain...)
	m := e.Mirrors[i]
	return e.judgeChain(registries.HostEntry{Endpoint: registries.Endpoint{URL: m.URL, CA: m.CA}}, chain, file, file)
}

// judgeChain judges what a mirror shows, or will show, as the runtime does.
func (e *Env) judgeChain(h registries.HostEntry, chain []*x509.Certificate, subject, source string) []Finding {
	u, err := url.Parse(h.URL)
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	leaf := chain[0]
	f := Finding{Status: StatusFail, Subject: subject, Expected: "signed by " + caName(h.CA) + ", for " + u.Hostname(), Source: source,
		Remedy: Remedy{Text: "issue a certificate for every address that may become the mirror, valid beyond the mission, put it and its CA into [mirror.tls], then", Command: "edgeprep apply"}}
	verified, err := e.verify(h, chain, u.Hostname())
	switch {
	case err != nil && h.SkipVerify:
		f.Status, f.Observed = StatusWarn, "it is not verified (skip_verify), and would not be accepted: "+err.Error()
		return []Finding{f}
	case err != nil:
		f.Observed = err.Error()
		return []Finding{f}
	}
	f.Status, f.Observed = e.validity(verified)
	f.Observed = leaf.Subject.String() + ", " + f.Observed
	if f.Status == StatusPass {
		f.Remedy = Remedy{}
	}
	return append([]Finding{f}, e.otherNames(leaf, subject, source)...)
}

func caName(file string) string {
	if file == "" {
		return "a CA of the system"
	}
	return file
}

// verify checks the chain and gives the day on which its first link ends.
func (e *Env) verify(h registries.HostEntry, chain []*x509.Certificate, name string) (time.Time, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a node without any is no reason: the CA file counts
	}
	if h.CA != "" {
		cas, err := readCertificates(e.Reader.FS(), h.CA)
		if err != nil {
			return time.Time{}, err
		}
		for _, c := range cas {
			roots.AddCert(c)
		}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between, CurrentTime: e.Now()})
	if err != nil {
		return time.Time{}, err
	}
	var best time.Time
	for _, path := range paths {
		if end := firstEnd(path); end.After(best) {
			best = end
		}
	}
	return best, nil
}

func firstEnd(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// otherNames warns of nodes that may become the mirror with this certificate and are not named in it. A node that
// has a certificate of its own is judged where its endpoint is.
func (e *Env) otherNames(leaf *x509.Certificate, subject, source string) []Finding {
	var missing []string
	for _, n := range e.Site.Nodes {
		if n.Address == "" || !e.Site.HasMirror(n) || leaf.VerifyHostname(n.Address) == nil || e.asked(n.Address) {
			continue
		}
		missing = append(missing, n.Address+" ("+n.Name+")")
	}
	if len(missing) == 0 {
		return nil
	}
	return []Finding{{Status: StatusWarn, Subject: subject, Expected: "every address that may become the mirror is named in it", Observed: "it does not name " + strings.Join(missing, ", "), Source: source,
		Remedy: Remedy{Text: "issue it with these addresses too, or give those nodes certificates of their own"}}}
}

// asked says whether a mirror at the address is an endpoint of this node.
func (e *Env) asked(address string) bool {
	return slices.ContainsFunc(e.Mirrors, func(m Mirror) bool {
		u, err := url.Parse(m.URL)
		return err == nil && u.Hostname() == address
	})
}
