// Package registry runs distribution, the reference registry, as a real upstream for tests: on a free port of
// the loopback, with its data below a directory of its own, stopped and started again as a test likes.
//
// Without the built program (go run ./test/build -what distribution) tests that use it are skipped; with
// EDGEPREP_REQUIRE_REAL=1 they fail instead.
package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/test/binaries"
	"github.com/edgeprep/edgeprep/test/ports"
)

// Registry is a running distribution. It takes pushes and deletes from everybody.
type Registry struct {
	Addr string // "127.0.0.1:PORT", the same after a restart
	URL  string // "http://" + Addr
	Dir  string // data, configuration and log

	t      testing.TB
	bin    string
	cmd    *exec.Cmd
	client *http.Client
}

// config has no log of requests and no tracing: tests read what it says about failures only.
const config = `version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s
  delete:
    enabled: true
http:
  addr: %s
`

// Option changes how a registry is started.
type Option func(*options)

type options struct {
	dir  string
	edit func(config string) string
}

// WithDir puts the registry's data into a directory that outlives the test.
func WithDir(dir string) Option { return func(o *options) { o.dir = dir } }

// WithConfig lets a test change the text of the configuration, say to add "proxy:".
func WithConfig(edit func(config string) string) Option { return func(o *options) { o.edit = edit } }

// Start runs a registry until the test ends.
func Start(t testing.TB, opts ...Option) *Registry {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	r := &Registry{Dir: o.dir, t: t, bin: program(t), client: &http.Client{Transport: &http.Transport{}}}
	r.Addr = ports.Free(t)
	r.URL = "http://" + r.Addr
	text := fmt.Sprintf(config, filepath.Join(r.Dir, "data"), r.Addr)
	if o.edit != nil {
		text = o.edit(text)
	}
	if err := os.WriteFile(r.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Stop()
		r.client.CloseIdleConnections()
	})
	r.Start()
	return r
}

func (r *Registry) config() string { return filepath.Join(r.Dir, "config.yml") }

// program finds what test/build made.
func program(t testing.TB) string {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	target, err := binaries.Lookup("distribution")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := target.Find(root)
	switch {
	case err == nil:
		return filepath.Join(dir, "registry")
	case os.Getenv("EDGEPREP_REQUIRE_REAL") == "1":
		t.Fatal(err)
	}
	t.Skip("needs a real registry: " + err.Error())
	return ""
}

// Start starts it again on the same data and port, and returns when it answers.
func (r *Registry) Start() {
	r.t.Helper()
	log, err := os.OpenFile(filepath.Join(r.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(r.bin, "serve", r.config())
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.Stdout, cmd.Stderr = log, log
	// A test binary that is killed must not leave a registry behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.cmd = cmd
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if resp, err := r.client.Get(r.URL + "/v2/"); err == nil {
			resp.Body.Close()
			return
		}
	}
	r.t.Fatalf("the registry did not start:\n%s", r.Log())
}

// Stop ends it as a power cut would.
func (r *Registry) Stop() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}

// Pid is the running process.
func (r *Registry) Pid() int { return r.cmd.Process.Pid }

// Log is what it printed so far.
func (r *Registry) Log() string {
	b, _ := os.ReadFile(filepath.Join(r.Dir, "log"))
	return string(bytes.TrimSpace(b))
}
