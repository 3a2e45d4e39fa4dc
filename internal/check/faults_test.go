package check

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// fault is one thing broken on an otherwise healthy node.
type fault struct {
	make   func(*testing.T, template) *site // nil: kubeadmSite
	inject func(s *site)
	opts   Options
	check  string   // must fail
	says   string   // in its findings
	also   []string // other checks that rightly fail or warn too
	status Status   // empty: fail
}

func k3sStarted(t *testing.T, tpl template) *site { return k3sSite(t, tpl, true) }

// faults are those of every group; a name is used once.
func faults(t *testing.T) map[string]fault {
	t.Helper()
	all := map[string]fault{}
	for _, group := range []func() map[string]fault{
		archiveFaults,
		runtimeFaults,
		firstFaults,
		kubeletFaults,
		mirrorFaults,
		processFaults,
		REGFaults, endpointFaults, fallbackFaults,
		IMGFaults,
		hostFaults,
		machineFaults,
	} {
		for name, f := range group() {
			if _, ok := all[name]; ok {
				t.Fatalf("two faults are named %q", name)
			}
			all[name] = f
		}
	}
	return all
}

func firstFaults() map[string]fault {
	return map[string]fault{
		"a record is gone": {check: "CRI-10", says: "absent as " + imagetest.APIName, also: []string{"CRI-02"},
			inject: func(s *site) { s.removeImage(imagetest.APIName) }},
		"CRI does not answer": {check: "CRI-10", says: "does not answer", status: StatusError, also: []string{"CRI-02", "IMG-01", "IMG-07", "IMG-08", "IMG-09", "IMG-12", "IMG-15", "REG-16", "CRI-08", "TAR-11", "CRI-04", "CRI-05"},
			inject: func(s *site) { s.containerd().CRI().Down = true }},
		"FI-02: imported by tag, required by digest": {check: "IMG-07", says: "the same digest is stored as " + imagetest.SensorName, also: []string{"CRI-10", "CRI-02", "CRI-04"},
			inject: func(s *site) { s.removeImage(digestName(s.set, imagetest.SensorName)) }},
		"another digest than the one required": {check: "IMG-07", says: "the repository has", also: []string{"CRI-10", "CRI-02", "TAR-17", "IMG-12"},
			inject: func(s *site) {
				s.removeImage(digestName(s.set, imagetest.SensorName))
				s.retarget(imagetest.SensorName, imagetest.WebName)
			}},
		"FI-01: the sandbox image is gone": {check: "IMG-01", says: "absent", also: []string{"CRI-10", "CRI-02"},
			inject: func(s *site) { s.removeImage(imagetest.PauseName) }},
		"FI-01: the runtime asks for another sandbox image": {check: "IMG-01", says: "absent",
			inject: func(s *site) { s.containerd().CRI().State.SandboxImage = "registry.k8s.io/pause:3.9" }},
		"the sandbox image lacks its layer": {check: "IMG-01", says: "is missing", also: []string{"CRI-02"},
			inject: func(s *site) { s.containerd().DropBlob(s.layer(imagetest.PauseName)) }},
		"nobody knows the sandbox image": {check: "IMG-01", says: "neither", status: StatusUnproven,
			inject: func(s *site) { s.env.Node.Sandbox = "" }},
		"FI-12: a layer is missing in containerd": {check: "CRI-02", says: "is missing",
			inject: func(s *site) { s.containerd().DropBlob(s.layer(imagetest.SensorName)) }},
		"a platform's manifest is missing in containerd": {check: "CRI-02", says: "manifest sha256:", also: []string{"CRI-10", "IMG-07", "IMG-08", "TAR-11"}, // CRI drops such images when it lists them
			inject: func(s *site) {
				img, _ := s.set.Image(imagetest.SensorName)
				s.containerd().DropBlob(img.Platforms[0].Manifest)
			}},
		"the node is of another platform": {check: "CRI-02", says: "no manifest for linux/riscv64",
			also: []string{"TAR-01", "MIR-03", "IMG-01", "IMG-06", "IMG-08", "TAR-11"}, inject: func(s *site) { s.env.Platform = "linux/riscv64" }},
		"nothing is required": {check: "CRI-10", says: "nothing to prove", status: StatusUnproven, also: []string{"CRI-02", "MIR-03", "MIR-04", "MIR-09"},
			inject: func(s *site) { s.env.Required = nil }},

		"FI-04: an archive is cut short": {check: "TAR-01", says: "NOD-102",
			inject: func(s *site) { s.rewrite(archivePath, func(b []byte) []byte { return b[:len(b)/2] }) }},
		"FI-04: an archive is cut on a block boundary": {check: "TAR-01", says: "NOD-10",
			inject: func(s *site) { s.rewrite(archivePath, func(b []byte) []byte { return b[:len(b)-1024] }) }},
		"FI-05: a bit of a blob in an archive is flipped": {check: "TAR-01", says: "NOD-103", inject: func(s *site) {
			layer := s.set.Blob(s.layer(imagetest.APIName))
			s.rewrite(archivePath, func(b []byte) []byte { b[bytes.Index(b, layer)+100] ^= 1; return b })
		}},
		"an archive is gone": {check: "TAR-01", says: "NOD-101", also: []string{"PRC-06"}, inject: func(s *site) { s.remove(archivePath) }},
		"an archive is for another platform": {check: "TAR-01", says: "is not for linux/amd64", inject: func(s *site) {
			arm, err := imagetest.Build(imagetest.ImageSpec{Names: []string{"docker.io/library/arm:1"}, Platforms: []string{"linux/arm64"},
				Layers: []imagetest.LayerSpec{{Seed: "arm", Size: 100}}})
			if err != nil {
				s.t.Fatal(err)
			}
			if err := arm.WriteArchive(s.node.Path("/opt/arm.tar"), imagetest.Form{Layout: imagetest.OCI}); err != nil {
				s.t.Fatal(err)
			}
			s.env.Archives = append(s.env.Archives, "/opt/arm.tar")
		}},
		"an archive is not placed": {make: k3sStarted, check: "TAR-05", says: "absent",
			inject: func(s *site) { s.remove(s.placedPath()) }},
		"a placed archive is short": {make: k3sStarted, check: "TAR-05", says: "bytes",
			inject: func(s *site) { s.rewrite(s.placedPath(), func(b []byte) []byte { return b[:len(b)-512] }) }},
		"a placed archive has other bytes": {make: k3sStarted, check: "TAR-05", says: "sha256",
			inject: func(s *site) { s.rewrite(s.placedPath(), func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) }},
		"a placed archive is a link": {make: k3sStarted, check: "TAR-05", says: "a symlink", inject: func(s *site) {
			s.remove(s.placedPath())
			s.node.Symlink(s.placedPath(), archivePath)
		}},
		"FI-07: an archive lies in a sub-directory": {make: k3sStarted, check: "TAR-05", says: "sub-directory",
			inject: func(s *site) { s.node.WriteFile(s.env.Node.Preload.Dir+"/more/extra.tar.zst", "x") }},
		"the node uses docker": {make: k3sStarted, check: "TAR-05", says: "has no effect", also: []string{"CRI-11"},
			inject: func(s *site) { s.env.Node.Runtime.External = "docker" }},

		"FI-14: config_path is a list": {check: "REG-01", says: "is a list", also: []string{"REG-04", "REG-16"},
			inject: func(s *site) { s.configTOML(certsD + ":/etc/docker/certs.d") }},
		"config_path is relative": {check: "REG-01", says: "not an absolute", also: []string{"REG-04", "REG-16"},
			inject: func(s *site) { s.configTOML("certs.d") }},
		"FI-14: config_path is not set on a containerd with a list as default": {check: "REG-01", says: "built-in", also: []string{"REG-04", "REG-16"},
			inject: func(s *site) { s.node.WriteFile("/etc/containerd/config.toml", "version = 3\n") }},
		"FI-14: config_path is not set": {check: "REG-02", says: "not set", also: []string{"REG-04", "REG-16", "CRI-13"}, inject: func(s *site) {
			s.env.Node.Runtime.Version = "1.7.35"
			s.node.WriteFile("/etc/containerd/config.toml", "version = 2\n")
		}},
		"config_path is in the wrong table": {check: "REG-02", says: "NOD-227", also: []string{"REG-01", "REG-04", "REG-16"}, inject: func(s *site) {
			s.node.WriteFile("/etc/containerd/config.toml", "version = 3\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d'\n")
		}},
		"the CRI plugin is switched off": {check: "REG-02", says: "NOD-222",
			inject: func(s *site) {
				s.rewrite("/etc/containerd/config.toml", func(b []byte) []byte {
					return append([]byte("disabled_plugins = ['io.containerd.grpc.v1.cri']\n"), b...)
				})
			}},
		"the running containerd has not taken config_path in": {check: "REG-02", says: "the running containerd uses /etc/other",
			inject: func(s *site) { s.containerd().CRI().State.ConfigPath = "/etc/other" }},
		"FI-15: hosts.toml is not TOML": {check: "REG-04", says: "NOD-230", also: []string{"REG-16"},
			inject: func(s *site) {
				s.node.WriteFile(certsD+"/_default/hosts.toml", "server = \n")
				s.remove(certsD + "/docker.io/hosts.toml")
				s.remove(certsD + "/docker.io")
			}},
		"FI-15: an empty directory hides _default": {check: "REG-08", says: "quay.io", also: []string{"REG-04", "REG-16"},
			inject: func(s *site) { s.node.Mkdir(certsD + "/quay.io") }},
		"a file sends one registry elsewhere": {check: "REG-04", says: "http://10.9.9.9:5000", also: []string{"REG-08", "REG-16"},
			inject: func(s *site) {
				s.node.WriteFile(certsD+"/quay.io/hosts.toml", "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:1\"]\ncapabilities=[\"pull\",\"resolve\"]\n# http://10.9.9.9:5000\n")
				s.rewrite(certsD+"/quay.io/hosts.toml", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("127.0.0.1:1\""), []byte("10.9.9.9:5000\"")) })
				s.containerd().CRI().OnPull = func(string) error { return os.ErrDeadlineExceeded }
			}},
		"registries.yaml is not YAML": {make: k3sStarted, check: "REG-06", says: "NOD-210",
			inject: func(s *site) { s.node.WriteFile("/etc/rancher/k3s/registries.yaml", "mirrors:\n  *:\n\tx\n") }},
		"FI-15: a key of hosts.toml is misspelt": {check: "REG-05", says: "capability", inject: func(s *site) {
			s.rewrite(certsD+"/_default/hosts.toml", func(b []byte) []byte { return append(b, []byte("capability = [\"pull\"]\n")...) })
		}},
		"a key of registries.yaml is misspelt": {make: k3sStarted, check: "REG-05", says: "NOD-212", also: []string{"REG-04"},
			inject: func(s *site) {
				s.rewrite("/etc/rancher/k3s/registries.yaml", func(b []byte) []byte { return append(b, []byte("mirror:\n  x: {}\n")...) })
			}},

		"the mirror does not run":  {check: "MIR-03", says: "refused", also: []string{"MIR-04", "REG-16"}, inject: func(s *site) { s.stop() }},
		"the mirror lacks a layer": {check: "MIR-03", says: "not in the cache", also: []string{"MIR-06"}, inject: func(s *site) { s.removeBlob(s.layer(imagetest.APIName)) }},
		"the mirror lacks a reference": {check: "MIR-03", says: imagetest.WebAlias,
			inject: func(s *site) {
				if err := os.Remove(filepath.Join(s.cache, "refs/docker.io/library/edge-web/_tags/stable")); err != nil {
					s.t.Fatal(err)
				}
			}},
		"a second endpoint is not there": {check: "MIR-03", says: "127.0.0.1:1", also: []string{"MIR-04", "REG-04"},
			inject: func(s *site) { s.env.Mirrors = append(s.env.Mirrors, Mirror{URL: "http://127.0.0.1:1"}) }},
		"containerd still uses its old configuration": {check: "REG-16", says: "no pull arrived",
			inject: func(s *site) { s.containerd().CRI().OnPull = func(string) error { return os.ErrDeadlineExceeded } }},
		"the mirror runs elsewhere": {check: "REG-16", says: "other nodes", status: StatusUnproven, also: []string{"COLD-02"},
			inject: func(s *site) { s.env.Mirrors[0].Admin = "" }},

		"FI-32: there is no default route": {check: "HST-02", says: "none", inject: func(s *site) { s.node.WriteFile("/proc/net/route", "") }},
		"FI-32: the boot waits for a network": {check: "HST-06", says: "enabled: waits for", status: StatusWarn, inject: func(s *site) {
			s.node.UnitState().Add(host.Unit{Name: "systemd-networkd-wait-online.service", Enabled: "enabled"})
		}},
		"the mirror is not enabled": {check: "COLD-01", says: "it is not enabled", also: []string{"COLD-02"},
			inject: func(s *site) { s.remove(mirrorWanted) }},
		"the distribution is masked": {check: "COLD-01", says: "it is masked", also: []string{"COLD-03"},
			inject: func(s *site) { s.node.UnitState().Add(host.Unit{Name: "kubelet.service", Enabled: "masked"}) }},
		"the distribution does not wait for the mirror": {check: "COLD-01", says: "no ordering with the mirror", status: StatusWarn,
			inject: func(s *site) {
				s.node.UnitState().Add(host.Unit{Name: "kubelet.service", Active: "active", Enabled: "enabled"})
			}},
		"a static pod's image is nowhere": {check: "COLD-03", says: "neither the node nor the mirror has it", also: []string{"IMG-04"},
			inject: func(s *site) { s.staticPod("quay.io/absent/agent:1", "IfNotPresent") }},
		"a static pod always asks for what only the node has": {check: "COLD-03", says: "pull policy Always", also: []string{"IMG-06"}, inject: func(s *site) {
			img := s.images()[imagetest.WebName]
			img.Name = "docker.io/library/only-here:1"
			if err := s.containerd().SetImage(s.t.Context(), img); err != nil {
				s.t.Fatal(err)
			}
			s.staticPod("only-here:1", "Always")
		}},
		"a static pod is not YAML": {check: "COLD-03", says: "not a Kubernetes manifest", status: StatusUnproven, also: []string{"IMG-04"}, inject: func(s *site) {
			s.env.Node.Workload.StaticPods = "/etc/kubernetes/manifests"
			s.node.WriteFile("/etc/kubernetes/manifests/x.yaml", "kind: Pod\nmetadata: [")
		}},
		"a required image is on the node no more and the mirror is not enabled": {check: "COLD-04", says: "which only the mirror has", also: []string{"COLD-01", "COLD-02", "CRI-10", "CRI-02"},
			inject: func(s *site) {
				s.removeImage(imagetest.APIName)
				s.remove(mirrorWanted)
			}},
		"FI-23: the mirror's own image is only in the mirror": {check: "COLD-02", says: "which only the mirror has: a circle", also: []string{"COLD-03", "COLD-04", "CRI-10", "CRI-02", "MIR-01", "MIR-02", "MIR-15"}, inject: func(s *site) {
			s.mirrorPod(imagetest.WebName)
			s.removeImage(imagetest.WebName)
		}},
		"the mirror's manifest is gone": {check: "COLD-02", says: "no manifest on this disk starts its image", also: []string{"MIR-15"}, inject: func(s *site) {
			s.env.Site.Mirror.Mode, s.env.MirrorImage = string(config.ModeWorkload), imagetest.APIName
		}},

		"FI-39: a registry can be reached": {check: "PRC-03", says: "reachable by name", status: StatusUnproven, inject: func(s *site) {
			s.net.names["quay.io"] = []string{"198.51.100.7"}
			s.net.set("198.51.100.7:443", true)
		}},
	}
}
