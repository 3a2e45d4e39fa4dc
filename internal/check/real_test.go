package check

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/cri"
	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/registries"
)

// real is this machine with a containerd of the test's own.
type real struct {
	t   *testing.T
	d   *ctrtest.Daemon
	set *imagetest.Set
	env Env
}

// realNode imports the standard set, starts a mirror with it and points containerd there.
func realNode(t *testing.T, d *ctrtest.Daemon) *real {
	t.Helper()
	return realNodeOf(t, d, newTemplate(t))
}

func realNodeOf(t *testing.T, d *ctrtest.Daemon, tpl template) *real {
	t.Helper()
	h, err := local.New(local.Options{
		Runtime: func(ep host.Endpoint) host.RuntimeControl {
			r := ctr.New(ep, ctr.Options{})
			t.Cleanup(func() { _ = r.Close() })
			return r
		},
		CRI: func(ep host.Endpoint) host.CRI {
			c := cri.New(ep)
			t.Cleanup(func() { _ = c.Close() })
			return c
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(tpl.dir, "edge.tar")
	src, err := preload.Open(t.Context(), h.FS(), archive)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	rt := h.RuntimeControl(d.Endpoint())
	if _, err := rt.Import(t.Context(), src, host.ImportOptions{Platform: "linux/amd64", Snapshotter: d.Snapshotter, Unpack: true, Pin: true}); err != nil {
		t.Fatal(err)
	}
	version, err := rt.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, d: d, set: tpl.set}
	ep := d.Endpoint()
	ep.Snapshotter = ""
	r.env = Env{
		Reader: local.ReadOnly(h), Net: newNet(), Archives: []string{archive},
		Node: distro.Node{
			ID: "kubeadm", Name: "kubeadm", Role: distro.RoleServer, Started: true, Platform: "linux/amd64", Sandbox: imagetest.PauseName,
			Runtime:    distro.Runtime{Endpoint: ep, Config: d.Config, CertsD: d.ConfigPath, Version: version},
			Preload:    distro.Preload{Method: "import"},
			Registries: distro.Registries{Format: registries.FormatCertsD, CertsD: d.ConfigPath},
		},
		Mirrors: []Mirror{serveCache(t, filepath.Join(tpl.dir, "cache"))}, MirrorsRun: true, // by hand, not by a unit
	}
	for _, n := range append(tpl.set.Names(), sensorBoth(tpl.set)) {
		ref, err := preload.ParseReference(n)
		if err != nil {
			t.Fatal(err)
		}
		r.env.Required = append(r.env.Required, ref)
	}
	r.hosts()
	return r
}

// hosts writes what edgeprep would write.
func (r *real) hosts() {
	r.t.Helper()
	p := registries.Policy{Endpoints: []registries.Endpoint{{URL: r.env.Mirrors[0].URL}}, Hosts: []string{"docker.io"}}
	want, err := registries.Desired(r.t.Context(), r.env.Reader, r.env.Node, p)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, x := range want.Resources {
		if x.File != nil && filepath.Base(x.File.Path) == "hosts.toml" {
			r.d.WriteHosts(filepath.Base(filepath.Dir(x.File.Path)), string(x.File.Content))
		}
	}
}

func serveCache(t *testing.T, cache string) Mirror {
	t.Helper()
	admin := filepath.Join(shortDir(t), "mirror.sock")
	server, err := mirror.Listen(t.Context(), mirror.Config{Cache: cache, Listen: "127.0.0.1:0", Admin: admin})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("mirror: %v", err)
		}
	})
	return Mirror{URL: server.URL(), Admin: admin}
}

