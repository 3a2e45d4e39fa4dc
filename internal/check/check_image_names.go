package check

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func imageNameChecks() []Check {
	return []Check{storedNamesCheck(), archiveNamesCheck(), approvedCheck()}
}

func storedNamesCheck() Check {
	return Check{
		ID: "IMG-09", Title: "images are stored under the full names that kubelet asks for",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"IMG-10"},
		Story: Story{
			Seen:    "the image is listed under another name, and kubelet still pulls",
			Cause:   "kubelet asks for docker.io/library/name:tag. podman and nerdctl save localhost/name, some tools index.docker.io/name or a bare tag, and a loader that takes names of an OCI layout as they are keeps that",
			Look:    "the name of every image in containerd: whether it is the full form of itself, and whether what is asked for lies under localhost/; names in archives that this node's loader takes as they are",
			Fix:     "name the image in full when it is saved: skopeo copy SOURCE oci-archive:FILE:docker.io/library/name:tag; edgeprep apply makes the full name",
			Sources: []string{"containerd/nerdctl#404", "rancher/rke2#1830", "containerd: core/images/archive/reference.go"},
		},
		Run: runStoredNames,
	}
}

func runStoredNames(ctx context.Context, e *Env) []Finding {
	out := e.archiveSpellings()
	if fs := e.withRuntime(ctx, "names in containerd"); fs != nil {
		return append(out, fs...)
	}
	records, err := e.memo.images()
	if err != nil {
		return append(out, couldNotRun("names in containerd", err))
	}
	source := "image records of " + e.Node.Runtime.Endpoint.Socket
	bad := len(out)
	for _, name := range slices.Sorted(maps.Keys(records)) {
		if f, ok := e.misnamed(records, name, source); ok {
			out = append(out, f)
		}
	}
	if len(out) == bad {
		out = append(out, pass("names in containerd", "each is the full form of itself", source))
	}
	return out
}

// misnamed judges one stored name. CRI's own records are called by the image's id.
// containerd: internal/cri/server/images/image_pull.go, createImageReference
func (e *Env) misnamed(records map[string]host.Image, name, source string) (Finding, bool) {
	if strings.HasPrefix(name, "sha256:") {
		return Finding{}, false
	}
	full := name
	if r, err := preload.ParseReference(name); err == nil {
		full = r.Name
	}
	if rest, ok := strings.CutPrefix(name, "localhost/"); ok { // what is asked for without a registry is Docker Hub's
		full = fullName(rest)
	}
	if other, ok := records[full]; full == name || ok && other.Target.Digest == records[name].Target.Digest {
		return Finding{}, false
	}
	h, asked := e.memo.set().held[full]
	f := Finding{Status: StatusFail, Subject: name, Expected: full, Observed: "stored under a name that nothing asks for", Source: source,
		Remedy: Remedy{Text: "give it its full name", Command: "ctr --address " + e.Node.Runtime.Endpoint.Socket + " -n " + e.Node.Runtime.Endpoint.Namespace + " images tag " + name + " " + full}}
	switch {
	case asked && h.Node == "":
		f.Observed = full + " is asked for and stored as this"
		return f, true
	case strings.HasPrefix(name, "localhost/"): // somebody may ask for it by that name
		return Finding{}, false
	}
	f.Status = StatusWarn
	return f, true
}

// archiveSpellings are names in archives that the distribution's loader would keep as they are.
func (e *Env) archiveSpellings() []Finding {
	if e.Node.Preload.Method != "directory" {
		return nil
	}
	var out []Finding
	for _, a := range e.memo.archives() {
		for _, i := range a.archive.Images {
			if i.Stored != "" && a.archive.Format != preload.DockerArchive {
				out = append(out, Finding{Status: StatusFail, Subject: a.path, Expected: i.Name, Observed: "the archive calls it " + i.Stored + ", and this node's loader takes that as it is",
					Source: "names in the archive", Remedy: Remedy{Text: "save it by its full name", Command: "skopeo copy docker://" + i.Name + " oci-archive:NEW.tar:" + i.Name}})
			}
		}
	}
	return out
}

