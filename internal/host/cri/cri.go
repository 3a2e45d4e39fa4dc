// Package cri asks containerd's CRI service what kubelet would ask it. It implements host.CRI.
package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/socket"
)

// Client asks the CRI service at one endpoint. It is safe for concurrent use.
type Client struct {
	conn *socket.Conn
}

var _ host.CRI = (*Client)(nil)

// New prepares a client; it connects when it is first asked.
func New(ep host.Endpoint) *Client {
	return &Client{conn: socket.New(ep.Socket)}
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Version is the runtime's answer to RuntimeService.Version. It fails with host.ErrUnavailable where
// containerd runs without its CRI plugin, which looks healthy otherwise.
func (c *Client) Version(ctx context.Context) (host.CRIVersion, error) {
	cc, err := c.conn.Ready(ctx)
	if err != nil {
		return host.CRIVersion{}, err
	}
	v, err := runtimeapi.NewRuntimeServiceClient(cc).Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return host.CRIVersion{}, c.wrap(ctx, "version", err)
	}
	return host.CRIVersion{Name: v.RuntimeName, Version: v.RuntimeVersion, API: v.RuntimeApiVersion}, nil
}

// Status is the verbose RuntimeService.Status. containerd 2 no longer tells its image settings there: then
// SandboxImage and ConfigPath are empty and must be read from its configuration.
func (c *Client) Status(ctx context.Context) (host.CRIStatus, error) {
	cc, err := c.conn.Ready(ctx)
	if err != nil {
		return host.CRIStatus{}, err
	}
	resp, err := runtimeapi.NewRuntimeServiceClient(cc).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return host.CRIStatus{}, c.wrap(ctx, "status", err)
	}
	st, err := parseStatus(resp)
	if err != nil {
		return host.CRIStatus{}, err
	}
	if st.Snapshotter == "" {
		st.Snapshotter, err = c.snapshotter(ctx, cc)
	}
	return st, err
}

func parseStatus(resp *runtimeapi.StatusResponse) (host.CRIStatus, error) {
	st := host.CRIStatus{RawConfig: resp.GetInfo()["config"]}
	for _, cond := range resp.GetStatus().GetConditions() {
		switch cond.Type {
		case runtimeapi.RuntimeReady:
			st.RuntimeReady = cond.Status
		case runtimeapi.NetworkReady:
			st.NetworkReady = cond.Status
		}
	}
	if st.RawConfig == "" {
		return st, nil
	}
	// containerd: pkg/cri/config (1.6, 1.7) in its JSON form; 2.x prints the runtime half only.
	var config struct {
		SandboxImage string `json:"sandboxImage"`
		Containerd   struct {
			Snapshotter string `json:"snapshotter"`
		} `json:"containerd"`
		Registry struct {
			ConfigPath string `json:"configPath"`
		} `json:"registry"`
	}
	if err := json.Unmarshal([]byte(st.RawConfig), &config); err != nil {
		return st, fmt.Errorf("cri status: config is not the JSON that containerd prints: %w", err)
	}
	st.SandboxImage = config.SandboxImage
	st.Snapshotter = config.Containerd.Snapshotter
	st.ConfigPath = config.Registry.ConfigPath
	return st, nil
}

// snapshotterDir is how every built-in snapshotter's directory below containerd's root begins.
const snapshotterDir = "io.containerd.snapshotter.v1."

// snapshotter reads the image snapshotter's name off the directory that ImageFsInfo reports, the one place
// where containerd 2 says it.
func (c *Client) snapshotter(ctx context.Context, cc grpc.ClientConnInterface) (string, error) {
	resp, err := runtimeapi.NewImageServiceClient(cc).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return "", c.wrap(ctx, "image file system", err)
	}
	for _, fs := range resp.GetImageFilesystems() {
		name, ok := strings.CutPrefix(path.Base(fs.GetFsId().GetMountpoint()), snapshotterDir)
		if ok {
			return name, nil
		}
	}
	return "", nil
}

// ImageStatus is kubelet's presence test.
func (c *Client) ImageStatus(ctx context.Context, ref string) (host.CRIImage, bool, error) {
	cc, err := c.conn.Ready(ctx)
	if err != nil {
		return host.CRIImage{}, false, err
	}
	resp, err := runtimeapi.NewImageServiceClient(cc).ImageStatus(ctx, &runtimeapi.ImageStatusRequest{
		Image: &runtimeapi.ImageSpec{Image: ref},
	})
	if err != nil {
		return host.CRIImage{}, false, c.wrap(ctx, "image status of "+ref, err)
	}
	if resp.GetImage() == nil {
		return host.CRIImage{}, false, nil
	}
	return image(resp.Image), true, nil
}

func image(i *runtimeapi.Image) host.CRIImage {
	return host.CRIImage{
		ID: i.GetId(), RepoTags: i.GetRepoTags(), RepoDigests: i.GetRepoDigests(),
		Size: i.GetSize(), Pinned: i.GetPinned(),
	}
}

// PullAbsent pulls a reference that cannot exist and returns why that failed. When it succeeds, something
// answers for names that it should not know: that is the error, and what was stored is removed again.
func (c *Client) PullAbsent(ctx context.Context, ref string) error {
	cc, err := c.conn.Ready(ctx)
	if err != nil {
		return err
	}
	images := runtimeapi.NewImageServiceClient(cc)
	before, err := images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return c.wrap(ctx, "list images", err)
	}
	got, err := images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return c.wrap(ctx, "pull "+ref, err)
	}
	// RemoveImage takes every name of an image: one that was here before must stay.
	for _, i := range before.GetImages() {
		if i.GetId() == got.GetImageRef() {
			return fmt.Errorf("pull of %s, which cannot exist, gave %s", ref, got.GetImageRef())
		}
	}
	_, err = images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: got.GetImageRef()}})
	return errors.Join(fmt.Errorf("pull of %s, which cannot exist, gave %s", ref, got.GetImageRef()), err)
}

// notYet is what a CRI service answers in its first moments.
// containerd: internal/cri/instrument
const notYet = "server is not initialized yet"

// wrap turns an RPC error into one that says what was asked, without gRPC's own prefix. The status code stays
// readable through status.Code.
func (c *Client) wrap(ctx context.Context, what string, err error) error {
	switch status.Code(err) {
	case codes.Unimplemented:
		return fmt.Errorf("containerd at %s answers, but its CRI plugin is not loaded (see its log): %w", c.conn.Path(), host.ErrUnavailable)
	case codes.Unavailable:
		// A pull reports a registry that is away by the same code: only a dead socket is ours.
		if gone := c.conn.Probe(ctx); gone != nil {
			return fmt.Errorf("cri %s: %w", what, gone)
		}
	case codes.Unknown:
		if strings.Contains(err.Error(), notYet) {
			return fmt.Errorf("cri %s: %s: %w", what, notYet, host.ErrUnavailable)
		}
	}
	return &callError{what: what, err: err}
}

type callError struct {
	what string
	err  error
}

func (e *callError) Error() string { return "cri " + e.what + ": " + status.Convert(e.err).Message() }

func (e *callError) Unwrap() error { return e.err }
