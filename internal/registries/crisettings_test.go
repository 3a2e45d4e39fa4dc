package registries

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

func criOf(t *testing.T, version string, files map[string]string) CRI {
	t.Helper()
	n := hosttest.New(t)
	for name, content := range files {
		n.WriteFile("/etc/containerd/"+name, content)
	}
	c, err := ReadCRI(n.FS(), distro.Node{Runtime: distro.Runtime{Config: "/etc/containerd/config.toml", Version: version}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCRISetting(t *testing.T) {
	t.Parallel()
	const (
		v2 = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\ndiscard_unpacked_layers = true\n"
		v3 = "version = 3\n[plugins.'io.containerd.cri.v1.images']\ndiscard_unpacked_layers = true\n"
	)
	for name, c := range map[string]struct {
		version string
		files   map[string]string
		want    any
		line    int
	}{
		"no file":             {version: "2.4.2"},
		"not set":             {version: "2.4.2", files: map[string]string{"config.toml": "version = 3\n"}},
		"version 3":           {version: "2.4.2", files: map[string]string{"config.toml": v3}, want: true, line: 3},
		"version 2":           {version: "1.7.35", files: map[string]string{"config.toml": v2}, want: true, line: 3},
		"version 2 in a 2.x":  {version: "2.4.2", files: map[string]string{"config.toml": v2}, want: true, line: 3},
		"version 3 in a 1.x":  {version: "1.7.35", files: map[string]string{"config.toml": v3}},
		"an import wins":      {version: "2.4.2", files: map[string]string{"config.toml": "imports = ['conf.d/*.toml']\n" + v3, "conf.d/1.toml": strings.Replace(v3, "true", "false", 1)}, want: false, line: 3},
		"an import of a 1.x":  {version: "1.7.35", files: map[string]string{"config.toml": "imports = ['b.toml']\n" + v2, "b.toml": "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'x'\n"}},
		"of an unknown 2.x":   {files: map[string]string{"config.toml": v3}, want: true, line: 3},
		"of an unknown 1 / 2": {files: map[string]string{"config.toml": v2}, want: true, line: 3},
	} {
		got, at := criOf(t, c.version, c.files).Setting("containerd.discard_unpacked_layers", "discard_unpacked_layers")
		if got != c.want || at.Line != c.line {
			t.Errorf("%s: %v at %s; want %v in line %d", name, got, at, c.want, c.line)
		}
	}
}

func TestDroppedKeys(t *testing.T) {
	t.Parallel()
	const old = `version = 2
[plugins.'io.containerd.grpc.v1.cri']
systemd_cgroup = false
sandbox_image = 'x'
[plugins.'io.containerd.grpc.v1.cri'.cni]
bin_dir = '/opt/cni/bin'
[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.example:5000'.tls]
ca_file = '/ca.pem'
[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.example:5000'.auth]
username = 'u'
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
runtime_root = ''
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]
SystemdCgroup = true
`
	for name, c := range map[string]struct {
		version, config string
		want            []string
	}{
		"1.x reads its own":         {"1.7.35", old, nil},
		"2.x drops TLS":             {"2.4.2", old, []string{"registry.configs.r.example:5000.tls.ca_file:8 gone"}},
		"of an unknown one nothing": {"", old, nil},
		"misspelt": {"2.4.2", "version = 3\n[plugins.'io.containerd.cri.v1.images']\nsnapshoter = 'native'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_typ = 'x'\n",
			[]string{"snapshoter:3 snapshotter", "containerd.runtimes.runc.runtime_typ:5 runtime_type"}},
		"in the wrong half": {"2.4.2", "version = 3\n[plugins.'io.containerd.cri.v1.images'.cni]\nbin_dirs = ['/x']\n", []string{"cni.bin_dirs:3"}},
		"nothing is empty":  {"2.4.2", "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.default_runtime]\nruntime_type = ''\nx = []\ny = 0\nz = false\n", nil},
		"a runtime of old":  {"2.4.2", "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.default_runtime]\nruntime_type = 'x'\n", []string{"containerd.default_runtime.runtime_type:3 gone"}},
		"no table":          {"2.4.2", "version = 3\nplugins = 'x'\n", nil},
	} {
		var got []string
		for _, d := range criOf(t, c.version, map[string]string{"config.toml": c.config}).Dropped() {
			s := d.Key + ":" + strings.Split(d.Where.String(), ":")[1]
			if d.Gone {
				s += " gone"
			}
			if d.Nearest != "" {
				s += " " + d.Nearest
			}
			got = append(got, s)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
