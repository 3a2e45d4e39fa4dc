package local_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
)

func TestFactsLive(t *testing.T) {
	t.Parallel()
	f, err := open(t, local.Options{}).Facts(context.Background())
	name, _ := os.Hostname()
	if err != nil || !f.Live || f.Hostname != name || f.Arch != runtime.GOARCH || len(f.BootID) != 36 || f.Root != (os.Geteuid() == 0) {
		t.Errorf("%+v %v", f, err)
	}
	for _, a := range f.Addresses {
		if a.IsLoopback() || a.IsLinkLocalUnicast() {
			t.Errorf("address %s cannot be reached from elsewhere", a)
		}
	}
}

func TestFactsUnderRoot(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile("/etc/hostname", "# comment\n\nedge-7\n")
	n.WriteFile("/etc/machine-id", "uninitialized\n")
	n.WriteFile("/usr/bin/dash", string(elfHeader(183))) // EM_AARCH64
	n.Symlink("/bin", "/usr/bin")
	n.Symlink("/usr/bin/sh", "dash")
	f, err := open(t, local.Options{Root: n.Dir}).Facts(context.Background())
	want := host.Facts{Hostname: "edge-7", OS: "linux", Arch: "arm64", Root: os.Geteuid() == 0}
	if diff := cmp.Diff(want, f); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	f, err = open(t, local.Options{Root: t.TempDir()}).Facts(context.Background())
	if err != nil || f.Arch != runtime.GOARCH || f.Live {
		t.Errorf("an empty tree: %+v %v", f, err)
	}
}

// elfHeader is the least that is an ELF file of a machine, 64 bits, little-endian.
func elfHeader(machine byte) []byte {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18], h[20], h[52], h[54], h[58] = 2, machine, 1, 64, 56, 64
	return h
}

func TestAccount(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	h := open(t, local.Options{Root: n.Dir})
	if _, ok, err := h.Account("root"); ok || err != nil {
		t.Errorf("without /etc/passwd: %v %v", ok, err)
	}
	n.WriteFile("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nbroken\nneg:x:-1:1::/:/x\nx:x:y:z::/:/x\n+::::::\nedgeprep:x:998:997::/var/lib/edgeprep:/bin/false")
	got, ok, err := h.Account("edgeprep")
	if diff := cmp.Diff(host.Account{Name: "edgeprep", UID: 998, GID: 997, Home: "/var/lib/edgeprep"}, got); diff != "" || !ok || err != nil {
		t.Errorf("%v %v %s", ok, err, diff)
	}
	for _, name := range []string{"broken", "neg", "x", "", "edge"} {
		if a, ok, err := h.Account(name); ok || err != nil {
			t.Errorf("%q: %+v %v", name, a, err)
		}
	}
}

func TestEnsureAccountUnderRoot(t *testing.T) {
	t.Parallel()
	needRoot(t, "makes an account in a tree")
	if _, err := exec.LookPath("systemd-sysusers"); err != nil {
		t.Skip("needs systemd-sysusers")
	}
	ctx, n := context.Background(), hosttest.New(t)
	n.Mkdir("/etc")
	h := open(t, local.Options{Root: n.Dir})
	a := host.Account{Name: "edgeprep", Home: "/var/lib/edgeprep"}
	if err := h.EnsureAccount(ctx, a); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("without a sysusers.d file: %v", err)
	}
	n.WriteFile("/etc/sysusers.d/10-other.conf", "u other - \"x\"\n# u edgeprep -\n")
	n.WriteFile("/usr/lib/sysusers.d/edgeprep.conf", "u edgeprep - \"edgeprep mirror\" /var/lib/edgeprep\n")
	for range 2 {
		if err := h.EnsureAccount(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := h.Account("edgeprep")
	if !ok || err != nil || got.Home != a.Home || got.UID == 0 {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	if _, ok, _ := h.Account("other"); ok {
		t.Error("another account was made, too")
	}
	if b, err := os.ReadFile("/etc/passwd"); err == nil && strings.Contains(string(b), "edgeprep:") && !strings.Contains(n.ReadFile("/etc/passwd"), "edgeprep:") {
		t.Error("the account was made on this machine")
	}
}

// script makes a program that others may run, outside of directories that only root may enter.
func script(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "edgeprep-version-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := filepath.Join(dir, "program")
	if err := errors.Join(os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o600), os.Chmod(p, mode), os.Chmod(dir, 0o755)); err != nil { //nolint:gosec // others must reach it
		t.Fatal(err)
	}
	return p
}

func TestBinaryVersion(t *testing.T) {
	t.Parallel()
	ctx, h := context.Background(), open(t, local.Options{})
	for name, c := range map[string]struct{ text, want string }{
		"lines":       {"echo; echo '  k3s version v1.36.3+k3s1 '; echo go version go1.26", "k3s version v1.36.3+k3s1 \ngo version go1.26"},
		"stderr":      {"echo v1 >&2", "v1"},
		"arguments":   {`echo "$*"`, "--version -o short"},
		"environment": {`echo "${HOME-unset} $PATH"`, "unset /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		"stdin":       {"cat; echo end", "end"},
		"endless":     {"yes | head -c 10000000; true", "y\ny\ny\ny"},
		"silent":      {"true", ""},
	} {
		got, err := h.BinaryVersion(ctx, script(t, c.text, 0o755), "--version", "-o", "short")
		if err != nil || got != c.want {
			t.Errorf("%s: %q %v, want %q", name, got, err, c.want)
		}
	}
	if _, err := h.BinaryVersion(ctx, script(t, "echo bad >&2; exit 3", 0o755)); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("a failing program: %v", err)
	}
	if _, err := h.BinaryVersion(ctx, script(t, "echo x", 0o644)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a file that is no program: %v", err)
	}
	if _, err := h.BinaryVersion(ctx, "/none/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
}

func TestBinaryVersionIsUnprivileged(t *testing.T) {
	t.Parallel()
	needRoot(t, "drops privileges")
	ctx, h := context.Background(), open(t, local.Options{})
	for mode, want := range map[fs.FileMode]string{0o755: "65534", 0o700: "0"} {
		if got, err := h.BinaryVersion(ctx, script(t, "id -u", mode)); err != nil || got != want {
			t.Errorf("mode %v: ran as %q, want %s: %v", mode, got, want, err)
		}
	}
}

// TestBinaryVersionEnds: a program that hangs, with children that keep its output open, is given up.
func TestBinaryVersionEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	p := script(t, "echo v1; sleep 1000 & sleep 1000", 0o755)
	start := time.Now()
	_, err := open(t, local.Options{}).BinaryVersion(ctx, p)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestBuiltVersion(t *testing.T) {
	t.Parallel()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	n := hosttest.New(t)
	n.WriteMode("/usr/bin/self", string(self), 0o755)
	n.WriteMode("/usr/bin/script", "#!/bin/sh\necho must not be run > "+n.Dir+"/ran\n", 0o755)
	h := open(t, local.Options{Root: n.Dir})
	for _, p := range []string{"/usr/bin/script", "/usr/bin/self"} {
		if v, err := h.BinaryVersion(context.Background(), p, "--version"); err != nil || v != "" {
			t.Errorf("%s: %q %v", p, v, err)
		}
	}
	if n.Exists("/ran") {
		t.Error("a foreign program was run")
	}
}
