package preload

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// member is one regular file of an archive or layout directory.
type member struct {
	name   string
	offset int64 // of its content, in the tar
	size   int64
	order  int
	info   host.FileInfo // in a directory
	sum    sums
}

// tape is a tar that is read in order and knows where it is.
type tape interface {
	io.Reader
	position() int64
}

// stream is a tape that can only be read.
type stream struct {
	r io.Reader
	n int64
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	return n, err
}

func (s *stream) position() int64 { return s.n }

// disk is a tape that skips contents by seeking: archive/tar does when it can.
type disk struct{ *io.SectionReader }

func (d disk) position() int64 {
	n, _ := d.Seek(0, io.SeekCurrent) // never fails for the current position
	return n
}

// walkTar calls fn for each regular file of a tar. Content is to be read within fn. links are the symlinks,
// by name, with targets as docker's older archives mean them.
func walkTar(ctx context.Context, t tape, fn func(m member, content io.Reader) error) (links map[string]string, err error) {
	links = map[string]string{}
	tr := tar.NewReader(t)
	var end int64
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return links, checkEnd(t, n, end)
		}
		if err != nil {
			return nil, tarError(err, n)
		}
		if err := checkHeader(h, n); err != nil {
			return nil, err
		}
		end = t.position() + contentSize(h)
		switch h.Typeflag {
		case tar.TypeSymlink:
			links[h.Name] = path.Join(path.Dir(h.Name), h.Linkname)
		case tar.TypeReg:
			m := member{name: path.Clean(h.Name), offset: t.position(), size: h.Size, order: n}
			if err := fn(m, tr); err != nil {
				return nil, err
			}
		}
	}
}

// checkEnd refuses what archive/tar lets pass: a tar that was cut exactly between two files has no end mark.
func checkEnd(t tape, n int, end int64) error {
	const block = 512
	end = (end + block - 1) / block * block
	switch {
	case t.position() < end+block:
		return truncated(errors.New("there is no end-of-archive mark"))
	case n == 0:
		return &flaw{id: idFormat, what: "the archive is empty", fix: "make the archive again"}
	}
	return nil
}

func tarError(err error, n int) error {
	var f *flaw
	switch {
	case errors.As(err, &f): // of the decompression below
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) && n > 0:
		return truncated(err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		return &flaw{
			id: idFormat, what: "the archive is damaged or no tar", err: err,
			why: "neither docker-archive nor OCI layout", fix: "copy the archive again and compare: sha256sum FILE",
		}
	}
	return err
}

func checkHeader(h *tar.Header, n int) error {
	if n >= maxMembers {
		return limit("the archive has more than %d files", maxMembers)
	}
	if len(h.Name) > maxName || len(h.Linkname) > maxName {
		return limit("file %d of the archive has a name of %d bytes", n+1, max(len(h.Name), len(h.Linkname)))
	}
	sparse := h.Typeflag == tar.TypeGNUSparse
	for k := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(k, "GNU.sparse.")
	}
	if sparse {
		return limit("%q in the archive is a sparse file", h.Name)
	}
	return nil
}

// contentSize is what follows a header. Links and the like say a size that does not count.
func contentSize(h *tar.Header) int64 {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return 0
	}
	return h.Size
}
