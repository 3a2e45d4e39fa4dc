package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/test/edgeprep"
)

// wired makes a network namespace with a default route over a wire on which nobody answers, and goes on there.
const wired = `ip link set lo up
ip link add wire0 type veth peer name wire1
ip addr add 198.51.100.2/24 dev wire0
for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done
ip link set wire1 up
ip link set wire0 arp off up
ip route add default dev wire0
exec "$0" -test.run '^TestNeverOpensASocket$' -test.v`

// With "never" not a packet leaves, whatever is asked for and whatever is wrong; with "connected" the same
// requests send some, so that it is known that they would be seen.
func TestNeverOpensASocket(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal("needs root: makes a network namespace")
		}
		t.Skip("needs root: makes a network namespace")
	}
	if os.Getenv("EDGEPREP_FAULTS_WIRED") == "" {
		t.Parallel()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "-n", "sh", "-ec", wired, self)
		cmd.Env = append(os.Environ(), "EDGEPREP_FAULTS_WIRED=1", "EDGEPREP_TEST_PROGRAM="+edgeprep.Build(t))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestNeverOpensASocket") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	set, layer := images(t)
	archive := filepath.Join(t.TempDir(), "images")
	if err := set.WriteLayout(archive, layoutForm); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"connected", "never"} {
		cache := filepath.Join(t.TempDir(), "cache")
		if err := os.Mkdir(cache, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := edgeprep.Run(t, "mirror", "load", "--cache", cache, archive); err != nil {
			t.Fatal(err)
		}
		m := edgeprep.Serve(t, edgeprep.Options{Cache: cache, Args: []string{"--upstream", mode},
			Upstreams: map[string]string{"up.test": "http://192.0.2.1:5000", "9.9.9.9": "https://9.9.9.9"}})
		before := transmitted(t)
		for n := range set.Images {
			if got := pull(t.Context(), m.URL, set, n); got != whole {
				t.Errorf("%s: %s", mode, got)
			}
		}
		if err := os.Truncate(blobFile(cache, layer), 100); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, path := range []string{"team/none/manifests/1", "team/none/tags/list", "team/app/blobs/" + layer,
			"team/app/referrers/" + set.Images[0].Digest, "team/app/manifests/none"} {
			for _, ns := range []string{"up.test", "9.9.9.9", "8.8.8.8", "docker.io"} {
				if got, _ := one(t.Context(), m.URL+"/v2/"+path+"?ns="+ns, nil); got == whole {
					t.Errorf("%s %s: %s", path, ns, got)
				}
			}
			if mode == "connected" {
				break
			}
		}
		sent := transmitted(t) - before
		t.Logf("%s: %d packets left, %s", mode, sent, time.Since(start))
		if (sent > 0) != (mode == "connected") {
			t.Errorf("%s: %d packets left", mode, sent)
		}
		if mode == "never" {
			onlyLoopback(t, m.Pid())
		}
		m.Kill()
	}
}

// transmitted is how many packets went to the wire.
func transmitted(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/sys/class/net/wire0/statistics/tx_packets")
	if os.IsNotExist(err) { // /sys is of the namespace that it was mounted in
		b, err = wireOfProc()
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wireOfProc() ([]byte, error) {
	b, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 10 && f[0] == "wire0:" {
			return []byte(f[10]), nil
		}
	}
	return nil, fmt.Errorf("no wire0 in\n%s", b)
}

// onlyLoopback looks at the sockets of a process's network.
func onlyLoopback(t *testing.T, pid int) {
	t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, proto))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			if f := strings.Fields(line); i > 0 && !strings.HasPrefix(f[1], "0100007F:") {
				t.Errorf("%s socket: %s", proto, line)
			}
		}
	}
}
