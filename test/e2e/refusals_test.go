package e2e

import (
	"strings"
	"testing"
)

// TestRefusalsOnALiveNode: what apply may not do it says before it touches anything, with the exit code that
// scripts rely on, and the node stays as it was.
func TestRefusalsOnALiveNode(t *testing.T) {
	need(t)
	n := shaped(t, buildTools(t), "1.6")
	n.Must(t, "mkdir -p /opt/edgeprep/images /etc/edgeprep && images -binary /bin/busybox -out /opt/edgeprep/images && edgeprep init --out /etc/edgeprep/edgeprep.toml")
	n.Must(t, "snapshot > /tmp/before")
	const config = "/etc/containerd/config.toml"
	own := n.Must(t, "cat "+config)
	for _, c := range []struct {
		name, config, command string
		code                  int
		says                  []string
	}{
		{"restart not allowed", own, "edgeprep apply", 69, []string{"containerd.service", "--allow restart"}},
		{"not root", own, "setpriv --reuid=65534 --regid=65534 --clear-groups edgeprep apply --allow restart", 77, []string{"sudo edgeprep apply"}},
		{"inline mirrors", own + "\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://mirror.example\"]\n",
			"edgeprep apply --allow restart", 69, []string{config + ":", "hosts.toml"}},
		{"CRI disabled", "version = 2\ndisabled_plugins = [\"cri\"]\n", "edgeprep apply --allow restart", 69, []string{config + ":2", "disabled_plugins"}},
		{"not TOML", "version = \n", "edgeprep apply --allow restart", 69, []string{config + ":1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Write(t, config, c.config)
			r := n.Sh(t, c.command)
			if r.Code != c.code {
				t.Fatalf("exit %d, not %d\n%s%s", r.Code, c.code, r.Stdout, r.Stderr)
			}
			for _, s := range c.says {
				if !strings.Contains(r.Stderr, s) {
					t.Errorf("no %q in\n%s", s, r.Stderr)
				}
			}
			n.Write(t, config, own)
			if d := n.Sh(t, "snapshot | diff /tmp/before -"); d.Code != 0 {
				t.Errorf("the node changed\n%s", d.Stdout)
			}
		})
	}
	t.Run("colon list is replaced by one directory", func(t *testing.T) {
		n.Write(t, config, own+"\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d:/etc/docker/certs.d\"\n")
		out := n.Must(t, "edgeprep plan")
		if !strings.Contains(out, `+  config_path = "/etc/containerd/certs.d"`) {
			t.Errorf("%s", out)
		}
	})
}
