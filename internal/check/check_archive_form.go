package check

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func archiveFormChecks() []Check {
	return []Check{packedCheck(), windowCheck(), piecesCheck()}
}

func packedCheck() Check {
	return Check{
		ID: "TAR-03", Title: "archives are packed and named in a way that this node's loader reads",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:  "an archive lies in the image directory and is not loaded: no line in the log, or \"unhandled file type\", \"invalid tar header\"",
			Cause: "loaders go by the ending of the name, in lower case, and by nothing else: .tar.xz is ignored, a gzip file called .tar fails, and some read plain tar only",
			Look:  "every file in the image directory: its ending, and the first bytes against it; and how the site's archives are packed",
			Fix:   "pack it again in a form that the loader reads, under the ending that goes with it",
			Sources: []string{"rancher/wharfie: pkg/tarfile/tarfile.go", "k0s: pkg/component/worker/ocibundle.go",
				"microk8s: build-scripts (sideload)"},
		},
		Run: runPacked,
	}
}

func runPacked(_ context.Context, e *Env) []Finding {
	var out []Finding
	for _, a := range e.memo.archives() {
		if ds := diag.Of(a.err); len(ds) > 0 && ds[0].ID == "NOD-105" {
			out = append(out, Finding{Status: StatusFail, Subject: a.path, Expected: "plain, gzip, zstd or bzip2", Observed: ds[0].What,
				Source: "first bytes", Remedy: Remedy{Text: "unpack it", Command: ds[0].Fix}})
		}
	}
	if fs := e.inLoaderDir("edgeprep itself unpacks and imports the archives"); fs != nil {
		if len(out) > 0 {
			return out
		}
		return fs
	}
	for _, fi := range e.memo.loader().files {
		if f, ok := e.packed(fi); ok {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return []Finding{skip(e.Node.Preload.Dir, "no archive lies in it")}
	}
	return out
}

// packed judges one file of the image directory; ok is false for what is no archive.
func (e *Env) packed(fi host.FileInfo) (f Finding, ok bool) {
	base := path.Base(fi.Path)
	named, isArchive := preload.PackedByName(base)
	if !isArchive && !e.loads(fi) {
		return Finding{}, false
	}
	head, err := preload.ReadHead(e.Reader.FS(), fi.Path)
	f = Finding{Status: StatusFail, Subject: fi.Path, Expected: "one of " + strings.Join(e.Node.Preload.Extensions, " "), Source: "name and first bytes"}
	switch {
	case err != nil:
		return couldNotRun(fi.Path, err), true
	case !e.loads(fi):
		f.Observed = "an ending that the loader of " + e.Node.Name + " ignores"
		f.Remedy = Remedy{Text: "pack it again in a form that is read, or take it out of the directory"}
		if lower := strings.ToLower(base); lower != base && hasExtension(lower, e.Node.Preload.Extensions) {
			f.Observed += ": it tells upper from lower case"
			f.Remedy = Remedy{Command: "mv " + fi.Path + " " + path.Join(path.Dir(fi.Path), lower)}
		}
	case isArchive && head.Compression != named:
		f.Expected = "packed as its name says: " + packedText(named)
		f.Observed = "packed with " + packedText(head.Compression)
		f.Remedy = Remedy{Text: "give it the ending that goes with its content, or pack it again"}
	default:
		return pass(fi.Path, packedText(head.Compression), f.Source), true
	}
	return f, true
}

func packedText(c preload.Compression) string {
	if c == preload.Plain {
		return "plain tar"
	}
	return string(c)
}

func windowCheck() Check {
	return Check{
		ID: "TAR-04", Title: "no zstd archive needs a larger window than the loader allows",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "\"window size exceeded\" in the log, and none of the archive's images",
			Cause:   "zstd --long=27 and --ultra make archives whose decoder needs more memory than the loader grants it (k3s and RKE2: 32 MiB)",
			Look:    "the window in every frame of the site's archives, and in the first frame of others in the image directory",
			Fix:     "pack it again with a smaller window: zstd -dc --long=31 OLD | zstd --long=24 -o NEW",
			Sources: []string{"rancher/wharfie: pkg/tarfile/tarfile.go (MaxDecoderMemory)", "RFC 8878, 3.1.1.1.2"},
		},
		Run: runWindow,
	}
}

