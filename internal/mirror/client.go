package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/host"
)

// ClientOptions say how an endpoint is reached.
type ClientOptions struct {
	CA []byte // PEM; empty: the system's
	// ClientCert and ClientKey, PEM, are shown to an endpoint that asks for a certificate; empty: none.
	ClientCert, ClientKey []byte
	UserAgent             string // default "edgeprep"
	// Dial replaces the dialer; nil: TCP with 5 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client pulls from a mirror as containerd does, with ?ns=, to prove that it has what it should.
type Client struct {
	base  string
	agent string
	http  *http.Client
}

// NewClient makes a client of an endpoint, "http://127.0.0.1:5000". It uses no proxy: the endpoint itself has
// to answer.
func NewClient(base string, opts ClientOptions) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fail("MER-013", "", fmt.Sprintf("endpoint %q is not an http or https URL", base), "", "write it as http://host:port", err)
	}
	tr := &http.Transport{
		DialContext: opts.Dial, DisableCompression: true, ResponseHeaderTimeout: 35 * time.Second,
		TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: 10 * time.Second, MaxIdleConnsPerHost: 4,
	}
	if tr.DialContext == nil {
		tr.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	if tr.TLSClientConfig, err = opts.tls(base); err != nil {
		return nil, err
	}
	c := &Client{base: strings.TrimRight(base, "/"), agent: opts.UserAgent, http: &http.Client{Transport: tr}}
	if c.agent == "" {
		c.agent = "edgeprep"
	}
	return c, nil
}

