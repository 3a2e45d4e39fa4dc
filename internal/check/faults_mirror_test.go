package check

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const (
	mirrorUnitFile = "/etc/systemd/system/" + deploy.UnitName
	mirrorWanted   = "/etc/systemd/system/multi-user.target.wants/" + deploy.UnitName
	cacheDir       = "/var/lib/edgeprep/mirror"
)

// healthyMirror is the mirror's unit as edgeprep writes it, and a disk below its cache.
func healthyMirror(s *site) {
	listen := strings.TrimPrefix(s.env.Mirrors[0].URL, "http://")
	s.env.Site.Mirror.Listen, s.env.Site.Mirror.Upstream = listen, config.UpstreamNever
	svc := deploy.Service{Listen: listen, Cache: cacheDir, Upstream: config.UpstreamNever, DefaultRegistry: "docker.io"}
	for _, r := range svc.Resources(distro.Node{Name: s.env.Node.Name, Units: s.env.Node.Units}, nil) {
		if r.File != nil && r.File.Path == mirrorUnitFile {
			s.node.WriteFile(mirrorUnitFile, string(r.File.Content))
		}
	}
	s.node.Symlink(mirrorWanted, mirrorUnitFile)
	s.node.UnitState().SetActive(deploy.UnitName, "active")
}

// unitSays adds a drop-in to the mirror's unit, and systemd reads it.
func (s *site) unitSays(text string) {
	s.node.WriteFile(mirrorUnitFile+".d/90-hand.conf", text)
	s.node.UnitState().SetActive(deploy.UnitName, "active")
}

// inCache puts a file into the cache.
func (s *site) inCache(p, content string) { s.node.WriteFile(cacheDir+"/"+p, content) }

// deployment is the mirror as somebody wrote it by hand, in the directory that the distribution applies.
func (s *site) deployment(replicas, strategy, volume, more string) {
	s.env.Site.Mirror.Mode, s.env.Site.Mirror.Workload.Form = string(config.ModeWorkload), config.FormDeployment
	s.env.MirrorImage, s.env.Cache = imagetest.APIName, ""
	s.env.Node.Workload.Manifests = "/var/lib/manifests"
	s.node.WriteFile("/var/lib/manifests/mirror.yaml", "kind: Deployment\nmetadata: {name: edgeprep-mirror, namespace: edgeprep}\nspec:\n  replicas: "+replicas+"\n  strategy: {type: "+strategy+"}\n"+
		"  template:\n    spec:\n      hostNetwork: true\n      containers:\n      - name: mirror\n        image: "+imagetest.APIName+"\n        imagePullPolicy: Never\n"+
		"        args: [mirror, serve, --cache, /var/lib/edgeprep/mirror]\n        volumeMounts: [{name: cache, mountPath: /var/lib/edgeprep}]\n      volumes:\n      - name: cache\n        "+volume+"\n"+more)
}

// claim and volume are manifests.
func claimOf(class, size string) string {
	return "---\nkind: PersistentVolumeClaim\nmetadata: {name: c, namespace: edgeprep}\nspec: {storageClassName: " + class + ", resources: {requests: {storage: " + size + "}}}\n"
}

const (
	byClaim     = "persistentVolumeClaim: {claimName: c}"
	localVolume = "---\nkind: PersistentVolume\nmetadata: {name: disk}\nspec:\n  storageClassName: box\n  local: {path: /mnt/disk}\n" +
		"  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [box-7]}]}]}}\n"
)

// only runs one check: these nodes differ from the healthy one in more than one way, for other checks too.
func only(id string) Options { return Options{IDs: []string{id}} }

