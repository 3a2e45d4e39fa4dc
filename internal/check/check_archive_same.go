package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/preload"
)

func archiveSameChecks() []Check {
	return []Check{conflictCheck(), partialCheck()}
}

func conflictCheck() Check {
	return Check{
		ID: "TAR-12", Title: "no name stands for two different images in the archives",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "after a restart an older version runs",
			Cause:   "loaders take archives one after the other, and the last one with a name has it; which that is depends on file names",
			Look:    "every name in the site's archives and in others of the image directory, with its digest",
			Fix:     "keep one archive per name: take the older one away",
			Sources: []string{"k3s: pkg/agent/containerd/containerd.go (directory order, image update)"},
		},
		Run: runConflicts,
	}
}

// held is an image and the archive that it is in.
type held struct {
	archive string
	image   preload.Image
}

func runConflicts(_ context.Context, e *Env) []Finding {
	archives := e.readable()
	if len(archives) == 0 {
		return []Finding{skip("archives", "there is none that can be read")}
	}
	first := map[string]held{}
	same := map[string]bool{} // by sha256: a placed copy is not a second archive
	var out []Finding
	for _, a := range archives {
		if same[a.SHA256] {
			continue
		}
		same[a.SHA256] = true
		for _, i := range a.Images {
			other, ok := first[i.Name]
			if !ok {
				first[i.Name] = held{a.Path, i}
			} else if f, bad := e.conflict(other, held{a.Path, i}); bad {
				out = append(out, f)
			}
		}
	}
	if len(out) == 0 {
		return []Finding{pass("archives", fmt.Sprintf("%d names in %d archives, each with one image", len(first), len(same)), "manifests in the archives")}
	}
	return out
}

func (e *Env) conflict(a, b held) (f Finding, bad bool) {
	if a.image.Digest == b.image.Digest {
		return Finding{}, false
	}
	f = Finding{Status: StatusFail, Subject: b.image.Name, Expected: "one image", Source: "manifests in the archives",
		Observed: a.image.Digest + " in " + a.archive + ", " + b.image.Digest + " in " + b.archive,
		Remedy:   Remedy{Text: "take the archive with the older image out of [images] archives and out of the image directory"}}
	x, _ := a.image.For(e.Platform)
	y, _ := b.image.For(e.Platform)
	if x.Config != "" && x.Config == y.Config {
		f.Status = StatusWarn
		f.Observed += ": the same image in two forms, and only one has the registry's digest"
		f.Remedy.Text = "keep the OCI form"
	}
	return f, true
}

func partialCheck() Check {
	return Check{
		ID: "TAR-15", Title: "the loader imports archives whose index names platforms that are not in them",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "\"content digest sha256:... not found\" for a whole archive, although this platform's image is in it",
			Cause:   "an archive saved for one platform keeps the index of all; loaders that do not skip what is missing refuse it (k3s before mid 2024, ctr import, sideloading of MicroK8s)",
			Look:    "indexes in the archives against the blobs beside them, and whether this version's loader skips what is missing",
			Fix:     "save one platform without the index, or all platforms; or use a newer release",
			Sources: []string{"k3s-io/k3s#10132", "rancher/rke2#5944", "containerd/containerd#7543, #6441", "canonical/microk8s#4074, #3863"},
		},
		Run: runPartial,
	}
}

func runPartial(_ context.Context, e *Env) []Finding {
	archives := e.readable()
	if len(archives) == 0 {
		return []Finding{skip("archives", "there is none that can be read")}
	}
	var out []Finding
	for _, a := range archives {
		names := lacking(a, e.Platform)
		if len(names) == 0 {
			out = append(out, pass(a.Path, "every platform that its indexes name is in it", "manifests in the archive"))
			continue
		}
		out = append(out, e.partial(a.Path, names))
	}
	return out
}

// lacking are the images of which other platforms than the node's are missing.
func lacking(a preload.Archive, platform string) []string {
	var out []string
	for _, i := range a.Images {
		own, _ := i.For(platform)
		if slices.ContainsFunc(i.Platforms, func(p preload.Platform) bool { return p.Manifest != own.Manifest && !p.Complete() }) {
			out = append(out, i.Name)
		}
	}
	return out
}

func (e *Env) partial(archive string, names []string) Finding {
	f := pass(archive, fmt.Sprintf("%d indexes name platforms that are not in it (%s)", len(names), strings.Join(names[:min(3, len(names))], ", ")), "manifests in the archive")
	n := e.Node
	switch {
	case n.Preload.Method != "directory":
		f.Observed += "; edgeprep imports " + e.Platform + " alone"
	case n.Gates.PartialIndex:
		f.Observed += "; " + n.Name + " " + n.Version + " skips what is missing"
	default:
		f.Status, f.Expected = StatusFail, "every platform that an index names, or no index"
		f.Observed += "; the loader of " + n.Name + " " + n.Version + " refuses the archive for it"
		f.Remedy = Remedy{Text: "save the images for " + e.Platform + " alone: docker pull --platform " + e.Platform + ", or skopeo copy --override-arch without --all"}
	}
	return f
}
