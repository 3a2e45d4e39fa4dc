package ctr_test

import (
	"bytes"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/cri"
	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const pin = "io.cri-containerd.pinned"

var full = host.ImportOptions{
	Platform: platform, Unpack: true, Pin: true, Labels: map[string]string{"edgeprep.io/source": "test"},
}

func nonEmpty(s string) []string {
	return slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
}

func needAMD64(t testing.TB) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the daemons run on " + runtime.GOARCH + ", the images are made for amd64")
	}
}

// Everything about a successful import, with a source of each kind.
func TestImport(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	forms := map[string]imagetest.Form{
		"oci":      {Layout: imagetest.OCI},
		"combined": {Layout: imagetest.Combined, Platforms: []string{platform}},
		"zstd":     {Layout: imagetest.OCI, Compression: imagetest.Zstd},
	}
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		r := newRuntime(t, d)
		for _, name := range []string{"oci", "combined", "zstd"} {
			set := standard(t, imagetest.Options{Compression: imagetest.Gzip, LayerSize: 100<<10 + int64(len(name))})
			checkImport(t, d, r, set, archive(t, set, forms[name]))
		}
	})
}

func checkImport(t *testing.T, d *ctrtest.Daemon, r *ctr.Runtime, set *imagetest.Set, src host.ImageSource) {
	t.Helper()
	var last host.ImportProgress
	opts := full
	opts.Progress = func(p host.ImportProgress) {
		if p.Phase == "content" {
			last = p
		}
	}
	rep, err := r.Import(t.Context(), src, opts)
	if err != nil {
		t.Fatalf("import: %v\n%s", err, d.Log())
	}
	if last.Done != last.Total || last.Done != rep.Bytes || rep.Bytes == 0 {
		t.Errorf("progress ended at %d of %d, report says %d", last.Done, last.Total, rep.Bytes)
	}
	wantRecords(t, r, set, rep)
	wantContent(t, r, set)
	wantNoLeftovers(t, d, r)

	again, err := r.Import(t.Context(), src, full)
	if err != nil || again.Bytes != 0 || len(again.Created) != 0 {
		t.Errorf("second import: %+v, %v: want nothing done", again, err)
	}
	if len(again.Present) != len(rep.Created)+len(rep.Present) {
		t.Errorf("second import found %v, the first %+v", again.Present, rep)
	}
}

// wantRecords: each name, and its name by digest with the pin on it.
func wantRecords(t *testing.T, r *ctr.Runtime, set *imagetest.Set, rep host.ImportReport) {
	t.Helper()
	got := records(t, r)
	for name, dgst := range set.Digests() {
		repo := name[:strings.LastIndexAny(strings.Split(name, "@")[0], ":")+1]
		byDigest := strings.TrimSuffix(repo, ":") + "@" + dgst
		if strings.Contains(name, "@") {
			byDigest = name
		} else if got[name].Target.Digest != dgst || got[name].Labels[pin] != "" {
			t.Errorf("record %s: %+v", name, got[name])
		}
		rec := got[byDigest]
		if rec.Target.Digest != dgst || rec.Labels[pin] != "pinned" || rec.Labels["edgeprep.io/source"] != "test" {
			t.Errorf("record %s: %+v", byDigest, rec)
		}
		// The sets of this test share one image.
		if told := slices.Concat(rep.Created, rep.Present); !slices.Contains(told, name) || !slices.Contains(told, byDigest) {
			t.Errorf("report %v lacks %s or %s", told, name, byDigest)
		}
		if ok, err := r.Unpacked(t.Context(), name, platform, ""); !ok || err != nil {
			t.Errorf("unpacked %s: %v, %v", name, ok, err)
		}
	}
}

