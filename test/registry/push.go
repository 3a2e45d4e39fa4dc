package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// Media types of Docker's image format, schema 2.
const (
	TypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	TypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	typeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// PushBlob uploads a blob and returns its digest.
func (r *Registry) PushBlob(repository string, content []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(content)
	head := r.do(http.MethodHead, r.URL+"/v2/"+repository+"/blobs/"+d.String(), "", nil)
	if head.StatusCode == http.StatusOK {
		return d
	}
	resp := r.do(http.MethodPost, r.URL+"/v2/"+repository+"/blobs/uploads/", "", nil)
	at, err := resp.Location()
	if err != nil {
		r.t.Fatalf("push a blob to %s: %s: %v", repository, resp.Status, err)
	}
	q := at.Query()
	q.Set("digest", d.String())
	at.RawQuery = q.Encode()
	if resp = r.do(http.MethodPut, at.String(), "application/octet-stream", content); resp.StatusCode != http.StatusCreated {
		r.t.Fatalf("push blob %s to %s: %s", d, repository, resp.Status)
	}
	return d
}

// PushManifest uploads a manifest under a tag or, with an empty one, its digest only, which it returns.
func (r *Registry) PushManifest(repository, tag, mediaType string, content []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(content)
	if tag == "" {
		tag = d.String()
	}
	resp := r.do(http.MethodPut, r.URL+"/v2/"+repository+"/manifests/"+tag, mediaType, content)
	if resp.StatusCode != http.StatusCreated {
		r.t.Fatalf("push manifest %s:%s: %s", repository, tag, resp.Status)
	}
	return d
}

// Delete removes a manifest.
func (r *Registry) Delete(repository string, d digest.Digest) {
	r.t.Helper()
	if resp := r.do(http.MethodDelete, r.URL+"/v2/"+repository+"/manifests/"+d.String(), "", nil); resp.StatusCode != http.StatusAccepted {
		r.t.Fatalf("delete %s@%s: %s", repository, d, resp.Status)
	}
}

func (r *Registry) do(method, at, contentType string, body []byte) *http.Response {
	r.t.Helper()
	if u, err := url.Parse(at); err == nil && u.Host == "" {
		at = r.URL + at
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, at, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp
}

// PushSet uploads every image of a set under each of its names, without the names' registry:
// "docker.io/library/web:1" becomes "library/web:1" here.
func (r *Registry) PushSet(set *imagetest.Set) {
	r.t.Helper()
	for _, img := range set.Images {
		for _, n := range img.Names {
			_, rest, _ := strings.Cut(n, "/")
			repository, _, byDigest := strings.Cut(rest, "@")
			if byDigest {
				continue // it is there once a tag of its repository is
			}
			repository, tag, _ := strings.Cut(repository, ":")
			r.pushImage(repository, tag, set, img)
		}
	}
}

func (r *Registry) pushImage(repository, tag string, set *imagetest.Set, img imagetest.Image) {
	r.t.Helper()
	for _, p := range img.Platforms {
		for _, d := range append([]string{p.Config}, p.Layers...) {
			r.PushBlob(repository, set.Blob(d))
		}
		if p.Manifest != img.Digest {
			r.PushManifest(repository, "", ocispec.MediaTypeImageManifest, set.Blob(p.Manifest))
		}
	}
	r.PushManifest(repository, tag, img.MediaType, set.Blob(img.Digest))
}

// Pushed is what PushKinds put into a repository.
type Pushed struct {
	Kind      string // "single", "index", "docker", "docker-list", "zstd", "alias", "artifact"
	Tag       string
	Digest    digest.Digest
	MediaType string
	Blobs     []digest.Digest // configs and layers of all platforms
}

// PushKinds puts one image of every kind that a registry can hold into a repository: a single-platform OCI
// image, a multi-platform one with a second tag, docker's schema 2 as one and as a list, one with zstd layers,
// and an artifact whose subject is the first. A Mixed-Case tag is among the tags.
func (r *Registry) PushKinds(repository string) []Pushed {
	r.t.Helper()
	single := r.kind(repository, "single", "v1", imagetest.Gzip, "linux/amd64")
	index := r.kind(repository, "index", "Multi-1.0", imagetest.Gzip, "linux/amd64", "linux/arm64")
	alias := index
	alias.Kind, alias.Tag = "alias", "stable"
	r.PushManifest(repository, alias.Tag, index.MediaType, r.manifest(repository, index.Digest, index.MediaType))
	docker := r.pushDocker(repository, "docker", "linux/amd64")
	list := r.pushDocker(repository, "docker-list", "linux/amd64", "linux/arm64")
	zstd := r.kind(repository, "zstd", "zstd", imagetest.Zstd, "linux/amd64", "linux/arm64")
	return []Pushed{single, index, alias, docker, list, zstd, r.PushArtifact(repository, single, "application/vnd.example.sbom")}
}

func (r *Registry) kind(repository, kind, tag string, c imagetest.Compression, platforms ...string) Pushed {
	r.t.Helper()
	set, img := r.image(repository, kind, c, platforms)
	r.pushImage(repository, tag, set, img)
	return Pushed{Kind: kind, Tag: tag, Digest: digest.Digest(img.Digest), MediaType: img.MediaType, Blobs: blobsOf(img)}
}

func (r *Registry) image(repository, kind string, c imagetest.Compression, platforms []string) (*imagetest.Set, imagetest.Image) {
	r.t.Helper()
	set, err := imagetest.Build(imagetest.ImageSpec{
		Names: []string{"x.test/" + repository + ":" + kind}, Platforms: platforms, Cmd: []string{"/bin/none"},
		Layers: []imagetest.LayerSpec{
			{Seed: repository + " base", Size: 16 << 10, Random: 50, Compression: c, Shared: true},
			{Seed: repository + kind, Size: 96 << 10, Random: 50, Compression: c},
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return set, set.Images[0]
}

func blobsOf(img imagetest.Image) []digest.Digest {
	var out []digest.Digest
	for _, p := range img.Platforms {
		for _, d := range append([]string{p.Config}, p.Layers...) {
			out = append(out, digest.Digest(d))
		}
	}
	return out
}

// pushDocker makes an image with Docker's media types; several platforms make a list.
func (r *Registry) pushDocker(repository, kind string, platforms ...string) Pushed {
	r.t.Helper()
	set, img := r.image(repository, kind, imagetest.Gzip, platforms)
	out := Pushed{Kind: kind, Tag: kind, MediaType: TypeDockerManifest, Blobs: blobsOf(img)}
	list := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: TypeDockerList}
	var body []byte
	for _, p := range img.Platforms {
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: TypeDockerManifest,
			Config: r.blob(repository, typeDockerConfig, set.Blob(p.Config)),
		}
		for _, l := range p.Layers {
			m.Layers = append(m.Layers, r.blob(repository, typeDockerLayer, set.Blob(l)))
		}
		body = r.encode(m)
		os, arch, _ := strings.Cut(p.Platform, "/")
		list.Manifests = append(list.Manifests, ocispec.Descriptor{
			MediaType: TypeDockerManifest, Digest: r.PushManifest(repository, "", TypeDockerManifest, body), Size: int64(len(body)),
			Platform: &ocispec.Platform{OS: os, Architecture: arch},
		})
	}
	if len(platforms) > 1 {
		body, out.MediaType = r.encode(list), TypeDockerList
	}
	out.Digest = r.PushManifest(repository, out.Tag, out.MediaType, body)
	return out
}

// PushArtifact puts a manifest whose subject is another into a repository, by digest only.
func (r *Registry) PushArtifact(repository string, subject Pushed, artifactType string) Pushed {
	r.t.Helper()
	content := []byte(artifactType + " of " + subject.Digest.String())
	body := r.encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config:      r.blob(repository, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:      []ocispec.Descriptor{r.blob(repository, "text/plain", content)},
		Subject:     &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: int64(len(r.manifest(repository, subject.Digest, subject.MediaType)))},
		Annotations: map[string]string{"org.example.of": subject.Tag},
	})
	return Pushed{Kind: "artifact", MediaType: ocispec.MediaTypeImageManifest,
		Digest: r.PushManifest(repository, "", ocispec.MediaTypeImageManifest, body),
		Blobs:  []digest.Digest{digest.FromBytes([]byte("{}")), digest.FromBytes(content)}}
}

func (r *Registry) blob(repository, mediaType string, b []byte) ocispec.Descriptor {
	r.t.Helper()
	return ocispec.Descriptor{MediaType: mediaType, Digest: r.PushBlob(repository, b), Size: int64(len(b))}
}

func (r *Registry) encode(v any) []byte {
	r.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// manifest reads a manifest back.
func (r *Registry) manifest(repository string, d digest.Digest, mediaType string) []byte {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.URL+"/v2/"+repository+"/manifests/"+d.String(), http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Accept", mediaType)
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		r.t.Fatalf("read %s@%s: %s, %v", repository, d, resp.Status, err)
	}
	return b
}
