package ctr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

// memStore is a content store's reading and labelling side in memory.
type memStore struct {
	content.Manager
	blobs  map[digest.Digest][]byte
	labels map[digest.Digest]map[string]string
}

type memReader struct{ *strings.Reader }

func (memReader) Close() error { return nil }

func (s *memStore) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", d.Digest, errdefs.ErrNotFound)
	}
	return memReader{strings.NewReader(string(b))}, nil
}

func (s *memStore) Update(_ context.Context, info content.Info, _ ...string) (content.Info, error) {
	s.labels[info.Digest] = info.Labels
	return info, nil
}

func put(s *memStore, mediaType string, v any) ocispec.Descriptor {
	b, _ := json.Marshal(v)
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	s.blobs[d.Digest] = b
	return d
}

func on(d ocispec.Descriptor, arch, variant string) ocispec.Descriptor {
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
	return d
}

func manifest(s *memStore, seed, os, arch string) ocispec.Descriptor {
	layer := put(s, ocispec.MediaTypeImageLayerGzip, "layer "+seed)
	config := put(s, ocispec.MediaTypeImageConfig, map[string]any{
		"os": os, "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": []digest.Digest{layer.Digest}}, "seed": seed,
	})
	return put(s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	})
}

func index(s *memStore, ms ...ocispec.Descriptor) ocispec.Descriptor {
	return put(s, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: ms})
}

// The manifest that is brought in must be the one that containerd will look for.
func TestResolveAgreesWithContainerd(t *testing.T) {
	t.Parallel()
	s := &memStore{blobs: map[digest.Digest][]byte{}}
	amd64, i386 := manifest(s, "amd64", "linux", "amd64"), manifest(s, "386", "linux", "386")
	v6, v7, arm64 := manifest(s, "v6", "linux", "arm"), manifest(s, "v7", "linux", "arm"), manifest(s, "arm64", "linux", "arm64")
	attestation := on(manifest(s, "attestation", "unknown", "unknown"), "unknown", "")
	attestation.Platform.OS = "unknown"
	targets := map[string]ocispec.Descriptor{
		"plain":       index(s, on(i386, "386", ""), on(amd64, "amd64", "")),
		"only 386":    index(s, on(i386, "386", "")),
		"arm":         index(s, on(v6, "arm", "v6"), on(arm64, "arm64", "v8"), on(v7, "arm", "v7")),
		"v6 only":     index(s, on(v6, "arm", "v6"), attestation),
		"attestation": index(s, attestation, on(amd64, "amd64", "")),
		"unsaid":      index(s, amd64),
		"mixed":       index(s, i386, on(amd64, "amd64", "")),
		"lone":        amd64,
		"empty":       index(s),
		"nested":      index(s, index(s, on(amd64, "amd64", ""))),
	}
	for name, target := range targets {
		for _, p := range []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/386"} {
			m, err := matcher(p)
			if err != nil {
				t.Fatal(err)
			}
			want, wantErr := images.Manifest(t.Context(), s, target, m)
			img := host.Image{Name: name, Target: hostDescriptor(target)}
			tree, err := newMetadata(s, nil).resolve(t.Context(), img, m)
			if name == "lone" && p != "linux/amd64" && p != "linux/386" {
				wantErr = errNoPlatform // containerd takes a lone manifest for any platform; it could not run
			}
			if name == "lone" && p == "linux/386" {
				wantErr = errNoPlatform
			}
			if (err == nil) != (wantErr == nil) {
				t.Errorf("%s for %s: %v, containerd says %v", name, p, err, wantErr)
				continue
			}
			if err == nil {
				if d := cmp.Diff(want.Config.Digest, tree.config.Digest); d != "" {
					t.Errorf("%s for %s (-containerd +ours):\n%s", name, p, d)
				}
			}
		}
	}
}

// The references against collection are containerd's own.
func TestReferencesAgreeWithContainerd(t *testing.T) {
	t.Parallel()
	s := &memStore{blobs: map[digest.Digest][]byte{}, labels: map[digest.Digest]map[string]string{}}
	target := index(s, on(manifest(s, "a", "linux", "amd64"), "amd64", ""), on(manifest(s, "b", "linux", "arm64"), "arm64", ""))
	m, err := matcher("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := newMetadata(s, nil).resolve(t.Context(), host.Image{Target: hostDescriptor(target)}, m)
	if err != nil {
		t.Fatal(err)
	}
	handler := images.SetChildrenLabels(s, images.ChildrenHandler(s))
	if err := images.Walk(t.Context(), images.FilterPlatforms(handler, m), target); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s.labels, (&importer{}).references(tree)); d != "" {
		t.Errorf("(-containerd +ours):\n%s", d)
	}
}

