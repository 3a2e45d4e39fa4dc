package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// secretSite names a registry that wants credentials; nobody answers there.
const secretSite = `version = 1
[images]
archives = ["/opt/edgeprep/images/*.tar"]
[[upstream]]
host = "registry.site.lan"
credentials_file = "/etc/edgeprep/pull-secret"
[apply]
allow = ["restart"]
`

// talkative is a unit whose program says what it should not: a value of its environment, and the mirror's password.
const talkative = `[Service]
Environment="REGISTRY_TOKEN=%TOKEN%"
ExecStartPre=/bin/sh -c 'echo "kubelet-was-here: the registry refused $REGISTRY_TOKEN and $(cat /etc/edgeprep/pull-secret)"'
`

// TestSupportBundleOfALiveNode: what only a running node has is in the bundle (journals of its units, what the mirror
// tells on its admin socket, what containerd answers), nobody else may read it, and no secret that was planted is in it.
func TestSupportBundleOfALiveNode(t *testing.T) {
	need(t)
	const password, token = "PlanteD-in-a-file-7041", "PlanteD-in-an-environment-7042"
	n := shaped(t, buildTools(t), "1.6")
	n.Must(t, "mkdir -p /opt/edgeprep/images && images -binary /bin/busybox -out /opt/edgeprep/images")
	n.Write(t, "/etc/edgeprep/edgeprep.toml", secretSite)
	n.Write(t, "/etc/edgeprep/pull-secret", "bob:"+password+"\n")
	n.Must(t, "chmod 0600 /etc/edgeprep/pull-secret")
	n.Write(t, "/etc/systemd/system/kubelet.service.d/20-talkative.conf", strings.ReplaceAll(talkative, "%TOKEN%", token))
	n.Must(t, "edgeprep apply && systemctl daemon-reload && systemctl restart kubelet")
	if log := n.Must(t, "journalctl --no-pager -u kubelet"); !strings.Contains(log, password) || !strings.Contains(log, token) {
		t.Fatalf("nothing was planted in the journal:\n%s", log)
	}

	n.Must(t, "umask 000; edgeprep support-bundle --out /root/made/bundle.tar.gz")
	if got := strings.Fields(n.Must(t, "stat -c %a /root/made /root/made/bundle.tar.gz")); len(got) != 2 || got[0] != "700" || got[1] != "600" {
		t.Errorf("modes %v, want 700 and 600", got)
	}
	n.Must(t, "mkdir /root/made/bundle && tar -C /root/made/bundle --strip-components=1 -xpzf /root/made/bundle.tar.gz")
	if out := n.Must(t, `find /root/made/bundle -mindepth 1 \( -type f ! -perm 0600 -o ! -type f ! -type d \)`); out != "" {
		t.Errorf("others may read, or no files:\n%s", out)
	}
	has := func(name string, words ...string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(n.Root, "root/made/bundle", name))
		if err != nil {
			t.Errorf("%v\n%s", err, n.Must(t, "cat /root/made/bundle/contents.json"))
			return
		}
		for _, w := range words {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s does not have %q:\n%.2000s", name, w, b)
			}
		}
	}
	has("logs/kubelet.service.txt", "kubelet-was-here")
	has("logs/containerd.service.txt", "containerd")
	has("logs/edgeprep-mirror.service.txt", "edgeprep")
	has("units/states.json", `"edgeprep-mirror.service"`, `"active"`)
	has("mirror/health.json", `"`)
	has("mirror/metrics.txt", "edgeprep_mirror")
	has("mirror/misses.json")
	has("results/check.json", `"CRI-10"`, `"images"`, `"clock"`)
	has("results/status.json", `"`)
	has("system/version.txt", "Linux")

	for _, secret := range []string{password, token} {
		if found := n.Sh(t, "grep -r -o -- '.\\{0,80\\}"+secret+"' /root/made/bundle"); found.Code != 1 { // 1: not there
			t.Errorf("%s is in the bundle (exit %d):\n%s%s", secret, found.Code, found.Stdout, found.Stderr)
		}
	}
}
