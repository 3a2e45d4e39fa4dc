package app

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/report"
)

//go:embed demonodes/*.txtar
var demoNodes embed.FS

// DemoOptions say where and for whom.
type DemoOptions struct {
	Dir    string // made if missing; empty: a temporary folder, which stays for looking at
	Distro string // "k3s" or "kubeadm"
	Out    io.Writer
	Color  bool
	Binary string // installed as the mirror's program; empty: this one
}

// demo is the main job on a throw-away node, step by step.
type demo struct {
	DemoOptions
	app    *App
	root   string // the node's file system
	refs   []string
	listen string
	step   int
}

// Demo makes a small image set and a node, and does the whole job on it. An error says which step was not
// what it should be.
func Demo(ctx context.Context, o DemoOptions) error {
	d := &demo{DemoOptions: o}
	steps := []struct {
		title string
		do    func(context.Context) error
	}{
		{"make a small image set and a " + o.Distro + " node", d.make},
		{"detect: what is this node?", d.detect},
		{"plan: what would apply do?", d.plan},
		{"apply", d.apply},
		{"apply again: nothing to do", d.applyAgain},
		{"the mirror answers for every reference, with no upstream", d.serve},
	}
	for _, s := range steps {
		d.title(s.title)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("demo, step %d (%s): %w", d.step, s.title, err)
		}
	}
	fmt.Fprintf(d.Out, "\nDone. The node is in %s; look at it:\n  edgeprep status --root %s\n  find %s -newer %s -type f\n",
		d.root, d.root, d.root, filepath.Join(d.root, "etc/hostname"))
	return nil
}

func (d *demo) title(s string) {
	d.step++
	fmt.Fprintf(d.Out, "\n== %d. %s\n", d.step, s)
}

func (d *demo) make(context.Context) error {
	var err error
	if d.Dir == "" {
		if d.Dir, err = os.MkdirTemp("", "edgeprep-demo-"); err != nil {
			return err
		}
	}
	if d.root, err = filepath.Abs(filepath.Join(d.Dir, "node")); err != nil {
		return err
	}
	if entries, err := os.ReadDir(d.root); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: choose another --dir", d.root)
	}
	tree, err := demoNodes.ReadFile("demonodes/" + d.Distro + ".txtar")
	if err != nil {
		return fmt.Errorf("there is no demo node for %q: --distro k3s or kubeadm", d.Distro)
	}
	if err := unpackTree(d.root, txtar.Parse(tree)); err != nil {
		return err
	}
	if err := d.images(); err != nil {
		return err
	}
	if d.listen, err = freeAddress(); err != nil {
		return err
	}
	if err := d.configure(); err != nil {
		return err
	}
	d.app, err = Open(Options{Root: d.root, Binary: d.Binary})
	return err
}

// images writes two archives: one as edgeprep and k3s write them, one as docker save does.
func (d *demo) images() error {
	set, err := imagetest.Standard(imagetest.Options{Platforms: []string{"linux/" + runtime.GOARCH, otherArch()}, Pause: pauseFor(d.Distro)})
	if err != nil {
		return err
	}
	dir := filepath.Join(d.root, "opt/edgeprep/images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, "edge.tar.zst")
	if err := set.WriteArchive(file, imagetest.Form{Layout: imagetest.Combined, Compression: imagetest.Zstd}); err != nil {
		return err
	}
	for _, i := range set.Images {
		d.refs = append(d.refs, i.Names...)
	}
	fmt.Fprintf(d.Out, "%s: %d images, %d references\n", d.rel(file), len(set.Images), len(d.refs))
	return writeTree(filepath.Join(d.root, "opt/edgeprep/required.txt"), strings.Join(d.refs, "\n")+"\n", 0o644)
}

// pauseFor is the sandbox image that the node's containerd will ask for: without it no pod starts.
func pauseFor(distro string) string {
	if distro == "k3s" {
		return "docker.io/rancher/mirrored-pause:3.10.2"
	}
	return "registry.k8s.io/pause:3.10"
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "linux/amd64"
	}
	return "linux/arm64"
}

func (d *demo) rel(p string) string { return strings.TrimPrefix(p, d.root) }

func (d *demo) configure() error {
	version := ""
	if d.Distro == "k3s" {
		version = "version  = \"v1.36.3+k3s1\"   # programs under a root are never run\n"
	}
	toml := fmt.Sprintf(`version = 1

[site]
name = "demo"

[distro]
kind     = %q
%s
[images]
archives = ["/opt/edgeprep/images/*.tar*"]
required = "/opt/edgeprep/required.txt"

[mirror]
listen   = %q
upstream = "never"
`, d.Distro, version, d.listen)
	file := filepath.Join(d.root, "etc/edgeprep/edgeprep.toml")
	fmt.Fprintf(d.Out, "%s: mirror on %s, upstream never\n", d.rel(file), d.listen)
	return writeTree(file, toml, 0o644)
}