func mirrorFaults() map[string]fault {
	return map[string]fault{
		"the mirror's unit asks upstreams although the site says never": {check: "MIR-10", says: "--upstream connected", status: StatusWarn,
			inject: func(s *site) {
				s.rewrite(mirrorUnitFile, func(b []byte) []byte {
					return []byte(strings.Replace(string(b), "--upstream never", "--upstream connected", 1))
				})
				s.node.UnitState().SetActive(deploy.UnitName, "active")
			}},
		"the mirror listens elsewhere than the site says": {check: "MIR-13", says: "the unit listens on", inject: func(s *site) { s.env.Site.Mirror.Listen = "127.0.0.1:5999" }},
		"the mirror's address is not this node's": {check: "MIR-13", says: "has not got the address", opts: only("MIR-13"), inject: func(s *site) {
			s.remove(mirrorUnitFile)
			s.env.Site.Mirror.Listen = "10.66.0.1:5000"
		}},
		"another node asks a mirror on loopback": {check: "MIR-13", says: "box-2 ask", opts: only("MIR-13"), inject: func(s *site) {
			s.env.Site.Nodes = []config.Node{{Name: "node1", Mirror: "primary"}, {Name: "box-2", Mirror: "none"}}
		}},
		"the mirror listens on a name": {check: "MIR-13", says: "a resolver", status: StatusWarn, opts: only("MIR-13"), inject: func(s *site) {
			s.remove(mirrorUnitFile)
			s.env.Site.Mirror.Listen = "mirror.site.example:5000"
		}},
		"the mirror is not restarted":             {check: "MIR-14", says: "Restart=on-failure", inject: func(s *site) { s.unitSays("[Service]\nRestart=on-failure\n") }},
		"systemd gives the mirror up":             {check: "MIR-14", says: "gives it up", also: []string{"HST-04"}, inject: func(s *site) { s.unitSays("[Unit]\nStartLimitIntervalSec=30\n") }},
		"the mirror waits for a network":          {check: "MIR-14", says: "After=network-online.target", inject: func(s *site) { s.unitSays("[Unit]\nAfter=network-online.target\n") }},
		"the mirror comes after the distribution": {check: "MIR-14", says: "After=kubelet.service", inject: func(s *site) { s.unitSays("[Unit]\nAfter=kubelet.service\n") }},
		"the mirror has failed":                   {check: "MIR-14", says: "failed", opts: only("MIR-14"), inject: func(s *site) { s.node.UnitState().SetActive(deploy.UnitName, "failed") }},
		"one of two nodes has the only mirror": {check: "MIR-19", says: "only node1", status: StatusWarn, opts: only("MIR-19"), inject: func(s *site) {
			s.env.Site.Nodes = []config.Node{{Name: "node1", Mirror: "primary"}, {Name: "box-2", Mirror: "none"}}
		}},

		"FI-25: a reference file is empty": {check: "MIR-06", says: "garbage", inject: func(s *site) { s.inCache("refs/docker.io/library/x/_tags/1", "") }},
		"FI-25: a temporary file of Syncthing's": {check: "MIR-06", says: "temporary or conflict", status: StatusWarn,
			inject: func(s *site) { s.inCache("refs/docker.io/library/x/_tags/.syncthing.1.tmp", "{") }},
		"FI-25: a conflict copy": {check: "MIR-06", says: "temporary or conflict", status: StatusWarn,
			inject: func(s *site) {
				s.inCache("refs/docker.io/library/x/_tags/1.sync-conflict-20261122-101010-ABCDEFG", "{}")
			}},
		"an image that nobody requires lost a layer": {check: "MIR-06", says: "is missing or has another size", status: StatusWarn, opts: only("MIR-06"),
			inject: func(s *site) { s.removeBlob(s.layer(imagetest.APIName)) }},
		"the mirror serves another directory": {check: "MIR-07", says: "404 for", opts: only("MIR-07"), inject: func(s *site) {
			s.env.Mirrors = []Mirror{serveCache(s.t, s.t.TempDir())}
		}},
		"tmpfiles empties the cache": {check: "MIR-08", says: "older than 30d", inject: func(s *site) { s.node.WriteFile("/etc/tmpfiles.d/x.conf", "d /var/lib/edgeprep 0755 root root 30d\n") }},
		"a cron job prunes the cache": {check: "MIR-08", says: "a job of this node", inject: func(s *site) {
			s.node.WriteFile("/etc/cron.d/prune", "# weekly\n0 3 * * 0 root edgeprep mirror prune --unused-for 30d --yes\n")
		}},
		"a name is too long for the mirror": {check: "MIR-17", says: "does not take it", status: StatusWarn, opts: only("MIR-17"), inject: func(s *site) {
			s.env.Required = append(s.env.Required, preload.Ref{Name: "registry.example/" + strings.Repeat("a/", 120) + "b:1", Host: "registry.example", Repository: strings.Repeat("a/", 120) + "b"})
		}},
		"the mirror answers 500 for what it lacks": {check: "MIR-18", says: "500", status: StatusWarn, opts: only("MIR-18"), inject: func(s *site) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
			s.t.Cleanup(srv.Close)
			s.env.Mirrors[0].URL = srv.URL
		}},

		"kubelet may collect the mirror's own image": {check: "MIR-01", says: "not pinned", opts: only("MIR-01"), inject: func(s *site) {
			s.mirrorPod(imagetest.WebName)
			s.unpin(imagetest.WebName)
		}},
		"the mirror's own image is always pulled": {check: "MIR-01", says: "Always", opts: only("MIR-01"), inject: func(s *site) {
			s.mirrorPod(imagetest.WebName)
			s.staticPod(imagetest.WebName, "Always")
		}},
		"no archive has the mirror's own image": {check: "MIR-01", says: "no archive on this node", status: StatusWarn, opts: only("MIR-01"), inject: func(s *site) {
			s.mirrorPod(imagetest.WebName)
			s.env.Archives = nil
		}},
		"the mirror's cache is an emptyDir":   {check: "MIR-02", says: "emptyDir", opts: only("MIR-02"), inject: func(s *site) { s.deployment("1", "Recreate", "emptyDir: {}", "") }},
		"the mirror has two pods":             {check: "MIR-02", says: "2 replicas", opts: only("MIR-02"), inject: func(s *site) { s.deployment("2", "Recreate", byClaim, claimOf("box", "1Gi")+replicatedClass) }},
		"the mirror is updated beside itself": {check: "MIR-02", says: "RollingUpdate", opts: only("MIR-02"), inject: func(s *site) { s.deployment("1", "RollingUpdate", byClaim, claimOf("box", "1Gi")+replicatedClass) }},
		"the mirror's volume is smaller than its images": {check: "MIR-02", says: "a third more", opts: only("MIR-02"), inject: func(s *site) {
			s.deployment("1", "Recreate", byClaim, claimOf("box", "1Ki")+replicatedClass)
		}},
		"the mirror's volume is one node's disk": {check: "MIR-02", says: "on node box-7 alone", status: StatusWarn, opts: only("MIR-02"),
			inject: func(s *site) { s.deployment("1", "Recreate", byClaim, claimOf("box", "1Gi")+localVolume) }},
		"the mirror's class keeps volumes on one node": {check: "MIR-02", says: "provisioner rancher.io/local-path", status: StatusWarn, opts: only("MIR-02"), inject: func(s *site) {
			s.deployment("1", "Recreate", byClaim, claimOf("lp", "1Gi")+"---\nkind: StorageClass\nmetadata: {name: lp}\nprovisioner: rancher.io/local-path\n")
		}},
		"the mirror's claim is not on this disk": {check: "MIR-02", says: "in no manifest", status: StatusUnproven, opts: only("MIR-02"), inject: func(s *site) { s.deployment("1", "Recreate", byClaim, "") }},
		"the cache is in memory": {check: "MIR-15", says: "tmpfs at /var/lib/edgeprep", inject: func(s *site) {
			s.node.WriteFile("/proc/mounts", "/dev/sda1 / ext4 rw 0 0\ntmpfs /var/lib/edgeprep tmpfs rw 0 0\n")
		}, opts: only("MIR-15")},
		"the cache is another user's": {check: "MIR-15", says: "owner", inject: func(s *site) { s.node.AddAccount(host.Account{Name: deploy.Account, UID: 54321, GID: 54321}) }},
		"a service and a pod use one cache": {check: "MIR-16", says: "DaemonSet", opts: only("MIR-16"), inject: func(s *site) {
			s.env.Node.Workload.Manifests = "/var/lib/manifests"
			s.node.WriteFile("/var/lib/manifests/m.yaml", "kind: DaemonSet\nmetadata: {name: m}\nspec: {template: {spec: {containers: [{image: x}], volumes: [{name: c, hostPath: {path: /var/lib/edgeprep/mirror}}]}}}\n")
		}},
	}
}

