package ctr_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const platform = "linux/amd64"

func newRuntime(t testing.TB, d *ctrtest.Daemon) *ctr.Runtime {
	t.Helper()
	r := ctr.New(d.Endpoint(), ctr.Options{})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func standard(t testing.TB, o imagetest.Options) *imagetest.Set {
	t.Helper()
	s, err := imagetest.Standard(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// archive writes a set into a file and opens it as edgeprep does.
func archive(t testing.TB, s *imagetest.Set, f imagetest.Form) host.ImageSource {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.tar")
	if err := s.WriteArchive(path, f); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func open(t testing.TB, path string) host.ImageSource {
	t.Helper()
	src, err := openArchive(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func openArchive(ctx context.Context, path string) (host.ImageSource, error) {
	node, err := local.New(local.Options{})
	if err != nil {
		return nil, err
	}
	return preload.Open(ctx, node.FS(), path)
}

func records(t testing.TB, r *ctr.Runtime) map[string]host.Image {
	t.Helper()
	list, err := r.Images(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]host.Image{}
	for _, i := range list {
		out[i.Name] = i
	}
	return out
}

func has(t testing.TB, r *ctr.Runtime, digest string) bool {
	t.Helper()
	_, ok, err := r.BlobSize(context.Background(), digest)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// wantNoLeftovers checks that no import left a lease or an unfinished blob.
func wantNoLeftovers(t testing.TB, d *ctrtest.Daemon, r *ctr.Runtime) {
	t.Helper()
	leases, err := r.Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(leases) > 0 {
		t.Errorf("leases are left: %+v", leases)
	}
	if out, err := d.Ctr("content", "active"); err != nil || len(nonEmpty(out)) > 1 { // a headline
		t.Errorf("unfinished blobs are left: %v\n%s", err, out)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	want := map[string]string{"1.6": "1.6.", "1.7": "1.7.35", "2.4": "2.4.2"}
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		got, err := newRuntime(t, d).Version(t.Context())
		if err != nil || len(got) < len(want[d.Version]) || got[:len(want[d.Version])] != want[d.Version] {
			t.Errorf("version %q, %v", got, err)
		}
	})
}

// Nobody there: said at once, as unavailable, for every way in which nobody can be there.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	refused := filepath.Join(t.TempDir(), "refused.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: refused, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	hangs := filepath.Join(t.TempDir(), "hangs.sock")
	h, err := net.Listen("unix", hangs) // accepted by the kernel, never answered
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	for name, c := range map[string]struct {
		socket string
		within time.Duration
	}{
		"absent":  {filepath.Join(t.TempDir(), "absent.sock"), time.Second},
		"refused": {refused, time.Second},
		"hangs":   {hangs, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := ctr.New(host.Endpoint{Socket: c.socket}, ctr.Options{})
			defer r.Close()
			start := time.Now()
			if _, err := r.Version(t.Context()); !errors.Is(err, host.ErrUnavailable) {
				t.Errorf("version: %v, want unavailable", err)
			}
			src := hosttest.NewSource(hosttest.MakeImage(hosttest.ImageSpec{Name: "docker.io/library/a:1"}))
			if took := time.Since(start); took > c.within {
				t.Errorf("took %v", took)
			}
			if name == "hangs" {
				return
			}
			if _, err := r.Import(t.Context(), src, host.ImportOptions{}); !errors.Is(err, host.ErrUnavailable) {
				t.Errorf("import: %v, want unavailable", err)
			}
		})
	}
}

// A Runtime lives through a restart of its daemon, which apply does in the middle of its work.
func TestRestart(t *testing.T) {
	t.Parallel()
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		r := newRuntime(t, d)
		if _, err := r.Images(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.Stop()
		if _, err := r.Images(t.Context()); !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("stopped: %v, want unavailable", err)
		}
		d.Restart()
		if _, err := r.Images(t.Context()); err != nil {
			t.Errorf("started again: %v", err)
		}
	})
}
