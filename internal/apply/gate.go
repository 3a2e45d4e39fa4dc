package apply

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Prober asks once whether a mirror answers for everything it must.
type Prober func(ctx context.Context, g resource.HTTPGate, files GateFiles) error

// GateFiles are the contents of the files that a gate names.
type GateFiles struct{ CA, ClientCert, ClientKey []byte }

const (
	gateWithin  = 30 * time.Second // when the gate does not say
	gatePause   = 250 * time.Millisecond
	gateRequest = 5 * time.Second
)

// prove asks until there is a good answer; the last bad one is the error.
func (s *session) prove(g resource.Gate) error {
	within := g.Within
	if within <= 0 {
		within = gateWithin
	}
	ctx, cancel := context.WithTimeout(s.ctx, within)
	defer cancel()
	ask, err := s.question(g)
	if err != nil {
		return err
	}
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if s.ctx.Err() != nil {
				return s.ctx.Err()
			}
			return fmt.Errorf("not within %s: %w", within, err)
		case <-time.After(gatePause):
		}
	}
}

func (s *session) question(g resource.Gate) (func(context.Context) error, error) {
	if g.CRI != nil {
		return func(ctx context.Context) error {
			return hasImages(ctx, s.r.CRI(g.CRI.Endpoint), *g.CRI)
		}, nil
	}
	var files GateFiles
	for name, to := range map[string]*[]byte{g.HTTP.CA: &files.CA, g.HTTP.ClientCert: &files.ClientCert, g.HTTP.ClientKey: &files.ClientKey} {
		if name == "" {
			continue
		}
		var err error
		if *to, err = s.fs.ReadFile(name, 0); err != nil {
			return nil, err
		}
	}
	probe := s.e.HTTP
	if probe == nil {
		probe = Probe
	}
	return func(ctx context.Context) error { return probe(ctx, *g.HTTP, files) }, nil
}

// hasImages asks CRI whether it answers, and for the images that it must have.
func hasImages(ctx context.Context, c host.CRI, g resource.CRIGate) error {
	if _, err := c.Version(ctx); err != nil {
		return err
	}
	want := slices.Clone(g.Images)
	if g.Sandbox {
		st, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if st.SandboxImage != "" {
			want = append(want, st.SandboxImage)
		}
	}
	for _, ref := range want {
		_, ok, err := c.ImageStatus(ctx, ref)
		if err != nil {
			return err
		}
		if !ok {
			return &diag.Diagnostic{ID: "MER-086", Severity: diag.Error, What: "containerd does not have the image " + ref,
				Why: "the mirror's pod cannot start without it, and only the mirror could serve it",
				Fix: "add an archive that has it to [images] archives; crictl inspecti " + ref}
		}
	}
	return nil
}

// Probe asks a mirror the way containerd does: /v2/, then a HEAD of each manifest with ?ns=. Proxies of the
// environment are not used: the mirror is on this node or a neighbour.
func Probe(ctx context.Context, g resource.HTTPGate, files GateFiles) error {
	tr := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if len(files.CA) > 0 {
		tr.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !tr.TLSClientConfig.RootCAs.AppendCertsFromPEM(files.CA) {
			return fmt.Errorf("%s: no certificate in it", g.CA)
		}
	}
	if len(files.ClientCert) > 0 {
		pair, err := tls.X509KeyPair(files.ClientCert, files.ClientKey)
		if err != nil {
			return fmt.Errorf("%s and %s: %w", g.ClientCert, g.ClientKey, err)
		}
		tr.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: gateRequest}
	base := strings.TrimSuffix(g.URL, "/")
	if err := get(ctx, client, http.MethodGet, base+"/v2/"); err != nil {
		return err
	}
	for _, name := range g.Names {
		if err := get(ctx, client, http.MethodHead, base+manifestURL(name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// manifestURL is where a mirror has a reference: "docker.io/library/busybox:1.36".
func manifestURL(name string) string {
	registry, rest, _ := strings.Cut(name, "/")
	repo, ref := rest, "latest"
	if r, digest, ok := strings.Cut(rest, "@"); ok {
		repo, ref = r, digest
	}
	if i := strings.LastIndexByte(repo, ':'); i >= 0 {
		if !strings.Contains(ref, ":") {
			ref = repo[i+1:]
		}
		repo = repo[:i]
	}
	return "/v2/" + repo + "/manifests/" + ref + "?ns=" + url.QueryEscape(registry)
}

func get(ctx context.Context, client *http.Client, method, u string) error {
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return err
	}
	// As containerd asks: core/remotes/docker/resolver.go.
	req.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, "+
		"application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, u, res.Status)
	}
	return nil
}