func runWindow(_ context.Context, e *Env) []Finding {
	if fs := e.inLoaderDir("edgeprep itself unpacks the archives, with windows of up to 128 MiB"); fs != nil {
		return fs
	}
	limit := e.Node.Preload.MaxWindow
	if limit <= 0 {
		return []Finding{skip(e.Node.Preload.Dir, "the loader of "+e.Node.Name+" has no limit")}
	}
	var out []Finding
	for _, a := range e.readable() {
		if a.Compression == preload.Zstd {
			out = append(out, window(a.Path, a.Window, limit, "every frame"))
		}
	}
	for _, fi := range e.memo.loader().files {
		known := slices.ContainsFunc(out, func(f Finding) bool { return f.Subject == fi.Path })
		if head, err := preload.ReadHead(e.Reader.FS(), fi.Path); !known && e.loads(fi) && err == nil && head.Compression == preload.Zstd {
			out = append(out, window(fi.Path, head.Window, limit, "the first frame"))
		}
	}
	if len(out) == 0 {
		return []Finding{skip("archives", "none is packed with zstd")}
	}
	return out
}

func window(file string, need, limit int64, source string) Finding {
	f := pass(file, "a window of "+bytesText(need), source)
	f.Expected = "at most " + bytesText(limit)
	if need > limit {
		f.Status = StatusFail
		to := path.Join("/var/tmp", path.Base(file))
		f.Remedy = Remedy{Text: "pack it again and put it in the place of the old one", Command: "zstd -dc --long=31 " + file + " | zstd --long=24 -o " + to}
	}
	return f
}

func piecesCheck() Check {
	return Check{
		ID: "TAR-16", Title: "archives are whole image archives, not pieces of one or another tool's store",
		Severity: SeverityFail, Scope: ScopeNode, Timeout: deepTimeout,
		Story: Story{
			Seen:    "the file is there, and nothing usable is imported",
			Cause:   "a split archive has to be joined before it is loaded; a store that a tool saved for itself (hauler store save without --containerd) has images without the names that containerd goes by",
			Look:    "archives that cannot be read as such: whether their names are those of pieces; images without a name",
			Fix:     "join the pieces (cat NAME.* > NAME), or save the store again in the form that containerd imports",
			Sources: []string{"hauler: cmd/hauler/cli/store/save.go", "rke2-docs: airgap.md", "containerd: client/import.go"},
		},
		Run: runPieces,
	}
}

// piece is how the parts of a split file are called: split(1), 7z, hauler.
var piece = regexp.MustCompile(`(?:\.part[-_.]?[0-9a-z]+|\.[0-9]{2,4}|\.a[a-z]|[._-](?:chunk|part)[-_.]?[0-9]+(?:\.tar)?(?:\.[a-z0-9]+)?|_[0-9]+\.tar(?:\.[a-z0-9]+)?)$`)

func runPieces(_ context.Context, e *Env) []Finding {
	all := slices.Concat(e.memo.archives(), e.memo.unnamed())
	if len(all) == 0 {
		return []Finding{skip("archives", "there is none")}
	}
	var out []Finding
	for _, a := range all {
		if f, ok := wholeStore(a); ok {
			out = append(out, f)
		}
	}
	if len(out) == 0 { // what cannot be read for other reasons is TAR-01's
		return []Finding{skip("archives", "none can be read; TAR-01 says why")}
	}
	return out
}

func wholeStore(a inspected) (f Finding, ok bool) {
	f = Finding{Status: StatusFail, Subject: a.path, Expected: "an image archive", Source: "index and manifests in it"}
	ds := diag.Of(a.err)
	switch {
	case a.err == nil && len(a.archive.Nameless) > 0:
		f.Status, f.Expected = StatusWarn, "a name for each image"
		f.Observed = fmt.Sprintf("%d images have none and are left out: %s", len(a.archive.Nameless), strings.Join(a.archive.Nameless[:min(3, len(a.archive.Nameless))], ", "))
		f.Remedy = Remedy{Text: "save them by name, or, when they are signatures and the like, leave it"}
	case a.err == nil:
		return pass(a.path, fmt.Sprintf("%d names", len(a.archive.Images)), f.Source), true
	case errors.Is(a.err, errNotRead) || len(ds) == 0:
		return Finding{}, false
	case piece.MatchString(path.Base(a.path)):
		f.Observed = "cannot be read, and is called as a piece of a split file is"
		stem := piece.ReplaceAllString(a.path, "")
		f.Remedy = Remedy{Text: "join the pieces in order, then take them out", Command: "cat " + stem + "* > " + path.Join("/var/tmp", path.Base(stem))}
	case ds[0].ID == "NOD-106" || ds[0].ID == "NOD-104":
		f.Observed = ds[0].What
		f.Remedy = Remedy{Text: ds[0].Fix}
	default:
		return Finding{}, false
	}
	return f, true
}
