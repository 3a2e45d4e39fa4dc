package preload

import (
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression is how the whole of an archive is packed.
type Compression string

// The compressions. What cannot be read is named all the same, for the message.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Bzip2 Compression = "bzip2"
	lz4   Compression = "lz4"
	xz    Compression = "xz"
)

// sniffLen is how many bytes detect wants to see.
const sniffLen = 16

// maxWindow is the largest zstd window that is decoded: what `zstd -d` does without being asked.
const maxWindow = 128 << 20

// detect goes by content: names lie.
func detect(head []byte) Compression {
	for _, m := range []struct {
		magic string
		c     Compression
	}{
		{"\x1f\x8b\x08", Gzip}, {"\x28\xb5\x2f\xfd", Zstd}, {"BZh", Bzip2},
		{"\x04\x22\x4d\x18", lz4}, {"\xfd7zXZ\x00", xz},
	} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.c
		}
	}
	// A zstd stream may begin with a skippable frame. RFC 8878, 3.1.2
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return Zstd
	}
	return Plain
}

// decompress reads r as c says. Close frees memory and goroutines of the decoder, not r.
func decompress(r io.Reader, c Compression) (io.ReadCloser, error) {
	switch c {
	case Plain:
		return io.NopCloser(r), nil
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z, nil
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2),
			zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return nil, &flaw{
		id: idCompression, what: "the archive is packed with " + string(c) + ", which is not read here",
		fix: map[Compression]string{lz4: "lz4 -d FILE", xz: "xz -d FILE"}[c],
	}
}
