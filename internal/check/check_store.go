package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func storeChecks() []Check {
	return []Check{unpackedCheck(), discardCheck(), collectedCheck(), sandboxPinCheck(), powerCutCheck(), siblingsCheck()}
}

func unpackedCheck() Check {
	return Check{
		ID: "TAR-11", Title: "required images are unpacked already",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"CRI-02"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "the first start on site is slow, or ends with \"failed to extract layer\"",
			Cause:   "an import leaves the layers packed; CRI unpacks them when a container is created, and only then a layer that does not unpack is noticed",
			Look:    "for each required image whether its layers are committed in the snapshotter that CRI uses",
			Fix:     "edgeprep apply unpacks what it imports; what the distribution imports is unpacked by its first container",
			Sources: []string{"containerd: client/import.go, internal/cri/opts/container.go, internal/cri/server/images/check.go"},
		},
		Run: runUnpacked,
	}
}

func runUnpacked(ctx context.Context, e *Env) []Finding {
	if len(e.Required) == 0 {
		return []Finding{skip("required references", "none is required; CRI-10 says so")}
	}
	if fs := e.withRuntime(ctx, "layers of required images"); fs != nil {
		return fs
	}
	snapshotter := e.snapshotter()
	rt := e.Reader.Runtime(e.Node.Runtime.Endpoint)
	var out []Finding
	for _, r := range e.Required {
		if _, ok := e.record(r); !ok {
			continue // CRI-10 and CRI-02 say so
		}
		unpacked, err := rt.Unpacked(ctx, r.Name, e.Platform, snapshotter)
		switch {
		case err != nil:
			out = append(out, couldNotRun(r.Name, err))
		case !unpacked:
			out = append(out, Finding{Status: StatusWarn, Subject: r.Name, Expected: "unpacked in " + snapshotter, Observed: "not unpacked", Source: "snapshotter of " + e.Node.Runtime.Endpoint.Socket,
				Remedy: Remedy{Text: "bring it in again", Command: "edgeprep apply"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass("layers", "committed in "+snapshotter, "snapshotter of "+e.Node.Runtime.Endpoint.Socket)}
	}
	return out
}

func discardCheck() Check {
	return Check{
		ID: "CRI-03", Title: "containerd keeps the layers of images that it unpacked",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "an image that runs cannot be exported or served to another node: \"content digest ... not found\"",
			Cause:   "discard_unpacked_layers = true drops the packed layers after a pull: nothing can be exported, served to peers or unpacked again; it also makes containerd pull in its older way",
			Look:    "discard_unpacked_layers in config.toml and its imports, where this version reads it",
			Fix:     "set it to false before images are brought in, then bring them in again",
			Sources: []string{"containerd: internal/cri/config", "spegel-org/spegel#217, #620", "containerd/containerd#9277"},
		},
		Run: runDiscard,
	}
}

func runDiscard(_ context.Context, e *Env) []Finding {
	if e.Node.Runtime.Config == "" {
		return []Finding{skip("config.toml", "where it is is not known")}
	}
	c, err := e.memo.criConfig()
	if err != nil {
		return []Finding{skip(e.Node.Runtime.Config, "it cannot be read; REG-02 says why")}
	}
	v, at := c.Setting("containerd.discard_unpacked_layers", "discard_unpacked_layers")
	if v != true {
		return []Finding{pass("discard_unpacked_layers", "not set", e.Node.Runtime.Config)}
	}
	return []Finding{{Status: StatusWarn, Subject: "discard_unpacked_layers", Expected: "false", Observed: "true: layers that containerd pulls are gone once they are unpacked",
		Source: at.String(), Remedy: Remedy{Text: "set it to false at " + at.String() + ", then", Command: "systemctl restart " + e.runtimeUnit()}}}
}

func collectedCheck() Check {
	return Check{
		ID: "CRI-04", Title: "kubelet does not delete required images when the disk fills",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-10"}, Timeout: deepTimeout,
		Story: Story{
			Seen:  "ImagePullBackOff on a node that had everything",
			Cause: "above imageGCHighThresholdPercent, and under disk pressure, kubelet deletes images that no container uses; one that was brought in and not used yet goes first. It spares those that CRI calls pinned",
			Look:  "CRI's pinned of every required image, whether a mirror has those that are not, and kubelet's threshold",
			Fix:   "edgeprep apply pins what it imports; imageGCHighThresholdPercent: 100 switches the collection off",
			Sources: []string{"kubernetes: pkg/kubelet/images/image_gc_manager.go", "containerd: internal/cri/labels/labels.go",
				"k3s-io/k3s#1552, #7569, #14265", "kubernetes/kubernetes#81756"},
		},
		Run: runCollected,
	}
}

func runCollected(ctx context.Context, e *Env) []Finding {
	if len(e.Required) == 0 {
		return []Finding{skip("required references", "none is required; CRI-10 says so")}
	}
	if fs := e.withRuntime(ctx, "pins"); fs != nil {
		return fs
	}
	threshold, source := e.gcThreshold()
	if threshold >= 100 {
		return []Finding{pass("kubelet's collection of images", "switched off: imageGCHighThresholdPercent is 100", source)}
	}
	cri := e.Reader.CRI(e.Node.Runtime.Endpoint)
	var out []Finding
	pinned := 0
	for _, r := range e.Required {
		img, ok, err := cri.ImageStatus(ctx, r.Name)
		switch {
		case err != nil:
			out = append(out, couldNotRun(r.Name, err))
		case !ok: // CRI-10 says so
		case img.Pinned:
			pinned++
		default:
			out = append(out, e.mayGo(r, threshold, source))
		}
	}
	if len(out) == 0 {
		return []Finding{pass("pins", fmt.Sprintf("%d required images are pinned", pinned), "CRI ImageStatus")}
	}
	return out
}

// gcThreshold is how full the disk may be before kubelet deletes images.
func (e *Env) gcThreshold() (percent int, source string) {
	c, err := e.memo.kubelet()
	if err != nil {
		return gcThreshold, "kubelet's default"
	}
	n, v, ok := c.Number("imageGCHighThresholdPercent")
	if !ok {
		return gcThreshold, "kubelet's default"
	}
	return int(n), v.Source
}

func (e *Env) mayGo(r preload.Ref, threshold int, source string) Finding {
	f := Finding{Status: StatusFail, Subject: r.Name, Expected: "pinned, or in a mirror", Source: "CRI ImageStatus; " + source,
		Observed: fmt.Sprintf("not pinned: kubelet may delete it when the disk is %d %% full", threshold),
		Remedy:   Remedy{Text: "pin it", Command: "edgeprep apply"}}
	if img, ok := e.record(r); ok && e.pinHasNoEffect(img.Target.Digest) {
		f.Observed = fmt.Sprintf("it has the pin label, which this containerd does not report to kubelet: it may be deleted when the disk is %d %% full", threshold)
		f.Remedy = Remedy{Text: "use containerd 1.7 or later, or set imageGCHighThresholdPercent: 100 for kubelet"}
	}
	if e.mirrored(r) {
		f.Status = StatusWarn
		f.Observed += "; the mirror has it"
	}
	return f
}

// pinHasNoEffect says whether the label is there all the same. containerd knows it since 1.7 and 1.6.22
// (internal/cri/labels).
func (e *Env) pinHasNoEffect(digest string) bool {
	records, err := e.memo.images()
	if err != nil {
		return false
	}
	for _, img := range records {
		if img.Target.Digest == digest && img.Labels[plan.PinLabel] == "pinned" {
			return true
		}
	}
	return false
}

func sandboxPinCheck() Check {
	return Check{
		ID: "CRI-05", Title: "the sandbox (pause) image is pinned, and it is the one that kubelet spares",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"IMG-01"},
		Story: Story{
			Seen:    "after days no new pod starts: \"failed to get sandbox image\"",
			Cause:   "kubelet's collection took the pause image: before 1.35 kubelet spares the one that --pod-infra-container-image names, which may be another version than containerd's; since then only the runtime's pin counts",
			Look:    "CRI's pinned of the reference that containerd asks for, and kubelet's flag where it has one",
			Fix:     "edgeprep apply pins it; give both the same reference",
			Sources: []string{"kubernetes/kubernetes#133779 (the flag is gone)", "awslabs/amazon-eks-ami#1597, #2166", "replicatedhq/kURL#4077"},
		},
		Run: runSandboxPin,
	}
}

func runSandboxPin(ctx context.Context, e *Env) []Finding {
	ref, source := e.sandbox()
	parsed, err := preload.ParseReference(ref)
	if err != nil {
		return []Finding{skip("sandbox image", "which one it is is not known; IMG-01 says so")}
	}
	if fs := e.withRuntime(ctx, ref); fs != nil {
		return fs
	}
	img, ok, err := e.Reader.CRI(e.Node.Runtime.Endpoint).ImageStatus(ctx, ref)
	switch {
	case err != nil:
		return []Finding{couldNotRun(ref, err)}
	case !ok:
		return []Finding{skip(ref, "it is absent; IMG-01 says so")}
	case img.Pinned:
		return []Finding{pass(parsed.Name, "pinned", "CRI ImageStatus; "+source)}
	}
	return []Finding{e.sandboxMayGo(parsed, source)}
}

// sandboxMayGo judges a pause image that only kubelet's own flag can save.
func (e *Env) sandboxMayGo(r preload.Ref, source string) Finding {
	f := Finding{Status: StatusFail, Subject: r.Name, Expected: "pinned", Observed: "not pinned: kubelet may collect it when the disk fills",
		Source: "CRI ImageStatus; " + source, Remedy: Remedy{Command: "edgeprep apply"}}
	if img, ok := e.record(r); ok && e.pinHasNoEffect(img.Target.Digest) {
		f.Status = StatusWarn
		f.Observed = "it has the pin label, which this containerd does not report to kubelet: kubelet may collect it when the disk fills"
		f.Remedy = Remedy{Text: "use containerd 1.7 or later, or give kubelet --pod-infra-container-image=" + r.Name}
	}
	const flag = "pod-infra-container-image="
	for _, a := range e.Node.Kubelet.Args {
		named, ok := strings.CutPrefix(a.Text, flag)
		if !ok {
			continue
		}
		kept, err := preload.ParseReference(named)
		if err == nil && kept.Name == r.Name {
			return pass(r.Name, "not pinned, but kubelet is told to spare it", a.Source)
		}
		f.Observed += "; it is told to spare " + named + " instead (" + a.Source + ")"
	}
	return f
}

func siblingsCheck() Check {
	return Check{
		ID: "CRI-14", Title: "no manifest of another platform is here without its layers",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"CRI-02"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "an export or push from this node fails later, for one variant of an image",
			Cause:   "a pull fetches manifests of several platforms and the layers of one; it reports success",
			Look:    "indexes of required images: manifests in the content store whose config or layers are not",
			Fix:     "nothing, as long as images are not exported from this node; fill mirrors from archives or registries",
			Sources: []string{"containerd/containerd#14000"},
		},
		Run: runSiblings,
	}
}

