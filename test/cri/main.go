// Command cri does with a CRI service what kubelet does, for trying a node without a kubelet:
//
//	cri [-r SOCKET] images | pull REF | run REF COMMAND... | ps | stop
//
// run starts a pod on the host's network (so that no network plugin is needed) and a container in it; stop
// removes every pod that run made.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	socket := flag.String("r", "/run/containerd/containerd.sock", "socket of the CRI service")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, *socket, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

// kubelet is a connection.
type kubelet struct {
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	out     io.Writer
}

func run(ctx context.Context, socket string, args []string, out io.Writer) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", socket, err)
	}
	defer conn.Close()
	k := &kubelet{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), out}
	switch {
	case len(args) == 1 && args[0] == "images":
		return k.list(ctx)
	case len(args) == 2 && args[0] == "pull":
		return k.pull(ctx, args[1])
	case len(args) > 2 && args[0] == "run":
		return k.start(ctx, args[1], args[2:])
	case len(args) == 1 && args[0] == "ps":
		return k.ps(ctx)
	case len(args) == 1 && args[0] == "stop":
		return k.stop(ctx)
	}
	return fmt.Errorf("usage: cri [-r SOCKET] images | pull REF | run REF COMMAND... | ps | stop")
}

func (k *kubelet) list(ctx context.Context) error {
	r, err := k.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	var lines []string
	for _, i := range r.Images {
		pin := ""
		if i.Pinned {
			pin = "  pinned"
		}
		for _, n := range append(i.RepoTags, i.RepoDigests...) {
			lines = append(lines, n+pin)
		}
	}
	sort.Strings(lines)
	for _, l := range lines {
		fmt.Fprintln(k.out, l)
	}
	return nil
}

func (k *kubelet) pull(ctx context.Context, ref string) error {
	if _, err := k.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		return err
	}
	fmt.Fprintln(k.out, "pulled", ref)
	return nil
}

func (k *kubelet) start(ctx context.Context, ref string, command []string) error {
	name := fmt.Sprintf("try-%d", time.Now().UnixNano())
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		LogDirectory: "/tmp",
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}},
	}
	sandbox, err := k.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return fmt.Errorf("run the sandbox: %w", err)
	}
	c, err := k.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
			Image: &runtimeapi.ImageSpec{Image: ref}, Command: command}})
	if err != nil {
		return fmt.Errorf("create the container: %w", err)
	}
	if _, err := k.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return k.ps(ctx)
}

func (k *kubelet) ps(ctx context.Context) error {
	r, err := k.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, c := range r.Containers {
		fmt.Fprintf(k.out, "%s %s %s\n", c.Metadata.Name, c.ImageRef, c.State)
	}
	return nil
}

func (k *kubelet) stop(ctx context.Context) error {
	r, err := k.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range r.Items {
		if _, err := k.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return err
		}
		if _, err := k.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return err
		}
	}
	fmt.Fprintln(k.out, "stopped", len(r.Items), "pods")
	return nil
}
