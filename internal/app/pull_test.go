package app

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// pullSite is a plan whose list has an image that no archive has; its registry is at url.
func pullSite(t *testing.T, root, url string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, "opt/edgeprep/list.txt"), []byte(imagetest.WebName+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return "version = 1\n[distro]\nkind = \"k3s\"\nversion = \"v1.36.3+k3s1\"\n[images]\nrequired = \"/opt/edgeprep/list.txt\"\n" +
		"[mirror]\nupstream = \"connected\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"" + url + "/docker.io\"\n"
}

// besides is every file of a tree but those of the cache, with its content.
func besides(t *testing.T, root string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "cd "+root+" && find . -path ./var/lib/edgeprep/mirror -prune -o -printf '%y %m %U %s %p\\n' | LC_ALL=C sort"+
		" && find . -path ./var/lib/edgeprep/mirror -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// What is pulled into the cache before the first apply counts as on board, for the wizard and for the plan, and
// nothing else on the node is written.
func TestPullMissing(t *testing.T) {
	t.Parallel()
	from, _ := cacheOf(t)
	url, _, _ := served(t, from)
	root := stageNode(t)
	if err := os.MkdirAll(filepath.Join(root, "var/lib/edgeprep"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := opened(t, Options{Root: root, Draft: []byte(pullSite(t, root, url))})
	cache := filepath.Join(root, "var/lib/edgeprep/mirror")
	c, err := a.Coverage(t.Context(), nil)
	if err != nil || len(c.Cached) != 0 || c.Pull.No != nil || c.Pull.Cache != cache {
		t.Fatalf("before: %+v %v", c, err)
	}
	if _, err := a.Plan(t.Context(), ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "NOD-114") {
		t.Fatalf("a plan without the image: %v", err)
	}
	was := besides(t, root)
	out, err := a.PullMissing(t.Context(), c.Refs)
	if err != nil || len(out.Images) != 1 || out.Images[0].Status != mirror.FillPulled || out.Bytes == 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if now := besides(t, root); now != was {
		t.Errorf("something else was written:\n%s\nnot\n%s", now, was)
	}
	if c, err = a.Coverage(t.Context(), nil); err != nil || !slices.Equal(c.Cached, []string{imagetest.WebName}) {
		t.Errorf("after: %+v %v", c, err)
	}
	p, err := a.Plan(t.Context(), ApplyOptions{})
	if err != nil || !slices.ContainsFunc(p.Pending, func(n plan.Pending) bool {
		return strings.Contains(n.What, imagetest.WebName) && strings.Contains(n.Why, "the mirror's cache has it")
	}) {
		t.Errorf("plan: %+v %v", p.Pending, err)
	}
	if out, err := a.PullMissing(t.Context(), c.Refs); err != nil || out.Blobs != 0 {
		t.Errorf("again: %+v %v", out, err)
	}
}

// An image that is there in part is not on board.
func TestHalfAnImageIsMissing(t *testing.T) {
	t.Parallel()
	from, _ := cacheOf(t)
	url, _, _ := served(t, from)
	root := stageNode(t)
	a := opened(t, Options{Root: root, Draft: []byte(pullSite(t, root, url))})
	if _, err := a.PullMissing(t.Context(), []string{imagetest.WebName}); err != nil {
		t.Fatal(err)
	}
	largest, size := "", int64(0)
	for _, f := range blobsBelow(t, filepath.Join(root, "var/lib/edgeprep/mirror/blobs")) {
		if fi, err := os.Stat(f); err == nil && fi.Size() > size {
			largest, size = f, fi.Size()
		}
	}
	if err := os.Remove(largest); err != nil {
		t.Fatal(err)
	}
	if c, err := a.Coverage(t.Context(), nil); err != nil || len(c.Cached) != 0 {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := a.Plan(t.Context(), ApplyOptions{}); err == nil {
		t.Error("a plan with half an image")
	}
}

func blobsBelow(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "sha256/*/*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("%v %v", found, err)
	}
	return found
}

// What cannot be pulled here is said with the reason, and nothing is written.
func TestWhyNothingIsPulled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ toml, id, why string }{
		"never":      {"[mirror]\nupstream = \"never\"\n", "MER-095", "nothing is pulled"},
		"no mirror":  {"[mirror]\nmode = \"none\"\nupstream = \"connected\"\n[registries]\nendpoints = [\"http://10.0.0.1:5000\"]\n", "MER-094", "others'"},
		"deployment": {"[mirror]\nmode = \"workload\"\nupstream = \"connected\"\n[mirror.workload]\nform = \"deployment\"\nsize = \"1GiB\"\n", "MER-094", "volume"},
		"other node": {"[mirror]\nupstream = \"connected\"\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\nmirror = \"none\"\n[[node]]\nname = \"b\"\naddress = \"10.0.0.2\"\nmirror = \"primary\"\n", "MER-094", "another node"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := stageNode(t)
			was := besides(t, root)
			o := Options{Root: root, Draft: []byte("version = 1\n[distro]\nkind = \"k3s\"\n" + c.toml)}
			if name == "other node" {
				o.Node = "a"
			}
			a := opened(t, o)
			_, err := a.PullMissing(t.Context(), []string{imagetest.WebName})
			var refused *diag.Refused
			if !errors.As(err, &refused) {
				t.Fatalf("not refused: %v", err)
			}
			if d := diag.Of(err); len(d) != 1 || d[0].ID != c.id || !strings.Contains(d[0].Why, c.why) || d[0].Fix == "" {
				t.Errorf("%+v", d)
			}
			if now := besides(t, root); now != was {
				t.Errorf("something was written:\n%s", now)
			}
		})
	}
}

// A user who may not write the cache is told so before anything is asked for.
func TestPullWithoutRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it becomes another user")
	}
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.Mkdir(mine, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(mine, 65534, 65534), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	found := map[string]error{}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its user
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			done <- errno
			return
		}
		for _, p := range []string{mine, mine + "/new/cache", dir, dir + "/new"} {
			found[p] = mayWrite(p)
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{mine, mine + "/new/cache"} {
		if found[p] != nil {
			t.Errorf("%s: %v", p, found[p])
		}
	}
	for _, p := range []string{dir, dir + "/new"} {
		if d := diag.Of(found[p]); len(d) != 1 || d[0].ID != "MER-096" || !strings.Contains(d[0].Fix, "sudo") {
			t.Errorf("%s: %v", p, found[p])
		}
	}
}