// freeAddress is a loopback port that nobody has now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // bound and closed at once
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (d *demo) detect(ctx context.Context) error {
	n, err := d.app.Detect(ctx)
	if err != nil {
		return err
	}
	WriteNode(d.Out, n)
	if n.ID != d.Distro {
		return fmt.Errorf("found %s, not %s", n.ID, d.Distro)
	}
	return nil
}

func (d *demo) plan(ctx context.Context) error {
	p, err := d.app.Plan(ctx, ApplyOptions{})
	if err != nil {
		return err
	}
	if p.Empty() {
		return errors.New("the plan for a node that was never prepared is empty")
	}
	return p.Text(d.Out, d.Color)
}

func (d *demo) apply(ctx context.Context) error {
	r, err := d.app.Apply(ctx, ApplyOptions{})
	if err != nil {
		return err
	}
	return r.Text(d.Out)
}

func (d *demo) applyAgain(ctx context.Context) error {
	r, err := d.app.Apply(ctx, ApplyOptions{})
	if err != nil {
		return err
	}
	if r.Outcome != apply.OutcomeNothing {
		return fmt.Errorf("the second apply made %d changes", len(r.Changes))
	}
	fmt.Fprintf(d.Out, "0 changes\n")
	return nil
}

// serve runs the mirror on the node's cache, pulls every reference from it, and runs the checklist meanwhile.
func (d *demo) serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s, err := mirror.Listen(ctx, mirror.Config{Cache: filepath.Join(d.root, "var/lib/edgeprep/mirror"), Listen: d.listen})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	err = d.pullAll(ctx)
	if err == nil {
		d.title("check: is the node ready?")
		err = d.check(ctx)
	}
	stop()
	return errors.Join(err, <-served)
}

func (d *demo) pullAll(ctx context.Context) error {
	c, err := mirror.NewClient("http://"+d.listen, mirror.ClientOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	for _, ref := range d.refs {
		w, err := c.Walk(ctx, ref, "", true)
		if err != nil {
			return err
		}
		if !w.OK() {
			return fmt.Errorf("%s: %+v", ref, w.Problems)
		}
		fmt.Fprintf(d.Out, "ok       %s  %s items, %s, every digest right\n", ref, strconv.Itoa(w.Contents), progress.Bytes(w.Bytes))
	}
	return nil
}

func (d *demo) check(ctx context.Context) error {
	r, err := d.app.Check(ctx, CheckOptions{mirror: "http://" + d.listen})
	if err != nil {
		return err
	}
	if err := report.Text(d.Out, r, report.Options{Color: d.Color}); err != nil {
		return err
	}
	switch {
	case r.Verdict == check.VerdictUnproven:
	case onlyRoom(r): // says nothing of edgeprep: a laptop's disk may well be fuller than a node's should
		fmt.Fprintf(d.Out, "note     only %s fails: this machine's disk has less room than a node's should have\n", roomCheck)
	default:
		return fmt.Errorf("the verdict is %s, not %s", r.Verdict, check.VerdictUnproven)
	}
	return nil
}

// roomCheck is the check of the demo that depends on the machine it is shown on.
const roomCheck = "TAR-10"

func onlyRoom(r check.Report) bool {
	for _, c := range r.Results {
		if c.Status == check.StatusFail && c.ID != roomCheck {
			return false
		}
	}
	return r.Verdict == check.VerdictFail
}

// unpackTree writes a node's files. A name may end in "mode=0755", or in "-> TARGET" for a symlink.
func unpackTree(root string, a *txtar.Archive) error {
	for _, f := range a.Files {
		name, target, isLink := strings.Cut(f.Name, " -> ")
		name, mode, hasMode := strings.Cut(name, " mode=")
		at := filepath.Join(root, name)
		if isLink {
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			if err := os.Symlink(target, at); err != nil {
				return err
			}
			continue
		}
		perm := uint64(0o644)
		if hasMode {
			var err error
			if perm, err = strconv.ParseUint(mode, 8, 32); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		if err := writeTree(at, string(f.Data), os.FileMode(perm)); err != nil {
			return err
		}
	}
	return nil
}

// writeTree writes a file of the throw-away node.
func writeTree(at, content string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("make the demo's node: %w", err)
	}
	if err := os.WriteFile(at, []byte(content), mode); err != nil { //nolint:forbidigo // a throw-away node needs no durability
		return fmt.Errorf("make the demo's node: %w", err)
	}
	return nil
}
