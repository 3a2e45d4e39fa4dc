package faults

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/test/edgeprep"
)

var layoutForm = imagetest.Form{Layout: imagetest.OCI}

func blobFile(cache, d string) string {
	hex := digest.Digest(d).Encoded()
	return filepath.Join(cache, "blobs/sha256", hex[:2], hex)
}

// aliases is a set whose first image has two references.
func aliases(t *testing.T) *imagetest.Set {
	t.Helper()
	set, err := imagetest.Build(
		imagetest.ImageSpec{Names: []string{"up.test/team/app:1", "up.test/team/alias:Latest"}, Platforms: []string{"linux/amd64"},
			Layers: []imagetest.LayerSpec{{Seed: "a", Size: 300 << 10, Random: 1}}},
		imagetest.ImageSpec{Names: []string{"up.test/team/other:2"}, Platforms: []string{"linux/amd64"},
			Layers: []imagetest.LayerSpec{{Seed: "b", Size: 300 << 10, Random: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func allWhole(t *testing.T, what, url string, set *imagetest.Set) {
	t.Helper()
	for n := range set.Images {
		if got := pull(t.Context(), url, set, n); got != whole {
			t.Errorf("%s: image %d: %s", what, n, got)
		}
	}
	alias := url + "/v2/team/alias/manifests/"
	for _, ref := range []string{"Latest", set.Images[0].Digest} {
		if got, _ := one(t.Context(), alias+ref+"?ns=up.test", set.Blob(set.Images[0].Digest)); got != whole {
			t.Errorf("%s: alias %s: %s", what, ref, got)
		}
	}
}

// What Syncthing and others leave anywhere in the cache changes no answer of a running mirror, nor of one that
// starts on it, and is reported. Two references to one digest survive a restart, a load into another cache,
// and a copy.
func TestForeignFilesUnderARunningMirror(t *testing.T) {
	t.Parallel()
	set := aliases(t)
	layout := filepath.Join(t.TempDir(), "layout")
	if err := set.WriteLayout(layout, layoutForm); err != nil {
		t.Fatal(err)
	}
	m := edgeprep.Serve(t, edgeprep.Options{Args: []string{"--upstream", "never"}})
	if _, err := edgeprep.Run(t, "mirror", "load", "--cache", m.Cache, layout); err != nil {
		t.Fatal(err)
	}
	allWhole(t, "loaded under a running mirror", m.URL, set)
	n := litter(t, m.Cache)
	allWhole(t, "with foreign files", m.URL, set)
	m.Stop()
	m.Start()
	allWhole(t, "restarted", m.URL, set)
	out, err := edgeprep.Run(t, "mirror", "verify", "--cache", m.Cache)
	if err != nil || strings.Count(out, "foreign") < n {
		t.Errorf("%d foreign files, reported:\n%s\n%v", n, out, err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-r", m.Cache, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	second := edgeprep.Serve(t, edgeprep.Options{Cache: copied, Args: []string{"--upstream", "never"}})
	allWhole(t, "copied", second.URL, set)
}

// litter puts foreign files into every directory of a cache.
func litter(t *testing.T, cache string) int {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(cache, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && !strings.HasPrefix(p, filepath.Join(cache, "tmp")) && !strings.HasPrefix(p, filepath.Join(cache, "usage")) {
			dirs = append(dirs, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, dir := range dirs {
		for name, text := range map[string]string{
			".syncthing.1.tmp": "half", "1.sync-conflict-20260101-120000-ABCDEF7": "{}", "empty": "", "garbage": "\x00\xff{",
			".#lock": "", "1~": "{\"reference\":\"up.test/team/app:1\"}",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return n
}

// Files come as Syncthing and cp bring them, in any order: nothing is served before it is whole, and then it is,
// by the mirror that runs.
func TestFilesComeUnderARunningMirror(t *testing.T) {
	t.Parallel()
	set := aliases(t)
	dir := t.TempDir()
	layout, full := filepath.Join(dir, "layout"), filepath.Join(dir, "full")
	if err := set.WriteLayout(layout, layoutForm); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := edgeprep.Run(t, "mirror", "load", "--cache", full, layout); err != nil {
		t.Fatal(err)
	}
	m := edgeprep.Serve(t, edgeprep.Options{Args: []string{"--upstream", "never"}})
	write := func(rel string, b []byte) {
		p := filepath.Join(m.Cache, rel)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(full, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(full, p)
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if strings.HasPrefix(rel, "refs") { // Syncthing: a temporary file, then its name
			tmp := filepath.Join(filepath.Dir(rel), ".syncthing."+filepath.Base(rel)+".tmp")
			write(tmp, b)
			everythingRight(t, m.URL, set)
			return os.Rename(filepath.Join(m.Cache, tmp), filepath.Join(m.Cache, rel))
		}
		for _, n := range []int{0, len(b) / 2, len(b)} { // cp: in place
			write(rel, b[:n])
			everythingRight(t, m.URL, set)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	allWhole(t, "copied", m.URL, set)
}

func everythingRight(t *testing.T, url string, set *imagetest.Set) {
	t.Helper()
	everything(t, url, set) // fails on what is neither right nor missing
}
