// Package selfimage makes the mirror's own container image from an edgeprep program: without Docker, without a
// network, the same bytes each time. A mirror that runs in Kubernetes cannot be pulled from itself, so its image
// travels as an archive.
package selfimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is in the image, and as whom it runs.
const (
	// UID is the user and group of the mirror in the image: a number, so that kubelet can see that it is not
	// root. 65532 is what distroless images use; systemd gives it to nobody (systemd: docs/UIDS-GIDS.md).
	UID = 65532
	// Program is where edgeprep is in the image.
	Program = "/usr/local/bin/edgeprep"
	// Cache is the directory that is served when nothing else is said.
	Cache = "/var/lib/edgeprep/mirror"
	// Repository is what the image is called when nothing else is said; no registry has it.
	Repository = "edgeprep.local/mirror"
	rootsFile  = "/etc/ssl/certs/ca-certificates.crt"
)

// maxProgram is more than any edgeprep has; it is held in memory.
const maxProgram = 256 << 20

// Options say what the image is made of.
type Options struct {
	Binary   string // path of a static edgeprep program
	Platform string // "linux/arm64"; empty: that of the program
	Name     string // reference; empty: Repository with a tag that names the program's content
	Roots    []byte // PEM of the certification authorities to trust; empty: none
}

// Image is an image in memory.
type Image struct {
	Name     string // "edgeprep.local/mirror:0123456789ab"
	Digest   string // of its manifest
	Platform string
	image    v1.Image
}

// Build makes the image.
func Build(ctx context.Context, o Options) (*Image, error) {
	program, err := read(o.Binary)
	if err != nil {
		return nil, err
	}
	info, err := inspect(o.Binary, program, o.Platform)
	if err != nil {
		return nil, err
	}
	out := &Image{Platform: info.platform}
	if out.Name, err = fullName(o.Name, program); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	layer, err := layerOf(program, o.Roots)
	if err != nil {
		return nil, fmt.Errorf("make the mirror's image: %w", err)
	}
	if out.image, err = assemble(layer, info); err != nil {
		return nil, fmt.Errorf("make the mirror's image: %w", err)
	}
	d, err := out.image.Digest()
	if err != nil {
		return nil, fmt.Errorf("make the mirror's image: %w", err)
	}
	out.Digest = d.String()
	return out, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the program for the mirror's image: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProgram+1))
	if err == nil && len(data) > maxProgram {
		err = fmt.Errorf("%s: larger than %d MiB", path, maxProgram>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("read the program for the mirror's image: %w", err)
	}
	return data, nil
}

// Tag names a program's content, so that another program never hides behind the same reference.
func Tag(sha256hex string) string { return sha256hex[:12] }

func fullName(name string, program []byte) (string, error) {
	if name == "" {
		sum := sha256.Sum256(program)
		return Repository + ":" + Tag(hex.EncodeToString(sum[:])), nil
	}
	n, err := reference.ParseNormalizedNamed(name)
	if err == nil {
		if _, digested := n.(reference.Digested); !digested {
			return reference.TagNameOnly(n).String(), nil
		}
		err = fmt.Errorf("it names a digest, which the image only has once it is made")
	}
	return "", problem("MER-083", "", fmt.Sprintf("%q cannot be the name of the image: %v", name, err), "", "--tag registry.example/edgeprep/mirror:1.0")
}

// layerOf is the image's only layer. No time, owner or order of this machine is in it.
func layerOf(program, roots []byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var err error
	put := func(name string, mode int64, uid int, content []byte) {
		h := &tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: mode, Uid: uid, Gid: uid, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
			Typeflag: tar.TypeReg, Size: int64(len(content))}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	for _, d := range []string{"/etc/", "/etc/edgeprep/", "/etc/ssl/", "/etc/ssl/certs/", "/usr/", "/usr/local/", "/usr/local/bin/", "/var/", "/var/lib/", "/var/lib/edgeprep/"} {
		put(d, 0o755, 0, nil)
	}
	put(Cache+"/", 0o755, UID, nil) // a volume that is made for it takes owner and mode from here
	put(Program, 0o755, 0, program)
	if len(roots) > 0 {
		put(rootsFile, 0o644, 0, roots)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

func assemble(layer v1.Layer, info program) (v1.Image, error) {
	arch, variant, _ := strings.Cut(strings.TrimPrefix(info.platform, "linux/"), "/")
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "edgeprep mirror image", Created: v1.Time{Time: time.Unix(0, 0).UTC()}}})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = "linux", arch, variant
	cfg.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cfg.Config = v1.Config{
		User: strconv.Itoa(UID) + ":" + strconv.Itoa(UID), WorkingDir: "/", Entrypoint: []string{Program},
		Cmd:          []string{"mirror", "serve", "--cache", Cache, "--listen", "0.0.0.0:5000"},
		Env:          []string{"PATH=/usr/local/bin", "SSL_CERT_FILE=" + rootsFile},
		ExposedPorts: map[string]struct{}{"5000/tcp": {}},
		Labels:       info.labels(),
	}
	return mutate.ConfigFile(img, cfg)
}
