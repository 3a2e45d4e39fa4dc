package check

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/kubelet"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/registries"
)

func runtimeChecks() []Check {
	return []Check{pluginCheck(), snapshotterCheck(), droppedKeysCheck(), imageNamespaceCheck(), otherRuntimeCheck(), pairCheck()}
}

// The types of containerd's plugins. containerd: plugins/types.go
const (
	snapshotterType = "io.containerd.snapshotter.v1"
	criServiceType  = "io.containerd.grpc.v1"
	criHalvesType   = "io.containerd.cri.v1" // since 2.0: images and runtime
)

func pluginCheck() Check {
	return Check{
		ID: "CRI-08", Title: "containerd's CRI plugin is loaded and answers",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:  "containerd is active, and kubelet says \"unknown service runtime.v1.RuntimeService\"; the node is NotReady",
			Cause: "the plugin refuses its configuration (mirrors together with config_path, a file of a version that is not read) or is switched off; containerd starts without it",
			Look:  "containerd's own list of plugins with the reason why one did not load, and CRI's answer",
			Fix:   "correct what the reason names (REG-02 and REG-03 name the line), then restart the runtime",
			Sources: []string{"containerd: internal/cri/config (ValidateImageConfig), services/introspection", "k0s: docs/runtime.md",
				"containerd/containerd#12612"},
		},
		Run: runPlugin,
	}
}

func runPlugin(ctx context.Context, e *Env) []Finding {
	const subject = "CRI plugin"
	if fs := e.withContainerd(ctx, subject); fs != nil {
		return fs
	}
	plugins, err := e.memo.plugins()
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	var out []Finding
	for _, p := range plugins {
		isCRI := p.Type == criServiceType && p.ID == "cri" || p.Type == criHalvesType
		if isCRI && p.Error != "" {
			out = append(out, Finding{Status: StatusFail, Subject: p.Type + "." + p.ID, Expected: "loaded", Observed: p.Error, Source: "containerd's list of plugins",
				Remedy: Remedy{Text: "correct the configuration that this names, then", Command: "systemctl restart " + e.runtimeUnit()}})
		}
	}
	a, err := e.memo.cri()
	switch {
	case err != nil && len(out) == 0:
		return []Finding{{Status: StatusFail, Subject: subject, Expected: "an answer", Observed: err.Error(), Source: "CRI Version at " + e.Node.Runtime.Endpoint.Socket,
			Remedy: Remedy{Text: "see why", Command: "journalctl -u " + e.runtimeUnit() + " -n 50"}}}
	case len(out) == 0:
		return []Finding{pass(subject, a.version.Name+" "+a.version.Version+", CRI "+a.version.API, "containerd's list of plugins; CRI Version")}
	}
	return out
}

func snapshotterCheck() Check {
	return Check{
		ID: "CRI-07", Title: "the snapshotter that CRI uses works, on a file system that suits it",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-08"},
		Story: Story{
			Seen:    "every image is unpacked again, or the CRI plugin does not load: \"failed to find snapshotter\"",
			Cause:   "the configured snapshotter is not there or does not suit the disk: overlay on overlay, on NFS, or on xfs without ftype; or images were unpacked for another one",
			Look:    "the snapshotter that CRI reports, containerd's list of plugins, the file system below containerd's root",
			Fix:     "choose a snapshotter that loads, before images are brought in; unpack again: edgeprep apply",
			Sources: []string{"containerd: plugins/cri/images/plugin.go, plugins/snapshots/overlay", "containerd: docs/snapshotters"},
		},
		Run: runSnapshotter,
	}
}

func runSnapshotter(ctx context.Context, e *Env) []Finding {
	const subject = "snapshotter"
	if fs := e.withContainerd(ctx, subject); fs != nil {
		return fs
	}
	plugins, err := e.memo.plugins()
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	name := e.snapshotter()
	f := pass(name, "loaded", "containerd's list of plugins")
	i := slices.IndexFunc(plugins, func(p host.Plugin) bool { return p.Type == snapshotterType && p.ID == name })
	switch {
	case i < 0:
		f.Status, f.Observed = StatusFail, "containerd has none of that name; it has "+strings.Join(loaded(plugins), ", ")
	case plugins[i].Error != "":
		f.Status, f.Observed = StatusFail, plugins[i].Error
	}
	if f.Status == StatusFail {
		f.Expected, f.Remedy = "a snapshotter that loads", Remedy{Text: "name another one in the runtime's configuration, then bring the images in again: edgeprep apply"}
		return []Finding{f}
	}
	out := []Finding{f}
	if bad, ok := e.unsuited(name); ok {
		out = append(out, bad)
	}
	return out
}

