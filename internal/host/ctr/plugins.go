package ctr

import (
	"context"
	"fmt"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Plugins lists containerd's plugins. One that does not fit the machine (a snapshotter without its file system)
// has an error too.
func (r *Runtime) Plugins(ctx context.Context) ([]host.Plugin, error) {
	cc, err := r.conn.Ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	resp, err := introspectionapi.NewIntrospectionClient(cc).Plugins(ctx, &introspectionapi.PluginsRequest{})
	if err != nil {
		return nil, r.wrap(ctx, "list plugins", err)
	}
	out := make([]host.Plugin, 0, len(resp.Plugins))
	for _, p := range resp.Plugins {
		out = append(out, host.Plugin{Type: p.GetType(), ID: p.GetID(), Error: p.GetInitErr().GetMessage(), Exports: p.GetExports()})
	}
	return out, nil
}
