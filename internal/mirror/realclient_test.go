package mirror

import (
	"bytes"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// go-containerregistry, the library of crane, asks the mirror by its own name: path style, no ns.
func TestCrane(t *testing.T) {
	t.Parallel()
	set, err := imagetest.Standard(imagetest.Options{Compression: imagetest.Gzip}) // validate takes no other
	must(t, err)
	s := open(t, tempDir(t))
	load(t, s, sourceOf(set))
	srv, _ := serveStore(t, s)
	addr := strings.TrimPrefix(srv.URL, "http://")
	for n, want := range set.Digests() {
		ref, err := name.ParseReference(addr+"/"+n, name.Insecure)
		must(t, err)
		d, err := remote.Get(ref)
		if err != nil || d.Digest.String() != want {
			t.Errorf("%s: %v %v", n, d, err)
			continue
		}
		idx, err := d.ImageIndex()
		must(t, err)
		if err := validate.Index(idx); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"}))
		must(t, err)
		if err := validate.Image(img); err != nil {
			t.Errorf("%s arm64: %v", n, err)
		}
	}
	repo, err := name.NewRepository(addr+"/docker.io/library/edge-web", name.Insecure)
	must(t, err)
	if tags, err := remote.List(repo, remote.WithPageSize(1)); err != nil || strings.Join(tags, " ") != "1.0 stable" {
		t.Errorf("%v %v", tags, err)
	}
}

// containerd's own resolver, configured by a hosts.toml of the form that edgeprep writes: every request has ns.
func TestContainerdResolver(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	srv, misses := serveStore(t, s)
	certs := t.TempDir()
	for _, h := range []string{"docker.io", "quay.io", "ghcr.io", "registry.k8s.io", "_default"} {
		must(t, os.Mkdir(filepath.Join(certs, h), 0o755))
		must(t, os.WriteFile(filepath.Join(certs, h, "hosts.toml"), []byte(
			"server = \""+srv.URL+"\"\n[host.\""+srv.URL+"\"]\ncapabilities = [\"pull\", \"resolve\"]\n"), 0o644))
	}
	hosts := config.ConfigureHosts(t.Context(), config.HostOptions{HostDir: config.HostDirFromRoot(certs)})
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
	for n, want := range set.Digests() {
		got, desc, err := resolver.Resolve(t.Context(), n)
		if err != nil || desc.Digest.String() != want || !strings.HasPrefix(got, strings.SplitN(n, "@", 2)[0]) {
			t.Errorf("%s: %s %v %v", n, got, desc, err)
			continue
		}
		f, err := resolver.Fetcher(t.Context(), n)
		must(t, err)
		img, _ := set.Image(n)
		for _, d := range contentOfImage(set, img, desc) {
			rc, err := f.Fetch(t.Context(), d)
			if err != nil {
				t.Errorf("%s %s: %v", n, d.Digest, err)
				continue
			}
			b, err := io.ReadAll(rc)
			rc.Close()
			if err != nil || !bytes.Equal(b, set.Blob(d.Digest.String())) {
				t.Errorf("%s %s: %d bytes %v", n, d.Digest, len(b), err)
			}
		}
	}
	if m := misses.List(""); len(m) > 0 {
		t.Errorf("misses: %+v", m)
	}
	if _, _, err := resolver.Resolve(t.Context(), "up.test/"+ProbeRepository+"/abc:x"); err == nil {
		t.Error("the probe was found")
	}
	if m := misses.List(ProbeRepository + "/abc"); len(m) == 0 || m[0].NS != "up.test" || m[0].Reference != "x" || !strings.HasPrefix(m[0].Agent, "containerd") {
		t.Errorf("probe: %+v", m)
	}
}

func contentOfImage(set *imagetest.Set, img imagetest.Image, root ocispec.Descriptor) []ocispec.Descriptor {
	out := []ocispec.Descriptor{root}
	add := func(d, mt string) {
		out = append(out, ocispec.Descriptor{Digest: digest.Digest(d), Size: int64(len(set.Blob(d))), MediaType: mt})
	}
	for _, p := range img.Platforms {
		add(p.Manifest, ocispec.MediaTypeImageManifest)
		add(p.Config, ocispec.MediaTypeImageConfig)
		for _, l := range p.Layers {
			add(l, ocispec.MediaTypeImageLayer)
		}
	}
	return out
}

// A blob that is cut off by its failed verification is fetched again, with Range, and still not taken.
func TestContainerdRejectsACutBlob(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 6<<20)
	s := open(t, tempDir(t))
	load(t, s, sourceOf(set))
	flip(t, file(s, layer), 1000)
	srv := httptest.NewServer(NewHandler(s, HandlerOptions{}))
	defer srv.Close()
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
	ref := strings.TrimPrefix(srv.URL, "http://") + "/registry.example:5000/big:1"
	f, err := resolver.Fetcher(t.Context(), ref)
	must(t, err)
	rc, err := f.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.Digest(layer), Size: int64(len(set.Blob(layer))), MediaType: ocispec.MediaTypeImageLayer})
	if err != nil {
		return // already known to be bad
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); err == nil {
		t.Errorf("%d bytes were taken", len(b))
	}
}
