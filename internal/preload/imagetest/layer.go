package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how a layer or an archive is compressed.
type Compression string

// The compressions.
const (
	Plain Compression = ""
	Gzip  Compression = "gz"
	Zstd  Compression = "zst"
)

// LayerSpec says what a layer holds. Two equal specs give the same layer: that is how images share one.
type LayerSpec struct {
	Seed        string      // name of the pseudo-random content
	Size        int64       // bytes of the pseudo-random file; 0: none
	Random      int         // percent of Size that does not compress; 0 is all zeros, 100 is random
	Shared      bool        // the same bytes for every platform
	Compression Compression // as it is in the manifest
	Files       []File
}

// File is one file or symlink of a layer.
type File struct {
	Path    string // "bin/busybox"
	Mode    fs.FileMode
	Content []byte
	Link    string // target; makes it a symlink
}

// build gives the layer's tar, the blob as it is in the manifest, and the blob's media type.
func (l LayerSpec) build(platform string) (raw, blob []byte, mediaType string, err error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	files := l.Files
	if l.Size > 0 {
		files = append(files[:len(files):len(files)], File{
			Path: "data/" + l.Seed, Mode: 0o644, Content: l.content(platform),
		})
	}
	for _, f := range files {
		if err := writeLayerFile(tw, f); err != nil {
			return nil, nil, "", fmt.Errorf("layer file %s: %w", f.Path, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, nil, "", fmt.Errorf("close layer: %w", err)
	}
	raw = b.Bytes()
	blob, err = Compress(raw, l.Compression)
	return raw, blob, layerMediaType(l.Compression), err
}

func writeLayerFile(tw *tar.Writer, f File) error {
	h := &tar.Header{
		Name: f.Path, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Content)),
		Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	}
	if f.Link != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if f.Link != "" {
		return nil
	}
	_, err := tw.Write(f.Content)
	return err
}

// content is Random percent noise and zeros, alternating every 4 KiB so that no compressor gets lucky.
func (l LayerSpec) content(platform string) []byte {
	if l.Shared {
		platform = ""
	}
	const block = 4096
	rng := rand.NewChaCha8(seed(l.Seed + "\x00" + platform))
	out := make([]byte, l.Size)
	for i := int64(0); i < l.Size; i += block {
		chunk := out[i:min(i+block, l.Size)]
		_, _ = rng.Read(chunk[:len(chunk)*min(max(l.Random, 0), 100)/100])
	}
	return out
}

func seed(s string) (out [32]byte) {
	h := fnv.New64a()
	for i := range 4 {
		_, _ = h.Write([]byte(s))
		binary.LittleEndian.PutUint64(out[i*8:], h.Sum64())
	}
	return out
}

// Compress packs b; Plain gives b itself.
func Compress(b []byte, c Compression) ([]byte, error) {
	var out bytes.Buffer
	w, err := compressor(&out, c, 0)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return out.Bytes(), nil
}

func layerMediaType(c Compression) string {
	switch c {
	case Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case Zstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}
