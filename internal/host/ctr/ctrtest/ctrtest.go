// Package ctrtest runs real containerd daemons for tests: each with its own root, state, sockets and registry
// configuration below a temporary directory, so that several versions work side by side and nothing of the
// machine's own containerd is touched.
//
// Tests that use it need root and runc. Without them, or without the daemon's binary (go run ./test/build),
// they are skipped; with EDGEPREP_REQUIRE_REAL=1 they fail instead.
package ctrtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/socket"
)

// Namespace is the one that CRI uses.
const Namespace = "k8s.io"

// startWithin bounds the wait for a daemon; a loaded machine needs seconds.
const startWithin = time.Minute

// Daemon is a running containerd.
type Daemon struct {
	Version     string // "1.6", "1.7", "2.4"
	Dir         string // everything of this daemon is below it
	Socket      string
	Root        string // content and snapshots
	State       string
	Config      string // path of config.toml
	ConfigPath  string // the registry config_path: an empty directory at first
	Snapshotter string // the CRI's
	Bin         string // directory of containerd, ctr and the shim

	t   testing.TB
	cmd *exec.Cmd
	log string
}

// Options say how a daemon is configured.
type Options struct {
	Sandbox string // the pause image; empty: containerd's default, which is not there
	Disk    string // size of a file system of its own for Root ("64m"); empty: none
	Prepare func(config string) string
}

// Option changes Options.
type Option func(*Options)

// WithSandbox sets the pause image.
func WithSandbox(ref string) Option { return func(o *Options) { o.Sandbox = ref } }

// WithDisk puts the daemon's root on a tmpfs of that size ("64m"), to fill it up.
func WithDisk(size string) Option { return func(o *Options) { o.Disk = size } }

// WithConfig lets a test change the text of config.toml before the daemon starts.
func WithConfig(edit func(config string) string) Option {
	return func(o *Options) { o.Prepare = edit }
}

// Versions are the daemons that tests are written for, oldest first. 1.6 is the distribution's own package
// and so is there on some machines only.
func Versions() []string { return []string{"1.6", "1.7", "2.4"} }

// Each runs f as a parallel subtest for every version, each with a fresh daemon; with -short for the newest.
func Each(t *testing.T, f func(t *testing.T, d *Daemon), opts ...Option) {
	t.Helper()
	versions := Versions()
	if testing.Short() {
		versions = versions[len(versions)-1:]
	}
	for _, v := range versions {
		t.Run("containerd-"+v, func(t *testing.T) {
			t.Parallel()
			f(t, Start(t, v, opts...))
		})
	}
}

// Start runs a containerd of the version until the test ends.
func Start(t testing.TB, version string, opts ...Option) *Daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "needs root: containerd mounts layers")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		lack(t, "needs runc on PATH: apt-get install runc")
	}
	var o Options
	for _, opt := range opts {
		opt(&o)
	}
	d := &Daemon{Version: version, Bin: binDir(t, version), t: t}
	if err := d.layOut(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.cleanUp)
	if o.Disk != "" {
		if err := unix.Mount("tmpfs", d.Root, "tmpfs", 0, "size="+o.Disk); err != nil {
			t.Fatalf("mount a tmpfs: %v", err)
		}
	}
	if err := d.configure(o); err != nil {
		t.Fatal(err)
	}
	d.start()
	return d
}

// lack skips a test that misses something real, or fails it where the real thing is required.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func (d *Daemon) layOut() error {
	// A Unix socket's path has at most 108 bytes: t.TempDir is too long.
	dir, err := os.MkdirTemp("", "epctr-")
	if err != nil {
		return err
	}
	d.Dir = dir
	d.Socket = filepath.Join(dir, "c.sock")
	d.Root, d.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	d.Config, d.ConfigPath = filepath.Join(dir, "config.toml"), filepath.Join(dir, "certs.d")
	d.log = filepath.Join(dir, "log")
	if len(d.Socket)+len(".ttrpc") > 107 {
		return errors.New(d.Socket + " is too long for a socket: set TMPDIR to a shorter path")
	}
	for _, sub := range []string{d.Root, d.State, d.ConfigPath, filepath.Join(dir, "cni"), filepath.Join(dir, "opt")} {
		if err := os.Mkdir(sub, 0o711); err != nil {
			return err
		}
	}
	d.Snapshotter = "overlayfs"
	if !overlayWorks(dir) {
		d.Snapshotter = "native"
	}
	return nil
}

