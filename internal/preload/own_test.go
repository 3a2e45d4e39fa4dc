package preload

import (
	"slices"
	"testing"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// An archive of edgeprep's own goes into containerd whatever the site preloads, and never into the mirror's cache.
func TestOwnArchivesGoIntoContainerdAlone(t *testing.T) {
	t.Parallel()
	image := func(name string) Archive {
		return Archive{Path: "/a/" + name + ".tar", SHA256: name, Images: []Image{{Name: "h.example/" + name + ":1", Digest: "sha256:" + name,
			Platforms: []Platform{{Platform: "linux/amd64", Manifest: "sha256:" + name}}}}}
	}
	n := distro.Node{Name: "X", Platform: "linux/amd64", Preload: distro.Preload{Method: "import"}, Runtime: distro.Runtime{Endpoint: host.Endpoint{Socket: "/s"}}}
	for _, preload := range []bool{true, false} {
		r, err := Desired(n, []Archive{image("site")}, nil, Options{Preload: preload, MirrorCache: "/c", Own: []Archive{image("own")}, OwnAfter: []string{"archive:own"}})
		if err != nil {
			t.Fatal(err)
		}
		sets := map[string][]string{}
		for _, x := range r.Resources {
			for _, a := range x.ImageSet.Archives {
				sets[x.ID] = append(sets[x.ID], a.Path)
			}
			if x.ImageSet.Target == resource.TargetRuntime && !slices.Equal(x.After, []string{"archive:own"}) {
				t.Errorf("%+v", x)
			}
		}
		want := []string{"/a/own.tar"}
		if preload {
			want = []string{"/a/site.tar", "/a/own.tar"}
		}
		if !slices.Equal(sets[RuntimeSetID], want) || !slices.Equal(sets[CacheSetID], []string{"/a/site.tar"}) {
			t.Errorf("preload %v: %v", preload, sets)
		}
	}
}
