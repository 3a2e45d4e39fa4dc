package check

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running makes a tree look like a running node with a runtime.
type running struct {
	host.Reader
	cri     host.CRI
	runtime map[string]host.Runtime // by containerd namespace
	units   map[string]host.Unit
	facts   host.Facts
	root    string
}

func (r *running) Facts(context.Context) (host.Facts, error) { return r.facts, nil }

func (r *running) CRI(ep host.Endpoint) host.CRI {
	if r.cri == nil {
		return r.Reader.CRI(ep)
	}
	return r.cri
}

func (r *running) Runtime(ep host.Endpoint) host.Runtime {
	if rt, ok := r.runtime[ep.Namespace]; ok {
		return rt
	}
	return r.Reader.Runtime(ep)
}

func (r *running) Units() host.UnitReader { return r }

func (r *running) Unit(_ context.Context, name string) (host.Unit, error) {
	if u, ok := r.units[name]; ok {
		return u, nil
	}
	return host.Unit{Name: name, Load: "not-found"}, nil
}

// liveNode is a running node over a temporary tree, with routes and namespaces as on a real one.
func liveNode(t *testing.T) (*running, string) {
	t.Helper()
	root := t.TempDir()
	h, err := local.New(local.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, "/proc/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"+
		"eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n")
	write(t, root, "/proc/net/ipv6_route", "")
	write(t, root, "/sys/class/net/eth0/operstate", "up\n")
	link(t, root, "/proc/1/ns/net", "net:[1]")
	link(t, root, "/proc/self/ns/net", "net:[1]")
	return &running{
		Reader: local.ReadOnly(h), facts: host.Facts{Hostname: "node-1", OS: "linux", Arch: "amd64", Live: true},
		runtime: map[string]host.Runtime{}, units: map[string]host.Unit{}, root: root,
	}, root
}

func write(t *testing.T, root, path, content string) {
	t.Helper()
	p := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	// by rename: a sampler that reads meanwhile sees the old or the new content
	if err := os.WriteFile(p+".tmp", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p+".tmp", p); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, root, path string) {
	t.Helper()
	if err := os.Remove(filepath.Join(root, path)); err != nil {
		t.Fatal(err)
	}
}

func rootOf(t *testing.T, e Env) string {
	t.Helper()
	r, ok := e.Reader.(*running)
	if !ok {
		t.Fatalf("%T is no test node", e.Reader)
	}
	return r.root
}

func link(t *testing.T, root, path, target string) {
	t.Helper()
	p := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, p); err != nil {
		t.Fatal(err)
	}
}

// fakeNet is a network in which only what it is told answers.
type fakeNet struct {
	mu    sync.Mutex
	names map[string][]string
	open  map[string]bool // host:port by address
	dials []string
}

func (n *fakeNet) LookupHost(_ context.Context, name string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if net.ParseIP(name) != nil {
		return []string{name}, nil
	}
	if a, ok := n.names[name]; ok {
		return a, nil
	}
	return nil, errors.New("no such host")
}

func (n *fakeNet) DialContext(_ context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials = append(n.dials, address)
	if !n.open[address] {
		return nil, errors.New("network is unreachable")
	}
	a, b := net.Pipe()
	go func() { // answers a CONNECT with success, as an open proxy does
		defer b.Close()
		buf := make([]byte, 4096)
		if k, err := b.Read(buf); err == nil && strings.HasPrefix(string(buf[:k]), "CONNECT ") {
			_, _ = b.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
		}
	}()
	return a, nil
}

func (n *fakeNet) set(address string, open bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[address] = open
}

func newNet() *fakeNet { return &fakeNet{names: map[string][]string{}, open: map[string]bool{}} }

// waitForSample returns when a whole sample was begun and finished after the call.
func (n *fakeNet) waitForSample(ctx context.Context) {
	n.mu.Lock()
	from := len(n.dials)
	n.mu.Unlock()
	for ctx.Err() == nil { // each sample dials the one recorded address
		n.mu.Lock()
		done := len(n.dials) >= from+3
		n.mu.Unlock()
		if done {
			return
		}
		runtime.Gosched()
	}
}

// recorded is a staging record for Docker Hub.
const recorded = `{"schema":1,"hosts":{"registry-1.docker.io:443":{"addresses":["192.0.2.10"],"at":"2026-11-01T00:00:00Z"}}}`

func clock() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }
