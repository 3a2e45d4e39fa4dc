package binaries_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/test/binaries"
)

// repo is a repository in which test/containerd has the go.mod.
func repo(t *testing.T, goMod string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "test", "containerd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(goMod), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func target(t *testing.T) binaries.Target {
	t.Helper()
	tg, err := binaries.Lookup("containerd-2.4")
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

const goMod = "module m\n\ngo 1.26\n\nrequire (\n\tgithub.com/containerd/containerd/api v1.11.0\n\tgithub.com/containerd/containerd/v2 v2.9.9\n)\n"

func TestPathHasTheRequiredVersion(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, text := range []string{goMod, "module m\n\nrequire github.com/containerd/containerd/v2 v2.9.9\n"} {
		got, err := target(t).Path(repo(t, text))
		if err != nil || filepath.Base(got) != "containerd-2.4-2.9.9" {
			t.Errorf("%s, %v", got, err)
		}
	}
	if _, err := target(t).Path(repo(t, "module m\n")); err == nil {
		t.Error("a go.mod without the module gives a path")
	}
}

func TestFindSaysHowToBuild(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	root := repo(t, goMod)
	_, err := target(t).Find(root)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "go run ./test/build -what containerd-2.4") {
		t.Errorf("%v", err)
	}
	dir, err := target(t).Path(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := target(t).Find(root); got != dir || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	var log bytes.Buffer
	if got, err := target(t).Build(t.Context(), root, &log); got != dir || err != nil || log.Len() > 0 {
		t.Errorf("built what is there: %s, %v, %s", got, err, log.String())
	}
}

// A build that fails leaves nothing that the next one would take for a result.
func TestFailedBuildLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("GOPROXY", "off")
	var log bytes.Buffer
	if _, err := target(t).Build(t.Context(), repo(t, goMod), &log); err == nil {
		t.Fatal("a version that does not exist was built")
	}
	left, err := os.ReadDir(filepath.Join(cache, "edgeprep-test"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestLookup(t *testing.T) {
	if _, err := binaries.Lookup("containerd-9"); err == nil || !strings.Contains(err.Error(), "containerd-1.7") {
		t.Errorf("%v", err)
	}
	root, err := binaries.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, tg := range binaries.Targets() {
		if _, err := tg.Path(root); err != nil {
			t.Errorf("%s: %v", tg.Name, err)
		}
	}
}
