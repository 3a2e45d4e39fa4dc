package preload

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Head is what the first bytes of a file say of how it is packed.
type Head struct {
	Compression Compression // "" when plain; also those that are not read here, "lz4" and "xz"
	Window      int64       // zstd window of the first frame, in bytes
	Tar         bool        // a tar header, where the file is plain
}

// headLen is enough for a tar header and for any zstd frame header.
const headLen = 512

// ReadHead looks at the beginning of a file, for files that are too many or too large to be read as a whole.
func ReadHead(fs host.FS, path string) (Head, error) {
	f, err := fs.Open(path)
	if err != nil {
		return Head{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, headLen))
	if err != nil {
		return Head{}, err
	}
	return headOf(b), nil
}

func headOf(b []byte) Head {
	h := Head{Compression: detect(b)}
	switch h.Compression {
	case Zstd:
		w := newWindowScanner()
		_, _ = w.Write(b) // it never fails
		h.Window = w.window
	case Plain:
		// POSIX 1003.1, ustar: the magic stands at 257, with or without GNU's space after it.
		h.Tar = len(b) == headLen && bytes.HasPrefix(b[257:], []byte("ustar"))
	}
	return h
}

// PackedByName is the compression that an ending stands for to loaders that go by the name; ok is false when it
// is none of an archive.
// rancher/wharfie: pkg/tarfile
func PackedByName(name string) (c Compression, ok bool) {
	name = strings.ToLower(name)
	for _, e := range []struct {
		ending string
		c      Compression
	}{
		{".tar", Plain}, {".tar.gz", Gzip}, {".tgz", Gzip}, {".tar.zst", Zstd}, {".tzst", Zstd}, {".tar.zstd", Zstd},
		{".tar.bz2", Bzip2}, {".tbz", Bzip2}, {".tbz2", Bzip2}, {".tar.lz4", lz4}, {".tar.xz", xz}, {".txz", xz},
	} {
		if strings.HasSuffix(name, e.ending) {
			return e.c, true
		}
	}
	return "", false
}

// Decompress reads what r is packed with, by its first bytes: a layer, say. Close frees the decoder, not r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	head := make([]byte, sniffLen)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return decompress(io.MultiReader(bytes.NewReader(head[:n]), r), detect(head[:n]))
}
