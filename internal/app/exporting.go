package app

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// ExportRequest is what leaves a cache.
type ExportRequest struct {
	Cache     string
	Patterns  []string
	Required  string   // file of references; "-" is Stdin; empty: none
	Platforms []string // none: this machine's; "all": all that are complete
	Out       string   // a directory, or an archive by its name: .tar, .tar.gz, .tgz, .tar.zst
	Stdin     io.Reader
}

// AllPlatforms asks for every platform that is complete.
const AllPlatforms = "all"

// ExportCache writes references of a cache as an OCI layout: into a directory, or as one archive.
func ExportCache(ctx context.Context, r ExportRequest, sink progress.Sink) (mirror.ExportReport, error) {
	s, err := mirror.Open(r.Cache, mirror.Options{ReadOnly: true})
	if err != nil {
		return mirror.ExportReport{}, err
	}
	defer s.Close()
	refs, err := r.references(ctx, s)
	if err != nil {
		return mirror.ExportReport{}, err
	}
	o := mirror.ExportOptions{Platforms: r.Platforms}
	switch {
	case slices.Contains(r.Platforms, AllPlatforms):
		o.Platforms = nil
	case len(r.Platforms) == 0:
		o.Platforms = []string{"linux/" + runtime.GOARCH}
	}
	to, err := openExport(r.Out)
	if err != nil {
		return mirror.ExportReport{}, &diag.Refused{Err: err}
	}
	defer to.abort() //nolint:errcheck // after commit it does nothing
	const step = "export"
	msg := fmt.Sprintf("export %d references to %s", len(refs), r.Out)
	sink.Emit(progress.Event{Type: progress.StepStart, Step: step, Msg: msg})
	o.Progress = func(p mirror.Progress) {
		sink.Emit(progress.Event{Type: progress.StepProgress, Step: step, Done: p.Done, Total: p.Total})
	}
	out, err := s.Export(ctx, refs, to, o)
	if err == nil {
		err = to.commit()
	}
	end := progress.Event{Type: progress.StepEnd, Step: step, Status: "ok", Msg: msg + "  " + progress.Bytes(out.Bytes)}
	if err != nil {
		end.Status = "failed"
	}
	sink.Emit(end)
	return out, err
}

// references are those that patterns select and those of the list, each once.
func (r ExportRequest) references(ctx context.Context, s *mirror.Store) ([]mirror.Reference, error) {
	var names []string
	if len(r.Patterns) > 0 {
		list, err := ListCache(ctx, s, r.Patterns, "")
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			names = append(names, e.Reference)
		}
	}
	if r.Required != "" {
		listed, err := readNames(r.Required, r.Stdin)
		if err != nil {
			return nil, err
		}
		names = append(names, listed...)
	}
	return parseReferences(names)
}

// parseReferences reads references, each once. A digest counts more than the tag beside it.
func parseReferences(names []string) ([]mirror.Reference, error) {
	var out []mirror.Reference
	for _, n := range names {
		ref, err := mirror.ParseReference(n)
		if err != nil {
			return nil, err
		}
		if ref.Digest != "" {
			ref.Tag = ""
		}
		if !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	return out, nil
}

// exportTarget is where an export goes. It is not there before it is whole.
type exportTarget interface {
	mirror.ExportSink
	commit() error
	abort() error
}

func openExport(out string) (exportTarget, error) {
	if strings.HasSuffix(out, ".tar") || packed(out) != "" {
		return openArchive(out)
	}
	entries, err := os.ReadDir(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(out, 0o755)
	case err == nil && len(entries) > 0:
		return nil, occupied(out)
	}
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", out, err)
	}
	return &layoutDir{dir: out, last: map[string][]byte{}}, nil
}

func occupied(out string) error {
	return &diag.Diagnostic{ID: "MER-067", Severity: diag.Error, What: "there is something already", Where: diag.Where{File: out},
		Why: "an export never mixes with what was there", Fix: "remove it, or give another --out"}
}

// packed is how an archive is compressed, by its name.
func packed(name string) string {
	for ext, c := range map[string]string{".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tzst": "zstd"} {
		if strings.HasSuffix(name, ext) {
			return c
		}
	}
	return ""
}

// layoutDir is an OCI layout in a directory. The files that make it one come last.
type layoutDir struct {
	dir  string
	w    atomicfile.Writer
	last map[string][]byte
}

// Put implements mirror.ExportSink.
func (l *layoutDir) Put(name string, _ int64, r io.Reader) error {
	if !strings.HasPrefix(name, ocispec.ImageBlobsDir+"/") {
		b, err := io.ReadAll(r)
		l.last[name] = b
		return err
	}
	return l.file(name, r)
}

func (l *layoutDir) file(name string, r io.Reader) error {
	at := filepath.Join(l.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	t, err := l.w.Temp(filepath.Dir(at), filepath.Base(at))
	if err != nil {
		return err
	}
	defer t.Abort() //nolint:errcheck // after Commit it does nothing
	if _, err := io.CopyBuffer(t.File, struct{ io.Reader }{r}, make([]byte, copyBuffer)); err != nil {
		return err
	}
	return t.Commit(at, exportMeta())
}

const copyBuffer = 1 << 20

// exportMeta lets everybody read it: nothing in an image is secret to its nodes.
func exportMeta() atomicfile.Meta {
	return atomicfile.Meta{Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}
}

func (l *layoutDir) commit() error {
	for _, name := range []string{"manifest.json", ocispec.ImageIndexFile, ocispec.ImageLayoutFile} {
		if b, ok := l.last[name]; ok {
			if err := l.file(name, strings.NewReader(string(b))); err != nil {
				return err
			}
		}
	}
	return nil
}

// abort leaves blobs that were written: without index.json they are no layout.
func (l *layoutDir) abort() error { return nil }

// archive is an OCI layout in a tar.
type archive struct {
	at   string
	temp *atomicfile.Temp
	buf  *bufio.Writer
	pack io.WriteCloser // nil: not compressed
	tar  *tar.Writer
}

func openArchive(out string) (*archive, error) {
	if _, err := os.Lstat(out); err == nil {
		return nil, occupied(out)
	}
	abs, err := filepath.Abs(out)
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", out, err)
	}
	t, err := atomicfile.Writer{}.Temp(filepath.Dir(abs), filepath.Base(abs))
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", out, err)
	}
	a := &archive{at: abs, temp: t, buf: bufio.NewWriterSize(t.File, copyBuffer)}
	var w io.Writer = a.buf
	switch packed(out) {
	case "gzip":
		a.pack = gzip.NewWriter(w)
	case "zstd": // k3s and RKE2 read windows up to 32 MiB
		if a.pack, err = zstd.NewWriter(w, zstd.WithWindowSize(8<<20)); err != nil {
			return nil, errors.Join(err, t.Abort())
		}
	}
	if a.pack != nil {
		w = a.pack
	}
	a.tar = tar.NewWriter(w)
	return a, nil
}

// Put implements mirror.ExportSink. The same content gives the same bytes, whenever it is written.
func (a *archive) Put(name string, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{a.tar}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	return err
}

func (a *archive) commit() error {
	err := a.tar.Close()
	if a.pack != nil {
		err = errors.Join(err, a.pack.Close())
	}
	if err = errors.Join(err, a.buf.Flush()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", a.at, err), a.temp.Abort())
	}
	if err := a.temp.Commit(a.at, exportMeta()); err != nil {
		return fmt.Errorf("write %s: %w", a.at, err)
	}
	return nil
}

func (a *archive) abort() error { return a.temp.Abort() }
