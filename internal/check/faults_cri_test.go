package check

import (
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// healthyRuntime gives containerd's root what a store has: a blob, and the program of the test images unpacked.
func healthyRuntime(s *site) {
	root := s.env.Node.Runtime.Endpoint.Root
	s.node.WriteFile(path.Join(root, blobsDir, strings.Repeat("a", 64)), "x")
	s.node.WriteFile(path.Join(root, snapshotsDir, "1/fs/bin/none"), "program")
	s.node.WriteFile("/proc/mounts", "/dev/sda1 / ext4 rw,relatime 0 0\n")
}

// fifo makes an entry that is no file, as a socket is one.
func (s *site) fifo(p string) {
	s.t.Helper()
	s.node.Mkdir(path.Dir(p))
	if err := mkfifo(s.node.Path(p)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) inStore(p string) string { return path.Join(s.env.Node.Runtime.Endpoint.Root, p) }

func (s *site) appendTOML(text string) {
	s.rewrite("/etc/containerd/config.toml", func(b []byte) []byte { return append(b, text...) })
}

func runtimeFaults() map[string]fault {
	all := storeFaults()
	withoutCRI := []string{"IMG-08", "IMG-09", "IMG-12", "IMG-15", "CRI-10", "CRI-02", "CRI-04", "CRI-05", "TAR-11", "IMG-01", "IMG-07", "REG-16"}
	for name, f := range map[string]fault{
		"FI-03: imported into the namespace default": {check: "CRI-01", says: "only in namespace default", also: []string{"CRI-10", "CRI-02"}, inject: func(s *site) {
			other := hosttest.New(s.t).Containerd(s.env.Node.Runtime.Endpoint)
			src := s.open()
			defer src.Close()
			if _, err := other.Import(s.t.Context(), src, host.ImportOptions{Platform: "linux/amd64"}); err != nil {
				s.t.Fatal(err)
			}
			s.removeImage(imagetest.APIName)
			s.env.Reader = namespaces{s.node, map[string]host.Runtime{"default": other}}
		}},
		"the snapshotter did not load": {check: "CRI-07", says: "no such device", inject: func(s *site) {
			s.containerd().SetPlugin(host.Plugin{Type: snapshotterType, ID: "overlayfs", Error: "mount: no such device"})
		}},
		"there is no such snapshotter": {check: "CRI-07", says: "it has overlayfs", also: []string{"TAR-11"},
			inject: func(s *site) { s.containerd().CRI().State.Snapshotter = "stargz" }},
		"overlayfs on NFS": {check: "CRI-07", says: "nfs4 below", status: StatusWarn,
			inject: func(s *site) {
				s.node.WriteFile("/proc/mounts", "/dev/sda1 / ext4 rw 0 0\nsrv:/x /var/lib/containerd nfs4 rw 0 0\n")
			}},
		"an image is not unpacked": {check: "TAR-11", says: "not unpacked", status: StatusWarn, inject: func(s *site) {
			s.containerd().SetPlugin(host.Plugin{Type: snapshotterType, ID: "native"})
			s.containerd().CRI().State.Snapshotter = "native"
		}},
		"FI-16: the CRI plugin refused its configuration": {check: "CRI-08", says: "`mirrors` cannot be set", also: withoutCRI, inject: func(s *site) {
			s.containerd().SetPlugin(host.Plugin{Type: criHalvesType, ID: "images", Error: "invalid plugin config: `mirrors` cannot be set when `config_path` is provided"})
			s.containerd().CRI().Down = true
		}},
		"a registry key of config.toml is misspelt": {check: "CRI-09", says: "registry.config_pth", inject: func(s *site) { s.appendTOML("  config_pth = '/x'\n") }},
		"a key of config.toml is misspelt": {check: "CRI-09", says: "snapshoter", status: StatusWarn,
			inject: func(s *site) { s.appendTOML("[plugins.'io.containerd.cri.v1.images']\n  snapshoter = 'native'\n") }},
		"kubelet uses another runtime": {check: "CRI-11", says: "is told to use CRI-O",
			inject: func(s *site) { s.env.Node.Runtime.External = "CRI-O" }},
		"an image went into another containerd": {check: "CRI-11", says: "/run/other/containerd/containerd.sock", also: []string{"CRI-10", "CRI-02"}, inject: func(s *site) {
			img := s.images()[imagetest.APIName]
			s.removeImage(imagetest.APIName)
			const socket = "/run/other/containerd/containerd.sock"
			s.fifo(socket)
			if err := s.node.Containerd(host.Endpoint{Socket: socket}).SetImage(s.t.Context(), img); err != nil {
				s.t.Fatal(err)
			}
		}},
		"FI-36: a cron job prunes images": {check: "CRI-12", says: "crictl rmi --prune", status: StatusWarn,
			inject: func(s *site) {
				s.node.WriteMode("/etc/cron.daily/clean", "#!/bin/sh\n# tidy up\ncrictl rmi --prune\n", 0o755)
			}},
		"a timer prunes images in a script": {check: "CRI-12", says: "docker system prune", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile("/etc/systemd/system/clean.service", "[Service]\nExecStart=-/opt/clean.sh --now\n")
			s.node.WriteMode("/opt/clean.sh", "#!/bin/sh\nset -e\ndocker system prune -af\n", 0o755)
		}},
		"a containerd that this Kubernetes does not support": {make: k3sStarted, check: "CRI-13", says: "containerd 1.7.35 with Kubernetes", status: StatusWarn,
			inject: func(s *site) { s.env.Node.Runtime.Version = "1.7.35" }},
	} {
		all[name] = f
	}
	return all
}

func storeFaults() map[string]fault {
	return map[string]fault{
		"layers are discarded": {check: "CRI-03", says: "gone once they are unpacked", status: StatusWarn,
			inject: func(s *site) {
				s.appendTOML("[plugins.'io.containerd.cri.v1.images']\n  discard_unpacked_layers = true\n")
			}},
		"a required image is neither pinned nor in the mirror": {check: "CRI-04", says: "kubelet may delete it when the disk is 85 % full", also: []string{"MIR-03", "MIR-04", "REG-16"},
			inject: func(s *site) {
				s.unpin(imagetest.APIName)
				s.stop()
			}},
		"a required image is not pinned, the mirror has it": {check: "CRI-04", says: "the mirror has it", status: StatusWarn,
			inject: func(s *site) { s.unpin(imagetest.APIName) }},
		"the sandbox image is not pinned": {check: "CRI-05", says: "kubelet may collect it", also: []string{"CRI-04"},
			inject: func(s *site) { s.unpin(imagetest.PauseName) }},
		"kubelet spares another sandbox image": {check: "CRI-05", says: "it is told to spare registry.k8s.io/pause:3.9 instead", also: []string{"CRI-04"},
			inject: func(s *site) {
				s.unpin(imagetest.PauseName)
				s.env.Node.Version = "v1.34.2" // later ones do not know the flag
				s.env.Node.Kubelet.Args = append(s.env.Node.Kubelet.Args, distro.Arg{Text: "pod-infra-container-image=registry.k8s.io/pause:3.9", Source: "kubeadm-flags.env:1"})
			}},
		"FI-12: the program in a snapshot is empty": {check: "CRI-06", says: "1/fs/bin/none",
			inject: func(s *site) { s.node.WriteFile(s.inStore(snapshotsDir+"/1/fs/bin/none"), "") }},
		"FI-12: a blob is empty": {check: "CRI-06", says: strings.Repeat("b", 64),
			inject: func(s *site) { s.node.WriteFile(s.inStore(path.Join(blobsDir, strings.Repeat("b", 64))), "") }},
		"FI-13: an import never ended": {check: "CRI-06", says: "1 of them", status: StatusWarn,
			inject: func(s *site) { s.node.Mkdir(s.inStore(ingestDir + "/abc")) }},
		"the disk does not keep what is written": {check: "CRI-06", says: "nobarrier", status: StatusWarn,
			inject: func(s *site) {
				s.node.WriteFile("/proc/mounts", "/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /var/lib/containerd ext4 rw,nobarrier,data=writeback 0 0\n")
			}},
		"another platform's manifest without its layers": {check: "CRI-14", says: "is here, what it names is not", status: StatusWarn, inject: func(s *site) {
			img, _ := s.set.Image(imagetest.APIName)
			d := img.Platforms[1].Manifest
			s.containerd().AddImage(&hosttest.MemImage{Image: host.Image{Name: "docker.io/library/stray:1", Target: host.Descriptor{Digest: d}},
				Blobs: map[string][]byte{d: s.set.Blob(d)}})
		}},
	}
}

// TestAProgramOfAnotherSize: with --deep a program in a snapshot is held against its layer.
func TestAProgramOfAnotherSize(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	const name = "docker.io/library/tool:1"
	set, err := imagetest.Build(imagetest.ImageSpec{Names: []string{name}, Platforms: []string{"linux/amd64"}, Cmd: []string{"tool"},
		Layers: []imagetest.LayerSpec{{Compression: imagetest.Gzip, Files: []imagetest.File{{Path: "bin/tool", Mode: 0o755, Content: []byte("whole program")}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.WriteArchive(s.node.Path(archivePath), imagetest.Form{Layout: imagetest.OCI}); err != nil {
		t.Fatal(err)
	}
	s.preload()
	s.env.Required = nil
	s.require(name)
	for content, want := range map[string]map[bool]Status{
		"whole program": {false: StatusPass, true: StatusPass},
		"whole pro":     {false: StatusPass, true: StatusFail},
		"":              {false: StatusFail, true: StatusFail},
	} {
		s.node.WriteFile(s.inStore(snapshotsDir+"/7/fs/bin/tool"), content)
		for deep, status := range want {
			if x := s.run(Options{IDs: []string{"CRI-06"}, Deep: deep}).Results[0]; x.Status != status {
				t.Errorf("%q, deep %v: %+v", content, deep, x.Findings)
			}
		}
	}
}

func TestStartFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config ocispec.ImageConfig
		want   []string
	}{
		"nothing":        {},
		"absolute":       {ocispec.ImageConfig{Entrypoint: []string{"/a/../b"}, Cmd: []string{"x"}}, []string{"/b"}},
		"command":        {ocispec.ImageConfig{Cmd: []string{"/x", "y"}}, []string{"/x"}},
		"relative":       {ocispec.ImageConfig{Entrypoint: []string{"./run"}, WorkingDir: "/app"}, []string{"/app/run"}},
		"by PATH":        {ocispec.ImageConfig{Entrypoint: []string{"nginx"}, Env: []string{"A=b", "PATH=/x:rel:/y"}}, []string{"/x/nginx", "/y/nginx"}},
		"without a PATH": {ocispec.ImageConfig{Entrypoint: []string{"sh"}}, []string{"/usr/local/sbin/sh", "/usr/local/bin/sh", "/usr/sbin/sh", "/usr/bin/sh", "/sbin/sh", "/bin/sh"}},
		"climbing out":   {ocispec.ImageConfig{Entrypoint: []string{"../../x"}, WorkingDir: "/a"}, []string{"/x"}},
	} {
		if d := cmp.Diff(c.want, startFiles(c.config)); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestMountOf(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/proc/mounts", "rootfs / rootfs rw 0 0\n/dev/a / ext4 rw 0 0\n/dev/b /var/lib xfs rw,noexec 0 0\nx\n/dev/c /var/lib/con\\040tainerd vfat rw 0 0\n")
	for p, want := range map[string]string{"/": "ext4", "/etc/x": "ext4", "/var/lib": "xfs", "/var/lib/containerd": "xfs", "/var/library": "ext4", "/var/lib/con tainerd/x": "vfat"} {
		if m, ok := mountOf(n.FS(), p); !ok || m.kind != want {
			t.Errorf("%s: %+v", p, m)
		}
	}
	if _, ok := mountOf(hosttest.New(t).FS(), "/"); ok {
		t.Error("a mount of nothing")
	}
}

func TestPruneCommands(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"crictl rmi --prune": true, "/usr/bin/crictl -r unix:///x rmi -a": true, "crictl images -q | xargs crictl rmi $IMAGES": true,
		"docker image prune -af": true, "nerdctl -n k8s.io system prune": true, "podman images prune": true, "ctr -n k8s.io images rm x": true, "ctr i prune --all": true,
		"crictl rmi docker.io/library/old:1": false, "crictl images": false, "docker container prune": false, "ctr images ls": false, "docker ps; image prune": false, "control images rm": false,
	} {
		if got := prunes.MatchString(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestHostileJobs: what lies where jobs are kept need not be text, or end.
func TestHostileJobs(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	s.fifo("/etc/cron.d/fifo")
	s.node.Symlink("/etc/cron.d/loop", "loop")
	s.node.WriteFile("/etc/cron.d/binary", "\x00\x01crictl rmi --prune\n")
	s.node.WriteFile("/etc/cron.d/names", "* * * * * root /etc/cron.d/fifo /etc/cron.d/loop /etc/cron.d /none\n")
	s.node.WriteFile("/etc/crontab", "")
	if err := os.Truncate(s.node.Path("/etc/crontab"), 1<<30); err != nil {
		t.Fatal(err)
	}
	if x := s.run(Options{IDs: []string{"CRI-12"}}).Results[0]; x.Status != StatusPass {
		t.Errorf("%+v", x.Findings)
	}
}

func TestVersionsThatGoTogether(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kubernetes, containerd string
		want                   Status
	}{
		{"v1.37.2", "2.4.2", StatusPass}, {"v1.36.0+k3s1", "1.7.35", StatusWarn}, {"v1.35.9", "1.7.35", StatusPass}, {"v1.26.0", "1.5.9", StatusWarn},
		{"v1.26.0", "1.6.20~ds1", StatusPass}, {"v1.25.0", "1.5.9", StatusPass}, {"v1.30.1", "v2.1.5-k3s1", StatusPass}, {"", "2.4.2", StatusSkip}, {"v1.37.2", "", StatusSkip}, {"nightly", "x", StatusSkip},
	} {
		got := runPair(t.Context(), &Env{Node: distro.Node{Version: c.kubernetes, Runtime: distro.Runtime{Version: c.containerd}}})
		if len(got) != 1 || got[0].Status != c.want {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}
