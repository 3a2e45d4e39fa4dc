package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestLoadKeepsEveryReference(t *testing.T) {
	t.Parallel()
	set := standard(t)
	src := sourceOf(set)
	s := open(t, tempDir(t))
	r := load(t, s, src)
	if src.opened != len(src.blobs) || r.Blobs != src.opened {
		t.Errorf("%d blobs streamed, %d written, %d there", src.opened, r.Blobs, len(src.blobs))
	}
	for name, d := range set.Digests() {
		e, err := s.Stat(t.Context(), name)
		if err != nil || e.Digest != d || !e.Complete || len(e.Platforms) != 2 {
			t.Errorf("%s: %+v %v", name, e, err)
		}
		if b, err := s.manifest(digestOf(host.Descriptor{Digest: d})); err != nil || !bytes.Equal(b, set.Blob(d)) {
			t.Errorf("%s: its index changed: %v", name, err)
		}
	}
	for _, i := range r.Images {
		if i.Status != LoadCreated && !strings.Contains(i.Reference, "@") {
			t.Errorf("%+v", i)
		}
	}
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Reference)
	}
	want := slices.DeleteFunc(set.Names(), func(n string) bool { return strings.Contains(n, "@") })
	slices.Sort(want)
	diff(t, "list", want, got)
}

func TestSecondLoadWritesNothing(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	s := open(t, dir)
	src := sourceOf(standard(t))
	load(t, s, src)
	before := snapshot(t, dir)
	src.opened = 0
	r := load(t, open(t, dir), src)
	if src.opened != 0 || r.Bytes != 0 || r.Blobs != 0 || len(r.Created) != 0 {
		t.Errorf("%d streamed, %+v", src.opened, r)
	}
	for _, i := range r.Images {
		if i.Status != LoadPresent {
			t.Errorf("%+v", i)
		}
	}
	diff(t, "files", len(before), len(snapshot(t, dir)))
	for p, k := range snapshot(t, dir) {
		if before[p] != k {
			t.Errorf("%s was written", p)
		}
	}
}

func TestLoadMovesATag(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	api, _ := set.Image(imagetest.APIName)
	s := open(t, tempDir(t))
	load(t, s, sourceOf(set))
	src := sourceOf(set)
	src.images = []host.Image{imageFor(imagetest.WebName, host.Descriptor{MediaType: api.MediaType, Digest: api.Digest, Size: api.Size})}
	r := load(t, s, src)
	if got := r.Images[0]; got.Status != LoadChanged || got.Previous != web.Digest || len(r.Created) != 3 {
		t.Errorf("%+v, created %v", got, r.Created)
	}
	if e, err := s.Stat(t.Context(), imagetest.WebName); err != nil || e.Digest != api.Digest {
		t.Errorf("%+v %v", e, err)
	}
}

