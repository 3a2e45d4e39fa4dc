package check

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/registries"
	"github.com/edgeprep/edgeprep/internal/resource"
)

const (
	archivePath = "/opt/edgeprep/images/edge.tar"
	certsD      = "/etc/containerd/certs.d"
)

// site is a whole node that passes: a containerd with every image, a real mirror with a filled cache, a
// registries configuration that points to it, and no way out.
type site struct {
	t     *testing.T
	node  *hosttest.Node
	env   Env
	set   *imagetest.Set
	cache string // directory of the mirror's cache on this machine
	net   *fakeNet
	stop  func()            // of the mirror
	way   http.RoundTripper // of pulls
}

func (s *site) containerd() *hosttest.Runtime {
	return s.node.Containerd(s.env.Node.Runtime.Endpoint)
}

// template holds what every site of a test has alike: making a cache syncs hundreds of files.
type template struct {
	set *imagetest.Set
	dir string // "edge.tar", "cache/"
}

func newTemplate(t *testing.T) template {
	t.Helper()
	set, err := imagetest.Standard(imagetest.Options{LayerSize: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return templateOf(t, set)
}

func templateOf(t *testing.T, set *imagetest.Set) template {
	t.Helper()
	tpl := template{set: set, dir: t.TempDir()}
	if err := set.WriteArchive(filepath.Join(tpl.dir, "edge.tar"), imagetest.Form{Layout: imagetest.Combined}); err != nil {
		t.Fatal(err)
	}
	store, err := mirror.Open(filepath.Join(tpl.dir, "cache"), mirror.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	src, err := preload.Open(t.Context(), hosttest.At(t, tpl.dir).FS(), "/edge.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := store.Load(t.Context(), src, mirror.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return tpl
}

// kubeadmSite is a node whose images are imported.
func kubeadmSite(t *testing.T, tpl template) *site {
	t.Helper()
	s := newSite(t, tpl, distro.Node{
		ID: "kubeadm", Name: "kubeadm", Version: "v1.37.2", Role: distro.RoleServer, Installed: true, Started: true,
		Platform: "linux/amd64", Units: []string{"kubelet.service"}, Sandbox: imagetest.PauseName,
		Runtime: distro.Runtime{
			Endpoint: host.Endpoint{Socket: "/run/containerd/containerd.sock", Namespace: "k8s.io", Root: "/var/lib/containerd"},
			Config:   "/etc/containerd/config.toml", CertsD: certsD, Unit: "containerd.service", Version: "2.4.2",
		},
		Preload:    distro.Preload{Method: "import"},
		Registries: distro.Registries{Format: registries.FormatCertsD, CertsD: certsD},
	})
	s.node.WriteFile("/etc/containerd/config.toml", "version = 3\n\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d'\n")
	s.configure()
	return s
}

// k3sSite is a node whose images are placed in a watched directory; started or not.
func k3sSite(t *testing.T, tpl template, started bool) *site {
	t.Helper()
	const data = "/data/k3s"
	s := newSite(t, tpl, distro.Node{
		ID: "k3s", Name: "K3s", Version: "v1.36.3+k3s1", Role: distro.RoleServer, Installed: true, Started: started,
		Platform: "linux/amd64", DataDir: data, Units: []string{"k3s.service"}, Sandbox: imagetest.PauseName,
		Runtime: distro.Runtime{
			Endpoint: host.Endpoint{Socket: "/run/k3s/containerd/containerd.sock", Namespace: "k8s.io", Root: data + "/agent/containerd"},
			CertsD:   data + "/agent/etc/containerd/certs.d", Version: "2.3.1",
		},
		Preload: distro.Preload{Method: "directory", Dir: data + "/agent/images", Stage: data + "/agent/edgeprep-stage", Extensions: []string{".tar", ".tar.zst", ".tar.gz"}},
		Registries: distro.Registries{Format: registries.FormatYAML, File: "/etc/rancher/k3s/registries.yaml", CertsD: data + "/agent/etc/containerd/certs.d",
			DropIn: "/etc/rancher/k3s/config.yaml.d/90-edgeprep.yaml", NoFallback: "disable-default-registry-endpoint", Restart: []string{"k3s.service"}},
		Gates:    distro.Gates{Watch: true, NoFallbackKey: true, StarMirror: true},
		Evidence: []distro.Evidence{{Fact: "data-dir", Value: data, Source: "/etc/rancher/k3s/config.yaml:3"}},
	})
	s.configure()
	s.place()
	return s
}

func newSite(t *testing.T, tpl template, n distro.Node) *site {
	t.Helper()
	s := &site{t: t, node: hosttest.New(t), set: tpl.set, net: newNet(), way: http.DefaultTransport}
	archive, err := os.ReadFile(filepath.Join(tpl.dir, "edge.tar"))
	if err != nil {
		t.Fatal(err)
	}
	s.node.WriteFile(archivePath, string(archive))
	s.node.Mkdir("/var/lib/edgeprep")
	s.cache = s.node.Path("/var/lib/edgeprep/mirror")
	if err := os.CopyFS(s.cache, os.DirFS(filepath.Join(tpl.dir, "cache"))); err != nil {
		t.Fatal(err)
	}
	s.quietNetwork()
	s.env = Env{
		Reader: s.node, Node: n, Archives: []string{archivePath}, Net: s.net, Now: clock,
		Site: config.Site{Version: 1, Registries: config.Registries{Write: true}, Mirror: config.Mirror{Mode: string(config.ModeSystemd), Cache: "/var/lib/edgeprep/mirror"}},
	}
	healthyArchives(s)
	healthyRuntime(s)
	s.require(append(tpl.set.Names(), sensorBoth(tpl.set))...)
	s.staticPod(imagetest.WebName, "IfNotPresent")
	healthyIMG(s)
	s.preload()
	s.serve()
	healthyKubelet(s)
	healthyHost(s)
	healthyMirror(s)
	healthyProcess(s)
	return s
}

// sensorBoth is tag and digest in one reference.
func sensorBoth(set *imagetest.Set) string {
	return imagetest.SensorName + "@" + set.Digests()[imagetest.SensorName]
}

func (s *site) require(refs ...string) {
	s.t.Helper()
	for _, r := range refs {
		ref, err := preload.ParseReference(r)
		if err != nil {
			s.t.Fatal(err)
		}
		s.env.Required = append(s.env.Required, ref)
	}
}

// quietNetwork gives the node default routes by a cable and by a dummy, its own namespace, and a record of every upstream.
func (s *site) quietNetwork() {
	s.node.WriteFile("/proc/net/route", "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"+
		"dummy0\t00000000\tFF7100CB\t0003\t0\t0\t1000\t00000000\t0\t0\t0\n")
	s.node.WriteFile("/sys/class/net/eth0/operstate", "up\n")
	s.node.WriteFile("/sys/class/net/dummy0/uevent", "INTERFACE=dummy0\nIFINDEX=7\n")
	s.node.Symlink("/proc/1/ns/net", "net:[1]")
	s.node.Symlink("/proc/self/ns/net", "net:[1]")
	var hosts []string
	for i, h := range []string{"registry-1.docker.io", "registry.k8s.io", "quay.io", "ghcr.io"} {
		hosts = append(hosts, fmt.Sprintf("%q: {\"addresses\": [\"192.0.2.%d\"]}", h+":443", i+1))
	}
	s.node.WriteFile(EgressRecordPath, `{"schema":1,"hosts":{`+strings.Join(hosts, ",")+`}}`)
}

// preload brings the archive into the fake containerd, and sets its CRI up.
func (s *site) preload() {
	s.t.Helper()
	src := s.open()
	defer src.Close()
	_, err := s.containerd().Import(s.t.Context(), src, host.ImportOptions{Platform: "linux/amd64", Unpack: true, Pin: true})
	if err != nil {
		s.t.Fatal(err)
	}
	cri := s.containerd().CRI()
	cri.State.SandboxImage, cri.State.ConfigPath = "", s.env.Node.Runtime.CertsD // as containerd 2 reports
	cri.OnPull = s.pull
}

func (s *site) open() host.ImageSource {
	s.t.Helper()
	src, err := preload.Open(s.t.Context(), s.node.FS(), archivePath)
	if err != nil {
		s.t.Fatal(err)
	}
	return src
}

// pull does what containerd does with the configuration as it is on the node: it asks one host after another.
func (s *site) pull(ref string) error {
	eff, err := registries.ReadEffective(context.Background(), s.node, s.env.Node)
	if err != nil {
		return err
	}
	registry, rest, _ := strings.Cut(ref, "/")
	repo, tag, _ := strings.Cut(rest, ":")
	last := fmt.Errorf("dial tcp: lookup %s: no such host", registry)
	for _, ep := range eff.For(registry).Endpoints {
		req, err := http.NewRequest(http.MethodHead, strings.TrimSuffix(ep.URL, "/v2")+"/v2/"+repo+"/manifests/"+tag+"?ns="+url.QueryEscape(registry), http.NoBody)
		if err != nil {
			return err
		}
		req.Header.Set("User-Agent", "containerd/v2.4.2")
		resp, err := s.way.RoundTrip(req)
		if err != nil {
			last = err
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		last = fmt.Errorf("%s: not found (%s)", ref, resp.Status)
	}
	return last
}

// serve starts the mirror.
func (s *site) serve() {
	s.t.Helper()
	admin := filepath.Join(shortDir(s.t), "mirror.sock")
	server, err := mirror.Listen(s.t.Context(), mirror.Config{Cache: s.cache, Listen: "127.0.0.1:0", Admin: admin})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	s.stop = sync.OnceFunc(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("mirror: %v", err)
		}
	})
	s.t.Cleanup(s.stop)
	s.env.Mirrors, s.env.Cache = []Mirror{{URL: server.URL(), Admin: admin}}, s.cache
	// the units run
	for _, u := range append([]string{"containerd.service", deploy.UnitName}, s.env.Node.Units...) {
		conf := "/etc/systemd/system/" + u + ".d/10-edgeprep-mirror.conf"
		s.node.WriteFile(conf, "[Unit]\nWants="+deploy.UnitName+"\nAfter="+deploy.UnitName+"\n")
		s.node.UnitState().Add(host.Unit{Name: u, Active: "active", Enabled: "enabled", DropIns: []string{conf}})
	}
}

// shortDir is a directory for sockets: their path is bounded by 108 bytes, which t.TempDir may pass.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "epchk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// configure writes the registries configuration that edgeprep wants, and on k3s what it renders of it.
func (s *site) configure() {
	s.t.Helper()
	p := registries.Policy{Endpoints: []registries.Endpoint{{URL: s.env.Mirrors[0].URL}}, Hosts: []string{"docker.io"}}
	want, err := registries.Desired(s.t.Context(), s.node, s.env.Node, p)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range want.Resources {
		if r.File != nil {
			s.node.WriteFile(r.File.Path, string(r.File.Content))
		}
	}
	if n := s.env.Node; n.Registries.Format == registries.FormatYAML && n.Started {
		u := s.env.Mirrors[0].URL
		for _, dir := range []string{"_default", "docker.io"} {
			s.node.WriteFile(path.Join(n.Runtime.CertsD, dir, "hosts.toml"), "[host]\n[host.\""+u+"/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
		}
	}
}

// place puts the archive where it belongs.
func (s *site) place() {
	s.t.Helper()
	a, err := preload.Inspect(s.t.Context(), s.node.FS(), archivePath, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	want, err := preload.Desired(s.env.Node, []preload.Archive{a}, s.env.Required, preload.Options{Preload: true})
	if err != nil {
		s.t.Fatal(err)
	}
	s.env.Resources = want.Resources
	for _, r := range want.Resources {
		if r.Kind == resource.KindArchive {
			s.node.WriteFile(r.Archive.Path, s.node.ReadFile(archivePath))
		}
	}
}

// placedPath is where the archive was placed.
func (s *site) placedPath() string {
	for _, r := range s.env.Resources {
		if r.Archive != nil {
			return r.Archive.Path
		}
	}
	s.t.Fatal("no archive is placed")
	return ""
}

func (s *site) run(opts Options) Report {
	s.t.Helper()
	r, err := Run(s.t.Context(), s.env, opts)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// layer is the digest of a layer of an image, on the node's platform.
func (s *site) layer(name string) string {
	img, ok := s.set.Image(name)
	if !ok {
		s.t.Fatalf("no image %s", name)
	}
	l := img.Platforms[0].Layers
	return l[len(l)-1]
}

// blob is the file of a digest in the mirror's cache.
func (s *site) blob(digest string) string {
	alg, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(s.cache, "blobs", alg, hex[:2], hex)
}

// staticPod puts a pod where kubelet starts it from.
func (s *site) staticPod(image, policy string) {
	s.env.Node.Workload.StaticPods = "/etc/kubernetes/manifests"
	s.node.WriteFile("/etc/kubernetes/manifests/agent.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: agent, namespace: kube-system}\n"+
		"spec:\n  hostNetwork: true\n  containers: [{name: agent, image: \""+image+"\", imagePullPolicy: "+policy+"}]\n")
}

// mirrorPod runs the mirror as a static pod.
func (s *site) mirrorPod(image string) {
	s.env.Site.Mirror.Mode, s.env.Site.Mirror.Workload.Form = string(config.ModeWorkload), "static-pod"
	s.env.MirrorImage = image
	s.staticPod(image, "IfNotPresent")
}
