package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"

	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// lookUpWithin bounds the look-ups of a run: a dead resolver must not hold a node back.
const lookUpWithin = 3 * time.Second

// egress adds the record of upstream addresses, which the checklist needs later to say that egress was cut.
// What is recorded stays. With look, upstreams that are not recorded yet are looked up; without a network
// that finds nothing and is no error.
func (a *App) egress(ctx context.Context, d *Desired, look bool) error {
	rec, err := check.ReadEgressRecord(a.reader.FS())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // a damaged record is a check's business; it must not stop a run
	}
	if look {
		ctx, cancel := context.WithTimeout(ctx, lookUpWithin)
		defer cancel()
		hosts := check.Upstreams(d.Site, registryHosts(*d), hostsOf(d.Endpoints))
		rec, _ = check.RecordEgress(ctx, check.SystemNetwork{}, hosts, rec, time.Now())
	}
	if len(rec.Hosts) == 0 {
		return nil
	}
	data, err := rec.Encode()
	if err != nil {
		return fmt.Errorf("record upstream addresses: %w", err)
	}
	d.take([]resource.Resource{{ID: resource.ID(resource.KindFile, check.EgressRecordPath), Kind: resource.KindFile,
		Why:  "where upstreams are now, so that the checklist can tell later that they cannot be reached",
		File: &resource.File{Path: check.EgressRecordPath, Content: data, Mode: 0o644}}}, nil)
	return nil
}

func hostsOf(endpoints []string) []string {
	var out []string
	for _, e := range endpoints {
		if u, err := url.Parse(e); err == nil {
			out = append(out, u.Host)
		}
	}
	return out
}