// overlayWorks tries it: a directory that is itself on an overlay cannot be a lower or upper one.
func overlayWorks(dir string) bool {
	base, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(base)
	data := make([]string, 0, 3)
	for _, name := range []string{"lowerdir", "upperdir", "workdir"} {
		sub := filepath.Join(base, name)
		if os.Mkdir(sub, 0o755) != nil {
			return false
		}
		data = append(data, name+"="+sub)
	}
	on := filepath.Join(base, "on")
	if os.Mkdir(on, 0o755) != nil || unix.Mount("overlay", on, "overlay", 0, strings.Join(data, ",")) != nil {
		return false
	}
	return unix.Unmount(on, 0) == nil
}

// Endpoint is how edgeprep names this daemon.
func (d *Daemon) Endpoint() host.Endpoint {
	return host.Endpoint{Socket: d.Socket, Namespace: Namespace, Snapshotter: d.Snapshotter, Root: d.Root}
}

// Log is what the daemon printed so far.
func (d *Daemon) Log() string {
	b, _ := os.ReadFile(d.log)
	return string(b)
}

// Ctr runs the daemon's own ctr in the CRI's namespace and returns its output.
func (d *Daemon) Ctr(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(d.Bin, "ctr"), append([]string{"-a", d.Socket, "-n", Namespace}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), errors.New("ctr " + strings.Join(args, " ") + ": " + err.Error() + ": " + errOut.String())
	}
	return out.String(), nil
}

// CPU is the processor time that the daemon used so far, which says what an import costs also on a machine
// that does other things.
func (d *Daemon) CPU() time.Duration {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(d.cmd.Process.Pid) + "/stat")
	if err != nil {
		return 0
	}
	// proc(5): utime and stime are the fields 14 and 15, counted from 1; ticks are hundredths of a second.
	fields := strings.Fields(string(b))
	var ticks int
	for _, f := range fields[13:15] {
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// Stop ends the daemon as a power cut would; containers live on.
func (d *Daemon) Stop() {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
}

// Restart stops the daemon and starts it again on the same data.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Stop()
	d.start()
}

func (d *Daemon) start() {
	d.t.Helper()
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(d.Bin, "containerd"), "-c", d.Config)
	cmd.Env = append(os.Environ(), "PATH="+d.Bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = out, out
	// A test binary that is killed must not leave a daemon behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.cmd = cmd
	if err := d.await(); err != nil {
		d.t.Fatalf("containerd %s did not start: %v\n%s", d.Version, err, d.Log())
	}
}

// await returns when the daemon answers a call; its CRI plugin is loaded by then.
func (d *Daemon) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	exited := make(chan struct{})
	go func() {
		// Observed without reaping: Stop waits for the process itself.
		var info unix.Siginfo
		_ = ignoreEINTR(func() error {
			return unix.Waitid(unix.P_PID, d.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		})
		close(exited)
	}()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	return d.call(ctx, func(cc grpc.ClientConnInterface) error {
		rt := runtimeapi.NewRuntimeServiceClient(cc)
		for {
			_, err := rt.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
			switch {
			case status.Code(err) == codes.Unimplemented: // started without CRI
				return nil
			case err == nil || !strings.Contains(err.Error(), "not initialized yet"): // while CRI reads its images
				return err
			}
		}
	})
}

func ignoreEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (d *Daemon) call(ctx context.Context, f func(grpc.ClientConnInterface) error) error {
	conn := socket.New(d.Socket)
	defer conn.Close()
	cc, err := conn.Lazy()
	if err != nil {
		return err
	}
	return f(cc)
}
