package local

import (
	"context"
	"fmt"
	"io"

	"github.com/edgeprep/edgeprep/internal/host"
)

// noUnits is a node without a way to its units.
type noUnits struct{}

func (noUnits) err(name string) error {
	return fmt.Errorf("unit %s: no systemd to ask: %w", name, host.ErrUnavailable)
}

func (n noUnits) Unit(_ context.Context, name string) (host.Unit, error) {
	return host.Unit{Name: name}, n.err(name)
}
func (n noUnits) Reload(context.Context) error {
	return fmt.Errorf("reload systemd: no systemd to ask: %w", host.ErrUnavailable)
}
func (n noUnits) Enable(_ context.Context, name string) error  { return n.err(name) }
func (n noUnits) Disable(_ context.Context, name string) error { return n.err(name) }
func (n noUnits) Queue(_ context.Context, name string) error   { return n.err(name) }
func (n noUnits) Start(_ context.Context, name string) error   { return n.err(name) }
func (n noUnits) Stop(_ context.Context, name string) error    { return n.err(name) }
func (n noUnits) Restart(_ context.Context, name string) error { return n.err(name) }

// noRuntime is a node without a way to its containerd.
type noRuntime struct{ ep host.Endpoint }

func (n noRuntime) err() error {
	return fmt.Errorf("containerd at %s cannot be asked: %w", n.ep.Socket, host.ErrUnavailable)
}

func (n noRuntime) Version(context.Context) (string, error)        { return "", n.err() }
func (n noRuntime) Images(context.Context) ([]host.Image, error)   { return nil, n.err() }
func (n noRuntime) Leases(context.Context) ([]host.Lease, error)   { return nil, n.err() }
func (n noRuntime) Plugins(context.Context) ([]host.Plugin, error) { return nil, n.err() }
func (n noRuntime) InUse(context.Context) ([]string, error)        { return nil, n.err() }
func (n noRuntime) SetImage(context.Context, host.Image) error     { return n.err() }
func (n noRuntime) RemoveImage(context.Context, string) error      { return n.err() }
func (n noRuntime) BlobSize(context.Context, string) (int64, bool, error) {
	return 0, false, n.err()
}
func (n noRuntime) OpenBlob(context.Context, string) (io.ReadCloser, error) { return nil, n.err() }
func (n noRuntime) Unpacked(context.Context, string, string, string) (bool, error) {
	return false, n.err()
}
func (n noRuntime) Import(context.Context, host.ImageSource, host.ImportOptions) (host.ImportReport, error) {
	return host.ImportReport{}, n.err()
}

// noCRI is a node without a way to its CRI service.
type noCRI struct{ ep host.Endpoint }

func (n noCRI) err() error {
	return fmt.Errorf("the CRI service at %s cannot be asked: %w", n.ep.Socket, host.ErrUnavailable)
}

func (n noCRI) Version(context.Context) (host.CRIVersion, error) { return host.CRIVersion{}, n.err() }
func (n noCRI) Status(context.Context) (host.CRIStatus, error)   { return host.CRIStatus{}, n.err() }
func (n noCRI) PullAbsent(context.Context, string) error         { return n.err() }
func (n noCRI) ImageStatus(context.Context, string) (host.CRIImage, bool, error) {
	return host.CRIImage{}, false, n.err()
}
