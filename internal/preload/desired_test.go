package preload_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/resource"
)

func k3s() distro.Node {
	return distro.Node{
		ID: "k3s", Name: "K3s", Role: distro.RoleServer, Installed: true, Platform: "linux/amd64", Units: []string{"k3s.service"},
		Runtime: distro.Runtime{Endpoint: host.Endpoint{Socket: "/run/k3s/containerd/containerd.sock", Root: "/data/agent/containerd"}},
		Preload: distro.Preload{
			Method: "directory", Dir: "/data/agent/images", Stage: "/data/agent/stage",
			Extensions: []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.bz2", ".tbz"},
			MaxWindow:  32 << 20, Sentinel: "zzz-edgeprep-sentinel.txt", CacheFile: ".cache.json",
		},
	}
}

func kubeadm() distro.Node {
	return distro.Node{
		ID: "kubeadm", Name: "kubeadm", Installed: true, Platform: "linux/amd64", Preload: distro.Preload{Method: "import"},
		Runtime: distro.Runtime{Endpoint: host.Endpoint{
			Socket: "/run/containerd/containerd.sock", Namespace: "k8s.io", Root: "/var/lib/containerd"}},
	}
}

// oneImage is an inspected archive of one image for linux/amd64.
func oneImage(path string, image string) preload.Archive {
	return preload.Archive{
		Path: path, Size: 1000, SHA256: fmt.Sprintf("%x", path), Format: preload.OCIArchive,
		Images: []preload.Image{{Name: image, Digest: "sha256:" + image, Platforms: []preload.Platform{
			{Platform: "linux/amd64", Manifest: "sha256:m", Config: "sha256:c" + path}}}},
		Sizes: []preload.Sizes{{Platform: "linux/amd64", Content: 900, Unpacked: 2000}, {Platform: "linux/arm64", Content: 70}},
	}
}

