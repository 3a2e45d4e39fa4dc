// Package edgeprep runs the real program for tests: built once by each test binary, its mirror on a free port
// of the loopback, stopped, killed and started again as a test likes.
package edgeprep

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/test/binaries"
	"github.com/edgeprep/edgeprep/test/ports"
)

// built is the program of this test binary.
var built struct {
	once sync.Once
	path string
	err  error
}

// Build gives the program's path. It is made once for all tests of a test binary; Main removes it. A test that
// runs itself again somewhere else hands it down in EDGEPREP_TEST_PROGRAM.
func Build(t testing.TB) string {
	t.Helper()
	if given := os.Getenv("EDGEPREP_TEST_PROGRAM"); given != "" {
		return given
	}
	built.once.Do(func() { built.path, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build() (string, error) {
	root, err := binaries.Root()
	if err != nil {
		return "", err
	}
	if err := look(root); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "edgeprep-program-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "edgeprep")
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./cmd/edgeprep")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build edgeprep: %w\n%s", err, msg)
	}
	return out, nil
}

// look reads the directories that the program is made of. go test takes a result out of its cache unless a file
// that the test looked at has changed, and what go build reads here it does not see.
func look(root string) error {
	for _, dir := range []string{"cmd", "internal", "distros"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(_ string, _ os.DirEntry, err error) error { return err })
		if err != nil {
			return fmt.Errorf("look at the sources: %w", err)
		}
	}
	return nil
}

// Main runs a package's tests and removes the program afterwards: call it from TestMain.
func Main(m *testing.M) int {
	defer func() {
		if built.path != "" {
			os.RemoveAll(filepath.Dir(built.path))
		}
	}()
	return m.Run()
}

// Run runs the program to its end and gives what it wrote to stdout. An error holds what it wrote to stderr.
func Run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Build(t), args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("edgeprep %s: %w\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

// Options say how a mirror is served.
type Options struct {
	Cache     string            // empty: a new one
	Upstreams map[string]string // registry to URL
	Site      string            // more text of the site file, after the [[upstream]] tables
	Args      []string          // more flags of "mirror serve"
	Wrap      []string          // a program and its arguments that becomes the mirror, like setpriv
}

// Mirror is a running "edgeprep mirror serve".
type Mirror struct {
	Addr  string // "127.0.0.1:PORT", the same after a restart
	URL   string
	Cache string
	Site  string // path of the site file
	Args  []string

	t      testing.TB
	wrap   []string
	log    string
	cmd    *exec.Cmd
	client *http.Client
}

// Serve runs a mirror until the test ends.
func Serve(t testing.TB, o Options) *Mirror {
	t.Helper()
	dir := t.TempDir()
	m := &Mirror{
		Addr: ports.Free(t), Cache: o.Cache, Site: filepath.Join(dir, "edgeprep.toml"), Args: o.Args,
		t: t, wrap: o.Wrap, log: filepath.Join(dir, "log"), client: &http.Client{Transport: &http.Transport{}},
	}
	if m.Cache == "" {
		m.Cache = filepath.Join(dir, "cache")
		if err := os.Mkdir(m.Cache, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.URL = "http://" + m.Addr
	if err := os.WriteFile(m.Site, []byte(site(o)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		m.client.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the mirror printed at the end:\n%s", m.Log())
		}
	})
	m.Start()
	return m
}

func site(o Options) string {
	var b strings.Builder
	b.WriteString("version = 1\n")
	hosts := make([]string, 0, len(o.Upstreams))
	for h := range o.Upstreams {
		hosts = append(hosts, h)
	}
	slices.Sort(hosts)
	for _, h := range hosts {
		fmt.Fprintf(&b, "[[upstream]]\nhost = %q\nurl = %q\n", h, o.Upstreams[h])
	}
	return b.String() + o.Site
}

// Start starts it again on the same cache and port, and returns when it answers. Args may have been changed.
func (m *Mirror) Start() {
	m.t.Helper()
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	args := []string{"mirror", "serve", "--cache", m.Cache, "--listen", m.Addr, "--config", m.Site}
	args = slices.Concat(m.wrap, []string{Build(m.t)}, args, m.Args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.cmd = cmd
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if resp, err := m.client.Get(m.URL + "/v2/"); err == nil {
			resp.Body.Close()
			return
		}
	}
	m.t.Fatalf("the mirror did not start:\n%s", m.Log())
}

// Stop ends it by SIGTERM, as systemd does, and waits for it.
func (m *Mirror) Stop() {
	m.t.Helper()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Wait(); err != nil {
		m.t.Errorf("the mirror did not stop cleanly: %v", err)
	}
	m.cmd = nil
}

// Kill ends it as a power cut would.
func (m *Mirror) Kill() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cmd = nil
}

// Restart stops it and starts it with the arguments that m.Args has now.
func (m *Mirror) Restart() {
	m.t.Helper()
	m.Stop()
	m.Start()
}

// Pid is the running process.
func (m *Mirror) Pid() int { return m.cmd.Process.Pid }

// Log is what it printed so far.
func (m *Mirror) Log() string {
	b, _ := os.ReadFile(m.log)
	return string(bytes.TrimSpace(b))
}
