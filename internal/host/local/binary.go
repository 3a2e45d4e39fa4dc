package local

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const (
	versionTimeout = 5 * time.Second
	maxOutput      = 64 << 10
	maxLines       = 4
	nobody         = 65534
	toolPath       = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// BinaryVersion implements host.Reader.
func (h *Host) BinaryVersion(ctx context.Context, path string, args ...string) (string, error) {
	if !h.root.live() {
		return h.builtVersion(path)
	}
	if info, err := h.fs.Stat(path); err != nil {
		return "", err
	} else if info.Mode&0o111 == 0 {
		return "", &fs.PathError{Op: "run", Path: path, Err: syscall.EACCES}
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := ask(ctx, path, args, os.Geteuid() == 0)
	if errors.Is(err, fs.ErrPermission) {
		// Not executable by others, or this process may not change its user.
		out, err = ask(ctx, path, args, false)
	}
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", path, err)
	}
	return firstText(out), nil
}

// ask runs a program that is expected to say something short and end.
func ask(ctx context.Context, path string, args []string, unprivileged bool) ([]byte, error) {
	var stdout, stderr capped
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir = []string{toolPath}, "/"
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if unprivileged {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children, too
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no answer: %w", ctx.Err())
		}
		return nil, fmt.Errorf("%w: %s", err, firstText(stderr.b.Bytes()))
	}
	if stdout.b.Len() == 0 {
		return stderr.b.Bytes(), nil
	}
	return stdout.b.Bytes(), nil
}

// capped keeps the beginning of an output and swallows the rest, so that the program is not stopped by it.
type capped struct{ b bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), maxOutput-c.b.Len())])
	return len(p), nil
}

// firstText is the first lines of an output, trimmed.
func firstText(out []byte) string {
	lines := strings.SplitN(strings.TrimSpace(string(out)), "\n", maxLines+1)
	return strings.TrimSpace(strings.Join(lines[:min(len(lines), maxLines)], "\n"))
}

// builtVersion reads what Go builds record. A program of another kind has no version here.
func (h *Host) builtVersion(path string) (string, error) {
	f, err := h.fs.open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := buildinfo.Read(f)
	if err != nil {
		return "", nil
	}
	return versionIn(info), nil
}

// versionIn prefers what the project itself set: the program's own variable, then Kubernetes' (kubelet and
// kubeadm: k8s.io/component-base/version.gitVersion), then the module version.
func versionIn(info *debug.BuildInfo) string {
	flags := ""
	for _, s := range info.Settings {
		if s.Key == "-ldflags" {
			flags = s.Value
		}
	}
	var own, kube string
	for _, m := range linkerVariable.FindAllStringSubmatch(flags, -1) {
		pkg, name, value := m[1], strings.ToLower(m[2]), strings.Trim(m[3], `'"`)
		switch {
		case pkg == "main" || (info.Main.Path != "" && strings.HasPrefix(pkg, info.Main.Path) && name == "version"):
			own = value
		case strings.HasPrefix(pkg, "k8s.io/component-base/version"):
			kube = value
		}
	}
	switch v := info.Main.Version; {
	case own != "":
		return own
	case kube != "":
		return kube
	case v == "(devel)" || pseudoVersion.MatchString(v):
		return ""
	default:
		return v
	}
}

var (
	// linkerVariable: -X 'github.com/k3s-io/k3s/pkg/version.Version=v1.36.3+k3s1'
	linkerVariable = regexp.MustCompile(`-X[ =]['"]?([^\s=]+)\.([Vv]ersion|[Gg]itVersion)=(\S+)`)
	pseudoVersion  = regexp.MustCompile(`[.-]\d{14}-[0-9a-f]{12}`)
)
