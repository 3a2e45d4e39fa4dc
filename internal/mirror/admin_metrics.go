package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// maxMetrics is more than a mirror has to say.
const maxMetrics = 8 << 20

// Metrics are the mirror's numbers in the format of Prometheus.
func (a *Admin) Metrics(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://mirror/metrics", http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", a.socket, err)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", a.socket, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("admin socket %s: /metrics answered %s: %w", a.socket, resp.Status, err)
	}
	return b, nil
}
