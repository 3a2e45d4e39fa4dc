package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
)

// repository and tag of the image that all servers serve. Docker Hub's names are the ones that need no
// parameter in the request, so that one path does for every server.
const (
	repository = "library/app"
	tag        = "1"
)

// file is content that is served: a blob or a manifest.
type file struct {
	digest digest.Digest
	size   int64
	path   string // where its bytes are
}

func (f file) hex() string { return f.digest.Encoded() }

// image is what the servers serve.
type image struct {
	manifest file
	blobs    []file // the config, then the layers, the largest first
}

func (i *image) size() (n int64) {
	for _, b := range i.blobs {
		n += b.size
	}
	return n
}

// makeImage writes an image of random layers into dir, the same for the same sizes.
func makeImage(dir string, sizes []int64) (*image, error) {
	img := &image{}
	config, err := put(dir, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptor(config, ocispec.MediaTypeImageConfig)}
	img.blobs = append(img.blobs, config)
	for n, size := range sizes {
		layer, err := putRandom(dir, uint64(n), size) //nolint:gosec // a seed
		if err != nil {
			return nil, err
		}
		img.blobs = append(img.blobs, layer)
		m.Layers = append(m.Layers, descriptor(layer, ocispec.MediaTypeImageLayer))
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	img.manifest, err = put(dir, b)
	return img, err
}

func descriptor(f file, mediaType string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: f.digest, Size: f.size}
}

func put(dir string, b []byte) (file, error) {
	f := file{digest: digest.FromBytes(b), size: int64(len(b))}
	f.path = filepath.Join(dir, f.hex())
	return f, os.WriteFile(f.path, b, 0o644)
}

func putRandom(dir string, seed uint64, size int64) (file, error) {
	tmp := filepath.Join(dir, fmt.Sprint("layer-", seed))
	out, err := os.Create(tmp)
	if err != nil {
		return file{}, err
	}
	defer out.Close()
	var key [32]byte
	key[0] = byte(seed)
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(out, h), rand.NewChaCha8(key), size); err != nil {
		return file{}, err
	}
	f := file{digest: digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil))), size: size}
	f.path = filepath.Join(dir, f.hex())
	return f, os.Rename(tmp, f.path)
}

// tree writes a server's files. Contents are hard links, so that all servers read the same pages.
type tree struct {
	root string
	err  error
}

func (t *tree) dir(rel string) string {
	p := filepath.Join(t.root, rel)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil && t.err == nil {
		t.err = err
	}
	return p
}

func (t *tree) link(f file, rel string) {
	if err := os.Link(f.path, t.dir(rel)); err != nil && !os.IsExist(err) && t.err == nil {
		t.err = err
	}
}

func (t *tree) write(rel, text string) {
	if err := os.WriteFile(t.dir(rel), []byte(text), 0o644); err != nil && t.err == nil {
		t.err = err
	}
}

// edgeprep writes an image into a cache of edgeprep: docs/cache.md.
func (t *tree) edgeprep(img *image, repository, tag string) {
	for _, b := range append(img.blobs, img.manifest) {
		t.link(b, "blobs/sha256/"+b.hex()[:2]+"/"+b.hex())
	}
	const record = `{"reference":"docker.io/%s","digest":"%s","mediaType":"` + ocispec.MediaTypeImageManifest + `","size":%d%s}` + "\n"
	m, at := img.manifest, "refs/docker.io/"+repository
	t.write(at+"/_tags/"+tag, fmt.Sprintf(record, repository+":"+tag, m.digest, m.size, `,"time":"2026-11-22T00:00:00Z"`))
	t.write(at+"/_digests/sha256/"+m.hex(), fmt.Sprintf(record, repository+"@"+m.digest.String(), m.digest, m.size, ""))
}

// distribution writes an image into the folder of a distribution registry: registry/storage/paths.go of its v3.
func (t *tree) distribution(img *image, repository, tag string) {
	const root = "docker/registry/v2/"
	at := root + "repositories/" + repository + "/"
	for _, b := range append(img.blobs, img.manifest) {
		t.link(b, root+"blobs/sha256/"+b.hex()[:2]+"/"+b.hex()+"/data")
	}
	for _, b := range img.blobs {
		t.write(at+"_layers/sha256/"+b.hex()+"/link", b.digest.String())
	}
	m := img.manifest
	t.write(at+"_manifests/revisions/sha256/"+m.hex()+"/link", m.digest.String())
	t.write(at+"_manifests/tags/"+tag+"/current/link", m.digest.String())
	t.write(at+"_manifests/tags/"+tag+"/index/sha256/"+m.hex()+"/link", m.digest.String())
}

// static writes an image as files whose paths are those of the requests.
func (t *tree) static(img *image) {
	for _, b := range img.blobs {
		t.link(b, blobPath(b)[1:])
	}
	t.link(img.manifest, manifestPath(tag)[1:])
	t.link(img.manifest, manifestPath(img.manifest.digest.String())[1:])
}

func blobPath(f file) string         { return "/v2/" + repository + "/blobs/" + f.digest.String() }
func manifestPath(ref string) string { return "/v2/" + repository + "/manifests/" + ref }
