package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func imageChecks() []Check {
	return []Check{criAnswerCheck(), digestCheck(), sandboxCheck()}
}

func criAnswerCheck() Check {
	return Check{
		ID: "CRI-10", Title: "every required reference answers over CRI, in each form it is written in",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-08", "CRI-01", "CRI-11"}, Unwaivable: true,
		Story: Story{
			Seen:  "a pod stays in ImagePullBackOff although ctr and crictl list the image",
			Cause: "kubelet asks CRI for the exact reference; a wrong namespace, a name that was not normalised, a missing digest record or a tag that moved give \"absent\"",
			Look:  "CRI ImageStatus on the node's own socket for every required reference: short, full, by digest and by tag@digest. No list command can replace it",
			Fix:   "bring the image in again (edgeprep apply; what only the mirror has: crictl pull); it makes the records that CRI looks for",
			Sources: []string{"containerd: internal/cri/server/images/image_status.go", "containerd/containerd#13243",
				"rke2-docs: registry_mirror.md (namespace note)"},
		},
		Run: runCRIAnswer,
	}
}

func runCRIAnswer(ctx context.Context, e *Env) []Finding {
	if len(e.Required) == 0 {
		return []Finding{nothingRequired()}
	}
	if fs := e.withRuntime(ctx, "required references"); fs != nil {
		return fs
	}
	var out []Finding
	for _, r := range e.Required {
		out = append(out, e.answer(ctx, r))
	}
	return out
}

// nothingRequired: with an empty list nothing is proven, which must not look like success.
func nothingRequired() Finding {
	f := unproven("required references", "no reference is required, so there is nothing to prove")
	f.Remedy = Remedy{Text: "list them, one a line, in the file that [images] required names"}
	return f
}

// forms are the ways in which a pod may write the reference.
func forms(r preload.Ref) []string {
	out := []string{r.Name}
	if r.Tag != "" && r.Digest != "" {
		out = append(out, r.Host+"/"+r.Repository+":"+r.Tag+"@"+r.Digest)
	}
	if r.Familiar != "" && r.Familiar != r.Name {
		out = append(out, r.Familiar)
	}
	return out
}

// answer asks CRI for every form of one reference.
func (e *Env) answer(ctx context.Context, r preload.Ref) Finding {
	cri := e.Reader.CRI(e.Node.Runtime.Endpoint)
	source := "CRI ImageStatus at " + e.Node.Runtime.Endpoint.Socket
	var absent, ids []string
	for _, form := range forms(r) {
		img, ok, err := cri.ImageStatus(ctx, form)
		if err != nil {
			return couldNotRun(r.Name, fmt.Errorf("ask CRI for %s: %w", form, err))
		}
		switch {
		case !ok:
			absent = append(absent, form)
		case !slices.Contains(ids, img.ID):
			ids = append(ids, img.ID)
		}
	}
	switch {
	case len(absent) > 0:
		return Finding{Status: StatusFail, Subject: r.Name, Expected: "present", Observed: "absent as " + strings.Join(absent, ", ") + e.elsewhere(ctx, r),
			Source: source, Remedy: e.bringIn(ctx, r)}
	case len(ids) > 1:
		return Finding{Status: StatusFail, Subject: r.Name, Expected: "one image", Observed: "its forms answer with different images: " + strings.Join(ids, ", "), Source: source}
	}
	return pass(r.Name, ids[0], source)
}

// bringIn says how an image comes into containerd: of what no archive holds, apply knows only that the mirror's cache
// has it.
func (e *Env) bringIn(ctx context.Context, r preload.Ref) Remedy {
	again := Remedy{Text: "bring it in again", Command: "edgeprep apply"}
	for _, a := range e.memo.archives() {
		if a.err != nil {
			return again
		}
		for _, n := range a.archive.Names() {
			if in, err := preload.ParseReference(n); err == nil && in.Name == r.Name {
				return again
			}
		}
	}
	has, done := e.cached(ctx)
	defer done()
	if ok, _ := has(r.Name); !ok {
		return again
	}
	return Remedy{Text: "no archive holds it, and the mirror has it: pull it once through the mirror",
		Command: "crictl --runtime-endpoint unix://" + e.Node.Runtime.Endpoint.Socket + " pull " + r.Name}
}