func TestLoadPartialIndex(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	api, _ := set.Image(imagetest.APIName)
	arm := web.Platforms[1]
	src := sourceOf(set.Select(imagetest.WebName, imagetest.APIName)).without(arm.Manifest, arm.Config, arm.Layers[1], api.Platforms[1].Layers[1])
	s := open(t, tempDir(t))
	r := load(t, s, src)
	e, err := s.Stat(t.Context(), imagetest.WebName)
	if err != nil || e.Complete || !e.Usable("linux/amd64") || e.Usable("linux/arm64") || !e.Usable("") {
		t.Errorf("%+v %v", e, err)
	}
	diff(t, "web's missing", []Content{{Kind: KindManifest, Digest: arm.Manifest, MediaType: ocispec.MediaTypeImageManifest,
		Size: int64(len(set.Blob(arm.Manifest)))}}, r.Images[0].Platforms[1].Missing)
	v, err := s.Verify(t.Context(), true, nil)
	if err != nil || len(v.Problems) != 1 || v.Problems[0].Reference != imagetest.APIName || v.Problems[0].Platform != "linux/arm64" {
		t.Errorf("%+v %v", v.Problems, err)
	}
	if _, err := s.Load(t.Context(), src, LoadOptions{Platforms: []string{"linux/arm64"}}); err == nil {
		t.Error("arm64 was asked for and is not there")
	}
	if ok, err := s.Has(t.Context(), imagetest.WebName, "linux/amd64"); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if ok, err := s.Has(t.Context(), imagetest.WebName, "linux/amd64", "linux/arm64"); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if ok, err := s.Has(t.Context(), "docker.io/library/none:1"); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

func TestLoadFaults(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	amd, arm := web.Platforms[0], web.Platforms[1]
	reset := errors.New("connection reset")
	for name, c := range map[string]struct {
		change func(*memSource)
		id     string
		text   string
	}{
		"flipped layer": {func(m *memSource) { m.data[amd.Layers[1]][7] ^= 1; m.without(arm.Layers[1]) }, "MER-007", "does not match"},
		"short layer":   {func(m *memSource) { m.data[amd.Layers[1]] = m.data[amd.Layers[1]][:9]; m.without(arm.Layers[1]) }, "MER-007", "not 67072"},
		"long layer": {func(m *memSource) {
			m.data[amd.Layers[1]] = append(m.data[amd.Layers[1]], 0)
			m.without(arm.Layers[1])
		}, "MER-007", "not 67072"},
		"no layer":      {func(m *memSource) { m.without(amd.Layers[1], arm.Layers[1]) }, "MER-007", "is not in the source"},
		"no index":      {func(m *memSource) { m.without(web.Digest) }, "MER-007", "manifest is not in the source"},
		"broken source": {func(m *memSource) { m.fail, m.failAt = reset, 3 }, "MER-006", "connection reset"},
		"no name":       {func(m *memSource) { m.images[0].Name = "" }, "MER-007", "invalid reference"},
		"bad name":      {func(m *memSource) { m.images[0].Name = "docker.io/../../etc:1" }, "MER-007", "invalid reference"},
		"bad digest":    {func(m *memSource) { m.images[0].Target.Digest = "sha256:../../x" }, "MER-007", "digest"},
		"other digest":  {func(m *memSource) { m.images[0].Name = "docker.io/a/b@" + someDigest.String() }, "MER-007", "points to"},
		"bad blob":      {func(m *memSource) { m.blobs = append(m.blobs, host.Descriptor{Digest: "sha256:x/../../y", Size: 1}) }, "MER-008", "not a valid descriptor"},
		"wrong type":    {func(m *memSource) { m.images[0].Target.MediaType = ocispec.MediaTypeImageManifest }, "MER-007", "of itself"},
		"wrong size":    {func(m *memSource) { m.images[0].Target.Size++ }, "MER-007", "manifest is not"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			s := open(t, dir)
			src := sourceOf(set.Select(imagetest.WebName))
			src.images = src.images[:1]
			c.change(src)
			_, err := s.Load(t.Context(), src, LoadOptions{})
			ds := diag.Of(err)
			if len(ds) == 0 || ds[len(ds)-1].ID != c.id || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v", err)
			}
			if l, err := s.List(t.Context()); err != nil || len(l) != 0 && c.id == "MER-007" {
				t.Errorf("references were written: %+v %v", l, err)
			}
			intact(t, s)
			load(t, s, sourceOf(set)) // nothing stands in the way of a good source
		})
	}
}

// intact fails when a file of the cache is not what it should be, or a temporary file was left.
func intact(t testing.TB, s *Store) {
	t.Helper()
	v, err := s.Verify(t.Context(), true, nil)
	if err != nil || len(v.Foreign) > 0 || len(v.Problems) > 0 {
		t.Errorf("foreign %+v, problems %+v, %v", v.Foreign, v.Problems, err)
	}
	left, err := os.ReadDir(filepath.Join(s.Dir(), dirTmp))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		t.Errorf("left in tmp: %v %v", left, err)
	}
}