const replicatedClass = "---\nkind: StorageClass\nmetadata: {name: box}\nprovisioner: driver.longhorn.io\n"

func TestStorageThatIsGood(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, prepare := range map[string]func(*site){
		"a class that replicates": func(s *site) { s.deployment("1", "Recreate", byClaim, claimOf("box", "1Gi")+replicatedClass) },
		"a volume of a network": func(s *site) {
			s.deployment("1", "Recreate", byClaim, claimOf("box", "1Gi")+"---\nkind: PersistentVolume\nmetadata: {name: n}\nspec: {storageClassName: box, nfs: {path: /x, server: s}}\n")
		},
		"a service": func(*site) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeadmSite(t, tpl)
			prepare(s)
			if r := s.run(only("MIR-02")).Results[0]; r.Status != StatusPass && r.Status != StatusSkip {
				t.Errorf("%s: %+v", r.Status, r.Findings)
			}
		})
	}
}

// TestRenderedManifestsHaveGoodStorage: what edgeprep itself writes passes its own check.
func TestRenderedManifestsHaveGoodStorage(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for _, form := range []deploy.Form{deploy.StaticPod, deploy.DaemonSet, deploy.Deployment} {
		s := kubeadmSite(t, tpl)
		w := deploy.Workload{Service: deploy.Service{Listen: "127.0.0.1:5000", Cache: cacheDir, Upstream: "never"}, Form: form, Image: imagetest.WebName, NodePort: 31080, StorageClass: "box", Size: 1 << 30}
		text, err := w.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		s.env.Site.Mirror.Mode, s.env.MirrorImage = string(config.ModeWorkload), imagetest.WebName
		s.remove("/etc/kubernetes/manifests/agent.yaml")
		s.node.WriteFile("/etc/kubernetes/manifests/m.yaml", text+replicatedClass)
		for _, r := range s.run(Options{IDs: []string{"MIR-01", "MIR-02"}}).Results {
			if r.Status != StatusPass {
				t.Errorf("%s, %s is %s: %+v", form, r.ID, r.Status, r.Findings)
			}
		}
	}
}

