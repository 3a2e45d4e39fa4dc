package check

import (
	"context"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/preload"
)

// deepTimeout bounds checks that may read every byte of every image.
const deepTimeout = 2 * time.Hour

func contentChecks() []Check {
	return []Check{{
		ID: "CRI-02", Title: "the content of every required image is complete",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"CRI-08", "CRI-10", "TAR-01", "IMG-08"}, Unwaivable: true, Timeout: deepTimeout,
		Story: Story{
			Seen:  "an image is listed, even pinned, and its container fails to start: content digest not found",
			Cause: "containerd keeps a record although blobs are missing: an archive with a flipped bit, an import that was killed, a disk that lost data. It only logs \"not ok\"",
			Look:  "index, the platform's manifest, config and layers in the content store, sizes against their descriptors (TAR-11 looks whether it is unpacked); --deep hashes every layer again",
			Fix:   "remove the image and bring it in again: edgeprep apply",
			Sources: []string{"containerd: core/images/archive/importer.go, client/import.go WithSkipMissing, internal/cri/server/images/check.go",
				"containerd/containerd#10843"},
		},
		Run: runContent,
	}}
}

func runContent(ctx context.Context, e *Env) []Finding {
	if len(e.Required) == 0 {
		return []Finding{nothingRequired()}
	}
	if fs := e.withRuntime(ctx, "content of required images"); fs != nil {
		return fs
	}
	if _, err := e.memo.images(); err != nil {
		return []Finding{couldNotRun("image records", err)}
	}
	w := e.newWalk(e.Reader.Runtime(e.Node.Runtime.Endpoint))
	var out []Finding
	for _, r := range e.Required {
		out = append(out, e.walkImage(ctx, w, r))
	}
	return out
}

func (e *Env) newWalk(b blobs) *walk {
	return &walk{blobs: b, platform: e.Platform, deep: e.opts.Deep, hashed: map[string]string{}}
}

// snapshotter is the one that the CRI plugin uses.
func (e *Env) snapshotter() string {
	if a, err := e.memo.cri(); err == nil && a.status.Snapshotter != "" {
		return a.status.Snapshotter
	}
	if s := e.Node.Runtime.Endpoint.Snapshotter; s != "" {
		return s
	}
	return "overlayfs"
}

func (e *Env) walkImage(ctx context.Context, w *walk, r preload.Ref) Finding {
	again := Remedy{Text: "bring it in again", Command: "edgeprep apply"}
	source := "content store of " + e.Node.Runtime.Endpoint.Socket
	img, ok := e.record(r)
	if !ok {
		return Finding{Status: StatusFail, Subject: r.Name, Expected: "an image record", Observed: "none of that name", Source: source, Remedy: again}
	}
	flaws, err := w.from(ctx, img.Target)
	if err != nil {
		return couldNotRun(r.Name, err)
	}
	if len(flaws) > 0 {
		return Finding{Status: StatusFail, Subject: r.Name, Expected: "complete", Observed: strings.Join(flaws, "; "), Source: source, Remedy: again}
	}
	return pass(r.Name, "complete; "+img.Target.Digest, source)
}
