package check

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

const (
	// maxLoaderFiles bounds what is looked at in an image directory: no real one has more.
	maxLoaderFiles = 10_000
	// maxLoaderDepth bounds sub-directories, which may be links to themselves.
	maxLoaderDepth = 6
	// unnamedBudget is how many bytes of archives that the site does not name are read without --deep.
	unnamedBudget = 512 << 20
)

// errNotRead says that an archive was left unread, which is no flaw of it.
var errNotRead = errors.New("not read")

// loaderDir is what lies in the directory that the distribution's loader reads.
type loaderDir struct {
	files []host.FileInfo // also those that it ignores; of links, what they point to
	err   error
}

// readLoaderDir lists the image directory, with the sub-directories where this version reads them.
func readLoaderDir(e *Env) loaderDir {
	var d loaderDir
	if e.Node.Preload.Method == "directory" {
		d.err = d.read(e.Reader.FS(), path.Clean(e.Node.Preload.Dir), e.Node.Gates.Recursive, 0)
	}
	return d
}

func (d *loaderDir) read(f host.FS, dir string, recursive bool, depth int) error {
	entries, err := f.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, fi := range entries {
		if fi.Type == host.TypeSymlink { // the loader follows them
			target, err := f.Stat(fi.Path)
			if err != nil {
				continue // it loads nothing from a link to nowhere
			}
			target.Path = fi.Path
			fi = target
		}
		switch {
		case len(d.files) >= maxLoaderFiles:
			return errors.New(dir + ": more files than any image directory has")
		case fi.Type == host.TypeFile:
			d.files = append(d.files, fi)
		case fi.Type == host.TypeDir && recursive && depth < maxLoaderDepth:
			if err := d.read(f, fi.Path, recursive, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// inLoaderDir is nil when there is an image directory that counts, else the one finding that says why not.
func (e *Env) inLoaderDir(imported string) []Finding {
	n := e.Node
	switch {
	case n.Preload.Method != "directory":
		return []Finding{skip("image directory", n.Name+" reads none: "+imported)}
	case n.Runtime.External != "":
		return []Finding{skip(n.Preload.Dir, "it has no effect: "+n.Name+" is told to use "+n.Runtime.External)}
	}
	if err := e.memo.loader().err; err != nil {
		return []Finding{couldNotRun(n.Preload.Dir, err)}
	}
	return nil
}

// loads says whether the loader takes a file for an archive. It goes by the name, and by its case.
func (e *Env) loads(fi host.FileInfo) bool { return hasExtension(fi.Path, e.Node.Preload.Extensions) }

// unnamed are the archives that the loader takes and that the site does not name.
func (e *Env) unnamed() []host.FileInfo {
	placed := map[string]bool{}
	for _, a := range e.imageArchives() {
		placed[path.Clean(a.Path)] = true
	}
	for _, p := range e.Archives {
		placed[path.Clean(p)] = true
	}
	return slices.DeleteFunc(slices.Clone(e.memo.loader().files), func(fi host.FileInfo) bool {
		return !e.loads(fi) || placed[path.Clean(fi.Path)]
	})
}

// inspectUnnamed inspects them, without --deep only until the budget is spent: a check must not take minutes
// because somebody keeps large archives there.
func inspectUnnamed(ctx context.Context, e *Env) []inspected {
	files := e.unnamed()
	out := make([]inspected, len(files))
	left := int64(unnamedBudget)
	for i, fi := range files {
		if left -= fi.Size; left < 0 && !e.opts.Deep {
			out[i] = inspected{path: fi.Path, err: errNotRead}
		}
	}
	parallel(len(out), func(i int) {
		if out[i].err == nil {
			a, err := preload.Inspect(ctx, e.Reader.FS(), files[i].Path, e.known(), e.opts.Sink)
			out[i] = inspected{files[i].Path, a, err}
		}
	})
	return out
}

// known are the archives whose verification still holds.
func (e *Env) known() preload.Known {
	if e.opts.Deep {
		return nil
	}
	return e.Known
}

// readable are all archives whose content is known, those of the site first.
func (e *Env) readable() []preload.Archive {
	var out []preload.Archive
	for _, a := range slices.Concat(e.memo.archives(), e.memo.unnamed()) {
		if a.err == nil {
			out = append(out, a.archive)
		}
	}
	return out
}
