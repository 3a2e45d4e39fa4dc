package hosttest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host"
)

// RuntimeUnderTest is a containerd that RuntimeConformance works on. One may serve all subtests: they use
// image names of their own. Images that it holds already are let be.
type RuntimeUnderTest struct {
	Control     host.RuntimeControl
	Platform    string // "linux/amd64": of the machine, as the layers are unpacked
	Snapshotter string // "overlayfs" or "native"
}

// RuntimeConformance tests what package host promises of a RuntimeControl.
func RuntimeConformance(t *testing.T, open func(t *testing.T) RuntimeUnderTest) {
	for name, test := range map[string]func(*testing.T, RuntimeUnderTest){
		"Version":          runtimeVersion,
		"Import":           runtimeImport,
		"ImportSequential": runtimeSequential,
		"ImportAgain":      runtimeAgain,
		"SharedLayers":     runtimeShared,
		"OtherPlatform":    runtimeOtherPlatform,
		"WrongPlatform":    runtimeWrongPlatform,
		"Incomplete":       runtimeIncomplete,
		"Corrupt":          runtimeCorrupt,
		"HealsAfterwards":  runtimeHeals,
		"OneOfTwoBroken":   runtimeOneBroken,
		"MovedTag":         runtimeMovedTag,
		"Pin":              runtimePin,
		"Unpacked":         runtimeUnpacked,
		"Lease":            runtimeLease,
		"SetImage":         runtimeSetImage,
		"RemoveImage":      runtimeRemoveImage,
		"Blobs":            runtimeBlobs,
		"Plugins":          runtimePlugins,
		"Cancelled":        runtimeCancelled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// other is a platform that the machine is not.
func (r RuntimeUnderTest) other() string {
	if r.Platform == "linux/s390x" {
		return "linux/amd64"
	}
	return "linux/s390x"
}

func (r RuntimeUnderTest) image(t *testing.T, suffix string, platforms ...string) *MemImage {
	t.Helper()
	if len(platforms) == 0 {
		platforms = []string{r.Platform}
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return MakeImage(ImageSpec{Name: "registry.test/conformance/" + name + suffix + ":v1", Platforms: platforms})
}

func (r RuntimeUnderTest) options() host.ImportOptions {
	return host.ImportOptions{Platform: r.Platform, Snapshotter: r.Snapshotter}
}

func (r RuntimeUnderTest) mustImport(t *testing.T, src host.ImageSource, opts host.ImportOptions) host.ImportReport {
	t.Helper()
	rep, err := r.Control.Import(context.Background(), src, opts)
	if err != nil {
		t.Fatalf("import: %v", err)
	}
	return rep
}

func (r RuntimeUnderTest) find(t *testing.T, name string) (host.Image, bool) {
	t.Helper()
	all, err := r.Control.Images(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(img host.Image) bool { return img.Name == name })
	if i < 0 {
		return host.Image{}, false
	}
	return all[i], true
}

func (r RuntimeUnderTest) wantImage(t *testing.T, m *MemImage) host.Image {
	t.Helper()
	img, ok := r.find(t, m.Image.Name)
	if !ok {
		t.Fatalf("no record %s", m.Image.Name)
	}
	want := host.Descriptor{MediaType: m.Image.Target.MediaType, Digest: m.Image.Target.Digest, Size: m.Image.Target.Size}
	got := host.Descriptor{MediaType: img.Target.MediaType, Digest: img.Target.Digest, Size: img.Target.Size}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("target of %s: %s", m.Image.Name, diff)
	}
	return img
}

func (r RuntimeUnderTest) wantNoImage(t *testing.T, m *MemImage) {
	t.Helper()
	all, err := r.Control.Images(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		if img.Name == m.Image.Name || img.Target.Digest == m.Image.Target.Digest {
			t.Errorf("a record %s although the image is not complete", img.Name)
		}
	}
}

func (r RuntimeUnderTest) wantNoLease(t *testing.T) {
	t.Helper()
	all, err := r.Control.Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.ID, LeasePrefix) {
			t.Errorf("lease %s is left", l.ID)
		}
	}
}

func (r RuntimeUnderTest) wantBlobs(t *testing.T, want bool, ds ...host.Descriptor) {
	t.Helper()
	for _, d := range ds {
		size, ok, err := r.Control.BlobSize(context.Background(), d.Digest)
		if err != nil || ok != want || (ok && size != d.Size) {
			t.Errorf("blob %s (%s): there %v, size %d, error %v; want there %v, size %d", d.Digest, d.MediaType, ok, size, err, want, d.Size)
		}
	}
}

