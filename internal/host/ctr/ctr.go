// Package ctr reads and changes the images of a containerd over its API: every version from 1.6 on. It
// implements host.RuntimeControl.
//
// It talks to containerd's services one by one instead of through containerd's own client package: that one
// brings registries, OCI specs and Windows along, and its import makes an image visible before it is complete.
package ctr

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/diff"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/socket"
)

// defaultSnapshotter is what CRI uses unless told otherwise.
const defaultSnapshotter = "overlayfs"

// cleanUpWithin bounds what is tidied up after the caller's context ended.
const cleanUpWithin = 30 * time.Second

// Options change how a Runtime works; the zero value is right for production.
type Options struct {
	// Writers is the number of blobs sent at a time; 0 is min(2, cores), which measured best: more only
	// compete for containerd's disk and hash.
	Writers int
	// DialOptions are added to the connection's.
	DialOptions []grpc.DialOption
}

// Runtime is a containerd. It connects when first asked and is safe for concurrent use.
type Runtime struct {
	ep   host.Endpoint
	opts Options
	conn *socket.Conn
}

var _ host.RuntimeControl = (*Runtime)(nil)

// New prepares a Runtime; nothing is dialled yet.
func New(ep host.Endpoint, opts Options) *Runtime {
	if ep.Namespace == "" {
		ep.Namespace = "k8s.io"
	}
	return &Runtime{ep: ep, opts: opts, conn: socket.New(ep.Socket, opts.DialOptions...)}
}

// Close closes the connection.
func (r *Runtime) Close() error { return r.conn.Close() }

// services are containerd's services over one connection.
type services struct {
	content    content.Store
	diff       diff.Applier
	leases     leases.Manager
	images     imagesapi.ImagesClient
	containers containersapi.ContainersClient
	snapshots  func(name string) snapshots.Snapshotter
}

// connect gives the services and a context that carries the namespace.
func (r *Runtime) connect(ctx context.Context) (context.Context, *services, error) {
	cc, err := r.conn.Ready(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("containerd: %w", err)
	}
	s := &services{
		content:    contentproxy.NewContentStore(cc),
		diff:       diffproxy.NewDiffApplier(diffapi.NewDiffClient(cc)).(diff.Applier),
		leases:     leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(cc)),
		images:     imagesapi.NewImagesClient(cc),
		containers: containersapi.NewContainersClient(cc),
		snapshots: func(name string) snapshots.Snapshotter {
			return snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(cc), name)
		},
	}
	return namespaces.WithNamespace(ctx, r.ep.Namespace), s, nil
}

// wrap says what failed, and adds host.ErrUnavailable when that was because containerd went away.
func (r *Runtime) wrap(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if _, raw := status.FromError(err); raw {
		err = errgrpc.ToNative(err) // which forgets what is no status
	}
	// Nothing else here answers so: the one lock of containerd's that does is on names that are ours alone.
	if errdefs.IsUnavailable(err) && ctx.Err() == nil {
		return fmt.Errorf("containerd: %s: %w: %w", what, err, host.ErrUnavailable)
	}
	return fmt.Errorf("containerd: %s: %w", what, err)
}

// Version is containerd's own, without a leading "v"; a distribution's suffix stays ("1.6.20~ds1").
func (r *Runtime) Version(ctx context.Context) (string, error) {
	cc, err := r.conn.Ready(ctx)
	if err != nil {
		return "", fmt.Errorf("containerd: %w", err)
	}
	v, err := versionapi.NewVersionClient(cc).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", r.wrap(ctx, "version", err)
	}
	return strings.TrimPrefix(v.Version, "v"), nil
}

// snapshotter chooses the snapshotter: the caller's, the endpoint's, containerd's usual one.
func (r *Runtime) snapshotter(name string) string {
	switch {
	case name != "":
		return name
	case r.ep.Snapshotter != "":
		return r.ep.Snapshotter
	}
	return defaultSnapshotter
}

// Leases lists the leases of the namespace.
func (r *Runtime) Leases(ctx context.Context) ([]host.Lease, error) {
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.leases.List(ctx)
	if err != nil {
		return nil, r.wrap(ctx, "list leases", err)
	}
	out := make([]host.Lease, 0, len(list))
	for _, l := range list {
		out = append(out, host.Lease{ID: l.ID, Created: l.CreatedAt, Labels: l.Labels})
	}
	return out, nil
}

// InUse lists the image names that containers of the namespace use, each once.
func (r *Runtime) InUse(ctx context.Context) ([]string, error) {
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	// ListStream would spare a large message, but a node's containers fit into one (16 MiB).
	resp, err := s.containers.List(ctx, &containersapi.ListContainersRequest{})
	if err != nil {
		return nil, r.wrap(ctx, "list containers", err)
	}
	var names []string
	seen := map[string]bool{"": true}
	for _, c := range resp.Containers {
		if !seen[c.Image] {
			seen[c.Image] = true
			names = append(names, c.Image)
		}
	}
	return names, nil
}

// BlobSize says whether the namespace's content store has a blob.
func (r *Runtime) BlobSize(ctx context.Context, dgst string) (int64, bool, error) {
	d, err := parseDigest(dgst)
	if err != nil {
		return 0, false, err
	}
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return 0, false, err
	}
	info, err := s.content.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, r.wrap(ctx, "look for blob "+dgst, err)
	}
	return info.Size, true, nil
}

// OpenBlob reads a blob; a missing one gives an error that matches errdefs.ErrNotFound and fs.ErrNotExist.
func (r *Runtime) OpenBlob(ctx context.Context, dgst string) (io.ReadCloser, error) {
	d, err := parseDigest(dgst)
	if err != nil {
		return nil, err
	}
	ctx, s, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	return openBlob(ctx, s.content, d)
}
