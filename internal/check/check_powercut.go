package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
)

func powerCutCheck() Check {
	return Check{
		ID: "CRI-06", Title: "the content store bears no trace of a power cut",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:  "\"exec format error\", \"blob not found\" or wrong files, although every digest agrees; a new pull does not heal it",
			Cause: "containerd's records are written through, the data of files is not: after a cut a blob or an unpacked file may have a name and no content, and a snapshot is never verified again",
			Look: "empty blobs in the content store and imports that never ended; the file that each required image starts with, in every unpacked layer; how the disk is mounted. " +
				"--deep compares that file with its layer (CRI-02 --deep hashes every blob)",
			Fix:     "remove the image with its snapshots and bring it in again; mount without nobarrier and data=writeback; shut down cleanly before shipping",
			Sources: []string{"containerd/containerd#5854, #9115, #10457, #10655, #12302", "containerd: plugins/content/local, plugins/snapshots/overlay"},
		},
		Run: runPowerCut,
	}
}

// Where containerd keeps content, unfinished content and unpacked layers, below its root.
// containerd: plugins/content/local/store.go, plugins/snapshots/overlay/overlay.go
const (
	blobsDir     = "io.containerd.content.v1.content/blobs/sha256"
	ingestDir    = "io.containerd.content.v1.content/ingest"
	snapshotsDir = "io.containerd.snapshotter.v1.overlayfs/snapshots"
	maxBlobs     = 1_000_000
)

func runPowerCut(ctx context.Context, e *Env) []Finding {
	root := e.Node.Runtime.Endpoint.Root
	if root == "" {
		return []Finding{skip("content store", "containerd's root is not known")}
	}
	blobs, err := e.Reader.FS().ReadDir(path.Join(root, blobsDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{skip(root, "there is no content store yet")}
	case err != nil:
		return []Finding{couldNotRun(root, err)}
	}
	var out []Finding
	for _, b := range blobs[:min(len(blobs), maxBlobs)] {
		if b.Type == host.TypeFile && b.Size == 0 {
			out = append(out, Finding{Status: StatusFail, Subject: b.Path, Expected: "a blob", Observed: "an empty file", Source: "file tree", Remedy: Remedy{Text: "remove the image that has it, and bring it in again: edgeprep apply"}})
		}
	}
	out = append(out, e.ingests(root)...)
	out = append(out, e.riskyMount(root)...)
	out = append(out, e.entrypoints(ctx, path.Join(root, snapshotsDir))...)
	if len(out) == 0 {
		return []Finding{pass(root, fmt.Sprintf("%d blobs, none of them empty; what the required images start with is there", len(blobs)), "file tree")}
	}
	return out
}

// ingests are imports that never ended. One that runs now looks the same, so it is only a warning.
func (e *Env) ingests(root string) []Finding {
	left, err := e.Reader.FS().ReadDir(path.Join(root, ingestDir))
	if err != nil || len(left) == 0 {
		return nil
	}
	return []Finding{{Status: StatusWarn, Subject: path.Join(root, ingestDir), Expected: "no import without an end", Source: "file tree",
		Observed: fmt.Sprintf("%d of them, the oldest of %s", len(left), oldest(left).Format("2006-01-02 15:04")),
		Remedy:   Remedy{Text: "when nothing is being imported or pulled, let containerd clean up", Command: "systemctl restart " + e.runtimeUnit()}}}
}

// riskyMount finds options with which a cut costs what was already written.
// ext4(5): data=writeback, nobarrier, barrier=0
func (e *Env) riskyMount(root string) []Finding {
	m, ok := mountOf(e.Reader.FS(), root)
	if !ok {
		return nil
	}
	var bad []string
	for _, o := range strings.Split(m.options, ",") {
		if slices.Contains([]string{"nobarrier", "barrier=0", "data=writeback"}, o) {
			bad = append(bad, o)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return []Finding{{Status: StatusWarn, Subject: m.point, Expected: "mounted so that what is written stays written", Observed: "mounted with " + strings.Join(bad, ", "), Source: "/proc/mounts",
		Remedy: Remedy{Text: "take the option out of /etc/fstab, then", Command: "mount -o remount " + m.point}}}
}

// entrypoints looks at the program that each required image starts, in every unpacked layer: one that is empty,
// or with --deep of a size that no layer gives it, was lost.
func (e *Env) entrypoints(ctx context.Context, dir string) []Finding {
	snapshots, err := e.Reader.FS().ReadDir(dir)
	if err != nil || e.withContainerd(ctx, dir) != nil {
		return nil // another snapshotter, or nothing tells what images start with
	}
	programs := e.programs(ctx)
	sizes := map[string][]int64{}
	if e.opts.Deep {
		sizes = e.layerSizes(ctx, programs)
	}
	var out []Finding
	for _, s := range snapshots {
		for _, p := range programs {
			file := path.Join(s.Path, "fs", p.path)
			fi, err := e.Reader.FS().Lstat(file)
			if err != nil || fi.Type != host.TypeFile {
				continue
			}
			want := sizes[p.path]
			switch {
			case fi.Size == 0 && !slices.Contains(want, 0):
				out = append(out, lost(file, p.image, "empty"))
			case len(want) > 0 && !slices.Contains(want, fi.Size):
				out = append(out, lost(file, p.image, fmt.Sprintf("%d bytes, and no layer has it so", fi.Size)))
			}
		}
	}
	return out
}

func lost(file, image, what string) Finding {
	return Finding{Status: StatusFail, Subject: file, Expected: "the program that " + image + " starts with", Observed: what, Source: "file tree",
		Remedy: Remedy{Text: "remove the image and its containers so that its snapshots go, then bring it in again: crictl rmi " + image + " && edgeprep apply"}}
}

// program is a file that an image starts with.
type program struct{ image, path string }

// programs are those of the required images, as far as their configuration names a file.
func (e *Env) programs(ctx context.Context) []program {
	rt := e.Reader.Runtime(e.Node.Runtime.Endpoint)
	w := e.newWalk(rt)
	w.deep = false
	var out []program
	seen := map[string]bool{}
	for _, r := range e.Required {
		img, ok := e.record(r)
		if !ok {
			continue
		}
		if _, err := w.from(ctx, img.Target); err != nil || w.config == "" {
			continue
		}
		body, err := readBlob(ctx, rt, w.config)
		var c ocispec.Image
		if err != nil || json.Unmarshal(body, &c) != nil {
			continue // CRI-02 says so
		}
		for _, p := range startFiles(c.Config) {
			if !seen[p] {
				seen[p] = true
				out = append(out, program{r.Name, p})
			}
		}
	}
	return out
}

// startFiles are where the first word of what an image starts may be.
func startFiles(c ocispec.ImageConfig) []string {
	words := slices.Concat(c.Entrypoint, c.Cmd)
	if len(words) == 0 || words[0] == "" {
		return nil
	}
	first := words[0]
	switch {
	case path.IsAbs(first):
		return []string{path.Clean(first)}
	case strings.Contains(first, "/"):
		return []string{path.Join("/", c.WorkingDir, first)}
	}
	dirs := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range c.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			dirs = p
		}
	}
	var out []string
	for _, d := range strings.Split(dirs, ":") {
		if path.IsAbs(d) && len(out) < 16 {
			out = append(out, path.Join(d, first))
		}
	}
	return out
}
