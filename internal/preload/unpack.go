package preload

import (
	"context"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// unpack decompresses an archive and tells damage in it from a failing disk.
func unpack(r io.Reader, c Compression) (io.ReadCloser, error) {
	src := &sourceReader{r: r}
	z, err := decompress(src, c)
	if err != nil {
		return nil, src.judge(err, c)
	}
	return &unpacker{ReadCloser: z, src: src, c: c}, nil
}

// sourceReader remembers why reading failed.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *sourceReader) judge(err error, c Compression) error {
	var f *flaw
	switch {
	case err == nil || errors.Is(err, io.EOF) || errors.As(err, &f):
		return err
	case s.err != nil:
		return s.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return truncated(err)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return &flaw{
			id: idCompression, what: "the archive needs more memory to unpack than is given", err: err,
			why: "it was compressed with a window above 128 MiB",
			fix: "compress it again: zstd -d --long=31 --stdout FILE | zstd --long=25 -o NEW",
		}
	}
	f = corrupt("the archive's %s data is damaged", c)
	f.err = err
	return f
}

type unpacker struct {
	io.ReadCloser
	src *sourceReader
	c   Compression
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		err = u.src.judge(err, u.c)
	}
	return n, err
}