// What no image is, and what no node should read into memory, is refused.
func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	s := &memStore{blobs: map[digest.Digest][]byte{}}
	deep := on(manifest(s, "deep", "linux", "amd64"), "amd64", "")
	for range maxNesting + 2 {
		deep = index(s, deep)
	}
	huge := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("huge"), Size: 10}
	s.blobs[huge.Digest] = make([]byte, maxMetadata+1)
	badChild := put(s, ocispec.MediaTypeImageManifest, json.RawMessage(
		`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:../../etc/passwd","size":1}}`))
	for name, target := range map[string]ocispec.Descriptor{
		"nested too deep": deep,
		"huge":            huge,
		"bad child":       badChild,
		"no image":        put(s, ocispec.MediaTypeImageLayer, "x"),
		"no JSON":         {MediaType: ocispec.MediaTypeImageIndex, Digest: put(s, "", "x").Digest},
		"bad digest":      {MediaType: ocispec.MediaTypeImageIndex, Digest: "sha256:abc"},
		"absent":          {MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("absent")},
	} {
		m, err := matcher("linux/amd64")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newMetadata(s, nil).resolve(t.Context(), host.Image{Target: hostDescriptor(target)}, m); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// Metadata of a source that can only be read in order costs one pass, which ends at the last manifest.
func TestPrefetchStopsEarly(t *testing.T) {
	t.Parallel()
	m := hosttest.MakeImage(hosttest.ImageSpec{Name: "a", Platforms: []string{"linux/amd64", "linux/arm64"}})
	src := hosttest.NewSource(m)
	src.Sequential = true
	var read []string
	src.OnBlob = func(d host.Descriptor) error {
		read = append(read, d.Digest)
		return nil
	}
	match, err := matcher("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	meta := newMetadata(&memStore{}, src)
	for range 2 {
		if _, err := meta.resolve(t.Context(), m.Image, match); err != nil {
			t.Fatal(err)
		}
	}
	if len(read) != 5 { // the index, two manifests, two configs, each once
		t.Errorf("%d blobs read: %v", len(read), read)
	}
}

func TestAlive(t *testing.T) {
	t.Parallel()
	if !alive(process()) {
		t.Errorf("this process, %q, does not live", process())
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	owner := describe(cmd.Process.Pid) // a zombie at most, and still there: it is not waited for
	if owner == "" || !alive(owner) {
		t.Errorf("the child, %q, does not live", owner)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	boot, _, _ := strings.Cut(process(), "/")
	for _, dead := range []string{
		owner, "", "x", "a/b/c", boot + "/" + fmt.Sprint(os.Getpid()) + "/1", "other-boot/" + strings.SplitN(process(), "/", 2)[1],
	} {
		if alive(dead) {
			t.Errorf("%q lives", dead)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	make := func(digests ...string) (out []*tree) {
		for i, d := range digests {
			out = append(out, &tree{image: host.Image{Name: fmt.Sprint(i), Target: host.Descriptor{Digest: d}}})
		}
		return out
	}
	got := lines(make("a", "b", "a", "c"), 2)
	var names [][]string
	for _, l := range got {
		var n []string
		for _, t := range l {
			n = append(n, t.image.Name)
		}
		names = append(names, n)
	}
	if d := cmp.Diff([][]string{{"0", "2", "3"}, {"1"}}, names); d != "" {
		t.Error(d)
	}
	if got := lines(make("a"), 2); len(got) != 1 {
		t.Errorf("%d lines for one image", len(got))
	}
}

// A finding keeps its cause, so that callers can ask for it.
func TestFindingKeepsCause(t *testing.T) {
	t.Parallel()
	im := &importer{r: &Runtime{}, opts: host.ImportOptions{Platform: "linux/amd64"}}
	cause := &missingError{ocispec.Descriptor{Digest: "sha256:x"}}
	err := im.explain(t.Context(), "a", fmt.Errorf("wrapped: %w", cause))
	var got *missingError
	if !errors.As(err, &got) || got != cause {
		t.Errorf("%v has lost its cause", err)
	}
	if again := im.explain(t.Context(), "b", err); !errors.Is(again, err) || again.Error() != err.Error() {
		t.Errorf("explained twice: %v", again)
	}
}
