package apply

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

const (
	unitText = "[Unit]\nDescription=mirror\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
	sharedV0 = "# theirs\nmirrors: {}\n"
	sharedV1 = "# theirs\nmirrors: {ours: {}}\n"
	cacheDir = "/var/lib/edgeprep/mirror"
)

var endpoint = host.Endpoint{Socket: "/run/containerd/containerd.sock", Namespace: "k8s.io", Snapshotter: "overlayfs"}

// world is a node with everything that edgeprep puts on one.
type world struct {
	t      testing.TB
	n      *hosttest.Node
	images []*hosttest.MemImage
	want   []resource.Resource
	allow  []plan.Risk
	ask    Prober
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, n: hosttest.At(t, fastDir(t)), allow: []plan.Risk{plan.RiskRestart}}
	w.ask = func(context.Context, resource.HTTPGate, GateFiles) error { return nil }
	baseTree(w.n)
	w.n.UnitState().Add(host.Unit{Name: "k3s.service", Enabled: "enabled", Active: "active"})
	for _, name := range []string{"docker.io/library/a:1", "docker.io/library/b:1"} {
		w.images = append(w.images, hosttest.MakeImage(hosttest.ImageSpec{Name: name}))
	}
	w.want = append(treeResources([]byte(w.n.ReadFile("/media/images.tar"))), w.imageResources()...)
	return w
}

// fastDir is a directory in memory where there is one: what is tested is the order of writes, not the disk.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "edgeprep-apply-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// baseTree is the node before edgeprep.
func baseTree(n *hosttest.Node) {
	n.Mkdir("/run")
	n.Mkdir("/var/lib")
	n.Mkdir("/usr/local/bin")
	n.Mkdir("/etc/sysusers.d")
	n.Mkdir("/etc/systemd/system")
	n.WriteFile("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	n.WriteFile("/etc/group", "root:x:0:\n")
	n.WriteMode("/etc/shadow", "root:*:1::::::\n", 0o600)
	n.WriteMode("/etc/rancher/k3s/registries.yaml", sharedV0, 0o600)
	n.WriteFile("/media/images.tar", strings.Repeat("image archive ", 1000))
}

// treeResources are all kinds but images; content is that of the archive.
func treeResources(content []byte) []resource.Resource {
	unit := resource.Resource{ID: "unit:edgeprep-mirror.service", Kind: resource.KindUnit,
		After: []string{"dir:" + cacheDir, "file:/etc/systemd/system/edgeprep-mirror.service"},
		Unit:  &resource.Unit{Name: "edgeprep-mirror.service", Enabled: true, Active: true, RestartOn: []string{"file:/etc/systemd/system/edgeprep-mirror.service"}}}
	shared := file("/etc/rancher/k3s/registries.yaml", sharedV1)
	shared.File.Shared, shared.File.Base, shared.After = true, plan.Sum([]byte(sharedV0)), []string{"gate:mirror"}
	return []resource.Resource{
		file("/etc/sysusers.d/edgeprep.conf", "u edgeprep-mirror - \"mirror\" /var/lib/edgeprep/mirror\n"),
		{ID: "user:edgeprep-mirror", Kind: resource.KindUser, After: []string{"file:/etc/sysusers.d/edgeprep.conf"},
			User: &resource.User{Name: "edgeprep-mirror", Home: cacheDir}},
		dir("/var/lib/edgeprep", 0o755, ""),
		with(dir(cacheDir, 0o750, "edgeprep-mirror"), "dir:/var/lib/edgeprep", "user:edgeprep-mirror"),
		dir("/var/lib/rancher", 0o755, ""),
		with(dir("/var/lib/rancher/images", 0o755, ""), "dir:/var/lib/rancher"),
		{ID: "archive:images", Kind: resource.KindArchive, After: []string{"dir:/var/lib/rancher/images"}, Why: "preloaded",
			Archive: &resource.Archive{Source: "/media/images.tar", Path: "/var/lib/rancher/images/images.tar", Size: int64(len(content)),
				SHA256: plan.Sum(content), Mode: 0o644, Stage: "/var/lib/rancher/stage"}},
		file("/etc/systemd/system/edgeprep-mirror.service", unitText),
		{ID: "symlink:/etc/edgeprep-link", Kind: resource.KindSymlink, Symlink: &resource.Symlink{Path: "/etc/edgeprep-link", Target: "rancher"}},
		unit,
		{ID: "gate:mirror", Kind: resource.KindGate, After: []string{unit.ID},
			Gate: &resource.Gate{HTTP: &resource.HTTPGate{URL: "http://127.0.0.1:5000"}, Within: 100 * time.Millisecond}},
		shared,
		{ID: "unit:k3s.service", Kind: resource.KindUnit, Unit: &resource.Unit{Name: "k3s.service", Foreign: true, RestartOn: []string{shared.ID}}},
	}
}

// imageResources bring images into the containerd and into the cache, before the mirror starts.
func (w *world) imageResources() []resource.Resource {
	var names []resource.ImageName
	for _, m := range w.images {
		names = append(names, resource.ImageName{Name: m.Image.Name, Digest: m.Image.Target.Digest})
	}
	archives := []resource.ImageArchive{{Path: "/media/images.tar", Size: 14000, Images: names}}
	return []resource.Resource{
		{ID: "images:runtime", Kind: resource.KindImageSet, ImageSet: &resource.ImageSet{Target: resource.TargetRuntime, Endpoint: endpoint,
			Archives: archives, Platform: "linux/amd64", Unpack: true, Pin: true}},
		{ID: "images:cache", Kind: resource.KindImageSet, After: []string{"dir:" + cacheDir},
			ImageSet: &resource.ImageSet{Target: resource.TargetCache, Cache: cacheDir, Archives: archives, Platform: "linux/amd64"}},
	}
}

func file(p, content string) resource.Resource {
	return resource.Resource{ID: "file:" + p, Kind: resource.KindFile, File: &resource.File{Path: p, Content: []byte(content), Mode: 0o644}}
}

func dir(p string, mode os.FileMode, owner string) resource.Resource {
	return resource.Resource{ID: "dir:" + p, Kind: resource.KindDir, Dir: &resource.Dir{Path: p, Mode: mode, Owner: owner, Keep: owner == ""}}
}

func with(r resource.Resource, after ...string) resource.Resource {
	r.After = append(r.After, after...)
	return r
}

func (w *world) engine() *Engine {
	return &Engine{Host: asRoot(w.n), Allow: w.allow, HTTP: w.ask, Load: w.load,
		Now:  func() time.Time { return time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC) },
		Open: func(context.Context, string) (host.ImageSource, error) { return hosttest.NewSource(w.images...), nil }}
}

