package check

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// TestChecksDoNotChangeARealNode: images, content, snapshots and leases of a real containerd, its registries
// configuration and the mirror's cache are after the whole checklist what they were.
//
// With EDGEPREP_MEASURE=1 the node has 100 images, and the time of the profile ship is printed: docs/benchmarks.md.
func TestChecksDoNotChangeARealNode(t *testing.T) {
	if testing.Short() {
		t.Skip("long: starts a real daemon")
	}
	set, err := imagetest.Standard(imagetest.Options{LayerSize: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	measure := os.Getenv("EDGEPREP_MEASURE") != ""
	if measure {
		set = hundred(t)
	}
	d := ctrtest.Start(t, "2.4")
	tpl := templateOf(t, set)
	r := realNodeOf(t, d, tpl)
	before := r.state(tpl)
	for _, o := range []Options{{Profile: ProfileShip}, {Profile: ProfileShip, Deep: true}} {
		begin := time.Now()
		report, err := Run(t.Context(), r.env, o)
		if err != nil {
			t.Fatal(err)
		}
		if measure {
			t.Logf("deep %v: %s for %d checks of %d references", o.Deep, time.Since(begin).Round(10*time.Millisecond), len(report.Results), len(r.env.Required))
			slices.SortFunc(report.Results, func(a, b Result) int { return int(b.DurationMS - a.DurationMS) })
			for _, x := range report.Results[:8] {
				t.Logf("  %5d ms %s (%s)", x.DurationMS, x.ID, x.Status)
			}
		}
	}
	if diff := cmp.Diff(before, r.state(tpl)); diff != "" {
		t.Errorf("the checks changed the node:\n%s", diff)
	}
}

// state is everything that a check could have changed.
func (r *real) state(tpl template) map[string]string {
	r.t.Helper()
	out := map[string]string{}
	for _, args := range [][]string{{"images", "ls"}, {"content", "ls", "-q"}, {"snapshots", "ls"}, {"leases", "ls"}, {"containers", "ls"}} {
		text, err := r.d.Ctr(args...)
		if err != nil {
			r.t.Fatal(err)
		}
		out["ctr "+strings.Join(args, " ")] = text
	}
	for _, dir := range []string{r.d.ConfigPath, filepath.Join(tpl.dir, "cache", "refs"), filepath.Join(tpl.dir, "cache", "blobs")} {
		files, err := filepath.Glob(dir + "/*")
		if err != nil {
			r.t.Fatal(err)
		}
		h := sha256.New()
		err = filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
			if err != nil || !fi.Mode().IsRegular() {
				return err
			}
			b, err := os.ReadFile(p)
			fmt.Fprintln(h, p, fi.Mode(), fi.ModTime().UnixNano())
			h.Write(b)
			return err
		})
		if err != nil {
			r.t.Fatal(err)
		}
		out[dir] = fmt.Sprintf("%d, %x", len(files), h.Sum(nil))
	}
	return out
}

// hundred is a set of 100 images of three layers of 1 MiB, the sandbox image among them.
func hundred(t *testing.T) *imagetest.Set {
	t.Helper()
	specs := []imagetest.ImageSpec{{Names: []string{imagetest.PauseName}, Platforms: []string{"linux/amd64"}, Layers: []imagetest.LayerSpec{{Seed: "pause", Size: 8 << 10}}},
		{Names: []string{imagetest.SensorName}, ByDigest: true, Platforms: []string{"linux/amd64"}, Layers: []imagetest.LayerSpec{{Seed: "sensor", Size: 1 << 20}}}}
	for i := len(specs); i < 100; i++ {
		spec := imagetest.ImageSpec{Names: []string{fmt.Sprintf("quay.io/edgeprep/app-%02d:1", i)}, Platforms: []string{"linux/amd64"}}
		for l := range 3 {
			spec.Layers = append(spec.Layers, imagetest.LayerSpec{Seed: fmt.Sprint(i, l), Size: 1 << 20})
		}
		specs = append(specs, spec)
	}
	set, err := imagetest.Build(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