func runSiblings(ctx context.Context, e *Env) []Finding {
	if len(e.Required) == 0 {
		return []Finding{skip("required references", "none is required; CRI-10 says so")}
	}
	if fs := e.withContainerd(ctx, "manifests of other platforms"); fs != nil {
		return fs
	}
	rt := e.Reader.Runtime(e.Node.Runtime.Endpoint)
	var out []Finding
	for _, r := range e.Required {
		img, ok := e.record(r)
		if !ok {
			continue
		}
		for _, d := range orphans(ctx, rt, img.Target) {
			out = append(out, Finding{Status: StatusWarn, Subject: r.Name, Expected: "a manifest with its layers, or none", Observed: "manifest " + d + " is here, what it names is not",
				Source: "content store", Remedy: Remedy{Text: "do not export this image from here: use the archive or the mirror"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass("manifests of other platforms", "none is here without its layers", "content store")}
	}
	return out
}

// orphans are the manifests of an index that are here when nothing of what they name is complete.
func orphans(ctx context.Context, rt blobs, target host.Descriptor) []string {
	var idx ocispec.Index
	body, err := readBlob(ctx, rt, target.Digest)
	if err != nil || json.Unmarshal(body, &idx) != nil {
		return nil
	}
	var out []string
	for _, m := range idx.Manifests[:min(len(idx.Manifests), 64)] {
		var man ocispec.Manifest
		body, err := readBlob(ctx, rt, m.Digest.String())
		if err != nil || json.Unmarshal(body, &man) != nil || man.Config.Digest == "" {
			continue
		}
		lacks := func(d ocispec.Descriptor) bool {
			_, ok, err := rt.BlobSize(ctx, d.Digest.String())
			return err == nil && !ok
		}
		if lacks(man.Config) && slices.ContainsFunc(man.Layers, lacks) {
			out = append(out, m.Digest.String())
		}
	}
	return out
}

// readBlob reads a small blob; a missing one is an error.
func readBlob(ctx context.Context, rt blobs, d string) ([]byte, error) {
	w := &walk{blobs: rt, hashed: map[string]string{}}
	size, ok, err := rt.BlobSize(ctx, d)
	if err != nil || !ok {
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	body, ok, err := w.document(ctx, ocispec.Descriptor{Digest: digest.Digest(d), Size: size}, "blob")
	if err == nil && !ok {
		err = errors.New(strings.Join(w.flaws, "; "))
	}
	return body, err
}