func archiveNamesCheck() Check {
	return Check{
		ID: "IMG-10", Title: "every image in an archive has a full name",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "after the import the image shows as <none>, as \"v1.2\", or only by its digest",
			Cause:   "a tool wrote only the tag into org.opencontainers.image.ref.name, or an image was saved by its id or digest: containerd makes no record that kubelet finds",
			Look:    "names of the images in each archive: io.containerd.image.name, org.opencontainers.image.ref.name in index.json, RepoTags in manifest.json",
			Fix:     "save it again by its full name: docker save NAME:TAG, skopeo copy SOURCE oci-archive:FILE:NAME:TAG",
			Sources: []string{"containerd: client/import.go, core/images/archive/reference.go", "containerd/containerd#6309", "openshift/oc-mirror#981"},
		},
		Run: runArchiveNames,
	}
}

func runArchiveNames(_ context.Context, e *Env) []Finding {
	if len(e.Archives) == 0 {
		return []Finding{skip("archives", "[images] archives names none")}
	}
	var out []Finding
	for _, a := range e.memo.archives() {
		out = append(out, judgeNames(a))
	}
	return out
}

// The findings of package preload about names. Others are TAR-01's.
const (
	noName    = "NOD-106"
	notAName  = "NOD-109"
	nameOther = "NOD-119"
)

func judgeNames(a inspected) Finding {
	f := Finding{Status: StatusFail, Subject: a.path, Expected: "registry/repository:tag for every image", Source: "index.json and manifest.json in the archive",
		Remedy: Remedy{Text: "save it again by its full name", Command: "skopeo copy docker://NAME:TAG oci-archive:NEW.tar:NAME:TAG"}}
	if ds := diag.Of(a.err); a.err != nil {
		if len(ds) > 0 && slices.Contains([]string{noName, notAName, nameOther}, ds[0].ID) {
			f.Observed, f.Reason = ds[0].ID+": "+ds[0].What, ds[0].Why
			return f
		}
		return skip(a.path, "the archive cannot be read; TAR-01 says why")
	}
	if n := a.archive.Nameless; len(n) > 0 {
		f.Status, f.Observed = StatusWarn, "without a name, so not imported: "+strings.Join(n[:min(3, len(n))], ", ")
		return f
	}
	return pass(a.path, strings.Join(a.archive.Names(), ", "), f.Source)
}

func approvedCheck() Check {
	return Check{
		ID: "IMG-12", Title: "tags point to the digests that were approved",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-10"},
		Story: Story{
			Seen:    "nodes behave differently with the same tag",
			Cause:   "the tag moved between two pulls, or somebody imported another build under it",
			Look:    "for every required name:tag@digest, whether containerd's image of that tag has that digest (archives that were replaced are TAR-17's)",
			Fix:     "bring the archives in again: edgeprep apply; name digests where it matters",
			Sources: []string{"rke2-docs: registry_mirror.md (tags and trust)", "failure-modes: IMG-12"},
		},
		Run: runApproved,
	}
}

func runApproved(ctx context.Context, e *Env) []Finding {
	pinned := slices.DeleteFunc(slices.Clone(e.Required), func(r preload.Ref) bool { return r.Tag == "" || r.Digest == "" })
	if len(pinned) == 0 {
		return []Finding{skip("approved digests", "no required reference has both tag and digest")}
	}
	if fs := e.withRuntime(ctx, "tags"); fs != nil {
		return fs
	}
	source := "image records of " + e.Node.Runtime.Endpoint.Socket
	var out []Finding
	for _, r := range pinned {
		tag := r.Host + "/" + r.Repository + ":" + r.Tag
		img, ok := e.record(preload.Ref{Name: tag})
		switch {
		case !ok: // a pod that names the digest does not need the tag
		case img.Target.Digest == r.Digest:
			out = append(out, pass(tag, r.Digest, source))
		default:
			out = append(out, Finding{Status: StatusFail, Subject: tag, Expected: r.Digest, Observed: "it is " + img.Target.Digest, Source: source,
				Remedy: Remedy{Text: "bring the archives in again", Command: "edgeprep apply"}})
		}
	}
	return findings(out, "tags", "containerd has none of the tags")
}
