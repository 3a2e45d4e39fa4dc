// Package binaries builds the real programs that tests run (containerd, its shim, ctr, a registry, kubelet and the
// rest of a cluster) from the modules under test/, and keeps them in the user's cache directory by name and
// version, so that they are built once per machine and never land in the clone.
package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// Target is a set of programs that are built together.
type Target struct {
	Name   string // "containerd-2.4"
	Dir    string // module below the repository's root
	Module string // the module whose version counts, required by Dir's go.mod

	programs []program
	ldflags  string // with VERSION in it
}

type program struct {
	pkg  string // import path
	tags string
	test bool   // the package's tests are the program
	name string // of the program; empty: the last element of pkg
}

func (p program) file() string {
	if p.name != "" {
		return p.name
	}
	return filepath.Base(p.pkg)
}

// A containerd without C, as its own static release does it; the shim leaves gRPC out as upstream's Makefile
// does (it speaks ttrpc).
const (
	tags     = "urfave_cli_no_docs,osusergo,netgo,static_build"
	shimTags = tags + ",no_grpc"
)

// Targets lists what can be built.
func Targets() []Target {
	return []Target{
		containerd("containerd-2.4", "test/containerd", "github.com/containerd/containerd/v2"),
		containerd("containerd-1.7", "test/containerd17", "github.com/containerd/containerd"),
		distribution(),
		conformance("conformance-suite", false),
		conformance("conformance-ginkgo", true),
		kubernetes("kubelet", "kubelet"),
		kubernetes("kubernetes", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"),
		cluster(),
	}
}

// kubernetes is a target with programs of one Kubernetes, in one module.
func kubernetes(name string, programs ...string) Target {
	const module = "k8s.io/kubernetes"
	t := Target{
		Name: name, Dir: "test/kubernetes", Module: module,
		ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=vVERSION -X k8s.io/client-go/pkg/version.gitVersion=vVERSION",
	}
	for _, p := range programs {
		t.programs = append(t.programs, program{pkg: module + "/cmd/" + p, tags: "osusergo,netgo"})
	}
	return t
}

// cluster is what a Kubernetes needs besides its own programs.
func cluster() Target {
	const etcd, cni = "go.etcd.io/etcd/server/v3", "github.com/containernetworking/plugins/plugins/"
	t := Target{Name: "cluster", Dir: "test/cluster", Module: etcd, programs: []program{{pkg: etcd, name: "etcd"}}, ldflags: "-s -w"}
	for _, p := range []string{"ipam/host-local", "main/bridge", "main/loopback"} {
		t.programs = append(t.programs, program{pkg: cni + p})
	}
	return t
}

func containerd(name, dir, module string) Target {
	return Target{
		Name: name, Dir: dir, Module: module,
		programs: []program{
			{pkg: module + "/cmd/containerd", tags: tags},
			{pkg: module + "/cmd/ctr", tags: tags},
			{pkg: module + "/cmd/containerd-shim-runc-v2", tags: shimTags},
		},
		ldflags: "-s -w -X " + module + "/version.Version=VERSION",
	}
}

// distribution is the registry that tests pull from: a real upstream.
func distribution() Target {
	const module = "github.com/distribution/distribution/v3"
	return Target{
		Name: "distribution", Dir: "test/distribution", Module: module,
		programs: []program{{pkg: module + "/cmd/registry", tags: tags}},
		ldflags:  "-s -w -X " + module + "/version.version=VERSION",
	}
}

// conformance is a conformance suite of the OCI distribution specification: what is on its main branch, and the
// ginkgo suite before it, which is a package of tests. Both are versions of one module.
func conformance(name string, test bool) Target {
	const module = "github.com/opencontainers/distribution-spec/conformance"
	return Target{Name: name, Dir: "test/" + name, Module: module, programs: []program{{pkg: module, test: test}}}
}

// Lookup finds a target by name.
func Lookup(name string) (Target, error) {
	var names []string
	for _, t := range Targets() {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	sort.Strings(names)
	return Target{}, fmt.Errorf("no target %q: use one of %s", name, strings.Join(names, ", "))
}

// Root is the repository's root directory, found upwards from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/edgeprep/edgeprep\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not inside the edgeprep repository")
		}
		dir = up
	}
}

// Path is the directory that holds, or will hold, the target's programs: its name carries the version that
// go.mod requires, so a new version is a new directory.
func (t Target) Path(root string) (string, error) {
	v, err := t.version(root)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "edgeprep-test", t.Name+"-"+v), nil
}

// Find gives the directory when the target is built; fs.ErrNotExist otherwise.
func (t Target) Find(root string) (string, error) {
	dir, err := t.Path(root)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("%s is not built (go run ./test/build -what %s): %w", t.Name, t.Name, err)
	}
	return dir, nil
}

// Build builds the target unless it is there. A run that is killed leaves no half directory: the programs are
// built beside it and renamed.
func (t Target) Build(ctx context.Context, root string, log io.Writer) (string, error) {
	dir, err := t.Path(root)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for _, p := range t.programs {
		if err := t.compile(ctx, root, tmp, p, log); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil && !isThere(dir) {
		return "", err
	}
	return dir, nil
}

// isThere covers two builds at the same time: the second finds the first one's directory.
func isThere(dir string) bool {
	fi, err := os.Stat(dir)
	return err == nil && fi.IsDir()
}

func (t Target) compile(ctx context.Context, root, out string, p program, log io.Writer) error {
	v, err := t.version(root)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "building %s %s\n", p.file(), v)
	verb := []string{"build"}
	if p.test {
		verb = []string{"test", "-c"}
	}
	cmd := exec.CommandContext(ctx, "go", append(verb, "-p", "2", "-trimpath", "-buildvcs=false",
		"-tags", p.tags, "-ldflags", strings.ReplaceAll(t.ldflags, "VERSION", v),
		"-o", filepath.Join(out, p.file()), p.pkg)...)
	cmd.Dir = filepath.Join(root, t.Dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", p.pkg, err)
	}
	return nil
}

// version reads the required version from the target's go.mod, so that it is written in one place.
func (t Target) version(root string) (string, error) {
	file := filepath.Join(root, t.Dir, "go.mod")
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(t.Module) + ` v(\S+)`).FindSubmatch(b)
	if m == nil {
		return "", fmt.Errorf("%s: no requirement of %s: %w", file, t.Module, fs.ErrNotExist)
	}
	return string(m[1]), nil
}
