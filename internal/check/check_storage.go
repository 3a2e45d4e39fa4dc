package check

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func storageChecks() []Check {
	return []Check{ownImageCheck(), volumeCheck(), cachePlaceCheck(), oneWriterCheck()}
}

// inKubernetes is nil when this node may run a pod of the mirror, else the one finding that says why not.
func (e *Env) inKubernetes(subject string) []Finding {
	switch {
	case len(e.Mirrors) == 0:
		return []Finding{skip(subject, "no mirror is configured")}
	case e.Site.Mirror.Mode != string(config.ModeWorkload):
		return []Finding{skip(subject, "the mirror is a systemd service, which needs no image; COLD-01 and MIR-14 are about it")}
	case e.MirrorImage == "":
		return []Finding{skip(subject, "no pod of the mirror runs on this node")}
	}
	return nil
}

func ownImageCheck() Check {
	return Check{
		ID: "MIR-01", Title: "the images of the mirror's own pod stay on this node, and are never pulled",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"COLD-02"},
		Story: Story{
			Seen:    "the mirror worked at staging; after weeks on site its pod is in ErrImagePull, and everything else follows",
			Cause:   "kubelet collected the mirror's image when the disk filled, a node was rebuilt without it, or the pull policy asks a registry each time. Only the mirror could serve it. COLD-02 proves one power-on; this is about what keeps that true",
			Look:    "each container of the mirror's pod, from the manifests on this disk: pull policy, CRI's answer and pin, and an archive on this node that it can be brought in from again",
			Fix:     "imagePullPolicy: Never or IfNotPresent, and edgeprep apply, which preloads and pins",
			Sources: []string{"spegel-org/spegel#2", "containerd/containerd#5901", "zarf: init-package.mdx"},
		},
		Run: runOwnImage,
	}
}

func runOwnImage(ctx context.Context, e *Env) []Finding {
	if fs := e.inKubernetes("the mirror's images"); fs != nil {
		return fs
	}
	w := e.mirrorWorkload()
	if len(w.pods) == 0 {
		return []Finding{skip("the mirror's images", "no manifest on this disk starts its pod; COLD-02 says so")}
	}
	var out []Finding
	for _, p := range w.pods {
		for _, c := range slices.Concat(p.spec.Init, p.spec.Containers) {
			out = append(out, e.ownImage(ctx, p, c))
		}
	}
	return out
}

func (e *Env) ownImage(ctx context.Context, p mirrorPod, c podContainer) Finding {
	name := fullName(c.Image)
	f := Finding{Status: StatusFail, Subject: name, Expected: "present, pinned, not pulled, and in an archive on this node", Source: p.source, Remedy: Remedy{Command: "edgeprep apply"}}
	r, err := preload.ParseReference(name)
	if err != nil {
		f.Observed = err.Error()
		return f
	}
	if c.always() {
		f.Observed = "pull policy Always: only the mirror itself could answer"
		f.Remedy = Remedy{Text: "imagePullPolicy: Never in " + p.source}
		return f
	}
	if fs := e.withRuntime(ctx, name); fs != nil {
		return fs[0]
	}
	img, ok, err := e.Reader.CRI(e.Node.Runtime.Endpoint).ImageStatus(ctx, name)
	switch {
	case err != nil:
		return couldNotRun(name, err)
	case !ok:
		f.Observed = "absent" + e.elsewhere(ctx, r)
	case !img.Pinned:
		f.Observed = "not pinned: kubelet collects it when the disk fills, and nobody can serve it then"
	case e.archiveOf(r) == "":
		f.Status, f.Observed = StatusWarn, "present and pinned; no archive on this node has it, should the store be lost"
	default:
		return pass(name, "present, pinned, and in "+e.archiveOf(r), p.source)
	}
	return f
}

// archiveOf is a file on this node that has an image; empty: none.
func (e *Env) archiveOf(r preload.Ref) string {
	if r.Name == fullName(e.MirrorImage) {
		if _, err := e.Reader.FS().Stat(deploy.ImageArchive); err == nil {
			return deploy.ImageArchive
		}
	}
	for _, a := range e.memo.archives() {
		if a.err == nil && slices.ContainsFunc(a.archive.Names(), func(n string) bool { return fullName(n) == r.Name }) {
			return a.path
		}
	}
	return ""
}