func TestCacheRoom(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, tc := range map[string]struct {
		space    host.Space
		upstream string
		status   Status
	}{
		"room":                        {host.Space{Total: 100 * gib, Free: 20 * gib}, "", StatusPass},
		"a small disk with room":      {host.Space{Total: 8 * gib, Free: 2 * gib}, "", StatusPass},
		"little":                      {host.Space{Total: 100 * gib, Free: 1500 << 20}, "", StatusWarn},
		"below min_free":              {host.Space{Total: 100 * gib, Free: 500 << 20}, "", StatusFail},
		"below it, and nothing comes": {host.Space{Total: 100 * gib, Free: 500 << 20}, config.UpstreamNever, StatusWarn},
		"read-only":                   {host.Space{Total: 100 * gib, Free: 20 * gib, ReadOnly: true}, config.UpstreamNever, StatusFail},
		"size unknown":                {host.Space{}, config.UpstreamNever, StatusUnproven},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeadmSite(t, tpl)
			s.env.Site.Mirror.Upstream = tc.upstream
			s.env.Reader = disks{s.node, map[string]host.Space{"": tc.space}}
			if r := s.run(only("MIR-05")).Results[0]; r.Status != tc.status {
				t.Errorf("%s: %+v", r.Status, r.Findings)
			}
		})
	}
}

// TestFullDiskServesWhatIsCached is FI-24: the disk of the cache is full, the mirror is started anew, and every
// cached image is still answered; the check says that the disk is full.
func TestFullDiskServesWhatIsCached(t *testing.T) {
	t.Parallel()
	if unix.Geteuid() != 0 {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal("needs root: mounts a tmpfs")
		}
		t.Skip("needs root: mounts a tmpfs")
	}
	s := kubeadmSite(t, newTemplate(t))
	s.stop()
	keep := t.TempDir()
	if err := os.CopyFS(keep, os.DirFS(s.cache)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.cache, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.cache, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(s.cache, os.DirFS(keep)); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(s.cache, "tmp/ballast"))
	m := serveCache(t, s.cache)
	s.env.Mirrors, s.env.Site.Mirror.Upstream = []Mirror{m}, ""
	r := s.run(Options{IDs: []string{"MIR-03", "MIR-05", "MIR-06", "MIR-07"}})
	for id, want := range map[string]Status{"MIR-03": StatusPass, "MIR-05": StatusFail, "MIR-06": StatusPass, "MIR-07": StatusPass} {
		if x, _ := r.Result(id); x.Status != want {
			t.Errorf("%s is %s: %+v", id, x.Status, x.Findings)
		}
	}
}

// fill writes until nothing fits.
func fill(t *testing.T, file string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}

// TestSlowTags: a mirror that waits for somebody before it answers is named.
func TestSlowTags(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	e, err := s.env.prepared(t.Context(), Options{}.filled())
	if err != nil {
		t.Fatal(err)
	}
	walks := []mirrorWalk{{endpoint: s.env.Mirrors[0], ref: imagetest.WebName, took: 31e9, result: mirror.WalkResult{Digest: "sha256:x"}},
		{endpoint: s.env.Mirrors[0], ref: imagetest.APIName, took: 1e6, result: mirror.WalkResult{Digest: "sha256:x"}}}
	e.memo.mirrors = func() []mirrorWalk { return walks }
	fs := runTagTime(t.Context(), e)
	if len(fs) != 1 || fs[0].Status != StatusFail || !strings.Contains(fs[0].Subject, imagetest.WebName) || fs[0].Observed != "31s" {
		t.Errorf("%+v", fs)
	}
}

func TestQuantityBytes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"40Gi": 40 << 30, "1Ki": 1024, "500M": 500e6, "1024": 1024} {
		if n, err := quantityBytes(s); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "x", "1.5Gi", "Gi"} {
		if n, err := quantityBytes(s); err == nil {
			t.Errorf("%s: %d", s, n)
		}
	}
}