func TestLoadOneBadImageKeepsTheOthers(t *testing.T) {
	t.Parallel()
	set := standard(t)
	web, _ := set.Image(imagetest.WebName)
	s := open(t, tempDir(t))
	r, err := s.Load(t.Context(), sourceOf(set).without(web.Platforms[0].Layers[1], web.Platforms[1].Layers[1]), LoadOptions{})
	if len(diag.Of(err)) != 2 { // web has two tags
		t.Errorf("%v", err)
	}
	for _, i := range r.Images {
		if (i.Status == LoadFailed) != (i.Digest == web.Digest) {
			t.Errorf("%+v", i)
		}
	}
	if ok, err := s.Has(t.Context(), imagetest.APIName); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

func TestLoadHealsABadBlob(t *testing.T) {
	t.Parallel()
	s, set := loaded(t)
	web, _ := set.Image(imagetest.WebName)
	layer := web.Platforms[0].Layers[1]
	flip(t, file(s, layer), 3)
	if r, err := s.Load(t.Context(), sourceOf(set), LoadOptions{Verify: true}); err != nil || r.Blobs != 1 {
		t.Errorf("%+v %v", r, err)
	}
	intact(t, s)
}

func TestLoadRefusesAmbiguousDocuments(t *testing.T) {
	t.Parallel()
	web := ocispec.DescriptorEmptyJSON
	for name, doc := range map[string]map[string]any{
		"both":          {"manifests": []any{web}, "layers": []any{web}, "config": web},
		"bad digest":    {"config": web, "layers": []any{map[string]any{"digest": "sha256:../x", "size": 1}}},
		"negative size": {"config": web, "layers": []any{map[string]any{"digest": someDigest, "size": -1}}},
	} {
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		src := &memSource{data: map[string][]byte{}}
		src.add("r.io/a:1", ocispec.MediaTypeImageManifest, b, []byte("{}"))
		if _, err := open(t, tempDir(t)).Load(t.Context(), src, LoadOptions{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A hostile index that contains itself, or is nested without end, ends.
func TestLoadNestedIndex(t *testing.T) {
	t.Parallel()
	src := &memSource{data: map[string][]byte{}}
	child := []byte(`{"schemaVersion":2,"manifests":[]}`)
	for range maxDepth + 2 {
		b, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageIndex, Digest: digestOf(descriptorFor(child, "")), Size: int64(len(child))}}})
		if err != nil {
			t.Fatal(err)
		}
		src.add("r.io/a:1", ocispec.MediaTypeImageIndex, b, child)
		child = b
	}
	src.images = src.images[len(src.images)-1:]
	_, err := open(t, tempDir(t)).Load(t.Context(), src, LoadOptions{})
	if err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("%v", err)
	}
}

func TestLoadIsCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := open(t, tempDir(t))
	_, err := s.Load(ctx, sourceOf(standard(t)), LoadOptions{Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	intact(t, s)
}

func TestLoadTakesOwnerAndMode(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	uid := os.Geteuid()
	if uid == 0 {
		uid = 12345
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	load(t, open(t, dir), sourceOf(standard(t)))
	for p := range snapshot(t, dir) {
		fi, err := os.Lstat(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o640)
		if fi.IsDir() {
			want = 0o750
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != uid || fi.Mode().Perm() != want {
			t.Errorf("%s: %v %d", p, fi.Mode(), st.Uid)
		}
	}
}

// A link that the cache's owner planted must not lead root's writes out of the cache.
func TestLoadDoesNotFollowLinksOut(t *testing.T) {
	t.Parallel()
	for _, top := range []string{dirBlobs, dirRefs, dirTmp} {
		dir, out := tempDir(t), tempDir(t)
		if err := os.Symlink(out, filepath.Join(dir, top)); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, dir).Load(t.Context(), sourceOf(standard(t)), LoadOptions{})
		left, rerr := os.ReadDir(out)
		if err == nil || rerr != nil || len(left) > 0 {
			t.Errorf("%s: %v, outside: %v %v", top, err, left, rerr)
		}
	}
}

func TestRemoveUndoesALoad(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	s := open(t, dir)
	set := standard(t)
	first := load(t, s, sourceOf(set.Select(imagetest.WebName)))
	before := snapshot(t, dir)
	second := load(t, s, sourceOf(set))
	if err := s.Remove(t.Context(), second.Created); err != nil {
		t.Fatal(err)
	}
	for p := range snapshot(t, dir) {
		if _, ok := before[p]; !ok {
			t.Errorf("%s is still there", p)
		}
	}
	intact(t, s)
	load(t, s, sourceOf(set))
	if err := s.Remove(t.Context(), first.Created); err != nil { // shared blobs stay: others reach them
		t.Fatal(err)
	}
	if ok, err := s.Has(t.Context(), imagetest.APIName, "linux/amd64", "linux/arm64"); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if err := s.Remove(t.Context(), slices.Concat(second.Created, first.Created)); err != nil {
		t.Fatal(err)
	}
	if left := snapshot(t, dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := s.Remove(t.Context(), []string{"../x", "/etc/passwd", "refs/../../x", "blobs"}); err != nil {
		t.Error(err)
	}
}

// loadAndDie is the process that the kill test starts: it loads and kills itself before the n-th step.
func loadAndDie(dir string) int {
	limit, err := strconv.Atoi(os.Getenv("EDGEPREP_MIRROR_KILL"))
	if err != nil {
		return 3
	}
	set := killSet()
	s, err := Open(dir, Options{Create: true})
	if err != nil {
		return 3
	}
	defer s.Close()
	steps := 0
	s.hook = func(string) {
		if steps++; steps == limit {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if _, err := s.Load(context.Background(), sourceOf(set), LoadOptions{}); err != nil {
		return 3
	}
	return 0
}

// killSet is small, so that the steps are few.
func killSet() *imagetest.Set {
	set, err := imagetest.Standard(imagetest.Options{LayerSize: 2048})
	if err != nil {
		panic(err)
	}
	return set.Select(imagetest.WebName)
}

// Killed before any step, nothing is torn, no reference leads to what is not there, and the next load ends
// with the same files as one that was not disturbed.
func TestKillDuringLoad(t *testing.T) {
	t.Parallel()
	set := killSet()
	whole := open(t, tempDir(t))
	steps := 0
	whole.hook = func(string) { steps++ }
	load(t, whole, sourceOf(set))
	want := contents(t, whole.Dir())
	stride := max(1, steps/20)
	if os.Getenv("EDGEPREP_SOAK") != "" {
		stride = 1
	}
	for k := 1; k <= steps; k += stride {
		dir := tempDir(t)
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "EDGEPREP_MIRROR_LOAD="+dir, "EDGEPREP_MIRROR_KILL="+strconv.Itoa(k))
		err := cmd.Run()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: it was not killed: %v", k, err)
		}
		s := open(t, dir)
		v, err := s.Verify(t.Context(), true, nil)
		if err != nil || len(v.Problems) > 0 || len(v.Foreign) > 0 {
			t.Errorf("step %d: torn: %+v %+v %v", k, v.Problems, v.Foreign, err)
		}
		load(t, s, sourceOf(set))
		intact(t, s)
		diff(t, "files after step "+strconv.Itoa(k), want, contents(t, dir))
	}
}

// contents maps files to their bytes, without the times of tags.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for p, k := range snapshot(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			if k.size >= 0 && errors.Is(err, syscall.EISDIR) {
				continue
			}
			t.Fatal(err)
		}
		if strings.Contains(p, "/"+dirTags+"/") {
			b, _, _ = bytes.Cut(b, []byte(`,"time"`))
		}
		out[p] = string(b)
	}
	return out
}
