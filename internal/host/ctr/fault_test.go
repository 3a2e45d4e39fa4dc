package ctr_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// An import that is killed: TestMain runs it in a process of its own.
const (
	killedSocket  = "EDGEPREP_TEST_KILLED_SOCKET"
	killedArchive = "EDGEPREP_TEST_KILLED_ARCHIVE"
)

func TestMain(m *testing.M) {
	if os.Getenv(killedSocket) != "" {
		fmt.Fprintln(os.Stderr, stall(os.Getenv(killedSocket), os.Getenv(killedArchive)))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// stall imports and never ends: it says "ready" in the middle of the last layer.
func stall(socket, file string) error {
	src, err := openArchive(context.Background(), file)
	if err != nil {
		return err
	}
	r := ctr.New(host.Endpoint{Socket: socket}, ctr.Options{Writers: 1})
	_, err = r.Import(context.Background(), &stalling{src}, full)
	return err
}

type stalling struct{ host.ImageSource }

// Open gives 2 MiB of the last layer and no more.
func (s *stalling) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	rc, err := s.ImageSource.Open(ctx, digest)
	blobs := s.Blobs()
	if err != nil || digest != blobs[len(blobs)-1].Digest {
		return rc, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(rc, 2<<20), blocked{})), nil
}

type blocked struct{}

func (blocked) Read([]byte) (int, error) {
	fmt.Println("ready")
	select {}
}

func TestKilledImport(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		set, err := imagetest.Build(imagetest.ImageSpec{
			Names: []string{"registry.local/big:1"}, Platforms: []string{platform},
			Layers: []imagetest.LayerSpec{{Seed: "a", Size: 3 << 20, Random: 100}, {Seed: "b", Size: 4 << 20, Random: 100}},
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "big.tar")
		if err := set.WriteArchive(file, imagetest.Form{Layout: imagetest.OCI}); err != nil {
			t.Fatal(err)
		}
		kill := startStalled(t, d, file)
		r := newRuntime(t, d)
		if _, ok := records(t, r)["registry.local/big:1"]; ok {
			t.Error("an unfinished import has a record")
		}
		// Another import meanwhile lets the living one's lease be.
		other := hosttest.NewSource(hosttest.MakeImage(hosttest.ImageSpec{Name: "registry.local/small:1"}))
		if _, err := r.Import(t.Context(), other, full); err != nil {
			t.Error(err)
		}
		if leases, err := r.Leases(t.Context()); err != nil || len(leases) != 1 {
			t.Errorf("leases while it runs: %+v, %v", leases, err)
		}
		kill()
		rep, err := r.Import(t.Context(), open(t, file), full)
		if err != nil || !slices.Contains(rep.Created, "registry.local/big:1") {
			t.Fatalf("after the kill: %+v, %v", rep, err)
		}
		if rep.Bytes >= 7<<20 || rep.Bytes < 4<<20 {
			t.Errorf("%d bytes sent: want the layer that was cut, and not the one that was complete", rep.Bytes)
		}
		wantContent(t, r, set)
		wantNoLeftovers(t, d, r)
	})
}

func startStalled(t *testing.T, d *ctrtest.Daemon, file string) (kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), killedSocket+"="+d.Socket, killedArchive+"="+file)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		kill()
		t.Fatalf("the import said %q, %v", line, err)
	}
	return kill
}

// A broken source leaves nothing, and the finding says what it is.
func TestBrokenSource(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	d := ctrtest.Start(t, "2.4")
	r := newRuntime(t, d)
	spec := hosttest.ImageSpec{Name: "registry.local/app:1", Platforms: []string{platform, "linux/arm64"}}
	m := hosttest.MakeImage(spec)
	layer := m.Layers[platform][0].Digest
	for name, c := range map[string]struct {
		src *hosttest.MemSource
		id  string
	}{
		"cut":      {hosttest.NewSource(m).Truncate(layer), "NOD-151"},
		"flipped":  {hosttest.NewSource(m).Corrupt(layer), "NOD-152"},
		"manifest": {hosttest.NewSource(m).Corrupt(m.Manifests[platform].Digest), "NOD-152"},
		"dropped":  {hosttest.NewSource(m).Drop(layer), "NOD-153"},
		"platform": {hosttest.NewSource(hosttest.MakeImage(hosttest.ImageSpec{
			Name: spec.Name, Platforms: []string{"linux/s390x"},
		})), "NOD-154"},
	} {
		for _, sequential := range []bool{false, true} {
			c.src.Sequential = sequential
			_, err := r.Import(t.Context(), c.src, full)
			if got := diag.Of(err); len(got) != 1 || got[0].ID != c.id || got[0].Fix == "" {
				t.Errorf("%s, sequential %v: %v, want %s", name, sequential, err, c.id)
			}
			if got := records(t, r); len(got) > 0 {
				t.Errorf("%s: records %v", name, got)
			}
			if out, err := d.Ctr("content", "ls", "-q"); err != nil || len(nonEmpty(out)) > 0 {
				t.Errorf("%s: content is left: %v\n%s", name, err, out)
			}
			wantNoLeftovers(t, d, r)
		}
	}
}