func volumeCheck() Check {
	return Check{
		ID: "MIR-02", Title: "the mirror's storage survives power-off, shipping and the loss of a node",
		Severity: SeverityFail, Scope: ScopeCluster, Unwaivable: false,
		Story: Story{
			Seen:    "the mirror comes up empty, or its pod stays Pending after a node was lost",
			Cause:   "an emptyDir, a volume on the disk of one node that is gone, a volume smaller than the images, two pods on one cache",
			Look:    "the mirror's workload in the manifests on this disk: its volume, the claim, the persistent volume's kind and node affinity, the storage class, capacity, replicas and strategy",
			Fix:     "form = \"static-pod\" or \"daemonset\": every node has a cache of its own on its disk; or a replicated storage class",
			Sources: []string{"aceeric/ociregistry: charts/ociregistry/values.yaml", "kubernetes: persistent-volumes, node affinity"},
		},
		Run: runVolume,
	}
}

func runVolume(_ context.Context, e *Env) []Finding {
	if fs := e.inKubernetes("the mirror's storage"); fs != nil {
		return fs
	}
	w := e.mirrorWorkload()
	if len(w.pods) == 0 {
		return []Finding{skip("the mirror's storage", "no manifest on this disk starts its pod; COLD-02 says so")}
	}
	var out []Finding
	for _, p := range w.pods {
		out = append(out, e.podStorage(w, p), replicas(p))
	}
	return out
}

// replicas: a cache has one writer.
func replicas(p mirrorPod) Finding {
	f := pass(p.name(), "one pod for each cache", p.source)
	if p.kind != "Deployment" && p.kind != "StatefulSet" && p.kind != "ReplicaSet" {
		return f
	}
	f.Expected, f.Remedy = "replicas: 1, strategy: Recreate", Remedy{Text: "correct " + p.source + ", or let edgeprep write it", Command: "edgeprep apply"}
	switch {
	case p.replicas != 1:
		f.Status, f.Observed = StatusFail, fmt.Sprintf("%d replicas", p.replicas)
	case p.kind == "Deployment" && p.strategy != "Recreate":
		f.Status, f.Observed = StatusFail, "strategy "+orWord(p.strategy, "RollingUpdate")+": at an update the new pod waits for the volume of the old one, or shares it"
	default:
		f.Remedy = Remedy{}
	}
	return f
}

// podStorage judges the volume that the pod mounts for its cache.
func (e *Env) podStorage(w mirrorWorkload, p mirrorPod) Finding {
	f := Finding{Status: StatusFail, Subject: p.name(), Expected: "a volume that outlives the pod", Source: p.source,
		Remedy: Remedy{Text: "[mirror.workload] form = \"static-pod\", or a storage class of persistent volumes; then", Command: "edgeprep apply"}}
	v, ok := p.spec.cacheVolume()
	switch {
	case !ok:
		f.Observed = "no volume: the cache goes with the container"
	case v.EmptyDir != nil:
		f.Observed = "emptyDir: it is emptied when the pod goes"
	case v.HostPath != nil && volatilePath(v.HostPath.Path):
		f.Observed = "hostPath " + v.HostPath.Path + ": it is emptied at every start of the node"
	case v.HostPath != nil && (p.kind == "Deployment" || p.kind == "StatefulSet"):
		f.Status, f.Observed = StatusWarn, "hostPath on whichever node the pod runs: on another one it comes up empty"
	case v.HostPath != nil:
		return pass(p.name(), "hostPath "+v.HostPath.Path+": each node has its own", p.source)
	case v.Claim != nil:
		return e.claimStorage(w, p, v.Claim.Name, f)
	default:
		f.Status, f.Reason = StatusUnproven, "its kind of volume is not known"
	}
	return f
}

func volatilePath(p string) bool {
	return slices.ContainsFunc([]string{"/tmp", "/run", "/var/run", "/dev/shm"}, func(d string) bool { return above(d, path.Clean(p)) })
}

