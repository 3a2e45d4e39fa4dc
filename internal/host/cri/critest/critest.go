// Package critest does what kubelet does with a CRI service, for tests: pull, run a pod on the host's network
// (so that no network plugin is needed), look at it.
package critest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/socket"
	"github.com/edgeprep/edgeprep/test/binaries"
)

// Kubelet plays kubelet at an endpoint.
type Kubelet struct {
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	logs    string
}

// New connects for the length of the test.
func New(t testing.TB, ep host.Endpoint) *Kubelet {
	t.Helper()
	conn := socket.New(ep.Socket)
	t.Cleanup(func() { _ = conn.Close() })
	cc, err := conn.Lazy()
	if err != nil {
		t.Fatal(err)
	}
	return &Kubelet{
		runtime: runtimeapi.NewRuntimeServiceClient(cc),
		images:  runtimeapi.NewImageServiceClient(cc),
		logs:    t.TempDir(),
	}
}

// PullImage pulls ref and returns the image's id.
func (k *Kubelet) PullImage(ctx context.Context, ref string) (string, error) {
	r, err := k.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return r.GetImageRef(), err
}

// RemoveImage removes an image with all its names.
func (k *Kubelet) RemoveImage(ctx context.Context, ref string) error {
	_, err := k.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}

// Pod is a running sandbox.
type Pod struct {
	k      *Kubelet
	id     string
	config *runtimeapi.PodSandboxConfig
}

// RunPod starts a sandbox on the host's network; the pause image must be there or be pulled.
func (k *Kubelet) RunPod(ctx context.Context, name string) (*Pod, error) {
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"},
		LogDirectory: filepath.Join(k.logs, name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
			},
		},
	}
	r, err := k.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", name, err)
	}
	return &Pod{k: k, id: r.PodSandboxId, config: config}, nil
}

// Start creates and starts a container in the pod and returns its id. The image must be there.
func (p *Pod) Start(ctx context.Context, name, image string, command ...string) (string, error) {
	ns := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	c, err := p.k.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name},
			Image:    &runtimeapi.ImageSpec{Image: image},
			Command:  command,
			LogPath:  name + ".log",
			Linux:    &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: ns}},
		},
	})
	if err != nil {
		return "", fmt.Errorf("create container %s of %s: %w", name, image, err)
	}
	if _, err := p.k.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return "", fmt.Errorf("start container %s of %s: %w", name, image, err)
	}
	return c.ContainerId, nil
}

// Container is the state of a container.
func (k *Kubelet) Container(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	r, err := k.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return r.GetStatus(), err
}

// Wait returns the exit code of a container.
func (k *Kubelet) Wait(ctx context.Context, id string) (int32, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := k.Container(ctx, id)
		if err != nil {
			return 0, err
		}
		if st.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			return st.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// Remove stops and removes the pod with its containers.
func (p *Pod) Remove(ctx context.Context) error {
	if _, err := p.k.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return err
	}
	_, err := p.k.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
	return err
}

// PauseProgram builds the static program that test images run, test/pause.
func PauseProgram(t testing.TB) []byte {
	t.Helper()
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "pause")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./test/pause")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build test/pause: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