func (w *world) build(ctx context.Context) (plan.Plan, error) {
	l, err := plan.ReadLedger(w.n.FS())
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Build(ctx, hosttest.NoWrites(asRoot(w.n)), w.want, l, plan.Options{Cache: w.openCache})
}

// load is a small mirror: the layout of the cache without its verification.
func (w *world) load(ctx context.Context, cache string, src host.ImageSource, _ func(done, total int64)) error {
	err := src.Each(ctx, func(host.Descriptor) bool { return true }, func(d host.Descriptor, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return w.store(blobPath(cache, d.Digest), data)
	})
	if err != nil {
		return err
	}
	for _, img := range src.Images() {
		if err := w.store(refPath(cache, img.Name), []byte(img.Target.Digest)); err != nil {
			return err
		}
	}
	return nil
}

func refPath(cache, name string) string {
	repo, tag := name[:strings.LastIndexByte(name, ':')], name[strings.LastIndexByte(name, ':')+1:]
	return path.Join(cache, "refs", repo, "_tags", tag)
}

func (w *world) store(p string, data []byte) error {
	real := filepath.Join(w.n.Dir, p)
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return err
	}
	if w.n.Hook != nil {
		w.n.Hook("before-cache", p)
	}
	return os.WriteFile(real, data, 0o644)
}

func (w *world) openCache(context.Context, string) (plan.Cache, error) { return cacheView{w}, nil }

type cacheView struct{ w *world }

func (c cacheView) Has(_ context.Context, name, digest string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(c.w.n.Dir, refPath(cacheDir, name)))
	return err == nil && string(b) == digest, nil
}

func (w *world) apply() (Report, error) {
	w.t.Helper()
	return w.engine().Run(context.Background(), w.build)
}

func (w *world) mustApply() Report {
	w.t.Helper()
	r, err := w.apply()
	if err != nil {
		var b strings.Builder
		_ = r.Text(&b)
		w.t.Fatalf("apply: %v\n%s", err, b.String())
	}
	return r
}

func (w *world) mustRollback() Report {
	w.t.Helper()
	r, err := w.engine().Rollback(context.Background(), "")
	if err != nil {
		w.t.Fatalf("rollback: %v\n%+v", err, r.Kept)
	}
	return r
}

// snapshot is everything that a user can see: files, units, image records and leases.
func (w *world) snapshot() string {
	w.t.Helper()
	var b strings.Builder
	for _, line := range strings.Split(hosttest.Tree(w.t, w.n.Dir), "\n") {
		if !strings.Contains(line, "run/edgeprep") {
			b.WriteString(line + "\n")
		}
	}
	for _, u := range []string{"k3s.service", "edgeprep-mirror.service"} {
		x, err := w.n.Units().Unit(context.Background(), u)
		fmt.Fprintln(&b, u, x.Active, x.Enabled, err)
	}
	imgs, err := w.n.Runtime(endpoint).Images(context.Background())
	fmt.Fprintln(&b, imgs, err)
	leases, err := w.n.Runtime(endpoint).Leases(context.Background())
	fmt.Fprintln(&b, leases, err)
	return b.String()
}

// outside is a snapshot without the engine's own state, whose run ids differ after a crash.
func (w *world) outside() string {
	var out []string
	for _, line := range strings.Split(w.snapshot(), "\n") {
		if strings.Contains(line, "edgeprep/journal") || strings.Contains(line, "edgeprep/backups") || strings.Contains(line, "edgeprep/ledger") {
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}