// elsewhere looks for the image in the namespaces where it often ends up by mistake: ctr's default and
// Docker's (CRI-01 in the catalogue of failure modes).
func (e *Env) elsewhere(ctx context.Context, r preload.Ref) string {
	if _, ok := e.record(r); ok {
		return "; containerd has a record of that name, whose content CRI cannot use"
	}
	for _, ns := range []string{"default", "moby", "k8s.io"} {
		ep := e.Node.Runtime.Endpoint
		if ns == ep.Namespace {
			continue
		}
		ep.Namespace = ns
		records, err := imageRecords(ctx, e.Reader.Runtime(ep))
		if err != nil {
			return ""
		}
		if _, ok := records[r.Name]; ok {
			return "; it is in containerd's namespace " + ns + ", where kubelet does not look"
		}
	}
	return ""
}

func digestCheck() Check {
	return Check{
		ID: "IMG-07", Title: "references pinned by digest are found by that digest",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-10"}, Timeout: deepTimeout, // it may wait for archives
		Story: Story{
			Seen:  "ErrImagePull for name@sha256:... while crictl images lists the tag",
			Cause: "CRI turns name:tag@digest into name@digest and looks for a record of that name; an import by tag makes none, and an archive of docker save has lost the registry's digest: containerd makes up a manifest with another one",
			Look:  "every required reference with a digest: CRI's answer, or without a runtime an archive that holds a manifest of exactly that digest",
			Fix:   "ship OCI-layout archives that keep the original index, and let edgeprep make the repo@digest records",
			Sources: []string{"containerd: internal/cri/server/images/service.go, core/images/archive/importer.go", "rancher/rke2#9309",
				"containerd/containerd#13243, #8483"},
		},
		Run: runDigests,
	}
}

func runDigests(ctx context.Context, e *Env) []Finding {
	pinned := slices.DeleteFunc(slices.Clone(e.Required), func(r preload.Ref) bool { return r.Digest == "" })
	if len(pinned) == 0 {
		return []Finding{skip("digests", "no required reference is pinned by digest")}
	}
	if fs := e.withRuntime(ctx, "references pinned by digest"); fs != nil {
		return append(fs, e.digestsInArchives(pinned)...)
	}
	cri := e.Reader.CRI(e.Node.Runtime.Endpoint)
	source := "CRI ImageStatus at " + e.Node.Runtime.Endpoint.Socket
	var out []Finding
	for _, r := range pinned {
		img, ok, err := cri.ImageStatus(ctx, r.Name)
		switch {
		case err != nil:
			out = append(out, couldNotRun(r.Name, err))
		case !ok:
			out = append(out, Finding{Status: StatusFail, Subject: r.Name, Expected: "a record of this name", Observed: e.storedAs(r),
				Source: source, Remedy: Remedy{Text: "ship it in an OCI layout that keeps its index, then", Command: "edgeprep apply"}})
		default:
			out = append(out, pass(r.Name, strings.Join(img.RepoDigests, ", "), source))
		}
	}
	return out
}

// storedAs says under which names the digest, or the repository, is in the store.
func (e *Env) storedAs(r preload.Ref) string {
	records, err := e.memo.images()
	if err != nil {
		return "absent"
	}
	var same, others []string
	for name, img := range records {
		switch {
		case img.Target.Digest == r.Digest:
			same = append(same, name)
		case strings.HasPrefix(name, r.Host+"/"+r.Repository+":") || strings.HasPrefix(name, r.Host+"/"+r.Repository+"@"):
			others = append(others, name+" ("+img.Target.Digest+")")
		}
	}
	slices.Sort(same)
	slices.Sort(others)
	switch {
	case len(same) > 0:
		return "absent; the same digest is stored as " + strings.Join(same, ", ")
	case len(others) > 0:
		return "absent; the repository has " + strings.Join(others, ", ")
	}
	return "absent"
}

