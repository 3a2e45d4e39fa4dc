package cri_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/cri"
	"github.com/edgeprep/edgeprep/internal/host/cri/critest"
	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/registries"
)

const (
	platform   = "linux/amd64"
	pauseImage = "registry.invalid/pause:1" // of a host that no resolver ever finds (RFC 2606)
	appImage   = "registry.invalid/team/app:1"
)

func newClient(t *testing.T, d *ctrtest.Daemon) *cri.Client {
	t.Helper()
	c := cri.New(d.Endpoint())
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func images(t *testing.T, names ...string) host.ImageSource {
	t.Helper()
	specs := make([]imagetest.ImageSpec, 0, len(names))
	program := critest.PauseProgram(t)
	for _, n := range names {
		specs = append(specs, imagetest.ImageSpec{
			Names: []string{n}, Platforms: []string{platform}, Cmd: []string{"/pause"},
			Layers: []imagetest.LayerSpec{
				{Files: []imagetest.File{{Path: "pause", Mode: 0o755, Content: program}}, Compression: imagetest.Zstd},
				{Seed: n, Size: 1000, Compression: imagetest.Gzip},
			},
		})
	}
	set, err := imagetest.Build(specs...)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "images.tar")
	if err := set.WriteArchive(file, imagetest.Form{Layout: imagetest.OCI}); err != nil {
		t.Fatal(err)
	}
	node, err := local.New(local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	src, err := preload.Open(t.Context(), node.FS(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func importAll(t *testing.T, d *ctrtest.Daemon, src host.ImageSource) {
	t.Helper()
	r := ctr.New(d.Endpoint(), ctr.Options{})
	defer r.Close()
	if _, err := r.Import(t.Context(), src, host.ImportOptions{Platform: platform, Unpack: true, Pin: true}); err != nil {
		t.Fatal(err)
	}
}

func TestVersionAndStatus(t *testing.T) {
	t.Parallel()
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		c := newClient(t, d)
		v, err := c.Version(t.Context())
		if err != nil || v.Name != "containerd" || !strings.HasPrefix(v.Version, d.Version+".") || v.API != "v1" {
			t.Errorf("version %+v, %v", v, err)
		}
		st, err := c.Status(t.Context())
		if err != nil || !st.RuntimeReady || st.NetworkReady || st.Snapshotter != d.Snapshotter || st.RawConfig == "" {
			t.Errorf("status %+v, %v", st, err)
		}
		want := host.CRIStatus{SandboxImage: pauseImage, ConfigPath: d.ConfigPath}
		if strings.HasPrefix(d.Version, "2.") { // it does not say
			want = host.CRIStatus{}
		}
		if st.SandboxImage != want.SandboxImage || st.ConfigPath != want.ConfigPath {
			t.Errorf("sandbox image %q, config path %q", st.SandboxImage, st.ConfigPath)
		}
	}, ctrtest.WithSandbox(pauseImage))
}

// The trap of mirrors and config_path together: containerd runs and looks healthy, without CRI.
func TestPluginNotLoaded(t *testing.T) {
	t.Parallel()
	d := ctrtest.Start(t, "2.4", ctrtest.WithConfig(func(config string) string {
		return "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n" + config
	}))
	c := newClient(t, d)
	_, errVersion := c.Version(t.Context())
	_, errStatus := c.Status(t.Context())
	_, _, errImage := c.ImageStatus(t.Context(), appImage)
	for _, err := range []error{errVersion, errStatus, errImage, c.PullAbsent(t.Context(), appImage)} {
		if !errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), "CRI plugin is not loaded") {
			t.Errorf("%v", err)
		}
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	c := cri.New(host.Endpoint{Socket: filepath.Join(t.TempDir(), "none.sock")})
	defer c.Close()
	start := time.Now()
	if _, err := c.Version(t.Context()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("%v, want unavailable", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// A pod starts from preloaded images alone: no registry answers for either name.
func TestPodFromPreloadedImages(t *testing.T) {
	t.Parallel()
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		importAll(t, d, images(t, pauseImage, appImage))
		k := critest.New(t, d.Endpoint())
		pod, err := k.RunPod(ctx, "app")
		if err != nil {
			t.Fatalf("%v\n%s", err, d.Log())
		}
		running, err := pod.Start(ctx, "app", appImage)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := k.Container(ctx, running); err != nil || st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("state %v, %v", st.GetState(), err)
		}
		ends, err := pod.Start(ctx, "job", appImage, "/pause", "exit")
		if err != nil {
			t.Fatal(err)
		}
		if code, err := k.Wait(ctx, ends); code != 0 || err != nil {
			t.Errorf("exit code %d, %v", code, err)
		}
		r := ctr.New(d.Endpoint(), ctr.Options{})
		defer r.Close()
		used, err := r.InUse(ctx)
		if err != nil || !contains(used, appImage) || !contains(used, pauseImage) {
			t.Errorf("in use: %v, %v", used, err)
		}
		if err := pod.Remove(ctx); err != nil {
			t.Error(err)
		}
	}, ctrtest.WithSandbox(pauseImage))
}

// contains also takes the name by digest, which newer versions keep for a container.
func contains(names []string, want string) bool {
	repo := want[:strings.LastIndex(want, ":")]
	for _, n := range names {
		if n == want || strings.HasPrefix(n, repo+"@") {
			return true
		}
	}
	return false
}

// Pulls go to the mirror through the hosts.toml that edgeprep writes, and nowhere else: the registry's own
// host cannot be resolved.
func TestPullThroughMirror(t *testing.T) {
	t.Parallel()
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		misses := mirror.NewMisses()
		url := serve(t, images(t, appImage), misses)
		c, k := newClient(t, d), critest.New(t, d.Endpoint())
		if _, err := k.PullImage(ctx, appImage); err == nil {
			t.Fatal("pulled without a mirror")
		}
		d.WriteHosts("_default", string(registries.RenderHosts([]registries.Endpoint{{URL: url}})))
		if _, err := k.PullImage(ctx, appImage); err != nil {
			t.Fatalf("%v\n%s", err, d.Log())
		}
		if img, ok, err := c.ImageStatus(ctx, appImage); !ok || err != nil || img.Size == 0 {
			t.Errorf("image status %+v, %v, %v", img, ok, err)
		}
		const absent = "registry.invalid/edgeprep/absent:1"
		err := c.PullAbsent(ctx, absent)
		if err == nil || errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), absent) {
			t.Errorf("absent: %v", err)
		}
		if got := misses.List("edgeprep/absent"); len(got) == 0 || got[0].NS != "registry.invalid" {
			t.Errorf("the mirror's misses: %+v", got)
		}
		// The same call on a name that is there is the error that its contract promises, and leaves no image.
		if err := k.RemoveImage(ctx, appImage); err != nil {
			t.Fatal(err)
		}
		if err := c.PullAbsent(ctx, appImage); err == nil || status.Code(err) != codes.Unknown {
			t.Errorf("present: %v", err)
		}
		if _, ok, err := c.ImageStatus(ctx, appImage); ok || err != nil {
			t.Errorf("it stored the image: %v, %v", ok, err)
		}
	})
}

func serve(t *testing.T, src host.ImageSource, misses *mirror.Misses) string {
	t.Helper()
	store, err := mirror.Open(filepath.Join(t.TempDir(), "mirror"), mirror.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(t.Context(), src, mirror.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(mirror.NewHandler(store, mirror.HandlerOptions{Misses: misses}))
	t.Cleanup(srv.Close)
	return srv.URL
}