// loaded are the snapshotters that work.
func loaded(plugins []host.Plugin) []string {
	var out []string
	for _, p := range plugins {
		if p.Type == snapshotterType && p.Error == "" {
			out = append(out, p.ID)
		}
	}
	return out
}

// unsuited says whether the snapshots of overlayfs lie where its upper directory cannot.
// Linux: Documentation/filesystems/overlayfs.rst; containerd: plugins/snapshots/overlay/overlayutils
func (e *Env) unsuited(name string) (Finding, bool) {
	m, ok := mountOf(e.Reader.FS(), e.Node.Runtime.Endpoint.Root)
	remote := strings.HasPrefix(m.kind, "nfs") || m.kind == "overlay" || m.kind == "cifs" || m.kind == "9p" || m.kind == "vfat"
	if !ok || name != "overlayfs" || !remote {
		return Finding{}, false
	}
	return Finding{Status: StatusWarn, Subject: m.point, Expected: "ext4, xfs, btrfs or the like", Observed: m.kind + " below " + e.Node.Runtime.Endpoint.Root,
		Source: "/proc/mounts", Remedy: Remedy{Text: "put containerd's root on a local disk"}}, true
}

// mount is a line of /proc/mounts.
type mount struct{ point, kind, options string }

// mountOf is the mount that holds a path: the last of the longest.
func mountOf(f host.FS, p string) (m mount, ok bool) {
	if p == "" {
		return mount{}, false
	}
	for _, line := range textLines(f, "/proc/mounts") {
		c := strings.Fields(line)
		if len(c) < 4 {
			continue
		}
		point := strings.ReplaceAll(c[1], `\040`, " ")
		inside := p == point || strings.HasPrefix(p, strings.TrimSuffix(point, "/")+"/")
		if inside && len(point) >= len(m.point) {
			m, ok = mount{point, c[2], c[3]}, true
		}
	}
	return m, ok
}

func droppedKeysCheck() Check {
	return Check{
		ID: "CRI-09", Title: "containerd reads every key of its CRI configuration",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "x509 errors or anonymous pulls after an upgrade of containerd, though config.toml looks right",
			Cause:   "keys that are gone (registry.configs.*.tls since 2.0) or misspelt are dropped with one line in the log",
			Look:    "every key that is set in the CRI plugin's tables of config.toml and its imports, against what this version knows",
			Fix:     "move TLS and credentials to hosts.toml; correct or delete the key at the line given",
			Sources: []string{"containerd: RELEASES.md, internal/cri/config", "kubesphere/kubekey#3257", "k3s-io/k3s#8972"},
		},
		Run: runDroppedKeys,
	}
}

func runDroppedKeys(_ context.Context, e *Env) []Finding {
	file := e.Node.Runtime.Config
	switch {
	case file == "":
		return []Finding{skip("config.toml", "where it is is not known")}
	case e.Node.Runtime.Version == "":
		return []Finding{unproven(file, "the version of containerd is not known, and so what it reads is not")}
	}
	c, err := e.memo.criConfig()
	if ds := diag.Of(err); len(ds) > 0 {
		return []Finding{skip(file, "it cannot be read; REG-02 says why")}
	}
	if err != nil {
		return []Finding{couldNotRun(file, err)}
	}
	var out []Finding
	for _, k := range c.Dropped() {
		out = append(out, e.dropped(k))
	}
	if len(out) == 0 {
		return []Finding{pass(file, "every key is known to containerd "+e.Node.Runtime.Version, file)}
	}
	return out
}

