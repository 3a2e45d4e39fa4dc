package apply

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// TestACacheFilledBeforeTheFirstApplyChangesHands: root fills the cache while there is an uplink, before there
// is an account for the mirror. The first apply must not ask for --allow overwrite, and the mirror must be able
// to write into what is there.
func TestACacheFilledBeforeTheFirstApplyChangesHands(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sets owners")
	}
	w := newWorld(t)
	for i := range w.want {
		if w.want[i].ID == "dir:"+cacheDir {
			w.want[i].Dir.Parts = []string{"blobs", "refs", "tmp"}
		}
	}
	const blob, ref, hidden = cacheDir + "/blobs/sha256/aa/aa11", cacheDir + "/refs/quay.io/a/_tags/1", cacheDir + "/.stfolder"
	w.n.WriteFile(blob, "x")
	w.n.WriteMode(ref, "{}", 0o640)
	w.n.Mkdir(hidden)
	real := func(p string) string { return filepath.Join(w.n.Dir, p) }
	foreign := real(cacheDir + "/blobs/sha256/theirs")
	w.n.WriteFile(cacheDir+"/blobs/sha256/theirs", "another user's")
	if err := os.Lchown(foreign, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", real(cacheDir+"/blobs/sha256/link")); err != nil {
		t.Fatal(err)
	}
	w.mustApply()
	a, ok, err := w.n.Account("edgeprep-mirror")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for p, want := range map[string]int{cacheDir: a.UID, filepath.Dir(blob): a.UID, blob: a.UID, ref: a.UID, hidden: 0,
		cacheDir + "/blobs/sha256/link": 0, cacheDir + "/blobs/sha256/theirs": 4242, "/etc/passwd": 0} {
		fi, err := os.Lstat(real(p))
		if err != nil {
			t.Fatal(err)
		}
		if got := int(fi.Sys().(*syscall.Stat_t).Uid); got != want {
			t.Errorf("%s belongs to %d, want %d", p, got, want)
		}
	}
	if fi, err := os.Lstat(real(ref)); err != nil || fi.Mode() != 0o640 {
		t.Errorf("mode of %s: %v %v", ref, fi.Mode(), err)
	}
	if r := w.mustApply(); r.Outcome != OutcomeNothing {
		t.Errorf("the second apply changed something: %+v", r)
	}
}

// A directory that holds anything else is somebody's, and is refused as before.
func TestADirectoryWithOtherThingsDoesNotChangeHands(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sets owners")
	}
	w := newWorld(t)
	for i := range w.want {
		if w.want[i].ID == "dir:"+cacheDir {
			w.want[i].Dir.Parts = []string{"blobs"}
		}
	}
	w.n.WriteFile(cacheDir+"/blobs/x", "x")
	w.n.WriteFile(cacheDir+"/family.jpg", "x")
	_, err := w.apply()
	if _, refused := errors.AsType[*diag.Refused](err); !refused {
		t.Fatalf("not refused: %v", err)
	}
	fi, err := os.Lstat(filepath.Join(w.n.Dir, cacheDir, "family.jpg"))
	if errors.Is(err, fs.ErrNotExist) || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("%v %v", fi, err)
	}
}
