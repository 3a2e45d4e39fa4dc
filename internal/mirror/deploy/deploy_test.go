package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/distro"
)

func service() Service {
	return Service{Listen: "127.0.0.1:5000", Cache: "/var/lib/edgeprep/mirror", Upstream: "never", DefaultRegistry: "docker.io",
		Binary: BinaryFile{Source: "/tmp/edgeprep", Size: 1, SHA256: strings.Repeat("0", 64)}}
}

func TestResourcesAreOrderedAndNamed(t *testing.T) {
	t.Parallel()
	rs := service().Resources(distro.Node{Name: "K3s", Units: []string{"k3s.service"}}, []string{"images:cache"})
	seen := map[string]int{}
	for i, r := range rs {
		if _, twice := seen[r.ID]; twice {
			t.Errorf("%s stands twice", r.ID)
		}
		seen[r.ID] = i
		if n := filepath.Base(strings.SplitN(r.ID, ":", 2)[1]); strings.HasPrefix(n, "rke2-") || (strings.HasPrefix(n, "k3s") && n != "k3s.service.d") {
			t.Errorf("%s: k3s-killall.sh and rke2-uninstall.sh would take it", r.ID)
		}
		for _, a := range r.After {
			if _, ok := seen[a]; !ok && a != "images:cache" {
				t.Errorf("%s comes after %s, which is not there before it", r.ID, a)
			}
		}
	}
	unit := rs[seen["unit:"+UnitName]]
	for _, want := range []string{"images:cache", "file:/etc/systemd/system/k3s.service.d/10-edgeprep-mirror.conf", "dir:/var/lib/edgeprep/mirror"} {
		if !contains(unit.After, want) {
			t.Errorf("the service does not come after %s: %v", want, unit.After)
		}
	}
	if gate := rs[seen[GateID()]]; gate.Gate.HTTP.URL != "http://127.0.0.1:5000" || !contains(gate.After, unit.ID) {
		t.Errorf("gate: %+v", gate)
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func TestTheKeyIsHandedOverAsCredential(t *testing.T) {
	t.Parallel()
	s := service()
	s.TLSCert, s.TLSKey = "/etc/edgeprep/tls.crt", "/etc/edgeprep/tls.key"
	s.ClientCA, s.Tokens = "/etc/edgeprep/client-ca.crt", "/etc/edgeprep/100%/tokens"
	u := s.unit([]string{"k3s.service"})
	for _, want := range []string{"LoadCredential=tls.key:/etc/edgeprep/tls.key\n", "--tls-key /etc/edgeprep/tls.key ",
		"LoadCredential=client-ca.crt:/etc/edgeprep/client-ca.crt\n", "--tls-client-ca /etc/edgeprep/client-ca.crt ",
		"LoadCredential=tokens:/etc/edgeprep/100%%/tokens\n", "--tokens /etc/edgeprep/100%%/tokens"} {
		if !strings.Contains(u, want) {
			t.Errorf("no %q in\n%s", want, u)
		}
	}
	if s.URL() != "https://127.0.0.1:5000" {
		t.Error(s.URL())
	}
}

// A service that may pull gets the site file and its upstreams' secrets, without being able to read either, and
// it starts also when one of them is gone. One that may not, or has no upstream by name, gets nothing.
func TestUpstreamFilesAreHandedOver(t *testing.T) {
	t.Parallel()
	s := service()
	if u := s.unit(nil); strings.Contains(u, "--config") || strings.Contains(u, "Credential") {
		t.Errorf("without upstreams:\n%s", u)
	}
	s = withUpstreams()
	u := s.unit(nil)
	for _, want := range []string{
		" --upstream connected ", " --config /etc/edgeprep/edgeprep.toml\n", "# Upstreams: 0a1b\n",
		"SetCredential=edgeprep.toml:\nLoadCredential=edgeprep.toml:/etc/edgeprep/edgeprep.toml\n",
		"SetCredential=upstream-credentials-registry.example_5000:\nLoadCredential=upstream-credentials-registry.example_5000:/etc/edgeprep/pull\n",
		"LoadCredential=upstream-key-quay.io:/etc/edgeprep/quay.key\n",
	} {
		if !strings.Contains(u, want) {
			t.Errorf("no %q in\n%s", want, u)
		}
	}
	if n := strings.Count(u, "LoadCredential="); n != 3 {
		t.Errorf("%d credentials", n)
	}
}

func TestLimitsAreFlags(t *testing.T) {
	t.Parallel()
	s := service()
	if u := s.unit(nil); strings.Contains(u, "--min-free") || strings.Contains(u, "--scrub-period") {
		t.Errorf("defaults are in the unit:\n%s", u)
	}
	s.Limits = Limits{MinFree: "2 GiB", ScrubPeriod: "24h"}
	if u := s.unit(nil); !strings.Contains(u, " --min-free 2GiB --scrub-period 24h\n") {
		t.Errorf("limits are not in\n%s", u)
	}
}

func TestQuotedPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"/etc/a.toml": "/etc/a.toml", "/srv/a b.toml": `"/srv/a b.toml"`, "/srv/100%$x": "/srv/100%%$$x", `/a"b`: `"/a\"b"`} {
		if got := quoted(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func withUpstreams() Service {
	s := service()
	s.Upstream = "connected"
	s.Upstreams = Upstreams{Config: "/etc/edgeprep/edgeprep.toml", Sum: "0a1b", Files: []UpstreamFiles{
		{Host: "registry.example:5000", Credentials: "/etc/edgeprep/pull"}, {Host: "quay.io", Key: "/etc/edgeprep/quay.key"}}}
	return s
}

// TestUnitExposure asks systemd itself: the sandbox must rate 2.5 or better and the unit must verify.
func TestUnitExposure(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs systemd-analyze (Debian: systemd)")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "etc/systemd/system")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, UnitName)
	if err := os.WriteFile(unit, []byte(withUpstreams().unit([]string{"k3s.service"})), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", unit).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level in\n%s", out)
	}
	if level, _ := strconv.ParseFloat(string(m[1]), 64); level > 2.5 {
		t.Errorf("exposure level %v\n%s", level, out)
	} else {
		t.Logf("exposure level %v", level)
	}
}