func (e *Env) dropped(k registries.DroppedKey) Finding {
	f := Finding{Status: StatusWarn, Subject: k.Key, Expected: "a key that containerd " + e.Node.Runtime.Version + " reads", Observed: "it is not known there",
		Source: k.Where.String(), Remedy: Remedy{Text: "correct or delete it"}}
	if k.Gone {
		f.Observed = "containerd 1.x read it, 2.x does not"
	}
	if k.Nearest != "" {
		f.Remedy.Text = "did you mean " + k.Nearest + "?"
	}
	if strings.HasPrefix(k.Key, "registry.") { // TLS, credentials, mirrors: pulls go wrong without it
		f.Status = StatusFail
		if k.Gone {
			f.Remedy.Text = "say it in hosts.toml (ca, client, skip_verify), and delete it here"
		}
	}
	return f
}

func imageNamespaceCheck() Check {
	return Check{
		ID: "CRI-01", Title: "no required image is only in another containerd namespace",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "ctr images ls shows the image, and kubelet pulls it all the same",
			Cause:   "ctr works in the namespace default unless told otherwise, Docker in moby; kubelet's is k8s.io",
			Look:    "required references without a record in kubelet's namespace, and the records of the others",
			Fix:     "import it into the right namespace (edgeprep apply, ctr -n k8s.io images import) and remove the stray copy",
			Sources: []string{"rke2-docs: registry_mirror.md (namespace note)", "containerd: docs/namespaces.md"},
		},
		Run: runImageNamespace,
	}
}

// otherNamespaces are where images end up by mistake: ctr's default, Docker's, kubelet's when another one counts.
func otherNamespaces() []string { return []string{"default", "moby", "k8s.io"} }

