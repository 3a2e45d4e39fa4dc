package mirror

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// A fill on a full disk said that the reference was not in the cache, and nothing of the disk.
func TestFillOnAFullDiskNamesTheDisk(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	dir := tmpfs(t, "1m")
	s := open(t, dir)
	p, _ := pullerOf(t, s, o.URL, testLimits(), nil)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	if _, err := io.Copy(filler, endless{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, filler.Close())
	r, err := p.fillAll(t.Context(), references(t, set)[:1], FillOptions{})
	if err == nil || !strings.Contains(err.Error(), "MER-002") || strings.Contains(err.Error(), ErrNotFound.Error()) {
		t.Errorf("%v %+v", err, r)
	}
}

// What an upstream does not have was said to be not in the cache.
func TestFillSaysThatTheUpstreamHasItNot(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, standard(t))
	p, _ := pullerOf(t, open(t, tempDir(t)), o.URL, testLimits(), nil)
	none, err := ParseReference("quay.io/none/none:1")
	must(t, err)
	_, err = p.fillAll(t.Context(), []Reference{none}, FillOptions{})
	if err == nil || !strings.Contains(err.Error(), "the upstream does not have it") || strings.Contains(err.Error(), "in the cache") {
		t.Errorf("%v", err)
	}
	if _, _, err := p.manifest(t.Context(), none); !errors.Is(err, ErrNotFound) {
		t.Errorf("no longer ErrNotFound: %v", err)
	}
}

func text(err error) string {
	var all []string
	for _, d := range diag.Of(err) {
		all = append(all, d.Text())
	}
	return strings.Join(all, "\n")
}

// A cache that may not be opened was answered with mkdir, tokens and certificates without the reason.
func TestDiagnosticsOfTheMirrorSayWhy(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "my cache")
	for what, c := range map[string]struct{ got, want string }{
		"missing":    {text(CheckCache(dir)), "no such file"},
		"quoted":     {text(CheckCache(dir)), "mkdir -p '" + dir + "'"},
		"permission": {openFix(dir, os.ErrPermission), "as root"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("%s: %q lacks %q", what, c.got, c.want)
		}
	}
	if strings.Contains(openFix(dir, os.ErrPermission), "mkdir") {
		t.Error("mkdir helps nobody who may not look")
	}
}