// claimStorage follows a claim to its volume, or to the class that makes it.
func (e *Env) claimStorage(w mirrorWorkload, p mirrorPod, claim string, f Finding) Finding {
	c, ok := w.claims[claim]
	if !ok {
		return unproven(p.name(), "the claim "+claim+" is in no manifest on this disk")
	}
	f.Source, f.Expected = c.source, "a volume that another node can mount"
	if why := e.tooSmall(c.size); why != "" {
		f.Observed = why
		return f
	}
	if v, ok := w.volumeOf(c); ok {
		return e.persistent(v, f)
	}
	class, ok := w.classes[c.class]
	switch {
	case !ok && c.class == "":
		return unproven(p.name(), "the cluster's default storage class makes its volume, and nothing on this disk tells which that is")
	case !ok:
		return unproven(p.name(), "the storage class "+c.class+" is in no manifest on this disk")
	case strings.Contains(class, "local") || strings.Contains(class, "hostpath"):
		f.Status, f.Observed = StatusWarn, "provisioner "+class+" keeps it on the disk of the node where the pod runs first ("+e.memo.facts.Hostname+", if that is this one): with that node the cache is lost"
		return f
	}
	f = pass(p.name(), "provisioner "+class, c.source)
	return f
}

// persistent judges a volume: one node's disk is a risk that has a name.
func (e *Env) persistent(v persistentVolume, f Finding) Finding {
	f.Source = v.source
	where := strings.Join(v.nodes, ", ")
	switch {
	case v.kind == "hostPath" && volatilePath(v.path):
		f.Observed = "volume " + v.name + " is at " + v.path + ", which is emptied at every start of the node"
	case len(v.nodes) == 1 || v.kind == "hostPath" || v.kind == "local":
		f.Status, f.Observed = StatusWarn, fmt.Sprintf("volume %s (%s) is on node %s alone: with it the cache is lost, and no other node can run the mirror", v.name, v.kind, orWord(where, e.memo.facts.Hostname))
	default:
		return pass("volume "+v.name, v.kind+orWord(map[bool]string{true: " on " + where}[where != ""], ""), v.source)
	}
	return f
}

// tooSmall compares a claim with what the mirror is to hold: a third more than the archives.
func (e *Env) tooSmall(size string) string {
	n, err := quantityBytes(size)
	if err != nil {
		return ""
	}
	var need int64
	for _, a := range e.memo.archives() {
		if a.err == nil {
			for _, s := range a.archive.Sizes {
				need += s.Content
			}
		}
	}
	if n < need+need/3 {
		return fmt.Sprintf("a claim of %s for %s of images: a third more is needed", size, bytesText(need))
	}
	return ""
}

// quantityBytes reads a Kubernetes quantity of bytes, "40Gi", "500M".
func quantityBytes(s string) (int64, error) {
	for i, u := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if t, ok := strings.CutSuffix(s, u); ok {
			n, err := strconv.ParseInt(t, 10, 43)
			return n << (10 * (i + 1)), err
		}
	}
	scale := int64(1)
	for _, u := range []string{"k", "M", "G", "T"} {
		scale *= 1000
		if t, ok := strings.CutSuffix(s, u); ok {
			n, err := strconv.ParseInt(t, 10, 43)
			return n * scale, err
		}
	}
	return strconv.ParseInt(s, 10, 63)
}

func cachePlaceCheck() Check {
	return Check{
		ID: "MIR-15", Title: "the cache is on a persistent file system and belongs to the mirror",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the cache is gone after a reboot; or the mirror answers 404 and logs permission denied",
			Cause:   "a directory in memory or on a live image's overlay, a file system without owners or without upper and lower case, files that root copied and the mirror's account cannot read",
			Look:    "the mount that holds the cache; owner and mode of the cache and its parts against the account that the mirror runs as",
			Fix:     "a directory on a disk; edgeprep apply gives it to the mirror",
			Sources: []string{"docs/cache.md", "failure-modes: MIR-15"},
		},
		Run: runCachePlace,
	}
}

func runCachePlace(_ context.Context, e *Env) []Finding {
	if fs := e.withCache(); fs != nil {
		return fs
	}
	dir := e.cache()
	fi, err := e.Reader.FS().Stat(dir)
	if err != nil {
		return []Finding{couldNotRun(dir, err)}
	}
	out := []Finding{e.fileSystem(dir)}
	return append(out, e.owners(dir, fi.UID, fi.GID)...)
}