func runImageNamespace(ctx context.Context, e *Env) []Finding {
	const subject = "namespaces"
	if len(e.Required) == 0 {
		return []Finding{skip("required references", "none is required; CRI-10 says so")}
	}
	if fs := e.withContainerd(ctx, subject); fs != nil {
		return fs
	}
	ep := e.Node.Runtime.Endpoint
	var out []Finding
	for _, ns := range otherNamespaces() {
		if ns == ep.Namespace {
			continue
		}
		other := ep
		other.Namespace = ns
		records, err := imageRecords(ctx, e.Reader.Runtime(other))
		if err != nil {
			out = append(out, couldNotRun("namespace "+ns, err))
			continue
		}
		for _, r := range e.absentHere(records) {
			out = append(out, Finding{Status: StatusFail, Subject: r.Name, Expected: "in namespace " + ep.Namespace, Observed: "only in namespace " + ns + ", where kubelet does not look",
				Source: "image records of " + ep.Socket, Remedy: Remedy{Text: "bring it in, then remove the stray copy: ctr -n " + ns + " images rm " + r.Name, Command: "edgeprep apply"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass(subject, "none of the required images is astray", "image records of "+ep.Socket)}
	}
	return out
}

// absentHere are the required references that kubelet's containerd lacks and the records given have.
func (e *Env) absentHere(elsewhere map[string]host.Image) []preload.Ref {
	var out []preload.Ref
	for _, r := range e.Required {
		if _, here := e.record(r); here {
			continue
		}
		if _, there := elsewhere[r.Name]; there {
			out = append(out, r)
		}
	}
	return out
}

func otherRuntimeCheck() Check {
	return Check{
		ID: "CRI-11", Title: "images were brought into the runtime that kubelet uses",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the import succeeded, and kubelet sees nothing",
			Cause:   "a second containerd or Docker runs on the node, and the images went there; or the distribution is told to use a runtime of its own",
			Look:    "what the distribution is told to use; other containerd sockets below /run, and whether one of them has a required image that kubelet's lacks",
			Fix:     "import through kubelet's socket only (edgeprep apply does); stop the runtime that nothing uses",
			Sources: []string{"k3s-io/k3s#600", "k3s: pkg/cli/cmds/agent.go (--docker, --container-runtime-endpoint)"},
		},
		Run: runOtherRuntime,
	}
}

func runOtherRuntime(ctx context.Context, e *Env) []Finding {
	ep := e.Node.Runtime.Endpoint
	if ext := e.Node.Runtime.External; ext != "" {
		return []Finding{{Status: StatusFail, Subject: ext, Expected: "containerd at " + ep.Socket, Observed: "kubelet is told to use " + ext + ": images in containerd are of no use to it",
			Source: e.sourceOf("external-runtime"), Remedy: Remedy{Text: "take that setting back, or bring the images into " + ext + " with its own tools"}}}
	}
	if fs := e.withContainerd(ctx, "runtimes"); fs != nil {
		return fs
	}
	var out []Finding
	var others []string
	for _, socket := range e.otherSockets() {
		others = append(others, socket)
		for _, ns := range otherNamespaces() {
			records, err := imageRecords(ctx, e.Reader.Runtime(host.Endpoint{Socket: socket, Namespace: ns}))
			if err != nil {
				break // nobody listens: no image is there
			}
			for _, r := range e.absentHere(records) {
				out = append(out, Finding{Status: StatusFail, Subject: r.Name, Expected: "in containerd at " + ep.Socket, Observed: "in the one at " + socket + " (namespace " + ns + ") instead",
					Source: "image records", Remedy: Remedy{Text: "bring it in through kubelet's socket", Command: "edgeprep apply"}})
			}
		}
	}
	if len(out) == 0 {
		text := "no other containerd"
		if len(others) > 0 {
			text = "nothing is missing that another one has: " + strings.Join(others, ", ")
		}
		return []Finding{pass(ep.Socket, text, "sockets below /run")}
	}
	return out
}

// otherSockets are sockets of containerd besides kubelet's, where packages and distributions put them.
func (e *Env) otherSockets() []string {
	f := e.Reader.FS()
	var out []string
	for _, pattern := range [][2]string{{"/run", "containerd.sock"}, {"/run", "containerd/containerd.sock"}, {"/var/snap", "common/run/containerd.sock"}} {
		dirs, err := f.ReadDir(pattern[0])
		if err != nil {
			continue
		}
		for _, d := range dirs {
			p := path.Join(d.Path, pattern[1])
			if fi, err := f.Stat(p); d.Type == host.TypeDir && err == nil && fi.Type == host.TypeOther && p != e.Node.Runtime.Endpoint.Socket {
				out = append(out, p)
			}
		}
	}
	return out
}

func pairCheck() Check {
	return Check{
		ID: "CRI-13", Title: "containerd and kubelet are of versions that go together",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "kubelet refuses the runtime, or features are missing",
			Cause:   "kubelet asks for CRI v1 since 1.26, which containerd has from 1.6 on; Kubernetes 1.35 is the last that supports containerd 1.x",
			Look:    "the versions of both",
			Fix:     "install a containerd that this Kubernetes supports",
			Sources: []string{"containerd: RELEASES.md (Kubernetes support)", "kubernetes: blog, v1.26 and v1.35 release notes"},
		},
		Run: runPair,
	}
}

// release is how versions of containerd begin.
var release = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

func runPair(_ context.Context, e *Env) []Finding {
	const subject = "containerd and kubelet"
	minor, known := kubelet.Minor(e.Node.Version)
	m := release.FindStringSubmatch(e.Node.Runtime.Version)
	if !known || m == nil {
		return []Finding{skip(subject, "the version of "+e.Node.Name+" or of its containerd is not known")}
	}
	f := pass(subject, "containerd "+e.Node.Runtime.Version+" with Kubernetes "+e.Node.Version, e.sourceOf("version")+"; "+e.sourceOf("containerd-version"))
	const needsV1, endOf1 = 26, 36 // minor versions of Kubernetes
	old := m[1] == "1" && len(m[2]) == 1 && m[2] < "6"
	switch {
	case minor >= needsV1 && (m[1] == "0" || old):
		f.Status, f.Expected = StatusWarn, "containerd 1.6 or later: kubelet asks for CRI v1"
	case minor >= endOf1 && m[1] == "1":
		f.Status, f.Expected = StatusWarn, fmt.Sprintf("containerd 2: Kubernetes 1.%d is the last that supports 1.x", endOf1-1)
	default:
		return []Finding{f}
	}
	f.Remedy = Remedy{Text: "install a containerd that this Kubernetes supports"}
	return []Finding{f}
}
