package check

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/resource"
)

func archiveChecks() []Check {
	return []Check{intactCheck(), placeCheck(), spaceCheck()}
}

func intactCheck() Check {
	return Check{
		ID: "TAR-01", Title: "image archives are whole, and every blob in them has its digest",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:  "the service is active, and the images of one archive are absent; or an image is listed and its container fails to start",
			Cause: "loaders log an error per file and go on; a cut on an entry boundary and a flipped bit in a blob give no error at all",
			Look: "every archive from end to end: compression, tar, index, manifests, and the sha256 of every blob that an image reaches, for this node's platform (TAR-02 too). " +
				"An archive that did not change since it was verified is not read again; --deep reads all",
			Fix:     "copy the archive again and compare: sha256sum FILE",
			Sources: []string{"k3s: pkg/agent/containerd/containerd.go, watcher.go", "containerd: core/images/archive/importer.go", "k3s-io/k3s#10132"},
		},
		Run: runIntact,
	}
}

// inspected is an archive, or why it is none.
type inspected struct {
	path    string
	archive preload.Archive
	err     error
}

// inspectAll inspects every archive of the site, side by side.
func inspectAll(ctx context.Context, e *Env) []inspected {
	out := make([]inspected, len(e.Archives))
	parallel(len(out), func(i int) {
		p := e.Archives[i]
		a, err := preload.Inspect(ctx, e.Reader.FS(), p, e.known(), e.opts.Sink)
		out[i] = inspected{p, a, err}
	})
	return out
}

func runIntact(_ context.Context, e *Env) []Finding {
	var out []Finding
	for _, a := range slices.Concat(e.memo.archives(), e.memo.unnamed()) {
		out = append(out, e.intact(a))
	}
	if len(out) == 0 {
		return []Finding{skip("archives", "[images] archives names none")}
	}
	return out
}

func (e *Env) intact(a inspected) Finding {
	if errors.Is(a.err, errNotRead) {
		return deferred(a.path, "[images] archives does not name it and it is large: run edgeprep check --deep, which reads all")
	}
	if a.err != nil {
		f := Finding{Status: StatusFail, Subject: a.path, Expected: "a whole archive", Observed: a.err.Error(), Source: "read from end to end"}
		if ds := diag.Of(a.err); len(ds) > 0 {
			f.Observed, f.Reason, f.Remedy = ds[0].ID+": "+ds[0].What, ds[0].Why, Remedy{Text: ds[0].Fix}
		}
		return f
	}
	var flaws []string
	for _, img := range a.archive.Images {
		p, ok := img.For(e.Platform)
		switch {
		case !ok:
			flaws = append(flaws, img.Name+" is not for "+e.Platform)
		case !p.Complete():
			flaws = append(flaws, img.Name+" lacks "+strings.Join(p.Missing, ", "))
		}
	}
	if len(flaws) > 0 {
		return Finding{Status: StatusFail, Subject: a.path, Expected: "complete for " + e.Platform, Observed: strings.Join(flaws, "; "),
			Source: "manifests in the archive", Remedy: Remedy{Text: "export the images again for " + e.Platform}}
	}
	return pass(a.path, fmt.Sprintf("%d names, %s, sha256 %s", len(a.archive.Images), bytesText(a.archive.Size), a.archive.SHA256), "every byte verified")
}

func placeCheck() Check {
	return Check{
		ID: "TAR-05", Title: "archives lie where this node's loader reads them, byte for byte",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"TAR-01"}, Timeout: deepTimeout,
		Story: Story{
			Seen:  "no \"Importing images\" line at all, and pods pull from the internet",
			Cause: "the directory depends on the data-dir of the running process, sub-directories are not read, and only some extensions are",
			Look:  "each archive that this node needs: a regular file in the directory of the detected data-dir, same size and sha256 as its source; archives in sub-directories",
			Fix:   "edgeprep apply places them",
			Sources: []string{"k3s: pkg/agent/containerd/watcher.go", "rke2: pkg/bootstrap/bootstrap.go",
				"k3s-io/k3s#600"},
		},
		Run: runPlace,
	}
}

func runPlace(ctx context.Context, e *Env) []Finding {
	n := e.Node
	switch {
	case n.Preload.Method != "directory":
		return []Finding{skip("image directory", n.Name+" reads no image directory; archives are imported")}
	case n.Runtime.External != "":
		return []Finding{{Status: StatusFail, Subject: n.Preload.Dir, Expected: "the distribution's own containerd",
			Observed: n.Name + " is told to use " + n.Runtime.External + ", so its image directory has no effect", Source: e.sourceOf("runtime")}}
	}
	out := e.strays()
	for _, a := range e.imageArchives() {
		out = append(out, e.placed(ctx, a))
	}
	if len(out) == 0 {
		return []Finding{skip(n.Preload.Dir, "no archive is to be placed")}
	}
	return out
}

// imageArchives are the archives that are to lie in the image directory; programs are placed like them.
func (e *Env) imageArchives() []resource.Archive {
	var out []resource.Archive
	for _, r := range e.Resources {
		if a := r.Archive; a != nil && (len(a.Images) > 0 || path.Dir(a.Path) == path.Clean(e.Node.Preload.Dir)) {
			out = append(out, *a)
		}
	}
	return out
}

// sourceOf says where a fact about the node was read.
func (e *Env) sourceOf(fact string) string {
	for _, ev := range e.Node.Evidence {
		if ev.Fact == fact {
			return ev.Source
		}
	}
	return ""
}

