package app

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/registries"
)

// criWithin is how long containerd may take to answer CRI after a restart.
const criWithin = 90 * time.Second

// service is the mirror of this node.
func (a *App) service(ctx context.Context, d *Desired, verify bool) (deploy.Service, error) {
	bin, err := a.program(ctx, d, verify)
	if err != nil {
		return deploy.Service{}, err
	}
	s, err := a.serving(d)
	s.Binary = bin
	return s, err
}

// serving is what this node's mirror serves, and how; the program is left out.
func (a *App) serving(d *Desired) (deploy.Service, error) {
	m := d.Site.Mirror
	up, err := a.serviceUpstreams(d.Site)
	if err != nil {
		return deploy.Service{}, err
	}
	s := deploy.Service{Listen: d.Site.Listen(d.Self), Cache: m.Cache, Upstream: m.Upstream, DefaultRegistry: m.DefaultRegistry,
		AccessLog: m.AccessLog, Metrics: m.Metrics, MaxConnections: m.Limits.MaxConnections,
		TLSCert: m.TLS.Cert, TLSKey: m.TLS.Key, CA: m.TLS.CA, ClientCA: m.TLS.ClientCA, Tokens: m.TokensFile,
		ClientCert: d.Site.Registries.ClientCert, ClientKey: d.Site.Registries.ClientKey, Names: names(d.Archives),
		Upstreams: up, Limits: serviceLimits(m.Limits)}
	return s, nil
}

// programKey is the ledger's name for the program that was installed; no path begins like it.
const programKey = "program:"

// program fingerprints the program that is put on the node; the ledger spares hashing it each time.
func (a *App) program(ctx context.Context, d *Desired, verify bool) (deploy.BinaryFile, error) {
	file, err := a.binary()
	if err != nil {
		return deploy.BinaryFile{}, err
	}
	here, err := local.New(local.Options{})
	if err != nil {
		return deploy.BinaryFile{}, err
	}
	fi, err := here.FS().Stat(file)
	if err != nil {
		return deploy.BinaryFile{}, fmt.Errorf("look at the own program: %w", err)
	}
	b := deploy.BinaryFile{Source: file, Size: fi.Size}
	if s, ok := d.Ledger.Sources[programKey+file]; ok && s.Is(fi) && !verify && json.Unmarshal(s.Data, &b.SHA256) == nil {
		d.Sources[programKey+file] = s
		return b, nil
	}
	if b.SHA256, err = sumFile(ctx, here.FS(), file); err != nil {
		return deploy.BinaryFile{}, err
	}
	data, err := json.Marshal(b.SHA256)
	if err != nil {
		return deploy.BinaryFile{}, fmt.Errorf("remember the own program: %w", err)
	}
	d.Sources[programKey+file] = plan.SourceOf(fi, data)
	return b, nil
}

func sumFile(ctx context.Context, f host.FS, file string) (string, error) {
	h, err := f.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the own program: %w", err)
	}
	defer h.Close()
	return sum(ctx, h)
}

// peersAllowed says whether more than one mirror may be listed: a black-holed one costs 30 s a request, but
// for containerd with dial_timeout (2.0.7, 2.1), and registries.yaml cannot say that.
func peersAllowed(s config.Site, n distro.Node) bool {
	return s.Failover.Mode == "endpoints" && n.Registries.Format == "certs.d" && registries.HasDialTimeout(n.Runtime.Version)
}