// fileSystem judges where the cache is.
func (e *Env) fileSystem(dir string) Finding {
	f := Finding{Status: StatusFail, Subject: dir, Expected: "a file system of a disk", Remedy: Remedy{Text: "[mirror] cache on a disk of its own or below /var/lib; then", Command: "edgeprep apply"}}
	if volatilePath(dir) {
		f.Observed, f.Source = "it is emptied at every start", "[mirror] cache"
		return f
	}
	if !e.memo.facts.Live {
		return pass(dir, "below a directory that outlives a start; its file system is seen on the running node", "[mirror] cache")
	}
	m, ok := mountOf(e.Reader.FS(), dir)
	if !ok {
		return skip(dir, "the kernel's mounts cannot be read")
	}
	f.Source = "/proc/mounts"
	if m.kind == "overlay" && e.inContainer() {
		return unproven(dir, "on an overlay of the container's host; check there that it is on a disk")
	}
	switch m.kind {
	case "tmpfs", "ramfs", "overlay", "squashfs", "rootfs":
		f.Observed = m.kind + " at " + m.point + ": it is gone at the next start"
	case "vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk":
		f.Observed = m.kind + " at " + m.point + ": it knows no owners, and not every name of a tag"
	case "nfs", "nfs4", "cifs", "smb3":
		f.Status, f.Observed = StatusWarn, m.kind+" at "+m.point+": the mirror needs that server to be there"
	default:
		return pass(dir, m.kind+" at "+m.point, "/proc/mounts")
	}
	return f
}

// owners: the mirror runs without root, so the files have to be its own.
func (e *Env) owners(dir string, uid, gid int) []Finding {
	account := deploy.Account
	want := -1
	if e.Site.Mirror.Mode == string(config.ModeWorkload) {
		account = deploy.OwnerID
		want, _ = strconv.Atoi(deploy.OwnerID)
	} else if a, ok, err := e.Reader.Account(account); err != nil {
		return []Finding{couldNotRun(account, err)}
	} else if ok {
		want = a.UID
	}
	if want < 0 {
		return nil // it comes with the first apply
	}
	var out []Finding
	for _, p := range []string{dir, path.Join(dir, "blobs"), path.Join(dir, "refs")} {
		fi, err := e.Reader.FS().Lstat(p)
		if err == nil && fi.UID != want {
			out = append(out, Finding{Status: StatusFail, Subject: p, Expected: fmt.Sprintf("owner %s (%d)", account, want), Observed: fmt.Sprintf("owner %d", fi.UID), Source: "stat",
				Remedy: Remedy{Text: "give it to the mirror", Command: fmt.Sprintf("chown -R %s: %s", account, dir)}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass(dir, fmt.Sprintf("owner %s (%d:%d)", account, uid, gid), "stat")}
	}
	return out
}

func oneWriterCheck() Check {
	return Check{
		ID: "MIR-16", Title: "one mirror uses the cache of this node",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "two mirrors fight for a port, or one serves what the other removes",
			Cause:   "a node that was moved from a service to a pod, or back, and still starts both",
			Look:    "the mirror's unit, and pods in the manifests on this disk that mount the cache's directory",
			Fix:     "remove what the site file does not name: edgeprep apply --allow remove",
			Sources: []string{"aceeric/ociregistry: docs/limitations.md", "docs/workload.md"},
		},
		Run: runOneWriter,
	}
}

func runOneWriter(ctx context.Context, e *Env) []Finding {
	if fs := e.withCache(); fs != nil {
		return fs
	}
	dir := e.cache()
	var users []string
	if u, err := e.Reader.Units().Unit(ctx, deploy.UnitName); err == nil && u.Exists() && (u.IsEnabled() || u.Running()) {
		users = append(users, deploy.UnitName)
	}
	for _, o := range e.memo.manifests().cold { // what cannot be read is COLD-03's

		if o.Pod != nil && slices.ContainsFunc(o.Pod.HostPaths, func(p string) bool { return path.Clean(p) == dir }) {
			users = append(users, o.String()+" ("+o.Source+")")
		}
	}
	if len(users) > 1 {
		return []Finding{{Status: StatusFail, Subject: dir, Expected: "one mirror", Observed: strings.Join(users, ", "), Source: "units and manifests on this disk",
			Remedy: Remedy{Text: "let it remove what the site file does not name", Command: "edgeprep apply --allow remove"}}}
	}
	return []Finding{pass(dir, orWord(strings.Join(users, ""), "no second one"), "units and manifests on this disk")}
}