// placed compares one placed archive with what it should be.
func (e *Env) placed(ctx context.Context, a resource.Archive) Finding {
	source := "data-dir " + e.Node.DataDir
	if s := e.sourceOf("data-dir"); s != "" {
		source += " (" + s + ")"
	}
	bad := func(observed string) Finding {
		return Finding{Status: StatusFail, Subject: a.Path, Expected: bytesText(a.Size) + ", sha256 " + a.SHA256, Observed: observed,
			Source: source, Remedy: Remedy{Command: "edgeprep apply"}}
	}
	fi, err := e.Reader.FS().Lstat(a.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad("absent")
	case err != nil:
		return couldNotRun(a.Path, err)
	case fi.Type != host.TypeFile:
		return bad("a " + string(fi.Type) + ", not a regular file")
	case fi.Size != a.Size:
		return bad(fmt.Sprintf("%d of %d bytes", fi.Size, a.Size))
	}
	sum, err := e.sumOf(ctx, a.Path, fi)
	switch {
	case err != nil:
		return couldNotRun(a.Path, err)
	case a.SHA256 != "" && sum != a.SHA256:
		return bad("sha256 " + sum)
	}
	return pass(a.Path, "sha256 "+sum, source)
}

// sumOf is the recorded sha256 of an unchanged file, else that of its bytes.
func (e *Env) sumOf(ctx context.Context, p string, fi host.FileInfo) (string, error) {
	if e.Recorded != nil && !e.opts.Deep {
		if sum, ok := e.Recorded(p, fi); ok {
			return sum, nil
		}
	}
	f, err := e.Reader.FS().Open(p)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, interruptible{ctx, f})
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, f.Close())
}

// interruptible stops reading when its context ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// strays finds archives in sub-directories that the loader does not look into.
func (e *Env) strays() []Finding {
	dir := e.Node.Preload.Dir
	if e.Node.Gates.Recursive {
		return nil
	}
	entries, err := e.Reader.FS().ReadDir(dir)
	if err != nil {
		return nil // an absent directory holds no strays; what should be in it is reported absent
	}
	var out []Finding
	for _, d := range entries {
		if d.Type != host.TypeDir {
			continue
		}
		below, err := e.Reader.FS().ReadDir(d.Path)
		if err != nil {
			out = append(out, couldNotRun(d.Path, err))
		}
		for _, f := range below {
			if hasExtension(f.Path, e.Node.Preload.Extensions) {
				out = append(out, Finding{Status: StatusFail, Subject: f.Path, Expected: "in " + dir + " itself",
					Observed: "in a sub-directory, which this version does not read", Source: "file tree",
					Remedy: Remedy{Command: "mv " + f.Path + " " + dir + "/"}})
			}
		}
	}
	return out
}

func hasExtension(file string, known []string) bool {
	return slices.ContainsFunc(known, func(ext string) bool {
		return strings.HasSuffix(path.Base(file), "."+strings.TrimPrefix(ext, "."))
	})
}

// inArchives finds the images of a name, or of a digest, in the archives of the site and of the image directory.
func (e *Env) inArchives(match func(preload.Image) bool) (where []string, errs []string) {
	for _, a := range slices.Concat(e.memo.archives(), e.memo.unnamed()) {
		if a.err != nil {
			errs = append(errs, a.path)
			continue
		}
		if slices.ContainsFunc(a.archive.Images, match) {
			where = append(where, a.path)
		}
	}
	return where, errs
}

// digestsInArchives proves, without a runtime, that pinned references can be made from the archives.
func (e *Env) digestsInArchives(pinned []preload.Ref) []Finding {
	if len(e.Archives) == 0 {
		return nil
	}
	var out []Finding
	for _, r := range pinned {
		where, unread := e.inArchives(func(i preload.Image) bool { return i.Digest == r.Digest })
		switch {
		case len(where) > 0:
			out = append(out, pass(r.Name, "in "+strings.Join(where, ", "), "manifests in the archives"))
		case len(unread) > 0:
			out = append(out, unproven(r.Name, "these archives cannot be read: "+strings.Join(unread, ", ")))
		default:
			out = append(out, Finding{Status: StatusFail, Subject: r.Name, Expected: "an archive with a manifest of this digest", Observed: "none has one",
				Source: "manifests in the archives", Remedy: Remedy{Text: "export it as an OCI layout; docker save does not keep digests"}})
		}
	}
	return out
}

// sandboxInArchives proves, without a runtime, that the sandbox image comes with the archives.
func (e *Env) sandboxInArchives(r preload.Ref, source string) []Finding {
	if len(e.Archives) == 0 {
		return nil
	}
	where, unread := e.inArchives(func(i preload.Image) bool {
		_, ok := i.For(e.Platform)
		return ok && (i.Name == r.Name || r.Digest != "" && i.Digest == r.Digest)
	})
	switch {
	case len(where) > 0:
		return []Finding{pass(r.Name, "in "+strings.Join(where, ", "), source)}
	case len(unread) > 0:
		return []Finding{unproven(r.Name, "these archives cannot be read: "+strings.Join(unread, ", "))}
	case e.Node.Started:
		return []Finding{unproven(r.Name, "it is in no archive; whether the runtime has it already can be told only while it runs")}
	}
	return []Finding{{Status: StatusFail, Subject: r.Name, Expected: "in one of the archives", Observed: "in none of them", Source: source,
		Remedy: Remedy{Text: "add an archive that holds " + r.Name + " to [images] archives"}}}
}
