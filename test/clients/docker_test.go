package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dockerd is a daemon of its own, without networks, whose mirror of Docker Hub is ours.
type dockerd struct {
	client *http.Client
	log    string
}

func startDocker(t *testing.T, mirror string) *dockerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "epdock-") // its socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	sock, log := filepath.Join(dir, "d.sock"), filepath.Join(dir, "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--host", "unix://"+sock,
		"--config-file", dir+"/none.json", "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "vfs",
		"--registry-mirror", mirror)
	if err := os.WriteFile(dir+"/none.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // by which it ends its containerd
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &dockerd{log: log, client: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}}}
	t.Cleanup(func() {
		d.client.CloseIdleConnections()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = unix.Unmount(dir+"/exec/netns/default", unix.MNT_DETACH)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if resp, err := d.client.Get("http://docker/_ping"); err == nil {
			resp.Body.Close()
			return d
		}
	}
	b, _ := os.ReadFile(log)
	t.Fatalf("dockerd did not start:\n%s", b)
	return nil
}

// pull pulls a reference and gives the image's id. The errors come in the body of an answer that is 200.
// Docker Engine API v1.41: ImageCreate, ImageInspect.
func (d *dockerd) pull(t *testing.T, ref string) (string, error) {
	t.Helper()
	resp, err := d.client.Post("http://docker/images/create?platform=linux/amd64&fromImage="+url.QueryEscape(ref), "", http.NoBody)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var event struct{ Error, Message string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil || event.Error != "" || resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s: %s", resp.Status, lines.Text())
		}
	}
	inspect, err := d.client.Get("http://docker/images/" + ref + "/json")
	if err != nil {
		return "", err
	}
	defer inspect.Body.Close()
	var image struct{ ID string }
	err = json.NewDecoder(inspect.Body).Decode(&image)
	return image.ID, err
}

// docker knows mirrors of Docker Hub only; everything else it asks for at the mirror's own name.
func TestDocker(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		lack(t, "needs root: dockerd mounts layers")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		lack(t, "needs dockerd: apt-get install docker.io")
	}
	s := newSite(t)
	s.twice(t, func(t *testing.T) {
		d := startDocker(t, s.mirror.URL)
		for _, i := range s.images {
			if i.kind == "zstd" { // not before docker 23 with its classic store
				continue
			}
			for _, ref := range i.refs() {
				if strings.HasPrefix(ref, portHost) {
					ref = s.mirror.Addr + "/" + inPath(ref)
				}
				if id, err := d.pull(t, ref); err != nil || id != i.config.String() {
					t.Errorf("%s %s: %s, not %s: %v", i.kind, ref, id, i.config, err)
				}
			}
		}
	})
	if log := s.mirror.Log(); !strings.Contains(log, "agent=\"docker/") {
		t.Error("the mirror was not asked by docker")
	}
}
