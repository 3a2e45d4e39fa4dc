package tui

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/app"
)

func TestPatternsStayAsLongAsTheyHold(t *testing.T) {
	t.Parallel()
	files := func(chosen ...string) []app.ArchiveFile {
		var out []app.ArchiveFile
		for _, p := range []string{"/a/1.tar", "/a/2.tar", "/b/3.tgz"} {
			out = append(out, app.ArchiveFile{Path: p, Chosen: slices.Contains(chosen, p)})
		}
		return out
	}
	for _, c := range []struct {
		name      string
		old, want []string
		chosen    []string
	}{
		{"all of a pattern", []string{"/a/*.tar"}, []string{"/a/*.tar"}, []string{"/a/1.tar", "/a/2.tar"}},
		{"one of a pattern", []string{"/a/*.tar"}, []string{"/a/2.tar"}, []string{"/a/2.tar"}},
		{"one besides", []string{"/a/*.tar"}, []string{"/a/*.tar", "/b/3.tgz"}, []string{"/a/1.tar", "/a/2.tar", "/b/3.tgz"}},
		{"a pattern without a file stays", []string{"/c/*.tar"}, []string{"/c/*.tar"}, nil},
		{"two patterns for one file", []string{"/a/1.tar", "/a/*.tar"}, []string{"/a/1.tar"}, []string{"/a/1.tar"}},
		{"none", []string{"/a/*.tar"}, []string{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, patternsFor(c.old, files(c.chosen...))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestArchivesAreChosen(t *testing.T) {
	t.Parallel()
	p := atStep(3)(t)
	p.keys("space")
	if got := p.m.draft.site.Images.Archives; !slices.Equal(got, []string{"/opt/edgeprep/images/k3s-airgap-images-amd64.tar.zst"}) {
		t.Errorf("archives = %q", got)
	}
	p.keys("down", "space")
	if got := p.m.draft.site.Images.Archives; len(got) != 1 {
		t.Errorf("an archive for another architecture was chosen: %q", got)
	}
	p.keys("/")
	p.typed("k3s")
	p.keys("enter", "space")
	if got := p.m.draft.site.Images.Archives; len(got) != 0 {
		t.Errorf("archives = %q", got)
	}
}