// wantContent: this platform's blobs are there, another platform's are not.
func wantContent(t *testing.T, r *ctr.Runtime, set *imagetest.Set) {
	t.Helper()
	for _, img := range set.Images {
		if !has(t, r, img.Digest) {
			t.Errorf("%s: target is absent", img.Names[0])
		}
		for _, p := range img.Platforms {
			for _, dgst := range append(slices.Clone(p.Layers), p.Config, p.Manifest) {
				if has(t, r, dgst) != (p.Platform == platform) {
					t.Errorf("%s: blob %s of %s: present is %v", img.Names[0], dgst, p.Platform, p.Platform != platform)
				}
			}
		}
		rc, err := r.OpenBlob(t.Context(), img.Platforms[0].Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil || !bytes.Equal(b, set.Blob(img.Platforms[0].Layers[0])) {
			t.Errorf("%s: layer reads as %d bytes, %v", img.Names[0], len(b), err)
		}
		_ = rc.Close()
	}
}

// The collector must find nothing of an imported image to collect, also after a restart; and when the records
// go, everything goes.
func TestCollection(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		r := newRuntime(t, d)
		set := standard(t, imagetest.Options{})
		src := archive(t, set, imagetest.Form{Layout: imagetest.OCI})
		if _, err := r.Import(t.Context(), src, full); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Ctr("leases", "create", "--id", "other"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Ctr("leases", "delete", "--sync", "other"); err != nil {
			t.Fatal(err)
		}
		d.Restart()
		if rep, err := r.Import(t.Context(), src, full); err != nil || rep.Bytes+int64(len(rep.Created)) != 0 {
			t.Errorf("after a collection: %+v, %v", rep, err)
		}
		for name := range records(t, r) {
			if err := r.RemoveImage(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
		if err := r.RemoveImage(t.Context(), "docker.io/library/none:1"); err != nil {
			t.Errorf("remove what is not there: %v", err)
		}
		if out, err := d.Ctr("content", "ls", "-q"); err != nil || len(nonEmpty(out)) > 0 {
			t.Errorf("content is left: %v\n%s", err, out)
		}
		if out, err := d.Ctr("snapshots", "--snapshotter", d.Snapshotter, "ls"); err != nil || len(nonEmpty(out)) > 1 {
			t.Errorf("snapshots are left: %v\n%s", err, out)
		}
	})
}

// What kubelet asks finds what was imported, in every form of the name.
func TestKubeletFindsImage(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		r := newRuntime(t, d)
		set, err := imagetest.Build(imagetest.ImageSpec{
			Names: []string{"docker.io/library/app:1"}, Platforms: []string{platform, "linux/arm64"},
			Layers: []imagetest.LayerSpec{{Seed: "app", Size: 4096}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Import(t.Context(), archive(t, set, imagetest.Form{Layout: imagetest.OCI}), full); err != nil {
			t.Fatal(err)
		}
		c := cri.New(d.Endpoint())
		defer c.Close()
		dgst := set.Images[0].Digest
		for _, ref := range []string{
			"docker.io/library/app:1", "app:1", "docker.io/library/app@" + dgst, "app@" + dgst, "app:1@" + dgst,
			set.Images[0].Platforms[0].Config,
		} {
			img, ok, err := c.ImageStatus(t.Context(), ref) // at once
			if !ok || err != nil {
				t.Errorf("%s is absent for CRI: %v", ref, err)
			}
			if want := []string{"docker.io/library/app:1"}; !cmp.Equal(img.RepoTags, want) {
				t.Errorf("%s: tags %v, want %v", ref, img.RepoTags, want)
			}
			if want := []string{"docker.io/library/app@" + dgst}; !cmp.Equal(img.RepoDigests, want) {
				t.Errorf("%s: digests %v, want %v", ref, img.RepoDigests, want)
			}
			if img.Pinned != (d.Version != "1.6") { // 1.6.20 does not know pins
				t.Errorf("%s: pinned is %v", ref, img.Pinned)
			}
		}
		if _, ok, err := c.ImageStatus(t.Context(), "app:2"); ok || err != nil {
			t.Errorf("app:2: %v, %v", ok, err)
		}
	})
}

// A tag that moved points to the new image; the old one stays under its digest.
func TestMovedTag(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	d := ctrtest.Start(t, "2.4")
	r := newRuntime(t, d)
	const name = "docker.io/library/app:1"
	make := func(seed string) *imagetest.Set {
		s, err := imagetest.Build(imagetest.ImageSpec{
			Names: []string{name}, Platforms: []string{platform}, Layers: []imagetest.LayerSpec{{Seed: seed, Size: 100}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	old, moved := make("old"), make("new")
	for _, s := range []*imagetest.Set{old, moved} {
		rep, err := r.Import(t.Context(), archive(t, s, imagetest.Form{Layout: imagetest.OCI}), full)
		if err != nil || !slices.Contains(rep.Created, name) {
			t.Fatalf("%+v, %v", rep, err)
		}
	}
	got := records(t, r)
	if got[name].Target.Digest != moved.Images[0].Digest {
		t.Errorf("the tag is %s", got[name].Target.Digest)
	}
	if _, ok := got["docker.io/library/app@"+old.Images[0].Digest]; !ok {
		t.Error("the old image is gone")
	}
}

// Without unpacking and pinning, and with labels changed later.
func TestLaterOptions(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	d := ctrtest.Start(t, "2.4")
	r := newRuntime(t, d)
	set := standard(t, imagetest.Options{})
	src := archive(t, set, imagetest.Form{Layout: imagetest.OCI})
	if _, err := r.Import(t.Context(), src, host.ImportOptions{Platform: platform}); err != nil {
		t.Fatal(err)
	}
	name := set.Names()[0]
	for _, p := range []string{platform, "linux/arm64", "linux/s390x"} { // there, not brought in, never made
		if ok, err := r.Unpacked(t.Context(), name, p, ""); ok || err != nil {
			t.Errorf("unpacked for %s: %v, %v", p, ok, err)
		}
	}
	rep, err := r.Import(t.Context(), src, full)
	if err != nil || rep.Bytes != 0 {
		t.Errorf("unpack later: %+v, %v: want no content sent", rep, err)
	}
	wantContent(t, r, set)
	if ok, err := r.Unpacked(t.Context(), name, platform, ""); !ok || err != nil {
		t.Errorf("unpacked: %v, %v", ok, err)
	}
	opts := full
	opts.Labels = map[string]string{"edgeprep.io/source": "other"}
	if rep, err = r.Import(t.Context(), src, opts); err != nil || rep.Bytes != 0 || !slices.Contains(rep.Created, name) {
		t.Errorf("other label: %+v, %v", rep, err)
	}
}

func TestSetImage(t *testing.T) {
	t.Parallel()
	needAMD64(t)
	d := ctrtest.Start(t, "2.4")
	r := newRuntime(t, d)
	set := standard(t, imagetest.Options{})
	if _, err := r.Import(t.Context(), archive(t, set, imagetest.Form{Layout: imagetest.OCI}), full); err != nil {
		t.Fatal(err)
	}
	img := records(t, r)[set.Names()[0]]
	for _, labels := range []map[string]string{{"a": "1", "b": "2"}, {"b": "3"}} {
		rec := host.Image{Name: "registry.local/undo:1", Target: img.Target, Labels: labels}
		if err := r.SetImage(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		got := records(t, r)[rec.Name]
		delete(got.Labels, "io.cri-containerd.image") // CRI adds it in its own time
		if d := cmp.Diff(rec, got); d != "" {
			t.Errorf("record (-want +got):\n%s", d)
		}
	}
}
