// Package clients has real clients pull through the real mirror from a real registry: every kind of image, by
// tag and by digest, and all of it again once the registry is gone.
package clients

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/edgeprep"
	"github.com/edgeprep/edgeprep/test/registry"
)

func TestMain(m *testing.M) { os.Exit(edgeprep.Main(m)) }

// image is something that is pulled, by the name that a pod has for it.
type image struct {
	kind      string
	name      string // registry/repository
	tag       string
	digest    digest.Digest
	mediaType string
	config    digest.Digest // of linux/amd64
}

// inPath is a reference as a client writes it that puts the registry into the path.
func inPath(ref string) string { return strings.Replace(ref, portHost, pathHost, 1) }

func (i image) byTag() string    { return i.name + ":" + i.tag }
func (i image) byDigest() string { return i.name + "@" + i.digest.String() }
func (i image) refs() []string   { return []string{i.byTag(), i.byDigest()} }
func (i image) multi() bool {
	return strings.Contains(i.mediaType, "index") || strings.Contains(i.mediaType, "list")
}

// portHost is a registry with a port in its name, and how it is written in a path.
const (
	portHost = "registry.example:5000"
	pathHost = "registry.example__5000"
)

// fill puts images of every kind into the registry: as a registry with a port, with one tag in mixed case, and as
// Docker Hub, whose names lack library/.
func fill(t *testing.T, r *registry.Registry) []image {
	t.Helper()
	var out []image
	for _, p := range r.PushKinds("team/kinds") {
		if p.Tag != "" {
			out = append(out, image{p.Kind, portHost + "/team/kinds", p.Tag, p.Digest, p.MediaType, p.Blobs[0]})
		}
	}
	set, err := imagetest.Build(imagetest.ImageSpec{ // large enough to be fetched in chunks
		Names: []string{"docker.io/library/edge-big:1.0"}, Platforms: []string{"linux/amd64", "linux/arm64"},
		Layers: []imagetest.LayerSpec{{Seed: "big", Size: 6 << 20, Random: 50, Compression: imagetest.Gzip, Shared: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.PushSet(set)
	big := set.Images[0]
	return append(out, image{"docker hub", "docker.io/library/edge-big", "1.0", digest.Digest(big.Digest), big.MediaType, digest.Digest(big.Platforms[0].Config)})
}

// site is a registry and a mirror that pulls from it under both names.
type site struct {
	origin *registry.Registry
	mirror *edgeprep.Mirror
	images []image
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{origin: registry.Start(t)}
	s.images = fill(t, s.origin)
	s.mirror = edgeprep.Serve(t, edgeprep.Options{
		Upstreams: map[string]string{portHost: s.origin.URL, "docker.io": s.origin.URL},
		Args:      []string{"--access-log"},
	})
	return s
}

// twice runs f while the registry is there, and again when it is gone.
func (s *site) twice(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Run("connected", f)
	s.origin.Stop()
	t.Run("upstream gone", f)
}

// lack skips a test that misses a client, or fails it where all are required.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("EDGEPREP_REQUIRE_REAL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// need finds a client's program.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		lack(t, "needs "+program+": apt-get install "+program)
	}
}

// crane asks the mirror by its own name, with the registry in the path.
func TestCrane(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.twice(t, func(t *testing.T) {
		for _, i := range s.images {
			for _, ref := range i.refs() {
				if err := s.crane(i, s.mirror.Addr+"/"+inPath(ref)); err != nil {
					t.Errorf("%s %s: %v", i.kind, ref, err)
				}
			}
		}
		tags, err := crane.ListTags(s.mirror.Addr+"/"+pathHost+"/team/kinds", crane.Insecure)
		want := "Multi-1.0 docker docker-list stable v1 zstd"
		if err != nil || strings.Join(tags, " ") != want {
			t.Errorf("tags: %v, %v", tags, err)
		}
	})
}

// crane pulls every platform of an image and checks every digest on the way.
func (s *site) crane(i image, ref string) error {
	if d, err := crane.Digest(ref, crane.Insecure); err != nil || d != i.digest.String() {
		return fmt.Errorf("digest %s: %w", d, err)
	}
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	desc, err := remote.Get(parsed)
	if err != nil {
		return err
	}
	if string(desc.MediaType) != i.mediaType {
		return fmt.Errorf("type %s, not %s", desc.MediaType, i.mediaType)
	}
	img, err := crane.Pull(ref, crane.Insecure, crane.WithPlatform(&v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		return err
	}
	if c, err := img.ConfigName(); err != nil || c.String() != i.config.String() {
		return fmt.Errorf("config %s, not %s: %w", c, i.config, err)
	}
	if !i.multi() {
		return validate.Image(img)
	}
	idx, err := desc.ImageIndex()
	if err != nil {
		return err
	}
	if i.kind == "zstd" { // validate takes every compressed layer for gzip
		return readIndex(idx)
	}
	return validate.Index(idx)
}

// readIndex reads every layer of every platform; remote checks sizes and digests.
func readIndex(idx v1.ImageIndex) error {
	m, err := idx.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		img, err := idx.Image(d.Digest)
		if err != nil {
			return err
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			rc, err := l.Compressed()
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, rc)
			rc.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// registriesConf is what CRI-O, podman and skopeo read: the mirror as a path-style mirror of each registry, with
// the registry's own name out of reach.
func (s *site) registriesConf(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, host := range []string{"docker.io", portHost} {
		fmt.Fprintf(&b, "[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", host, s.mirror.Addr+"/"+inPath(host))
	}
	file := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// skopeo copies all platforms with their digests kept, by registries.conf as CRI-O has it.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	s := newSite(t)
	conf := s.registriesConf(t)
	s.twice(t, func(t *testing.T) {
		for _, i := range s.images {
			for _, ref := range i.refs() {
				dir := filepath.Join(t.TempDir(), "image")
				out, err := exec.CommandContext(t.Context(), "skopeo", "--insecure-policy", "--registries-conf", conf,
					"copy", "--all", "--preserve-digests", "docker://"+ref, "dir:"+dir).CombinedOutput()
				if err != nil {
					t.Errorf("%s %s: %v\n%s", i.kind, ref, err, out)
					continue
				}
				m, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
				if _, cerr := os.Stat(filepath.Join(dir, i.config.Encoded())); err != nil || cerr != nil || digest.FromBytes(m) != i.digest {
					t.Errorf("%s %s: %s, %v, %v", i.kind, ref, digest.FromBytes(m), err, cerr)
				}
			}
		}
	})
}

// podman pulls into a storage of its own.
func TestPodman(t *testing.T) {
	t.Parallel()
	need(t, "podman")
	if os.Geteuid() != 0 {
		lack(t, "needs root: podman's storage keeps owners of files")
	}
	s := newSite(t)
	conf := s.registriesConf(t)
	s.twice(t, func(t *testing.T) {
		dir, err := os.MkdirTemp("", "eppod-") // its sockets need a short path
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		podman := func(args ...string) (string, error) {
			cmd := exec.CommandContext(t.Context(), "podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run",
				"--tmpdir", dir + "/tmp", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"}, args...)...)
			cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+conf)
			out, err := cmd.CombinedOutput()
			return strings.TrimSpace(string(out)), err
		}
		for _, i := range s.images {
			refs := i.refs()
			if !i.multi() {
				refs = refs[:1] // vfs copies every layer of every pull
			}
			for _, ref := range refs {
				out, err := podman("pull", "--quiet", "--arch", "amd64", ref)
				if err != nil || !strings.HasSuffix(out, i.config.Encoded()) {
					t.Errorf("%s %s: %v\n%s", i.kind, ref, err, out)
				}
			}
		}
	})
}