func desired(t *testing.T, n distro.Node, as []preload.Archive, o preload.Options) preload.Result {
	t.Helper()
	r, err := preload.Desired(n, as, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dump is a result in lines: id, and what it comes after.
func dump(r preload.Result) []string {
	var out []string
	for _, x := range r.Resources {
		line := x.ID
		if len(x.After) > 0 {
			line += " < " + strings.Join(x.After, " ")
		}
		out = append(out, line)
	}
	return out
}

func TestDesiredDirectory(t *testing.T) {
	t.Parallel()
	n := k3s()
	n.Gates.ImportCache = true
	as := []preload.Archive{oneImage("/srv/Web App.tar", "a.example/web:1"), oneImage("/srv/db.tzst", "a.example/db:1")}
	as[1].Compression = preload.Zstd
	got := desired(t, n, as, preload.Options{Preload: true, Consume: true})
	want := []string{
		"dir:/data/agent",
		"dir:/data/agent/images < dir:/data/agent",
		"file:/data/agent/images/.cache.json < dir:/data/agent/images",
		"archive:/data/agent/images/web-app.tar < dir:/data/agent/images file:/data/agent/images/.cache.json",
		"archive:/data/agent/images/db.tzst < dir:/data/agent/images file:/data/agent/images/.cache.json",
		"file:/data/agent/images/zzz-edgeprep-sentinel.txt < archive:/data/agent/images/web-app.tar archive:/data/agent/images/db.tzst",
	}
	if d := cmp.Diff(want, dump(got)); d != "" {
		t.Error(d)
	}
	a := got.Resources[3].Archive
	if d := cmp.Diff(&resource.Archive{Source: "/srv/Web App.tar", Path: "/data/agent/images/web-app.tar", Size: 1000,
		SHA256: as[0].SHA256, Mode: 0o644, Stage: "/data/agent/stage", Consume: true, Images: []string{"a.example/web:1"}}, a); d != "" {
		t.Error(d)
	}
	space := []preload.Space{
		{Path: "/data/agent/images", Bytes: 2000, What: "archives"},
		{Path: "/data/agent/containerd", Bytes: 1800, What: "content"},
		{Path: "/data/agent/containerd", Bytes: 4000, What: "unpacked"},
	}
	if d := cmp.Diff(space, got.Space); d != "" {
		t.Error(d)
	}
}

func TestDesiredRestart(t *testing.T) {
	t.Parallel()
	n := k3s()
	n.Preload.Restart = true
	got := desired(t, n, []preload.Archive{oneImage("/srv/a.tar", "a.example/a:1")}, preload.Options{Preload: true})
	u := got.Resources[len(got.Resources)-1].Unit
	want := &resource.Unit{Name: "k3s.service", Foreign: true, RestartOn: []string{"archive:/data/agent/images/a.tar"}}
	if d := cmp.Diff(want, u); d != "" {
		t.Error(d)
	}
}

func TestDesiredImport(t *testing.T) {
	t.Parallel()
	n := kubeadm()
	as := []preload.Archive{oneImage("/srv/a.tar", "a.example/a:1")}
	got := desired(t, n, as, preload.Options{
		Preload: true, MirrorCache: "/var/lib/edgeprep/mirror", MirrorOwner: "edgeprep", MirrorAfter: []string{"dir:x"},
	})
	names := []resource.ImageArchive{{Path: "/srv/a.tar", Size: 1000, SHA256: as[0].SHA256,
		Images: []resource.ImageName{{Name: "a.example/a:1", Digest: "sha256:a.example/a:1"}}}}
	want := []resource.Resource{
		{ID: "images:cache", Kind: resource.KindImageSet, After: []string{"dir:x"}, ImageSet: &resource.ImageSet{
			Target: resource.TargetCache, Cache: "/var/lib/edgeprep/mirror", Owner: "edgeprep", Archives: names, Platform: "linux/amd64"}},
		{ID: "images:runtime", Kind: resource.KindImageSet, ImageSet: &resource.ImageSet{
			Target: resource.TargetRuntime, Endpoint: n.Runtime.Endpoint, Archives: names, Platform: "linux/amd64", Unpack: true, Pin: true}},
	}
	for i := range got.Resources {
		got.Resources[i].Why = ""
	}
	if d := cmp.Diff(want, got.Resources); d != "" {
		t.Error(d)
	}
	if got.Space[0] != (preload.Space{Path: "/var/lib/edgeprep/mirror", Bytes: 970, What: "mirror"}) {
		t.Errorf("space: %+v", got.Space)
	}
}

func TestDesiredOnlyCache(t *testing.T) {
	t.Parallel()
	for _, n := range []distro.Node{k3s(), kubeadm()} {
		a := oneImage("/srv/a.tar", "a.example/a:1")
		chart := preload.Image{Name: "a.example/chart:1", Digest: "sha256:x", Platforms: []preload.Platform{{Manifest: "sha256:x"}}}
		a.Images = append(a.Images, chart)
		got := desired(t, n, []preload.Archive{a}, preload.Options{MirrorCache: "/cache"})
		if d := cmp.Diff([]string{"images:cache"}, dump(got)); d != "" {
			t.Error(d)
		}
	}
}

// The mirror's cache is filled before the archive is moved away.
func TestDesiredConsumeAfterCache(t *testing.T) {
	t.Parallel()
	got := desired(t, k3s(), []preload.Archive{oneImage("/srv/a.tar", "a.example/a:1")},
		preload.Options{Preload: true, Consume: true, MirrorCache: "/cache"})
	for _, r := range got.Resources {
		if r.Kind == resource.KindArchive && !slices.Contains(r.After, "images:cache") {
			t.Errorf("%s comes after %v", r.ID, r.After)
		}
	}
}

// The loader owns its cache file once it exists: no content but what is there is ever wanted.
func TestDesiredLoaderCache(t *testing.T) {
	t.Parallel()
	n := k3s()
	n.Gates.ImportCache = true
	n.Preload.Dir = filepath.Join(t.TempDir(), "images")
	o := preload.Options{Preload: true, FS: node(t)}
	as := []preload.Archive{oneImage("/srv/a.tar", "a.example/a:1")}
	cacheFile := func() resource.File {
		r := desired(t, n, as, o)
		i := slices.IndexFunc(r.Resources, func(r resource.Resource) bool { return strings.HasSuffix(r.ID, ".cache.json") })
		return *r.Resources[i].File
	}
	if f := cacheFile(); len(f.Content) > 0 || f.Base != "" || !f.Shared {
		t.Errorf("absent: %+v", f)
	}
	if err := os.Mkdir(n.Preload.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Preload.Dir, ".cache.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := cacheFile(); string(f.Content) != "{}" || f.Base == "" {
		t.Errorf("there: %+v", f)
	}
	n.Gates.ImportCache = false
	for _, r := range desired(t, n, as, o).Resources {
		if strings.HasSuffix(r.ID, ".cache.json") {
			t.Error("a cache file although this version loses its pins with one")
		}
	}
}

func TestDesiredNames(t *testing.T) {
	t.Parallel()
	tests := []struct {
		path string
		c    preload.Compression
		want string
	}{
		{"/s/a.tar", preload.Plain, "a.tar"},
		{"/s/IMAGES.TAR", preload.Plain, "images.tar"},
		{"/s/a", preload.Zstd, "a.tar.zst"},
		{"/s/a.tar", preload.Zstd, "a.tar.zst"},
		{"/s/a.tar.gz", preload.Plain, "a.tar"},
		{"/s/a.TGZ", preload.Gzip, "a.tgz"},
		{"/s/a.tgz", preload.Zstd, "a.tar.zst"},
		{"/s/a.tbz2", preload.Bzip2, "a.tar.bz2"},
		{"/s/.hidden.tar", preload.Plain, "hidden.tar"},
		{"/s/zzzz.tar", preload.Plain, "edgeprep-zzzz.tar"},
		{"/s/ ä.tar", preload.Plain, "images.tar"},
		{"/s/v1.2.3", preload.Plain, "v1.2.3.tar"},
		{"/s/" + strings.Repeat("x", 250) + ".tar", preload.Plain, strings.Repeat("x", 200) + ".tar"},
	}
	for _, tt := range tests {
		a := oneImage(tt.path, "a.example/a:1")
		a.Compression = tt.c
		got := desired(t, k3s(), []preload.Archive{a}, preload.Options{Preload: true})
		want := "archive:/data/agent/images/" + tt.want
		if !slices.Contains(got.IDs(), want) {
			t.Errorf("%s (%s): %v, want %s", tt.path, tt.c, got.IDs(), want)
		}
	}
}

func TestDesiredSameNames(t *testing.T) {
	t.Parallel()
	as := []preload.Archive{
		oneImage("/x/a.tar", "a.example/1:1"), oneImage("/y/a.tar", "a.example/2:1"), oneImage("/z/A.tar", "a.example/3:1"),
	}
	as = append(as, as[0]) // and one that is there twice
	var placed []string
	for _, r := range desired(t, k3s(), as, preload.Options{Preload: true}).Resources {
		if r.Archive != nil {
			placed = append(placed, r.Archive.Source+" "+filepath.Base(r.Archive.Path))
		}
	}
	want := []string{"/x/a.tar a.tar", "/y/a.tar a-" + as[1].SHA256[:8] + ".tar", "/z/A.tar a-" + as[2].SHA256[:8] + ".tar"}
	if d := cmp.Diff(want, placed); d != "" {
		t.Error(d)
	}
}

func TestDesiredInPlace(t *testing.T) {
	t.Parallel()
	got := desired(t, k3s(), []preload.Archive{oneImage("/data/agent/images/a.tar", "a.example/a:1")}, preload.Options{Preload: true})
	for _, r := range got.Resources {
		if r.Kind == resource.KindArchive || strings.Contains(r.ID, "sentinel") {
			t.Errorf("%s, though the archive is where it belongs", r.ID)
		}
	}
	if len(got.Notes) == 0 {
		t.Error("no note")
	}
}

func TestDesiredRefuses(t *testing.T) {
	t.Parallel()
	one := func(edit func(*preload.Archive)) []preload.Archive {
		a := oneImage("/srv/a.tar", "a.example/a:1")
		edit(&a)
		return []preload.Archive{a}
	}
	platform := func(p preload.Platform) func(*preload.Archive) {
		return func(a *preload.Archive) { a.Images[0].Platforms = []preload.Platform{p} }
	}
	external := k3s()
	external.Runtime.External = "docker"
	kubeOnly := kubeadm()
	tests := []struct {
		name string
		node distro.Node
		as   []preload.Archive
		want []string
	}{
		{"platform", k3s(), one(platform(preload.Platform{Platform: "linux/arm64"})), []string{"NOD-112"}},
		{"platform, import", kubeOnly, one(platform(preload.Platform{Platform: "linux/arm64"})), []string{"NOD-112"}},
		{"platform unknown", kubeOnly, one(platform(preload.Platform{})), []string{"NOD-112"}},
		{"incomplete", kubeOnly, one(platform(preload.Platform{Platform: "linux/amd64", Missing: []string{"sha256:x"}})), []string{"NOD-111"}},
		{"window", k3s(), one(func(a *preload.Archive) { a.Compression, a.Window = preload.Zstd, 32<<20+1 }), []string{"NOD-113"}},
		{"window, import", kubeOnly, one(func(a *preload.Archive) { a.Compression, a.Window = preload.Zstd, 64<<20 }), nil},
		{"directory", k3s(), one(func(a *preload.Archive) { a.Format = preload.OCILayout }), []string{"NOD-116"}},
		{"directory, import", kubeOnly, one(func(a *preload.Archive) { a.Format = preload.OCILayout }), nil},
		{"verbatim name", k3s(), one(func(a *preload.Archive) { a.Images[0].Stored = "a:1" }), []string{"NOD-118"}},
		{"verbatim name, import", kubeOnly, one(func(a *preload.Archive) { a.Images[0].Stored = "a:1" }), nil},
		{"verbatim name, docker", k3s(), one(func(a *preload.Archive) {
			a.Images[0].Stored, a.Format = "a:1", preload.DockerArchive
		}), nil},
		{"external", external, one(func(*preload.Archive) {}), []string{"NOD-117"}},
		{"in place by a wrong name", k3s(), []preload.Archive{oneImage("/data/agent/images/A.TAR", "a.example/a:1")}, []string{"NOD-116"}},
		{"all at once", k3s(), append(one(platform(preload.Platform{Platform: "linux/arm64"})), one(func(a *preload.Archive) {
			a.Path, a.Window, a.Format = "/srv/b", 64<<20, preload.OCILayout
		})...), []string{"NOD-112", "NOD-116"}},
	}
	for _, tt := range tests {
		_, err := preload.Desired(tt.node, tt.as, nil, preload.Options{Preload: true})
		var ids []string
		for _, d := range diag.Of(err) {
			ids = append(ids, d.ID)
			if d.Fix == "" || d.Where.File == "" {
				t.Errorf("%s: no fix or place: %+v", tt.name, d)
			}
		}
		var refused *diag.Refused
		if d := cmp.Diff(tt.want, ids); d != "" || (err != nil) != errors.As(err, &refused) {
			t.Errorf("%s: %s (%v)", tt.name, d, err)
		}
	}
}

func TestDesiredBzip2NotTaken(t *testing.T) {
	t.Parallel()
	n := k3s()
	n.Preload.Extensions = []string{".tar"}
	a := oneImage("/srv/a.tar", "a.example/a:1")
	a.Compression = preload.Bzip2
	if _, err := preload.Desired(n, []preload.Archive{a}, nil, preload.Options{Preload: true}); id(err) != "NOD-116" {
		t.Errorf("%v", err)
	}
}

func TestDesiredConflict(t *testing.T) {
	t.Parallel()
	a, b := oneImage("/srv/a.tar", "a.example/a:1"), oneImage("/srv/b.tar", "a.example/a:1")
	b.Images[0].Digest = "sha256:other"
	_, err := preload.Desired(k3s(), []preload.Archive{a, b}, nil, preload.Options{Preload: true})
	if id(err) != "NOD-115" || !strings.Contains(err.Error(), "/srv/a.tar") {
		t.Errorf("%v", err)
	}
	// The same image, once with and once without its manifest.
	b.Images[0].Platforms[0].Config = a.Images[0].Platforms[0].Config
	if r := desired(t, k3s(), []preload.Archive{a, b}, preload.Options{Preload: true}); len(r.Notes) != 1 {
		t.Errorf("notes: %+v", r.Notes)
	}
}

func TestDesiredRequired(t *testing.T) {
	t.Parallel()
	a := oneImage("/srv/a.tar", "a.example/a:1")
	a.Images[0].Digest = someDigest
	refs := func(names ...string) []preload.Ref {
		var out []preload.Ref
		for _, n := range names {
			r, err := preload.ParseReference(n)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
		return out
	}
	as, o := []preload.Archive{a}, preload.Options{Preload: true}
	for _, n := range []distro.Node{k3s(), kubeadm()} {
		r, err := preload.Desired(n, as, refs("a.example/a:1", "a.example/a@"+someDigest), o)
		if err != nil || (len(r.Notes) == 1) != (n.ID == "k3s") {
			t.Errorf("%s: %+v %v", n.ID, r.Notes, err)
		}
	}
	want := refs("a.example/a:1", "a.example/a:2", "b.example/a@"+someDigest)
	_, err := preload.Desired(k3s(), as, want, o)
	if id(err) != "NOD-114" || !strings.Contains(err.Error(), "a.example/a:2") || !strings.Contains(err.Error(), "b.example/a@") {
		t.Errorf("%v", err)
	}
	o.Cached = func(r preload.Ref) bool { return r.Name == "a.example/a:2" }
	if _, err = preload.Desired(k3s(), as, want, o); id(err) != "NOD-114" || strings.Contains(err.Error(), "a.example/a:2") {
		t.Errorf("%v", err)
	}
	r, err := preload.Desired(k3s(), as, want[:2], o)
	if err != nil || len(r.Pending) == 0 || !strings.Contains(r.Pending[0].Fix, "the mirror's cache has it") || !strings.Contains(r.Pending[0].Text, "a.example/a:2") {
		t.Errorf("%+v %v", r.Pending, err)
	}
	o.AllowMissing, o.Cached = true, nil
	r, err = preload.Desired(k3s(), as, want, o)
	if err != nil || len(r.Notes) == 0 || !strings.Contains(r.Notes[0].Text, "a.example/a:2") {
		t.Errorf("%+v %v", r.Notes, err)
	}
}

func TestDesiredSandbox(t *testing.T) {
	t.Parallel()
	n := kubeadm()
	n.Sandbox = "registry.k8s.io/pause:3.10"
	r := desired(t, n, []preload.Archive{oneImage("/srv/a.tar", "a.example/a:1")}, preload.Options{Preload: true})
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].Text, n.Sandbox) {
		t.Errorf("%+v", r.Notes)
	}
	r = desired(t, n, []preload.Archive{oneImage("/srv/a.tar", n.Sandbox)}, preload.Options{Preload: true})
	if len(r.Notes) != 0 {
		t.Errorf("%+v", r.Notes)
	}
}

func TestDesiredNothing(t *testing.T) {
	t.Parallel()
	if r := desired(t, k3s(), nil, preload.Options{Preload: true, MirrorCache: "/cache"}); len(r.Resources)+len(r.Notes) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestRuns(t *testing.T) {
	t.Parallel()
	tests := []struct {
		node, image string
		want        bool
	}{
		{"linux/amd64", "linux/amd64", true}, {"linux/arm64", "linux/arm64/v8", true}, {"linux/arm", "linux/arm/v6", true},
		{"linux/arm/v6", "linux/arm/v7", false}, {"linux/amd64", "linux/arm64", false}, {"linux/amd64", "windows/amd64", false},
		{"linux/amd64", "", false}, {"", "linux/amd64", false}, {"linux/amd64", "linux/386", true},
	}
	for _, tt := range tests {
		if got := preload.Runs(tt.node, tt.image); got != tt.want {
			t.Errorf("Runs(%q, %q) = %v", tt.node, tt.image, got)
		}
	}
}
