package apply

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/host/systemd"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// cutAt ends the goroutine that runs fn at the k-th durable step, as a power cut ends a run: nothing that fn
// would still do is done. It says whether fn got that far.
func (w *world) cutAt(k int, fn func()) (cut bool) {
	n := 0
	w.n.Hook = func(string, string) {
		if n++; n == k {
			cut = true
			w.n.FailOn("files.Remove", 0, os.ErrDeadlineExceeded) // deferred clean-up does not happen either
			runtime.Goexit()
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
	w.n.Hook = nil
	w.n.ClearFaults()
	return cut
}

// steps counts the durable steps of fn.
func (w *world) steps(fn func()) int {
	n := 0
	w.n.Hook = func(string, string) { n++ }
	fn()
	w.n.Hook = nil
	return n
}

// howMany is the number of cuts or kills: every step in the long form (EDGEPREP_SOAK=1), or EDGEPREP_TEST_KILLS.
func howMany(usual int) int {
	if os.Getenv("EDGEPREP_SOAK") == "1" {
		return 1 << 20
	}
	if n, err := strconv.Atoi(os.Getenv("EDGEPREP_TEST_KILLS")); err == nil {
		return n
	}
	if testing.Short() {
		return 4
	}
	return usual
}

// sample is every k up to n, or about max of them, evenly spread and beginning elsewhere for each test.
func sample(n, max int) []int {
	stride := n/max + 1
	var out []int
	for k := 1; k <= n; k += stride {
		out = append(out, k)
	}
	return out
}

// TestKillInMemory ends a run with units, images and cache at its durable steps; what is in memory (units,
// containerd) survives as it would survive the death of edgeprep alone.
func TestKillInMemory(t *testing.T) {
	t.Parallel()
	ref := newWorld(t)
	before := ref.outside()
	total := ref.steps(func() { ref.mustApply() })
	after := ref.outside()
	undo := ref.steps(func() { ref.mustRollback() })
	t.Logf("%d steps to apply, %d to put back", total, undo)
	for _, k := range sample(total, howMany(36)) {
		t.Run(fmt.Sprintf("apply-%d", k), func(t *testing.T) { cutApply(t, k, before, after) })
	}
	for _, k := range sample(undo, howMany(24)) {
		t.Run(fmt.Sprintf("rollback-%d", k), func(t *testing.T) { cutRollback(t, k, before) })
	}
}

func cutApply(t *testing.T, k int, before, after string) {
	w := newWorld(t)
	if !w.cutAt(k, func() { _, _ = w.apply() }) {
		t.Fatal("the run ended before it was cut")
	}
	if k%2 == 0 { // cut the recovery too
		w.cutAt(k%7+1, func() { _, _ = w.apply() })
	}
	if k%3 == 0 { // straight back
		w.mustRollback()
		equal(t, "rollback of a cut run", before, w.outside())
		return
	}
	w.mustApply()
	equal(t, "apply after a cut", anyAccount(after), anyAccount(w.outside()))
	if r := w.mustApply(); r.Outcome != OutcomeNothing {
		t.Errorf("still something to do: %+v", r.Changes)
	}
	w.mustRollback()
	equal(t, "rollback after a cut", before, w.outside())
}

// TestRollbackAfterACutLoadLeavesNoDirectories: a load into the cache that is cut off before its first file has
// made directories, of which no target tells.
func TestRollbackAfterACutLoadLeavesNoDirectories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.outside()
	n, first := 0, 0
	w.n.Hook = func(op, _ string) {
		if n++; op == "before-cache" && first == 0 {
			first = n
		}
	}
	w.mustApply()
	w = newWorld(t)
	if first == 0 || !w.cutAt(first, func() { _, _ = w.apply() }) {
		t.Fatal("nothing was cut")
	}
	w.mustRollback()
	equal(t, "rollback of a cut load", before, w.outside())
}

// anyAccount leaves out what depends on the number of an account: one that was cut off while it was made gets
// another one the next time, or is complete but for its group, as with the real tools.
func anyAccount(tree string) string {
	var out []string
	for _, line := range strings.Split(strings.ReplaceAll(tree, "989:989", "990:990"), "\n") {
		if !strings.HasPrefix(line, "/etc/passwd ") && !strings.HasPrefix(line, "/etc/group ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

func cutRollback(t *testing.T, k int, before string) {
	w := newWorld(t)
	w.mustApply()
	if !w.cutAt(k, func() { _, _ = w.engine().Rollback(context.Background(), "") }) {
		t.Fatal("the rollback ended before it was cut")
	}
	if k%3 == 0 { // changed one's mind
		w.mustApply()
	}
	w.mustRollback()
	equal(t, "rollback after a cut rollback", before, w.outside())
}

func equal(t *testing.T, what, want, got string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s:\n%s", what, d)
	}
}

// Names of the environment by which the test runs itself as a process that kills itself.
const (
	envDir  = "EDGEPREP_TEST_KILL_DIR"
	envStep = "EDGEPREP_TEST_KILL_STEP"
	envVerb = "EDGEPREP_TEST_KILL_VERB"
)

// TestMain runs the engine in a directory when it is asked to: see TestKill.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		os.Exit(victim(dir))
	}
	os.Exit(m.Run())
}

// victim applies or rolls back in a directory and kills itself with SIGKILL at a durable step. It prints the
// number of steps when it gets to its end.
func victim(dir string) int {
	k, _ := strconv.Atoi(os.Getenv(envStep))
	n := 0
	h, err := local.New(local.Options{Root: dir, Units: offline, Hook: func(string, string) {
		if n++; n == k {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	if err == nil {
		err = treeRun(h, os.Getenv(envVerb))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(n)
	return 0
}

// treeRun applies to a directory as --root does: files, archives and units by links.
func treeRun(h *local.Host, verb string) error {
	ctx := context.Background()
	e := &Engine{Host: h, Allow: []plan.Risk{plan.RiskRestart}}
	if verb == "rollback" {
		_, err := e.Rollback(ctx, "")
		return err
	}
	content, err := h.FS().ReadFile("/media/images.tar", 0)
	if err != nil {
		return err
	}
	_, err = e.Run(ctx, func(ctx context.Context) (plan.Plan, error) {
		l, err := plan.ReadLedger(h.FS())
		if err != nil {
			return plan.Plan{}, err
		}
		return plan.Build(ctx, local.ReadOnly(h), treeResources(content), l, plan.Options{})
	})
	return err
}

func runVictim(t *testing.T, dir, verb string, k int) (steps int, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // the test itself
	cmd.Env = append(os.Environ(), envDir+"="+dir, envVerb+"="+verb, envStep+"="+strconv.Itoa(k))
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return 0, true
	}
	if err != nil {
		t.Fatalf("%s at %d: %v\n%s", verb, k, err, out)
	}
	steps, err = strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return steps, false
}

func killTree(t *testing.T) string {
	t.Helper()
	n := hosttest.At(t, fastDir(t))
	baseTree(n)
	return n.Dir
}

// treeOf is what is in a directory, without the engine's own state, whose run ids differ after a kill.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(hosttest.Tree(t, dir), "\n") {
		if !strings.Contains(line, "run/edgeprep") && !strings.Contains(line, "edgeprep/journal") &&
			!strings.Contains(line, "edgeprep/backups") && !strings.Contains(line, "edgeprep/ledger") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// TestKill kills the real process with SIGKILL at durable steps of apply, of the run after it (which recovers)
// and of the rollback.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := killTree(t)
	before := treeOf(t, dir)
	total, _ := runVictim(t, dir, "apply", 0)
	after := treeOf(t, dir)
	undo, _ := runVictim(t, dir, "rollback", 0)
	equal(t, "rollback", before, treeOf(t, dir))
	kills := howMany(24)
	t.Logf("%d steps to apply, %d to put back", total, undo)
	for _, k := range sample(total, kills) {
		killApply(t, k, before, after)
	}
	for _, k := range sample(undo, kills/2) {
		killRollback(t, k, before)
	}
}

func killApply(t *testing.T, k int, before, after string) {
	t.Helper()
	dir := killTree(t)
	if _, killed := runVictim(t, dir, "apply", k); !killed {
		t.Errorf("not killed at %d", k)
	}
	if k%2 == 0 {
		runVictim(t, dir, "apply", k%11+1) // killed again, most likely while it recovers
	}
	if k%3 == 0 {
		runVictim(t, dir, "rollback", 0)
		equal(t, fmt.Sprintf("rollback after a kill at %d", k), before, treeOf(t, dir))
		return
	}
	runVictim(t, dir, "apply", 0)
	equal(t, fmt.Sprintf("apply after a kill at %d", k), after, treeOf(t, dir))
	runVictim(t, dir, "rollback", 0)
	equal(t, fmt.Sprintf("rollback after a kill at %d", k), before, treeOf(t, dir))
	_ = os.RemoveAll(filepath.Clean(dir))
}

func killRollback(t *testing.T, k int, before string) {
	t.Helper()
	dir := killTree(t)
	runVictim(t, dir, "apply", 0)
	if _, killed := runVictim(t, dir, "rollback", k); !killed {
		t.Errorf("not killed at %d", k)
	}
	runVictim(t, dir, "rollback", 0)
	equal(t, fmt.Sprintf("rollback after a killed rollback at %d", k), before, treeOf(t, dir))
}

func offline(fs host.FS, w host.FileWriter) local.Units { return systemd.Offline(fs, w) }
