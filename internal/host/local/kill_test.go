package local_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
)

// The environment that makes the test binary a victim: what to do, where, and at which hook call to die.
const (
	victimOp   = "EDGEPREP_TEST_OP"
	victimRoot = "EDGEPREP_TEST_ROOT"
	victimAt   = "EDGEPREP_TEST_AT"
)

func TestMain(m *testing.M) {
	if op := os.Getenv(victimOp); op != "" {
		os.Exit(victim(op))
	}
	goleak.VerifyTestMain(m)
}

// victim does one operation and kills itself, as a power cut would, in the n-th hook call. It ends with 0
// when the operation has fewer.
func victim(op string) int {
	at, _ := strconv.Atoi(os.Getenv(victimAt))
	n := 0
	die := func() {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	h, err := local.New(local.Options{Root: os.Getenv(victimRoot), Hook: func(string, string) { die() }})
	if err == nil {
		err = operations[op](h, die)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var (
	oldText = strings.Repeat("old ", 1000)
	newText = strings.Repeat("new ", 2000)
)

func placeAs(h host.Host, die func(), move bool, methods ...host.PlaceMethod) error {
	_, err := h.Files().Place(context.Background(), "/source", "/dir/file", host.PlaceOptions{
		Done:  func(int64) { die() },
		Stage: "/stage", Meta: host.Meta{Mode: 0o644}, Size: int64(len(newText)), Move: move,
		Allow: func(m host.PlaceMethod) bool { return strings.Contains(fmt.Sprint(methods), string(m)) },
	})
	return err
}

// operations change /dir/file, /dir/link or /dir/new.
var operations = map[string]func(h host.Host, die func()) error{
	"write": func(h host.Host, die func()) error {
		return h.Files().Write(context.Background(), "/dir/file", []byte(newText), host.Meta{Mode: 0o600})
	},
	"append": func(h host.Host, die func()) error {
		return h.Files().Append(context.Background(), "/dir/file", []byte(newText), host.Meta{Mode: 0o600})
	},
	"create": func(h host.Host, die func()) error {
		return h.Files().Append(context.Background(), "/dir/new", []byte(newText), host.Meta{Mode: 0o600})
	},
	"mkdir": func(h host.Host, die func()) error {
		return h.Files().Mkdir(context.Background(), "/dir/new", host.Meta{Mode: 0o711})
	},
	"symlink": func(h host.Host, die func()) error {
		return h.Files().Symlink(context.Background(), "/dir/link", "/new")
	},
	"remove": func(h host.Host, die func()) error { return h.Files().Remove(context.Background(), "/dir/file") },
	"meta": func(h host.Host, die func()) error {
		return h.Files().SetMeta(context.Background(), "/dir/file", host.Meta{Mode: 0o600})
	},
	"place-copy": func(h host.Host, die func()) error { return placeAs(h, die, false, host.PlaceCopy) },
	"place-link": func(h host.Host, die func()) error { return placeAs(h, die, false, host.PlaceLink) },
	"place-move": func(h host.Host, die func()) error { return placeAs(h, die, true, host.PlaceRename) },
	"place-gone": func(h host.Host, die func()) error { return placeAs(h, die, true, host.PlaceCopy) },
}

// scratch is a directory in memory where there is one: hundreds of syncs to a disk take long.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "edgeprep-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func victimTree(t *testing.T) string {
	t.Helper()
	root := scratch(t)
	n := hosttest.At(t, root)
	n.Mkdir("/stage")
	n.WriteFile("/dir/file", oldText)
	n.WriteFile("/source", newText)
	n.Symlink("/dir/link", "/old")
	return root
}

// settled is the tree without what a killed run may leave, which must be recognisable.
func settled(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(hosttest.Tree(t, root)) {
		name, _, _ := strings.Cut(line, " ")
		if !atomicfile.IsTemp(filepath.Base(name)) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestKilledAnywhere kills each operation in each of its hook calls. What is there then is the old or the new
// state, and doing it again ends in the very tree of an undisturbed run.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	for name := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			undisturbed := victimTree(t)
			before := hosttest.Tree(t, undisturbed)
			undisturbedRun(t, name, undisturbed)
			after := hosttest.Tree(t, undisturbed)
			if before == after {
				t.Fatal("the operation changes nothing")
			}
			for at := 1; ; at++ {
				root := victimTree(t)
				killed := runVictim(t, name, root, at)
				if s := settled(t, root); s != before && s != after && !between(name, s) {
					t.Errorf("killed in hook call %d: neither old nor new:\n%s", at, s)
				}
				if !killed {
					if at < 3 {
						t.Errorf("only %d hook calls", at-1)
					}
					return
				}
				if !repeatable(name) {
					continue
				}
				undisturbedRun(t, name, root)
				if s := hosttest.Tree(t, root); s != after {
					t.Errorf("killed in hook call %d, then done again:\n%s\nwant:\n%s", at, s, after)
				}
			}
		})
	}
}

// between says whether a tree is one on the way of a move: the destination is complete before the source goes.
func between(name, tree string) bool {
	return name == "place-gone" && strings.Count(tree, fileHash(newText)) == 2
}

// repeatable: an append comes twice, and the source of a move may be consumed.
func repeatable(name string) bool {
	return name != "append" && name != "create" && name != "place-move" && name != "place-gone"
}

func fileHash(content string) string {
	return strings.TrimPrefix(hosttest.Digest([]byte(content)), "sha256:")
}

// undisturbedRun does it in this process, as the next run does.
func undisturbedRun(t *testing.T, op, root string) {
	t.Helper()
	if err := operations[op](open(t, local.Options{Root: root}), func() {}); err != nil {
		t.Fatal(err)
	}
}

func runVictim(t *testing.T, op, root string, at int) (killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // itself
	cmd.Env = append(os.Environ(), victimOp+"="+op, victimRoot+"="+root, victimAt+"="+strconv.Itoa(at))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", op, err, out.String())
	}
	return false
}