// The second of two layers is no archive: the first is not left in the snapshotter.
func TestBadLayer(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	d := ctrtest.Start(t, "2.4")
	r := newRuntime(t, d)
	_, err := r.Import(t.Context(), hosttest.NewSource(badLayer(t)), full)
	if got := diag.Of(err); len(got) != 1 || got[0].ID != "NOD-155" {
		t.Fatalf("%v, want NOD-155", err)
	}
	if got := records(t, r); len(got) > 0 {
		t.Errorf("records %v", got)
	}
	if out, err := d.Ctr("snapshots", "--snapshotter", d.Snapshotter, "ls"); err != nil || len(nonEmpty(out)) > 1 {
		t.Errorf("snapshots are left: %v\n%s", err, out)
	}
	wantNoLeftovers(t, d, r)
	opts := full
	opts.Snapshotter = "none"
	_, err = r.Import(t.Context(), hosttest.NewSource(hosttest.MakeImage(hosttest.ImageSpec{Name: "registry.local/app:1"})), opts)
	if got := diag.Of(err); len(got) != 1 || got[0].ID != "NOD-155" || !strings.Contains(got[0].Why, "none") {
		t.Errorf("a snapshotter that is not there: %v", err)
	}
	wantNoLeftovers(t, d, r)
}

// badLayer is an image whose second layer has the right digest and no sense in it.
func badLayer(t *testing.T) *hosttest.MemImage {
	t.Helper()
	m := hosttest.MakeImage(hosttest.ImageSpec{
		Name: "registry.local/bad:1", Layers: []map[string][]byte{{"a": []byte("a")}, {"b": []byte("b")}},
	})
	bad := []byte("this is not gzip")
	put := func(d host.Descriptor, b []byte) host.Descriptor {
		old := d.Digest
		d.Digest, d.Size = digest.FromBytes(b).String(), int64(len(b))
		m.Blobs[d.Digest] = b
		for i := range m.Order {
			if m.Order[i].Digest == old {
				m.Order[i] = d
			}
		}
		return d
	}
	layer := m.Layers[platform][1]
	replaced := put(layer, bad)
	json := func(d host.Descriptor) string {
		return fmt.Sprintf(`{"digest":%q,"mediaType":%q,"size":%d}`, d.Digest, d.MediaType, d.Size)
	}
	manifest := strings.Replace(string(m.Blobs[m.Image.Target.Digest]), json(layer), json(replaced), 1)
	m.Image.Target = put(m.Image.Target, []byte(manifest))
	return m
}

// A full disk: said so, the room is given back, and what fits still goes in.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		r := newRuntime(t, d)
		big, err := imagetest.Build(imagetest.ImageSpec{
			Names: []string{"registry.local/big:1"}, Platforms: []string{platform},
			Layers: []imagetest.LayerSpec{{Seed: "big", Size: 20 << 20, Random: 100}},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Import(t.Context(), archive(t, big, imagetest.Form{Layout: imagetest.OCI}), full)
		if got := diag.Of(err); len(got) != 1 || got[0].ID != "NOD-156" || !strings.Contains(got[0].Fix, d.Root) {
			t.Errorf("%v, want NOD-156", err)
		}
		wantNoLeftovers(t, d, r)
		small := hosttest.NewSource(hosttest.MakeImage(hosttest.ImageSpec{Name: "registry.local/small:1"}))
		if _, err := r.Import(t.Context(), small, full); err != nil {
			t.Errorf("what fits: %v", err)
		}
		if got := records(t, r); got["registry.local/big:1"].Name != "" || got["registry.local/small:1"].Name == "" {
			t.Errorf("records %v", got)
		}
	}, ctrtest.WithDisk("16m"))
}

// containerd dies in the middle: an error that says so, and the next import finds its way.
func TestDaemonDies(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	d := ctrtest.Start(t, "2.4")
	r := newRuntime(t, d)
	m := hosttest.MakeImage(hosttest.ImageSpec{Name: "registry.local/app:1", Layers: []map[string][]byte{
		{"a": []byte("a")}, {"b": []byte("b")}, {"c": []byte("c")},
	}})
	src := hosttest.NewSource(m)
	n := 0
	src.OnBlob = func(host.Descriptor) error {
		if n++; n == 6 {
			d.Stop()
		}
		return nil
	}
	src.Sequential = true
	if _, err := r.Import(t.Context(), src, full); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("%v, want unavailable", err)
	}
	d.Restart()
	src.OnBlob = nil
	if rep, err := r.Import(t.Context(), src, full); err != nil || len(rep.Created) == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	if leases, err := r.Leases(t.Context()); err != nil || len(leases) != 1 {
		// The dead daemon could not delete it, and this process, its owner, lives.
		t.Errorf("leases %+v, %v", leases, err)
	}
}
