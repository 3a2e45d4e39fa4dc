package ctrtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/edgeprep/edgeprep/test/binaries"
)

// configV2 is for containerd 1.x. Without the opt path it writes to /opt; without the oom setting runc dies
// where root lacks CAP_SYS_RESOURCE.
const configV2 = `version = 2
root = "{{.Root}}"
state = "{{.State}}"
[grpc]
  address = "{{.Socket}}"
[debug]
  level = "warn"
[plugins."io.containerd.internal.v1.opt"]
  path = "{{.Dir}}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
{{with .Sandbox}}  sandbox_image = "{{.}}"
{{end}}  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{{.Dir}}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{{.Snapshotter}}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{{.ConfigPath}}"
`

// configV3 is the same for containerd 2.x.
const configV3 = `version = 3
root = "{{.Root}}"
state = "{{.State}}"
[grpc]
  address = "{{.Socket}}"
[debug]
  level = "warn"
[plugins."io.containerd.internal.v1.opt"]
  path = "{{.Dir}}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "{{.Dir}}/cni"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{{.Snapshotter}}"
{{with .Sandbox}}  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{{.}}"
{{end}}  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{{.ConfigPath}}"
`

func (d *Daemon) configure(o Options) error {
	text := configV2
	if strings.HasPrefix(d.Version, "2.") {
		text = configV3
	}
	tmpl, err := template.New("config").Parse(text)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, struct {
		*Daemon
		Sandbox string
	}{d, o.Sandbox}); err != nil {
		return err
	}
	config := b.String()
	if o.Prepare != nil {
		config = o.Prepare(config)
	}
	return os.WriteFile(d.Config, []byte(config), 0o600)
}

// WriteHosts writes hosts.toml for a registry host ("docker.io", "_default"), as containerd reads it for
// every pull.
func (d *Daemon) WriteHosts(registry, hostsTOML string) {
	d.t.Helper()
	dir := filepath.Join(d.ConfigPath, registry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hostsTOML), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// binDir finds the programs of a version: the distribution's package for 1.6, which is not on the module
// proxy, else what test/build made.
func binDir(t testing.TB, version string) string {
	t.Helper()
	if version == "1.6" {
		return packaged(t, version)
	}
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	target, err := binaries.Lookup("containerd-" + version)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := target.Find(root)
	if err != nil {
		lack(t, "needs a real containerd: "+err.Error())
	}
	return dir
}

func packaged(t testing.TB, version string) string {
	t.Helper()
	const program = "/usr/bin/containerd"
	out, err := exec.Command(program, "--version").Output()
	if err != nil || !strings.Contains(string(out), " "+version+".") {
		lack(t, "needs containerd "+version+" at "+program+" (Debian 12: apt-get install containerd)")
	}
	return filepath.Dir(program)
}