func runtimeVersion(t *testing.T, r RuntimeUnderTest) {
	v, err := r.Control.Version(context.Background())
	if err != nil || v == "" || strings.HasPrefix(v, "v") {
		t.Errorf("version %q, %v; want it without v", v, err)
	}
}

func runtimePlugins(t *testing.T, r RuntimeUnderTest) {
	all, err := r.Control.Plugins(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	loaded := map[string]bool{}
	for _, p := range all {
		loaded[p.Type+"."+p.ID] = p.Error == ""
	}
	for _, want := range []string{"io.containerd.content.v1.content", "io.containerd.grpc.v1.cri"} {
		if !loaded[want] {
			t.Errorf("%s is not loaded: %+v", want, all)
		}
	}
}

func runtimeImport(t *testing.T, r RuntimeUnderTest) {
	m := r.image(t, "")
	var last host.ImportProgress
	opts := r.options()
	opts.Labels = map[string]string{"edgeprep.io/test": "yes"}
	opts.Progress = func(p host.ImportProgress) { last = p }
	rep := r.mustImport(t, NewSource(m), opts)
	if diff := cmp.Diff([]string{m.Image.Name}, rep.Created); diff != "" || len(rep.Present) > 0 || rep.Bytes <= 0 {
		t.Errorf("report %+v: %s", rep, diff)
	}
	if img := r.wantImage(t, m); img.Labels["edgeprep.io/test"] != "yes" {
		t.Errorf("labels %v", img.Labels)
	}
	if last.Done <= 0 {
		t.Errorf("no progress was told: %+v", last)
	}
	r.wantBlobs(t, true, m.Order...)
	r.wantNoLease(t)
}

func runtimeSequential(t *testing.T, r RuntimeUnderTest) {
	m := r.image(t, "")
	src := NewSource(m)
	src.Sequential = true
	r.mustImport(t, src, r.options())
	r.wantImage(t, m)
	r.wantBlobs(t, true, m.Order...)
}

func runtimeAgain(t *testing.T, r RuntimeUnderTest) {
	m := r.image(t, "")
	opts := r.options()
	opts.Unpack, opts.Pin = true, true
	first := r.mustImport(t, NewSource(m), opts)
	src := NewSource(m)
	var read []string
	src.OnBlob = func(d host.Descriptor) error {
		if d.MediaType == typeLayer {
			read = append(read, d.Digest)
		}
		return nil
	}
	again := r.mustImport(t, src, opts)
	if len(again.Created) > 0 || again.Bytes != 0 || len(read) > 0 {
		t.Errorf("the second import created %v, sent %d bytes, read layers %v", again.Created, again.Bytes, read)
	}
	slices.Sort(first.Created)
	slices.Sort(again.Present)
	if diff := cmp.Diff(first.Created, again.Present); diff != "" {
		t.Errorf("created first, present then: %s", diff)
	}
}

func runtimeShared(t *testing.T, r RuntimeUnderTest) {
	layer := map[string][]byte{"shared-" + strings.ReplaceAll(t.Name(), "/", "-"): []byte("x")}
	make := func(tag string) *MemImage {
		return MakeImage(ImageSpec{
			Name: "registry.test/conformance/shared-" + tag + ":v1", Platforms: []string{r.Platform},
			Layers: []map[string][]byte{layer, {tag: []byte(tag)}},
		})
	}
	a, b := make("a"), make("b")
	rep := r.mustImport(t, NewSource(a, b), r.options())
	if len(rep.Created) != 2 {
		t.Errorf("created %v", rep.Created)
	}
	r.wantImage(t, a)
	r.wantImage(t, b)
}

func runtimeOtherPlatform(t *testing.T, r RuntimeUnderTest) {
	m := r.image(t, "", r.other(), r.Platform)
	r.mustImport(t, NewSource(m), r.options())
	r.wantImage(t, m)
	r.wantBlobs(t, true, m.Manifests[r.Platform], m.Configs[r.Platform])
	r.wantBlobs(t, true, m.Layers[r.Platform]...)
	r.wantBlobs(t, false, m.Layers[r.other()]...)
	// An index that names a platform whose content nobody has is complete for the other.
	m = r.image(t, "-dropped", r.other(), r.Platform)
	src := NewSource(m).Drop(m.Manifests[r.other()].Digest).Drop(m.Layers[r.other()][0].Digest)
	r.mustImport(t, src, r.options())
	r.wantImage(t, m)
}

func runtimeWrongPlatform(t *testing.T, r RuntimeUnderTest) {
	m := MakeImage(ImageSpec{Name: "registry.test/conformance/wrong-platform:v1", Platforms: []string{r.other()}, Index: true})
	if _, err := r.Control.Import(context.Background(), NewSource(m), r.options()); err == nil {
		t.Error("an image without this platform was taken")
	}
	r.wantNoImage(t, m)
	r.wantNoLease(t)
}

func runtimeIncomplete(t *testing.T, r RuntimeUnderTest) {
	for _, what := range []string{"layer", "config", "manifest"} {
		m := r.image(t, "-"+what, r.Platform, r.other())
		d := map[string]string{
			"layer": m.Layers[r.Platform][0].Digest, "config": m.Configs[r.Platform].Digest, "manifest": m.Manifests[r.Platform].Digest,
		}[what]
		if _, err := r.Control.Import(context.Background(), NewSource(m).Drop(d), r.options()); err == nil {
			t.Errorf("an image without its %s was taken", what)
		}
		r.wantNoImage(t, m)
		r.wantNoLease(t)
	}
}

func runtimeCorrupt(t *testing.T, r RuntimeUnderTest) {
	for _, sequential := range []bool{false, true} {
		for how, damage := range map[string]func(*MemSource, string) *MemSource{
			"flipped": (*MemSource).Corrupt, "cut": (*MemSource).Truncate,
		} {
			m := r.image(t, "-"+how)
			layer := m.Layers[r.Platform][0]
			src := damage(NewSource(m), layer.Digest)
			src.Sequential = sequential
			opts := r.options()
			opts.Unpack, opts.Pin = true, true
			if _, err := r.Control.Import(context.Background(), src, opts); err == nil {
				t.Errorf("an image with a layer %s was taken", how)
			}
			r.wantNoImage(t, m)
			r.wantBlobs(t, false, layer)
			r.wantNoLease(t)
		}
	}
}

func runtimeHeals(t *testing.T, r RuntimeUnderTest) {
	m := r.image(t, "")
	layer := m.Layers[r.Platform][0]
	if _, err := r.Control.Import(context.Background(), NewSource(m).Truncate(layer.Digest), r.options()); err == nil {
		t.Fatal("a damaged image was taken")
	}
	r.mustImport(t, NewSource(m), r.options())
	r.wantImage(t, m)
	r.wantBlobs(t, true, m.Order...)
}

func runtimeOneBroken(t *testing.T, r RuntimeUnderTest) {
	good, bad := r.image(t, "-good"), r.image(t, "-bad")
	src := NewSource(good, bad).Drop(bad.Layers[r.Platform][0].Digest)
	if _, err := r.Control.Import(context.Background(), src, r.options()); err == nil {
		t.Error("an incomplete image is no error")
	}
	r.wantNoImage(t, bad)
}

func runtimeMovedTag(t *testing.T, r RuntimeUnderTest) {
	old, moved := r.image(t, ""), MakeImage(ImageSpec{
		Name: r.image(t, "").Image.Name, Platforms: []string{r.Platform}, Layers: []map[string][]byte{{"moved": []byte("moved")}},
	})
	r.mustImport(t, NewSource(old), r.options())
	rep := r.mustImport(t, NewSource(moved), r.options())
	if !slices.Contains(rep.Created, moved.Image.Name) {
		t.Errorf("a moved tag is not reported: %+v", rep)
	}
	r.wantImage(t, moved)
	broken := NewSource(old).Drop(old.Layers[r.Platform][0].Digest)
	broken.images[0].Target = MakeImage(ImageSpec{Name: "x", Platforms: []string{r.other()}}).Image.Target
	if _, err := r.Control.Import(context.Background(), broken, r.options()); err == nil {
		t.Error("an incomplete image was taken")
	}
	r.wantImage(t, moved) // what was there stays
}

func runtimePin(t *testing.T, r RuntimeUnderTest) {
	m := r.image(t, "")
	opts := r.options()
	opts.Pin = true
	opts.Labels = map[string]string{"edgeprep.io/test": "yes"}
	rep := r.mustImport(t, NewSource(m), opts)
	name := repository(m.Image.Name) + "@" + m.Image.Target.Digest
	img, ok := r.find(t, name)
	if !ok || img.Labels[pinLabel] != pinValue || img.Labels["edgeprep.io/test"] != "yes" || img.Target.Digest != m.Image.Target.Digest {
		t.Errorf("pin record %s: there %v, %+v", name, ok, img)
	}
	if !slices.Contains(rep.Created, name) {
		t.Errorf("the pin is not reported: %v", rep.Created)
	}
}

func runtimeUnpacked(t *testing.T, r RuntimeUnderTest) {
	ctx := context.Background()
	m := r.image(t, "")
	unpacked := func() bool {
		ok, err := r.Control.Unpacked(ctx, m.Image.Name, r.Platform, r.Snapshotter)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	r.mustImport(t, NewSource(m), r.options())
	if unpacked() {
		t.Error("unpacked without being asked")
	}
	opts := r.options()
	opts.Unpack = true
	r.mustImport(t, NewSource(m), opts)
	if !unpacked() {
		t.Error("not unpacked")
	}
}

func runtimeLease(t *testing.T, r RuntimeUnderTest) {
	ctx := context.Background()
	m := r.image(t, "")
	src := NewSource(m)
	seen := false
	src.OnBlob = func(host.Descriptor) error {
		all, err := r.Control.Leases(ctx)
		seen = seen || slices.ContainsFunc(all, func(l host.Lease) bool { return strings.HasPrefix(l.ID, LeasePrefix) })
		return err
	}
	src.Sequential = true // one blob at a time
	r.mustImport(t, src, r.options())
	if !seen {
		t.Errorf("no lease with the prefix %s while content was sent", LeasePrefix)
	}
	r.wantNoLease(t)
}

func runtimeSetImage(t *testing.T, r RuntimeUnderTest) {
	ctx := context.Background()
	m := r.image(t, "")
	r.mustImport(t, NewSource(m), r.options())
	second := m.Image
	second.Name = repository(m.Image.Name) + ":second"
	for _, labels := range []map[string]string{{"a": "1", "b": "2"}, {"b": "3"}} {
		second.Labels = labels
		if err := r.Control.SetImage(ctx, second); err != nil {
			t.Fatal(err)
		}
		got, ok := r.find(t, second.Name)
		if diff := cmp.Diff(labels, got.Labels); !ok || diff != "" || got.Target.Digest != m.Image.Target.Digest {
			t.Errorf("record: there %v, target %s, labels %s", ok, got.Target.Digest, diff)
		}
	}
}

func runtimeRemoveImage(t *testing.T, r RuntimeUnderTest) {
	ctx := context.Background()
	m := r.image(t, "")
	r.mustImport(t, NewSource(m), r.options())
	for range 2 { // the second time there is none
		if err := r.Control.RemoveImage(ctx, m.Image.Name); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := r.find(t, m.Image.Name); ok {
		t.Error("the record is still there")
	}
	r.mustImport(t, NewSource(m), r.options())
	r.wantImage(t, m)
	if _, err := r.Control.InUse(ctx); err != nil {
		t.Error(err)
	}
}

func runtimeBlobs(t *testing.T, r RuntimeUnderTest) {
	ctx := context.Background()
	m := r.image(t, "")
	absent := Digest([]byte(t.Name()))
	r.wantBlobs(t, false, host.Descriptor{Digest: absent})
	if rc, err := r.Control.OpenBlob(ctx, absent); err == nil {
		rc.Close()
		t.Error("a blob that is not there was opened")
	}
	r.mustImport(t, NewSource(m), r.options())
	for _, d := range m.Order {
		rc, err := r.Control.OpenBlob(ctx, d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || Digest(b) != d.Digest {
			t.Errorf("blob %s: other bytes, %v", d.Digest, err)
		}
	}
}

func runtimeCancelled(t *testing.T, r RuntimeUnderTest) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := r.image(t, "")
	src := NewSource(m)
	src.OnBlob = func(host.Descriptor) error { cancel(); return ctx.Err() }
	if _, err := r.Control.Import(ctx, src, r.options()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	r.wantNoImage(t, m)
	r.wantNoLease(t)
}
