package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host/ctr/ctrtest"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// cacheOf is a cache with the standard set, two platforms each.
func cacheOf(t *testing.T) (string, *imagetest.Set) {
	t.Helper()
	set, err := imagetest.Standard(imagetest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := set.WriteLayout(filepath.Join(dir, "layout"), imagetest.Form{}); err != nil {
		t.Fatal(err)
	}
	loadInto(t, filepath.Join(dir, "cache"), filepath.Join(dir, "layout"))
	return filepath.Join(dir, "cache"), set
}

func loadInto(t *testing.T, cache string, paths ...string) {
	t.Helper()
	if _, err := LoadCache(t.Context(), cache, paths, progress.Discard{}); err != nil {
		t.Fatal(err)
	}
}

// listed are the references of a cache with digest, and the platforms that are complete.
func listed(t *testing.T, cache string) map[string]string {
	t.Helper()
	s, err := mirror.Open(cache, mirror.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range list {
		out[e.Reference] = e.Digest
		for _, p := range e.Platforms {
			if p.Complete {
				out[e.Reference] += " " + p.Platform
			}
		}
	}
	return out
}

// What is exported in any form and loaded into an empty cache is there with the same digests.
func TestExportLoadRoundTrip(t *testing.T) {
	t.Parallel()
	cache, _ := cacheOf(t)
	all := listed(t, cache)
	one := map[string]string{}
	for n, v := range all {
		one[n] = strings.ReplaceAll(v, " linux/amd64", "")
	}
	for name, c := range map[string]struct {
		platform string
		want     map[string]string
	}{"a.tar": {"linux/arm64", one}, "a.tar.gz": {AllPlatforms, all}, "a.tar.zst": {AllPlatforms, all}, "layout": {"linux/arm64", one}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := ExportRequest{Cache: cache, Patterns: []string{"**"}, Platforms: []string{c.platform}, Out: filepath.Join(dir, name)}
			if _, err := ExportCache(t.Context(), r, progress.Discard{}); err != nil {
				t.Fatal(err)
			}
			loadInto(t, filepath.Join(dir, "cache"), r.Out)
			if d := cmp.Diff(c.want, listed(t, filepath.Join(dir, "cache"))); d != "" {
				t.Error(d)
			}
			if _, err := ExportCache(t.Context(), r, progress.Discard{}); diag.Of(err) == nil || diag.Of(err)[0].ID != "MER-067" {
				t.Errorf("it writes over what is there: %v", err)
			}
			r.Out = filepath.Join(dir, "again-"+name)
			if _, err := ExportCache(t.Context(), r, progress.Discard{}); err != nil {
				t.Fatal(err)
			}
			if name != "layout" && !same(t, filepath.Join(dir, name), r.Out) {
				t.Error("the same content gives other bytes")
			}
		})
	}
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

// Nothing is written for what is not there, not complete, or damaged.
func TestExportIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	cache, set := cacheOf(t)
	web, _ := set.Image(imagetest.WebName)
	layer := strings.TrimPrefix(web.Platforms[0].Layers[1], "sha256:")
	file := filepath.Join(cache, "blobs", "sha256", layer[:2], layer)
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("edge-web:1.0\nnone:1 # not here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	export := func(name string, r ExportRequest, id string) {
		t.Helper()
		dir := t.TempDir()
		r.Cache, r.Out = cache, filepath.Join(dir, "a.tar")
		_, err := ExportCache(t.Context(), r, progress.Discard{})
		left, rerr := os.ReadDir(dir)
		if err == nil || rerr != nil || len(left) > 0 || id != "" && (len(diag.Of(err)) != 1 || diag.Of(err)[0].ID != id) {
			t.Errorf("%s: %v, left %v %v", name, err, left, rerr)
		}
	}
	export("no such reference", ExportRequest{Patterns: []string{"none"}}, "MER-062")
	export("one of a list", ExportRequest{Required: list, Platforms: []string{"linux/amd64"}}, "MER-066")
	export("no such platform", ExportRequest{Patterns: []string{"edge-web:1.0"}, Platforms: []string{"linux/s390x"}}, "MER-066")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[9] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	export("flipped", ExportRequest{Patterns: []string{"edge-web:1.0"}, Platforms: []string{"linux/amd64"}}, "")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	export("incomplete", ExportRequest{Patterns: []string{"edge-web:1.0"}, Platforms: []string{"linux/amd64"}}, "MER-066")
}

// The archive goes into a real containerd by its own ctr: every name, every digest.
func TestExportIntoContainerd(t *testing.T) {
	t.Parallel()
	cache, set := cacheOf(t)
	dir := t.TempDir()
	r := ExportRequest{Cache: cache, Patterns: []string{"**"}, Out: filepath.Join(dir, "a.tar")}
	if _, err := ExportCache(t.Context(), r, progress.Discard{}); err != nil {
		t.Fatal(err)
	}
	ctrtest.Each(t, func(t *testing.T, d *ctrtest.Daemon) {
		if out, err := d.Ctr("images", "import", "--no-unpack", r.Out); err != nil {
			t.Fatalf("%s%v", out, err)
		}
		out, err := d.Ctr("images", "ls")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "sha256:") {
				got[f[0]] = f[2]
			}
		}
		for n, want := range set.Digests() {
			if !strings.Contains(n, "@") && got[n] != want {
				t.Errorf("%s: %q, want %s", n, got[n], want)
			}
		}
	})
}