func (o ClientOptions) tls(base string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(o.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, fail("MER-014", "", "the CA of endpoint "+base+" holds no certificate", "", "give a PEM file", nil)
		}
	}
	if len(o.ClientCert) > 0 {
		pair, err := tls.X509KeyPair(o.ClientCert, o.ClientKey)
		if err != nil {
			return nil, fail("MER-072", "", "the client certificate for endpoint "+base+" cannot be used", "",
				"give a matching pair of PEM files", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Close frees idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// WalkResult is what a walk over HTTP found.
type WalkResult struct {
	Endpoint  string    `json:"endpoint"`
	Reference string    `json:"reference"`
	Platform  string    `json:"platform,omitempty"`
	Digest    string    `json:"digest,omitempty"`
	MediaType string    `json:"mediaType,omitempty"`
	Deep      bool      `json:"deep"`     // layers were read and hashed, not only asked for
	Contents  int       `json:"contents"` // manifests, configs and layers that are right
	Bytes     int64     `json:"bytes"`    // their sizes
	Problems  []Problem `json:"problems,omitempty"`
}

// OK says whether the image can be pulled.
func (r WalkResult) OK() bool { return len(r.Problems) == 0 }

// Has says whether the endpoint knows a reference: its manifest, nothing below it.
func (c *Client) Has(ctx context.Context, ref string) (bool, error) {
	_, err := c.Resolve(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Resolve asks for a reference as containerd's resolver does: HEAD, and the three headers have to be right.
// Not there: ErrNotFound. Nobody answers: host.ErrUnavailable.
func (c *Client) Resolve(ctx context.Context, ref string) (host.Descriptor, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return host.Descriptor{}, err
	}
	tag := r.Tag
	if r.Digest != "" {
		tag = r.Digest.String()
	}
	resp, err := c.do(ctx, http.MethodHead, requestPath(r.Name, "manifests", tag))
	if err != nil {
		return host.Descriptor{}, err
	}
	resp.Body.Close()
	d := host.Descriptor{
		MediaType: baseType(resp.Header.Get("Content-Type")), Size: resp.ContentLength,
		Digest: resp.Header.Get("Docker-Content-Digest"),
	}
	switch {
	case digestOf(d).Validate() != nil:
		return d, answerError{fmt.Sprintf("HEAD %s: no valid Docker-Content-Digest", ref)}
	case r.Digest != "" && digestOf(d) != r.Digest:
		return d, answerError{fmt.Sprintf("HEAD %s: it says it is %s", ref, d.Digest)}
	case !isManifestType(d.MediaType):
		return d, answerError{fmt.Sprintf("HEAD %s: Content-Type %q is not a manifest's", ref, clip(d.MediaType))}
	case d.Size <= 0:
		return d, answerError{fmt.Sprintf("HEAD %s: no Content-Length", ref)}
	}
	return d, nil
}

// Walk pulls a reference as a node of the platform would (empty: every platform of its index): manifests and
// configs are read and hashed, layers asked for by HEAD, or read and hashed too when deep. What is wrong with
// the image is in the result; the error is for an endpoint that cannot be asked.
func (c *Client) Walk(ctx context.Context, ref, platform string, deep bool) (WalkResult, error) {
	w := &walker{c: c, out: WalkResult{Endpoint: c.base, Reference: ref, Platform: platform, Deep: deep}, seen: map[string]bool{}}
	err := w.walk(ctx, ref)
	if err != nil && ctx.Err() == nil && !errors.Is(err, host.ErrUnavailable) {
		w.problem(err, nil, platform)
		err = nil
	}
	return w.out, err
}

type walker struct {
	c    *Client
	name Name
	out  WalkResult
	seen map[string]bool
}

func (w *walker) walk(ctx context.Context, ref string) error {
	r, err := ParseReference(ref)
	if err != nil {
		return err
	}
	w.name = r.Name
	root, err := w.c.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	w.out.Digest, w.out.MediaType = root.Digest, root.MediaType
	t, err := grow(ctx, root, w.out.Platform, w.read)
	if err != nil {
		return err
	}
	if len(t.branches) == 0 {
		return answerError{"the index has no platform " + w.out.Platform}
	}
	for _, b := range t.branches {
		if err := w.branch(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// branch looks at one manifest's blobs.
func (w *walker) branch(ctx context.Context, b branch) error {
	own := b.manifestContent()
	if !b.present {
		w.problem(b.err, &own, b.platform)
		return nil
	}
	if p := w.out.Platform; p != "" && b.platform != "" && platformRank(p, b.platform) == 0 {
		w.problem(answerError{"the image is for " + b.platform + ", not " + p}, &own, b.platform)
	}
	for _, content := range b.contents {
		if w.seen[content.Digest] {
			continue
		}
		err := w.content(ctx, content)
		if err != nil && (ctx.Err() != nil || errors.Is(err, host.ErrUnavailable)) {
			return err
		}
		if err != nil {
			w.problem(err, &content, b.platform)
			continue
		}
		w.count(content.Digest, content.Size)
	}
	return nil
}

func (w *walker) count(d string, size int64) {
	if !w.seen[d] {
		w.seen[d] = true
		w.out.Contents++
		w.out.Bytes += size
	}
}

// content checks a config or layer.
func (w *walker) content(ctx context.Context, c Content) error {
	method := http.MethodHead
	if w.out.Deep || c.Kind == KindConfig {
		method = http.MethodGet
	}
	resp, err := w.c.do(ctx, method, requestPath(w.name, "blobs", c.Digest))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.ContentLength >= 0 && resp.ContentLength != c.Size {
		return fmt.Errorf("%s is %d bytes long, not %d: %w", c.Digest, resp.ContentLength, c.Size, errCorrupt)
	}
	if method == http.MethodHead {
		return nil
	}
	return compare(resp.Body, digest.Digest(c.Digest), c.Size)
}

// compare hashes a body of known size.
func compare(r io.Reader, d digest.Digest, size int64) error {
	v := d.Verifier()
	n, err := io.CopyBuffer(v, io.LimitReader(r, size+1), make([]byte, hashBuffer))
	if err != nil {
		return fmt.Errorf("%s after %d of %d bytes: %w", d, n, size, err)
	}
	if n != size || !v.Verified() {
		return fmt.Errorf("%s, %d bytes: %w", d, n, errCorrupt)
	}
	return nil
}

// read is the walk's readFunc: manifests and configs by digest.
func (w *walker) read(ctx context.Context, d host.Descriptor) ([]byte, error) {
	verb := "blobs"
	if isManifestType(d.MediaType) {
		verb = "manifests"
	}
	if d.Size > maxManifest {
		return nil, fmt.Errorf("%s says it is %d bytes long: %w", d.Digest, d.Size, errCorrupt)
	}
	resp, err := w.c.do(ctx, http.MethodGet, requestPath(w.name, verb, d.Digest))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if int64(len(b)) != d.Size || digestOf(d).Algorithm().FromBytes(b) != digestOf(d) {
		return nil, fmt.Errorf("%s, %d bytes: %w", d.Digest, len(b), errCorrupt)
	}
	if ct := baseType(resp.Header.Get("Content-Type")); verb == "manifests" && ct != d.MediaType {
		return nil, answerError{fmt.Sprintf("%s has the Content-Type %q, not %q", d.Digest, clip(ct), d.MediaType)}
	}
	w.count(d.Digest, d.Size)
	return b, nil
}

func (w *walker) problem(err error, c *Content, platform string) {
	kind := ProblemAnswer
	switch {
	case errors.Is(err, ErrNotFound):
		kind = ProblemMissing
	case errors.Is(err, errCorrupt):
		kind = ProblemCorrupt
	}
	w.out.Problems = append(w.out.Problems, Problem{
		Kind: kind, Reference: w.out.Reference, Platform: platform, Content: c, Detail: err.Error(),
	})
}

// answerError says that a server answered, and wrongly.
type answerError struct{ msg string }

func (e answerError) Error() string { return e.msg }

// do sends a request and takes only 200.
func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("User-Agent", c.agent)
	for _, mt := range append(manifestTypes(), "*/*") {
		req.Header.Add("Accept", mt)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w: %w", c.base, host.ErrUnavailable, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusNotFound:
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %w", method, c.base+path, ErrNotFound)
	}
	resp.Body.Close()
	return nil, answerError{fmt.Sprintf("%s %s: %s", method, c.base+path, resp.Status)}
}