func sandboxCheck() Check {
	return Check{
		ID: "IMG-01", Title: "the sandbox (pause) image that containerd asks for is present and complete",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-08"}, Unwaivable: true, Timeout: deepTimeout, // it may wait for archives
		Story: Story{
			Seen:  "every pod stays in ContainerCreating: \"failed to get sandbox image\"",
			Cause: "containerd uses its own sandbox reference, which is not kubeadm's and differs per build",
			Look:  "the reference that the runtime says it uses, else the configuration's; CRI's answer for it, its content (CRI-05 looks at its pin)",
			Fix:   "add that reference to the archives and the required list, or set the runtime's sandbox key to the preloaded one",
			Sources: []string{"containerd: internal/cri/config/config.go", "kubernetes/kubernetes#129479",
				"kubernetes/kubeadm#2801, #3146", "k3s-io/k3s#5486"},
		},
		Run: runSandbox,
	}
}

func runSandbox(ctx context.Context, e *Env) []Finding {
	ref, source := e.sandbox()
	if ref == "" {
		return []Finding{unproven("sandbox image", "neither the runtime nor its configuration tells which reference it uses")}
	}
	parsed, err := preload.ParseReference(ref)
	if err != nil {
		return []Finding{{Status: StatusFail, Subject: ref, Expected: "an image reference", Observed: err.Error(), Source: source}}
	}
	if fs := e.withRuntime(ctx, ref); fs != nil {
		return append(fs, e.sandboxInArchives(parsed, source)...)
	}
	_, ok, err := e.Reader.CRI(e.Node.Runtime.Endpoint).ImageStatus(ctx, ref)
	switch {
	case err != nil:
		return []Finding{couldNotRun(ref, err)}
	case !ok:
		return []Finding{{Status: StatusFail, Subject: ref, Expected: "present", Observed: "absent" + e.elsewhere(ctx, parsed),
			Source: source, Remedy: Remedy{Text: "add " + ref + " to [images] archives and required, then", Command: "edgeprep apply"}}}
	}
	return []Finding{e.complete(ctx, parsed, source)}
}

// sandbox is the reference and where it was read. On containerd 2.x the CRI status leaves it empty
// (containerd: internal/cri/server/status.go), so the files count.
func (e *Env) sandbox() (ref, source string) {
	if a, err := e.memo.cri(); e.memo.facts.Live && err == nil && a.status.SandboxImage != "" {
		return a.status.SandboxImage, "CRI Status at " + e.Node.Runtime.Endpoint.Socket
	}
	for _, ev := range e.Node.Evidence {
		if ev.Fact == "sandbox" && ev.Value == e.Node.Sandbox {
			return e.Node.Sandbox, ev.Source
		}
	}
	return e.Node.Sandbox, "configuration of " + e.Node.Name
}

// complete walks one image that CRI knows.
func (e *Env) complete(ctx context.Context, r preload.Ref, source string) Finding {
	img, ok := e.record(r)
	if !ok {
		return unproven(r.Name, "CRI knows it, but there is no image record of that name whose content could be walked")
	}
	w := e.newWalk(e.Reader.Runtime(e.Node.Runtime.Endpoint))
	flaws, err := w.from(ctx, img.Target)
	switch {
	case err != nil:
		return couldNotRun(r.Name, err)
	case len(flaws) > 0:
		return Finding{Status: StatusFail, Subject: r.Name, Expected: "complete", Observed: strings.Join(flaws, "; "), Source: source,
			Remedy: Remedy{Text: "bring it in again", Command: "edgeprep apply"}}
	}
	return pass(r.Name, "present, complete; "+img.Target.Digest, source)
}

// record is the image record behind a reference.
func (e *Env) record(r preload.Ref) (host.Image, bool) {
	records, err := e.memo.images()
	if err != nil {
		return host.Image{}, false
	}
	img, ok := records[r.Name]
	return img, ok
}
