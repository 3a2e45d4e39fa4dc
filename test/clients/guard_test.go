package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host/cri/critest"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/registries"
	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/registry"
)

// guarded is a mirror that asks for a client certificate or a token, and the files for both, named as a cert-dir
// of podman and skopeo has them.
type guarded struct {
	*site
	dir, token string
}

func (g *guarded) file(name string) string { return filepath.Join(g.dir, name) }

const makeCertificates = `set -e
req() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
printf 'subjectAltName=IP:127.0.0.1\n' >ext
for n in server client; do
  req $n
  openssl x509 -req -in $n.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $n.cert
done
`

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	need(t, "openssl")
	g := &guarded{site: &site{origin: registry.Start(t)}, dir: t.TempDir(), token: "0123456789abcdef0123456789abcdef"}
	g.images = fill(t, g.origin)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", makeCertificates)
	cmd.Dir = g.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(g.file("tokens"), []byte(g.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.mirror = edgeprep.Serve(t, edgeprep.Options{
		Upstreams: map[string]string{portHost: g.origin.URL, "docker.io": g.origin.URL},
		Args: []string{"--tls-cert", g.file("server.cert"), "--tls-key", g.file("server.key"),
			"--tls-client-ca", g.file("ca.crt"), "--tokens", g.file("tokens")},
	})
	t.Cleanup(func() {
		if strings.Contains(g.mirror.Log(), g.token) {
			t.Error("the token is in the log")
		}
	})
	return g
}

// run gives whether a client's program succeeded.
func run(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

// certDir has what podman and skopeo look for: a CA, and with client a pair called alike.
func (g *guarded) certDir(t *testing.T, client bool) string {
	t.Helper()
	dir := t.TempDir()
	names := []string{"ca.crt"}
	if client {
		names = append(names, "client.cert", "client.key")
	}
	for _, n := range names {
		if err := os.Symlink(g.file(n), filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestGuardedMirrorWithCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	g := newGuarded(t)
	url := "https://" + g.mirror.Addr + "/v2/"
	for want, args := range map[string][]string{
		"401 token": {"-u", "edge:wrong"}, "401 none": nil, "200 basic": {"-u", "edge:" + g.token},
		"200 bearer": {"-H", "Authorization: Bearer " + g.token}, "200 certificate": {"--cert", g.file("client.cert"), "--key", g.file("client.key")},
	} {
		args = append([]string{"curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", g.file("ca.crt"), url}, args...)
		if out, ok := run(t, args...); !ok || !strings.HasPrefix(want, out+" ") {
			t.Errorf("%s: %s", want, out)
		}
	}
	head, ok := run(t, "curl", "-s", "-I", "--cacert", g.file("ca.crt"), url)
	if !ok || !strings.Contains(strings.ToLower(head), `www-authenticate: basic realm=`) {
		t.Error(head)
	}
}

func TestGuardedMirrorWithSkopeoAndPodman(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	need(t, "podman")
	if os.Geteuid() != 0 {
		lack(t, "needs root: podman's storage keeps owners of files")
	}
	g := newGuarded(t)
	ref := g.mirror.Addr + "/" + inPath(g.images[0].byTag())
	creds := "edge:" + g.token
	skopeo := func(args ...string) (string, bool) {
		return run(t, append(append([]string{"skopeo", "--insecure-policy", "copy"}, args...), "docker://"+ref, "dir:"+t.TempDir()+"/i")...)
	}
	storage, err := os.MkdirTemp("", "eppod-") // its sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(storage) })
	podman := func(args ...string) (string, bool) {
		return run(t, append(append([]string{"podman", "--root", storage + "/root", "--runroot", storage + "/run", "--tmpdir", storage + "/tmp",
			"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "pull", "--quiet"}, args...), ref)...)
	}
	both, ca := g.certDir(t, true), g.certDir(t, false)
	for name, c := range map[string]struct {
		ask  func(...string) (string, bool)
		args []string
		want bool
	}{
		"skopeo, nothing":     {skopeo, []string{"--src-cert-dir", ca}, false},
		"skopeo, token":       {skopeo, []string{"--src-cert-dir", ca, "--src-creds", creds}, true},
		"skopeo, wrong token": {skopeo, []string{"--src-cert-dir", ca, "--src-creds", "edge:wrong"}, false},
		"skopeo, certificate": {skopeo, []string{"--src-cert-dir", both}, true},
		"podman, nothing":     {podman, []string{"--cert-dir", ca}, false},
		"podman, token":       {podman, []string{"--cert-dir", ca, "--creds", creds}, true},
		"podman, certificate": {podman, []string{"--cert-dir", both}, true},
	} {
		if out, ok := c.ask(c.args...); ok != c.want {
			t.Errorf("%s: %v\n%s", name, ok, out)
		}
	}
}

// containerd shows a certificate as edgeprep writes its hosts.toml, or sends a token as a site may write it.
func TestGuardedMirrorWithContainerd(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	url := "https://" + g.mirror.Addr
	withCert := string(registries.RenderHosts([]registries.Endpoint{{URL: url, CA: g.file("ca.crt"),
		ClientCert: g.file("client.cert"), ClientKey: g.file("client.key")}}))
	withNothing := string(registries.RenderHosts([]registries.Endpoint{{URL: url, CA: g.file("ca.crt")}}))
	withToken := fmt.Sprintf("server = %q\nca = %q\n[header]\n  Authorization = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n  [host.%q.header]\n    Authorization = %q\n",
		url, g.file("ca.crt"), "Bearer "+g.token, url, g.file("ca.crt"), url, "Bearer "+g.token)
	for _, version := range []string{"1.7", "2.4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			d := ctrtest.Start(t, version)
			k := critest.New(t, d.Endpoint())
			d.WriteHosts("_default", withNothing)
			if id, err := k.PullImage(t.Context(), g.images[0].byTag()); err == nil {
				t.Errorf("pulled without a certificate: %s", id)
			}
			d.WriteHosts("_default", withCert)
			pullAll(t, k, g.images[:1])
			d.WriteHosts("_default", withToken)
			pullAll(t, k, g.images[len(g.images)-1:])
		})
	}
}
