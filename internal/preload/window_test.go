package preload

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// FuzzWindow holds the scanner against the decoder that k3s uses, with its limit: a file that it refuses for
// its window must be above it here, and one that it reads must not be.
func FuzzWindow(f *testing.F) {
	const limit = 32 << 20
	for _, window := range []int{1 << 10, 8 << 20, 64 << 20} {
		f.Add(zstdFrame(f, bytes.Repeat([]byte("edge"), 100_000), window), 3)
	}
	f.Add([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00"), 1)
	f.Add([]byte("\x28\xb5\x2f\xfd\xe0\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00"), 1) // single segment of 4 GiB
	f.Fuzz(func(t *testing.T, b []byte, split int) {
		if detect(b) != Zstd {
			return
		}
		w, pieces := newWindowScanner(), newWindowScanner()
		_, _ = w.Write(b)
		for rest := b; len(rest) > 0; {
			n := min(max(split, 1), len(rest))
			_, _ = pieces.Write(rest[:n])
			rest = rest[n:]
		}
		if w.window != pieces.window || w.broken != pieces.broken {
			t.Fatalf("in pieces of %d: %d %v, at once %d %v", split, pieces.window, pieces.broken, w.window, w.broken)
		}
		// The same error stands for blocks that are too large, so a decoder with more room has to agree that
		// it is the window.
		theirs, roomy := decodes(b, limit), decodes(b, maxWindow)
		switch {
		case theirs && w.window > limit:
			t.Errorf("window %d, but the decoder reads it", w.window)
		case !theirs && roomy && w.window <= limit:
			t.Errorf("window %d, but the decoder refuses it", w.window)
		}
	})
}

// decodes uses klauspost's decoder as rancher/wharfie does (pkg/tarfile).
func decodes(b []byte, limit uint64) bool {
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return false
	}
	defer z.Close()
	_, err = io.Copy(io.Discard, z)
	return err == nil
}

func zstdFrame(t testing.TB, b []byte, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
