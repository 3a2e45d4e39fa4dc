package preload

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// Inspect reads an archive or OCI layout directory from one end to the other and verifies it: that it is
// whole, that every blob an image reaches has its digest, that the images have names. What the archive merely
// lacks (another platform's content) is said in the result. known, which may be nil, spares reading what did
// not change. sink, which may be nil, gets events with the step "inspect:PATH".
//
// Errors are diagnostics NOD-101 to NOD-119.
func Inspect(ctx context.Context, fs host.FS, path string, known Known, sink progress.Sink) (Archive, error) {
	a, err := inspect(ctx, fs, path, known, sink)
	return a, explain(path, err)
}

// InspectAll inspects archives side by side, as many as there are cores, and reports all findings at once.
// The results are in the order of paths, each path once; on an error there are none.
func InspectAll(ctx context.Context, fs host.FS, paths []string, known Known, sink progress.Sink) ([]Archive, error) {
	paths = unique(paths)
	out := make([]Archive, len(paths))
	errs := make([]error, len(paths))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range paths {
		g.Go(func() error {
			out[i], errs[i] = Inspect(ctx, fs, p, known, sink)
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := merge(errs); err != nil {
		return nil, err
	}
	return out, nil
}

func unique(paths []string) []string {
	var out []string
	for _, p := range paths {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// merge makes one report of errors; a single one stays what it is.
func merge(errs []error) error {
	var report diag.Report
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}
	for _, err := range errs {
		report.Add(diag.Of(err)...)
	}
	return report.Err()
}

func inspect(ctx context.Context, fs host.FS, path string, known Known, sink progress.Sink) (Archive, error) {
	fi, dir, err := describePath(fs, path)
	if err != nil {
		return Archive{}, err
	}
	read := inspectFile
	if dir != nil {
		read = func(ctx context.Context, fs host.FS, fi host.FileInfo, report func(int64)) (Archive, error) {
			return inspectDir(ctx, dir, report)
		}
	}
	if known != nil {
		if a, ok := known.Known(path, fi); ok {
			return a, nil
		}
	}
	fi.Path = path
	step := begin(sink, path, fi.Size)
	a, err := read(ctx, fs, fi, step.report)
	step.end(err)
	a.Path, a.Stamp, a.Size = path, FingerprintOf(fi), fi.Size
	return a, err
}

// Describe describes an archive as Known is asked for it. A layout directory is described as one file, which
// changes when any file in it does.
func Describe(fs host.FS, path string) (host.FileInfo, error) {
	fi, _, err := describePath(fs, path)
	return fi, explain(path, err)
}

func describePath(fs host.FS, path string) (fi host.FileInfo, dir *inventory, err error) {
	fi, err = fs.Stat(path)
	if err != nil || fi.Type != host.TypeDir {
		return fi, nil, err
	}
	if dir, err = scanDir(fs, path); err != nil {
		return fi, nil, err
	}
	return dir.info(fi), dir, nil
}

func inspectFile(ctx context.Context, fs host.FS, fi host.FileInfo, report func(int64)) (Archive, error) {
	f, err := fs.Open(fi.Path)
	if err != nil {
		return Archive{}, err
	}
	defer f.Close()
	c, err := sniff(f)
	if err != nil {
		return Archive{}, err
	}
	window := newWindowScanner()
	also := io.Discard
	if c == Zstd {
		also = window
	}
	file := newReadAhead(io.NewSectionReader(f, 0, fi.Size), also, report)
	defer file.Close()
	inv, err := scanPacked(ctx, file, c)
	if err != nil {
		return Archive{}, err
	}
	a, err := judge(ctx, inv)
	if err != nil {
		return Archive{}, err
	}
	a.Compression, a.Window, a.SHA256 = c, window.window, file.sha256()
	return a, unmoved(fs, fi)
}

// scanPacked takes a verified inventory of the whole file.
func scanPacked(ctx context.Context, file io.Reader, c Compression) (*inventory, error) {
	r, err := unpack(file, c)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	inv, err := scanStream(ctx, r, true)
	if err != nil {
		return nil, err
	}
	// What is behind the compressed data belongs to the file's digest all the same.
	_, err = io.Copy(io.Discard, contextReader{ctx, file})
	return inv, err
}

// unmoved holds the file against what it was before it was read.
func unmoved(fs host.FS, before host.FileInfo) error {
	after, err := fs.Stat(before.Path)
	if err != nil {
		return err
	}
	if !FingerprintOf(after).Equal(FingerprintOf(before)) {
		return &flaw{
			id: idRead, what: "the archive changed while it was read", fix: "run again when the copy is finished",
			why: "something still writes it",
		}
	}
	return nil
}

func inspectDir(ctx context.Context, inv *inventory, report func(int64)) (Archive, error) {
	total := int64(0)
	for _, m := range inv.byOrder() {
		if err := inv.verify(ctx, m); err != nil {
			return Archive{}, err
		}
		total += m.size
		report(total)
	}
	a, err := judge(ctx, inv)
	a.Format = OCILayout
	a.SHA256 = indexSum(inv)
	return a, err
}

// verify digests a member of a directory.
func (v *inventory) verify(ctx context.Context, m *member) error {
	r, err := v.open(m)
	if err != nil {
		return err
	}
	defer r.Close()
	counted := &stream{r: contextReader{ctx, r}}
	m.sum, err = sum(ctx, m.name, counted, measures{digest: true})
	if err == nil && counted.n != m.size {
		err = errors.New(m.name + " changed while it was read")
	}
	return err
}

// indexSum stands for the content of a layout: its index names all of it by digest.
func indexSum(inv *inventory) string {
	m, ok := inv.members["index.json"]
	if !ok {
		return ""
	}
	return digest.Digest(m.sum.digest).Encoded()
}

// judge resolves a verified inventory.
func judge(ctx context.Context, inv *inventory) (Archive, error) {
	g, err := resolve(ctx, inv)
	if err != nil {
		return Archive{}, err
	}
	if err := g.checkNames(); err != nil {
		return Archive{}, err
	}
	for _, b := range g.blobs {
		if b.member != nil && b.member.sum.digest != b.desc.Digest {
			return Archive{}, mismatch(b)
		}
	}
	return g.archive(), nil
}
