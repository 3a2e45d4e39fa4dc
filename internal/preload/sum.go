package preload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// measures say what is wanted of a member's bytes besides how they are packed.
type measures struct {
	digest bool
	diff   bool // when packed, and not named by digest already
}

// sum reads a member to its end as far as want needs it.
func sum(ctx context.Context, name string, r io.Reader, want measures) (sums, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return sums{}, err
	}
	head = head[:n]
	s := sums{packed: packing(head), known: true}
	if !want.digest {
		return s, nil
	}
	d, isClaimed := claimed(name)
	algorithm := digest.Canonical
	if isClaimed {
		algorithm = d.Algorithm()
	}
	hash, tail := algorithm.Hash(), &tailWriter{}
	content := io.MultiReader(bytes.NewReader(head), r)
	var size int64
	if want.diff && s.packed != Plain && !isClaimed {
		s.diff, size, err = copyUnpacked(ctx, io.MultiWriter(hash, tail), content, s.packed)
	} else {
		size, err = io.Copy(io.MultiWriter(hash, tail), content)
	}
	if err != nil {
		return s, err
	}
	s.digest = digest.NewDigest(algorithm, hash).String()
	s.plain = plainSize(s.packed, size, head, tail.bytes())
	return s, nil
}

// packing is how a layer is packed; containerd knows these two.
func packing(head []byte) Compression {
	if c := detect(head); c == Gzip || c == Zstd {
		return c
	}
	return Plain
}

// damaged stands for the digest of what does not unpack.
const damaged = "damaged"

// copyUnpacked copies and, on the way, digests what the bytes unpack to.
func copyUnpacked(ctx context.Context, w io.Writer, r io.Reader, c Compression) (diff string, size int64, err error) {
	diff = damaged
	counted := &stream{r: io.TeeReader(r, w)}
	z, err := decompress(counted, c)
	if err == nil {
		hash := digest.Canonical.Hash()
		if _, err = io.Copy(hash, contextReader{ctx, z}); err == nil {
			diff = digest.NewDigest(digest.Canonical, hash).String()
		}
		_ = z.Close() // a decoder's Close has nothing to say
	}
	if err := ctx.Err(); err != nil {
		return "", counted.n, err
	}
	_, err = io.Copy(io.Discard, counted) // what the decoder left over
	return diff, counted.n, err
}

// plainSize estimates what a layer unpacks to. gzip ends with the size modulo 4 GiB, a zstd frame may begin
// with it; else three times is usual for images.
func plainSize(c Compression, size int64, head, tail []byte) int64 {
	const usual = 3
	switch c {
	case Plain:
		return size
	case Gzip:
		if len(tail) == 4 {
			if n := int64(binary.LittleEndian.Uint32(tail)); n >= size {
				return n
			}
		}
	case Zstd:
		var h zstd.Header
		if h.Decode(head) == nil && h.HasFCS && h.FrameContentSize < 1<<40 {
			return max(size, int64(h.FrameContentSize))
		}
	}
	return size * usual
}

// tailWriter keeps the last four bytes.
type tailWriter struct {
	b [4]byte
	n int
}

func (t *tailWriter) Write(p []byte) (int, error) {
	if len(p) >= 4 {
		t.n = copy(t.b[:], p[len(p)-4:])
		return len(p), nil
	}
	for _, c := range p {
		copy(t.b[:], t.b[1:])
		t.b[3] = c
		t.n = min(t.n+1, 4)
	}
	return len(p), nil
}

func (t *tailWriter) bytes() []byte { return t.b[4-t.n:] }
