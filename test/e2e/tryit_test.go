// Package e2e tests whole nodes: real systemd, real containerd, no network.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/test/nspawn"
)

const doc = "../../docs/try-it.md"

// TestTryIt runs every command of docs/try-it.md on a real node, once with Debian's containerd 1.6.20 and once
// with 2.4, and compares what they print with the document. EDGEPREP_UPDATE=1 writes what they print into it.
func TestTryIt(t *testing.T) {
	need(t)
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	tools := buildTools(t)
	sections := split(string(text))
	for i, s := range sections {
		if s.containerd == "" {
			continue
		}
		t.Run("containerd-"+s.containerd, func(t *testing.T) {
			sections[i].text = tryOn(t, tools, s)
		})
	}
	if os.Getenv("EDGEPREP_UPDATE") == "1" {
		var b strings.Builder
		for _, s := range sections {
			b.WriteString(s.text)
		}
		if err := os.WriteFile(doc, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// section is a part of the document: one node, or text without commands.
type section struct{ containerd, text string }

var heading = regexp.MustCompile(`(?m)^## .*containerd (\d+\.\d+)`)

func split(text string) []section {
	var out []section
	at := heading.FindAllStringSubmatchIndex(text, -1)
	from := 0
	for i, m := range at {
		if m[0] > from {
			out = append(out, section{text: text[from:m[0]]})
		}
		from = len(text)
		if i+1 < len(at) {
			from = at[i+1][0]
		}
		out = append(out, section{containerd: text[m[2]:m[3]], text: text[m[0]:from]})
	}
	return append(out, section{text: text[from:]})
}

// tryOn runs the console blocks of a section and gives it back with what they print now.
func tryOn(t *testing.T, tools string, s section) string {
	n := shaped(t, tools, s.containerd)
	var out strings.Builder
	inBlock, shown, printed, command := false, "", "", ""
	compare := func() {
		if command != "" && normalise(shown) != normalise(printed) && os.Getenv("EDGEPREP_UPDATE") != "1" {
			t.Errorf("# %s\n--- printed\n%s--- the document says\n%s", command, printed, shown)
		}
		command, shown, printed = "", "", ""
	}
	for _, line := range strings.SplitAfter(s.text, "\n") {
		switch {
		case strings.HasPrefix(line, "```console"):
			inBlock = true
			out.WriteString(line)
		case inBlock && strings.HasPrefix(line, "```"):
			compare()
			inBlock = false
			out.WriteString(line)
		case inBlock && strings.HasPrefix(line, "# "):
			compare()
			command = strings.TrimSpace(line[2:])
			r := n.Sh(t, "("+command+") 2>&1")
			printed = r.Stdout
			fmt.Fprintf(&out, "%s%s", line, printed)
			t.Logf("# %s\n%s(exit %d)", command, printed, r.Code)
			if r.Code != 0 {
				t.Errorf("# %s: exit %d\n%s", command, r.Code, printed)
			}
		case inBlock:
			shown += line
		default:
			out.WriteString(line)
		}
	}
	return out.String()
}

// normalise leaves out what differs from run to run.
func normalise(s string) string {
	for _, r := range []struct{ re, by string }{
		{`\d{4}-\d{8}T\d{6}Z`, "RUN"},
		{`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d( UTC|Z)?`, "TIME"},
		{` *\(\d+(\.\d+)?s\)`, ""}, // of a step, shown from one second on
		{`\b\d+(\.\d+)?(ms|s|µs)\b`, "DURATION"},
		{`@if\d+`, "@if"},
		{`fe80::[0-9a-f:]+`, "LINK-LOCAL"},
		{`(?m)^ok +inspect .*\n`, ""},
		{`\b\d+(\.\d+)? ?[KMG]i?B`, "SIZE"},
		{`[0-9a-f]{32,}`, "HEX"},
		{`nonce-[0-9a-f]+|edgeprep-probe/[0-9a-z]+`, "PROBE"},
		{`synchronized: \w+`, "synchronized: MAYBE"},
		{`[ \t]+`, " "},
	} {
		s = regexp.MustCompile(r.re).ReplaceAllString(s, r.by)
	}
	return s
}

// buildTools makes the programs that the document uses.
func buildTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []string{"./cmd/edgeprep", "./test/cri", "./test/images"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/", p)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", p, err, out)
		}
	}
	return dir
}

// kubelet stands for the program that kubeadm's packages install: it tells its version, and runs no pods.
const kubelet = "#!/bin/sh\n[ \"$1\" = --version ] && echo Kubernetes v1.36.2 && exit\nexec sleep infinity\n"

const kubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent

[Service]
ExecStart=/usr/bin/kubelet

[Install]
WantedBy=multi-user.target
`

const kubeadmDropIn = `[Service]
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
`

// shaped boots a node that looks like one where kubeadm's packages were installed: kubelet's unit, kubeadm's
// drop-in, and a running containerd.
func shaped(t *testing.T, tools, containerd string) *nspawn.Node {
	t.Helper()
	n := nspawn.New(t, "edge-"+strings.ReplaceAll(containerd, ".", "-"))
	n.Write(t, "/lib/systemd/system/kubelet.service", kubeletUnit)
	n.Write(t, "/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", kubeadmDropIn)
	n.Write(t, "/usr/bin/kubelet", kubelet)
	if err := os.Chmod(filepath.Join(n.Root, "/usr/bin/kubelet"), 0o755); err != nil {
		t.Fatal(err)
	}
	// this container may not lower oom_score_adj, and runc gives up on that
	version, table := "2", `plugins."io.containerd.grpc.v1.cri"`
	if containerd != "1.6" {
		version, table = "3", `plugins."io.containerd.cri.v1.runtime"`
		for _, p := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
			n.Copy(t, filepath.Join(programs(t, "containerd-"+containerd), p), "/usr/bin/"+p, 0o755)
		}
	}
	n.Write(t, "/etc/containerd/config.toml", fmt.Sprintf("# this node's own settings\nversion = %s\n\n[%s]\n  restrict_oom_score_adj = true\n", version, table))
	for _, p := range []string{"edgeprep", "cri", "images"} {
		n.Copy(t, filepath.Join(tools, p), "/usr/bin/"+p, 0o755)
	}
	n.Copy(t, "snapshot.sh", "/usr/bin/snapshot", 0o755)
	enable(t, n, "kubelet.service")
	n.Boot(t)
	// a default route without a cable, as HST-02 wants it; a kernel without dummy gets a veth pair
	n.Must(t, `ip link add dummy0 type dummy 2>/dev/null || ip link add dummy0 type veth peer name dummy1 && ip link set dummy1 up
ip addr add 203.0.113.254/31 dev dummy0 && ip link set dummy0 up && ip route add default via 203.0.113.255 dev dummy0 metric 1000`)
	// runc wants writable cgroups, which nspawn mounts read-only
	n.Must(t, `for c in blkio memory freezer pids cpuset cpu cpuacct devices; do mount -o remount,bind,rw /sys/fs/cgroup/$c 2>/dev/null; done; systemctl restart containerd; true`)
	return n
}