func (r *real) status(id string) Result {
	r.t.Helper()
	report, err := Run(r.t.Context(), r.env, Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	x, _ := report.Result(id)
	return x
}

func (r *real) ctr(args ...string) {
	r.t.Helper()
	if out, err := r.d.Ctr(args...); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
}

// TestRealContainerd: the checks pass on a real daemon, and each sees what is then broken in it.
func TestRealContainerd(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: starts real daemons")
	}
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		r := realNode(t, d)
		report, err := Run(t.Context(), r.env, Options{Deep: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range report.Results {
			ok := x.Status == StatusPass || x.Status == StatusSkip && !x.Owed() || // does not apply
				x.ID == egressID && x.Status == StatusUnproven || x.ID == "COLD-03" && x.Status == StatusSkip ||
				x.ID == "REG-21" && said(x, "outgoing connection") || x.ID == "REG-23" && said(x, "no systemd to ask") || // a port of a test
				strings.HasPrefix(x.ID, "HST-") && x.Status != StatusError || // this machine's own
				strings.HasPrefix(x.ID, "PRC-0") && x.Status != StatusError && x.Status != StatusFail || // edgeprep never ran here
				strings.HasPrefix(x.ID, "K8S-") && x.Status != StatusError && x.Status != StatusFail || // there is no kubelet
				strings.HasPrefix(x.ID, "COLD-") && x.Status == StatusUnproven && said(x, "no systemd to ask") || x.ID == "TAR-10" || // as full as this machine is
				d.Version == "1.6" && x.Status == StatusWarn && said(x, "does not report") // it knows no pins
			if !ok {
				t.Errorf("%s is %s: %+v", x.ID, x.Status, x.Findings)
			}
		}
		if out, err := d.Ctr("images", "ls", "-q"); err != nil || strings.Contains(out, "edgeprep-probe") {
			t.Errorf("the probe left something: %v\n%s", err, out)
		}

		r.ctr("images", "tag", imagetest.APIName, "localhost/edge-api:2.3")
		r.ctr("images", "tag", imagetest.APIName, "v2.3")
		if x := r.status("IMG-09"); x.Status != StatusWarn || x.Count(StatusWarn) != 1 || !said(x, "v2.3") {
			t.Errorf("a name without a registry: %s: %+v", x.Status, x.Findings)
		}
		r.ctr("images", "rm", "v2.3")
		r.ctr("images", "rm", "--sync", digestName(r.set, imagetest.SensorName))
		if x := r.status("IMG-07"); x.Status != StatusFail || !said(x, "the same digest is stored as "+imagetest.SensorName) {
			t.Errorf("record by digest removed: %s: %+v", x.Status, x.Findings)
		}
		img, _ := r.set.Image(imagetest.APIName)
		layers := img.Platforms[0].Layers
		r.ctr("content", "rm", layers[len(layers)-1])
		if x := r.status("CRI-02"); x.Status != StatusFail || !said(x, layers[len(layers)-1]+" is missing") {
			t.Errorf("layer removed: %s: %+v", x.Status, x.Findings)
		}
		d.WriteHosts("quay.io", "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:1\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
		x := r.status("REG-16")
		if x.Status != StatusFail || x.Count(StatusPass) != len(r.env.requiredHosts())-1 {
			t.Errorf("one registry sent elsewhere: %s: %+v", x.Status, x.Findings)
		}
		// one CA file that is missing takes the registry's healthy mirror along
		u := r.env.Mirrors[0].URL
		d.WriteHosts("ghcr.io", "server = \""+u+"\"\n[host.\""+u+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n[host.\"https://127.0.0.1:1\"]\n  ca = \"/nonexistent.pem\"\n")
		if x := r.status("REG-12"); x.Status != StatusFail {
			t.Errorf("REG-12 is %s: %+v", x.Status, x.Findings)
		}
		if y := r.status("REG-16"); y.Count(StatusPass) != x.Count(StatusPass)-1 {
			t.Errorf("a CA file is missing: %+v", y.Findings)
		}
	}, ctrtest.WithSandbox(imagetest.PauseName))
}

// TestRealListOfDirectories: what REG-01 says is what the daemon does. FI-14 of the catalogue.
func TestRealListOfDirectories(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: starts real daemons")
	}
	for version, broken := range map[string]bool{"1.7": false, "2.4": true} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			d := ctrtest.Start(t, version, ctrtest.WithSandbox(imagetest.PauseName), ctrtest.WithConfig(func(config string) string {
				return strings.Replace(config, "/certs.d\"", "/certs.d:/etc/docker/certs.d\"", 1)
			}))
			r := realNode(t, d)
			want := StatusPass
			if broken {
				want = StatusFail
			}
			effect := r.status("REG-16")
			if effect.Status != want {
				t.Errorf("effect %s: %+v", effect.Status, effect.Findings)
			}
			if x := r.status("REG-01"); (x.Status == StatusFail) != broken {
				t.Errorf("REG-01 says %s, the daemon %s: %+v", x.Status, effect.Status, x.Findings)
			}
		})
	}
}
