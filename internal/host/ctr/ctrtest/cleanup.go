package ctrtest

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (d *Daemon) cleanUp() {
	if d.t.Failed() {
		d.t.Logf("containerd %s printed at the end:\n%s", d.Version, tail(d.Log(), 15))
	}
	if d.cmd != nil {
		d.removePods()
	}
	d.Stop()
	d.killShims()
	unmountBelow(d.Dir)
	if err := os.RemoveAll(d.Dir); err != nil {
		d.t.Errorf("clean up: %v", err)
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// removePods is best effort: what is left has its shim killed.
func (d *Daemon) removePods() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = d.call(ctx, func(cc grpc.ClientConnInterface) error {
		rt := runtimeapi.NewRuntimeServiceClient(cc)
		pods, err := rt.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			_, _ = rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id})
			_, _ = rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
		}
		return nil
	})
}

// killShims ends what names this daemon's directory on its command line, and nothing else.
func (d *Daemon) killShims() {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(b, []byte("shim")) || !bytes.Contains(b, []byte(d.Dir+"/")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func unmountBelow(dir string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer f.Close()
	var points []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// mountinfo: the fifth field is the mount point (proc(5)).
		if fields := strings.Fields(sc.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	for i := len(points) - 1; i >= 0; i-- {
		_ = unix.Unmount(points[i], unix.MNT_DETACH)
	}
}
