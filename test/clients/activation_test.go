package clients

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/ports"
)

// systemd holds the sockets and starts the mirror with the first connection, which is answered.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	need(t, "systemd-socket-activate")
	addr := ports.Free(t)
	dir, err := os.MkdirTemp("", "epact-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	admin := filepath.Join(dir, "admin")
	// An address that it could not bind by itself shows that the passed socket is used.
	cmd := exec.Command("systemd-socket-activate", "-l", addr, "-l", admin, "--fdname=data:admin", edgeprep.Build(t), "mirror", "serve",
		"--cache", dir, "--listen", "192.0.2.1:5000", "--upstream", "never")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	var resp *http.Response
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && resp == nil; time.Sleep(2 * time.Millisecond) {
		if r, err := http.Get("http://" + addr + "/v2/"); err == nil { // refused until systemd-socket-activate listens
			r.Body.Close()
			resp = r
		}
	}
	if resp == nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%+v", resp)
	}
	if h, err := mirror.AdminClient(admin).Health(t.Context()); err != nil || h.Listen != addr {
		t.Errorf("%+v %v", h, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it did not drain and end: %v", err)
	}
}
