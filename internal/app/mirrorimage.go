package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror/selfimage"
)

// RootsNone leaves certification authorities out of the mirror's image.
const RootsNone = "none"

// ImageOptions say what the mirror's image is made of.
type ImageOptions struct {
	Out      string // archive, "….tar"
	Binary   string // empty: this program
	Platform string // empty: the program's
	Tag      string // reference; empty: named by the program's content
	Roots    string // PEM file; empty: this machine's bundle; RootsNone: none
}

// ImageReport says what was made.
type ImageReport struct {
	File      string `json:"file"`
	Bytes     int64  `json:"bytes"`
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	Platform  string `json:"platform"`
	Roots     string `json:"roots,omitempty"` // the file whose certification authorities are inside; empty: none
}

// MirrorImage writes the mirror's own image as an archive.
func MirrorImage(ctx context.Context, o ImageOptions) (ImageReport, error) {
	roots, from, err := readRoots(o.Roots)
	if err != nil {
		return ImageReport{}, err
	}
	if o.Binary == "" {
		if o.Binary, err = ownProgram(); err != nil {
			return ImageReport{}, err
		}
	}
	img, err := selfimage.Build(ctx, selfimage.Options{Binary: o.Binary, Platform: o.Platform, Name: o.Tag, Roots: roots})
	if err != nil {
		return ImageReport{}, err
	}
	n, err := writeImage(img, o.Out)
	return ImageReport{File: o.Out, Bytes: n, Reference: img.Name, Digest: img.Digest, Platform: img.Platform, Roots: from}, err
}

func readRoots(file string) (pem []byte, from string, err error) {
	switch file {
	case RootsNone:
		return nil, "", nil
	case "":
		pem, from = selfimage.HostRoots()
		return pem, from, nil
	}
	pem, err = os.ReadFile(file)
	if err == nil && !selfimage.HasCertificates(pem) {
		err = errors.New("no certificate in it")
	}
	if err != nil {
		return nil, "", &diag.Diagnostic{ID: "MER-084", Severity: diag.Error, What: "the certification authorities cannot be used: " + cause(err),
			Where: diag.Where{File: file}, Fix: "name a PEM file, or --roots " + RootsNone}
	}
	return pem, file, nil
}

// writeImage writes the archive completely or not at all.
func writeImage(img *selfimage.Image, file string) (size int64, err error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", file, err)
	}
	t, err := atomicfile.Writer{}.Temp(filepath.Dir(abs), filepath.Base(abs))
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", file, err)
	}
	w := bufio.NewWriterSize(t.File, 1<<20)
	if err := errors.Join(img.Write(w), w.Flush()); err != nil {
		return 0, fmt.Errorf("write %s: %w", file, errors.Join(err, t.Abort()))
	}
	fi, err := t.File.Stat()
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", file, errors.Join(err, t.Abort()))
	}
	if err := t.Commit(abs, atomicfile.Meta{Mode: 0o644, UID: -1, GID: -1}); err != nil {
		return 0, fmt.Errorf("write %s: %w", file, err)
	}
	return fi.Size(), nil
}
