package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

func TestAnImageInUseIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	w.n.Containerd(endpoint).SetInUse("docker.io/library/a:1")
	r, err := w.rollback("")
	if !errors.Is(err, ErrKept) || len(r.Kept) != 2 { // the name and its pin
		t.Fatalf("%v %+v", err, r.Kept)
	}
	imgs, _ := w.n.Runtime(endpoint).Images(context.Background())
	if len(imgs) != 2 || imgs[0].Name != "docker.io/library/a:1" {
		t.Errorf("%+v", imgs)
	}
	w.n.Containerd(endpoint).SetInUse()
	w.mustRollback()
	if imgs, _ = w.n.Runtime(endpoint).Images(context.Background()); len(imgs) != 0 || w.n.Exists(plan.StateDir) {
		t.Errorf("%+v", imgs)
	}
}

func TestAnImageOfOthersComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	theirs := w.images[1].Image
	theirs.Name, theirs.Labels = "docker.io/library/a:1", map[string]string{"theirs": "yes"}
	if err := w.n.Containerd(endpoint).SetImage(context.Background(), theirs); err != nil {
		t.Fatal(err)
	}
	before := w.outside()
	_, err := w.apply()
	wantID(t, err, "APL-002")
	w.allow = append(w.allow, plan.RiskOverwrite)
	w.mustApply()
	w.mustRollback()
	equal(t, "rollback", before, w.outside())
}

func TestTheAccountStaysWhenItsFilesChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	w.n.WriteFile("/etc/passwd", w.n.ReadFile("/etc/passwd")+"other:x:1:1::/:/bin/sh\n")
	r, err := w.rollback("")
	if !errors.Is(err, ErrKept) || len(r.Kept) != 1 || r.Kept[0].ID != "user:edgeprep-mirror" {
		t.Errorf("%v %+v", err, r.Kept)
	}
	if !strings.Contains(w.n.ReadFile("/etc/group"), "edgeprep-mirror") {
		t.Error("half of the account is gone")
	}
}

func TestOneRunAloneGoesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.mustApply()
	middle := w.outside()
	w.want = append(w.want, file("/etc/second", "2\n"))
	w.want[0] = file("/etc/sysusers.d/edgeprep.conf", "# changed\n")
	second := w.mustApply()
	if _, err := w.rollback(first.Run); err == nil || !strings.Contains(err.Error(), "changed since") {
		t.Errorf("the older run went back under the newer: %v", err)
	}
	if _, err := w.rollback("0099-x"); !slices.Contains(ids(err), "APL-018") {
		t.Errorf("%v", err)
	}
	w = newWorld(t)
	w.mustApply()
	w.want = append(w.want, file("/etc/second", "2\n"))
	w.want[0] = file("/etc/sysusers.d/edgeprep.conf", "# changed\n")
	second = w.mustApply()
	if _, err := w.rollback(second.Run); err != nil {
		t.Fatal(err)
	}
	equal(t, "the first run's state", middle, w.outside())
	w.mustRollback()
	if w.n.Exists(plan.StateDir) {
		t.Error("state is left")
	}
}

func TestConsumedArchivesMoveBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.outside()
	for i := range w.want {
		if w.want[i].Archive != nil {
			w.want[i].Archive.Consume = true
		}
	}
	w.want = slices.DeleteFunc(w.want, func(r resource.Resource) bool { return r.ImageSet != nil })
	w.mustApply()
	if w.n.Exists("/media/images.tar") {
		t.Error("the source was not moved")
	}
	if r := w.mustApply(); r.Outcome != OutcomeNothing {
		t.Errorf("%+v", r.Changes)
	}
	w.mustRollback()
	equal(t, "rollback", before, w.outside())
}

func TestWithoutRootNothingIsTouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.n.Info.Root = false
	before := w.snapshot()
	_, err := w.apply()
	if !errors.Is(err, ErrNeedsRoot) {
		t.Errorf("%v", err)
	}
	equal(t, "a run without root", before, w.snapshot())
	w.n.Info.Root = true
	w.mustApply()
	w.n.Info.Root = false
	if r, err := w.apply(); err != nil || r.Outcome != OutcomeNothing {
		t.Errorf("%v %+v", err, r)
	}
	if _, err := w.engine().Run(context.Background(), func(context.Context) (plan.Plan, error) { return plan.Plan{}, os.ErrPermission }); !errors.Is(err, ErrNeedsRoot) {
		t.Errorf("a plan that only root can make: %v", err)
	}
}

func TestTheLockIsHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unlock, err := w.n.Files().Lock(context.Background(), LockPath, "another", 0)
	if err != nil {
		t.Fatal(err)
	}
	before := w.snapshot()
	_, err = w.apply()
	if _, held := errors.AsType[*host.LockedError](err); !held {
		t.Errorf("%v", err)
	}
	equal(t, "a locked run", before, w.snapshot())
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	w.mustApply()
}

func TestAnInterruptedRunIsTakenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.ask = func(context.Context, resource.HTTPGate, GateFiles) error { cancel(); return errBroken }
	r, err := w.engine().Run(ctx, w.build)
	if !errors.Is(err, context.Canceled) || r.Outcome != OutcomeInterrupted {
		t.Errorf("%v %s", err, r.Outcome)
	}
	w.ask = func(context.Context, resource.HTTPGate, GateFiles) error { return nil }
	if r := w.mustApply(); r.Recovered != "" {
		t.Errorf("an interrupted run is a finished one: %+v", r)
	}
}

func TestDamagedStateIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.mustApply()
	good := w.n.ReadFile(plan.LedgerPath)
	w.n.WriteFile(plan.LedgerPath, good[:len(good)/2])
	_, err := w.apply()
	wantID(t, err, "APL-007")
	w.n.WriteFile(plan.LedgerPath, strings.Replace(good, `"schema": 1`, `"schema": 2`, 1))
	_, err = w.apply()
	wantID(t, err, "APL-008")

	if err := os.Remove(filepath.Join(w.n.Dir, plan.LedgerPath)); err != nil { // as the fix of APL-007 says
		t.Fatal(err)
	}
	w.mustApply()
	w.merge()
	if got := w.mustApply(); got.Outcome != OutcomeNothing {
		t.Errorf("made again from the journal: %+v", got.Changes)
	}

	j := journalPath(r.Run)
	lines := strings.SplitAfter(w.n.ReadFile(j), "\n")
	lines[3] = lines[3][:10] + "\n"
	w.n.WriteMode(j, strings.Join(lines, ""), 0o600)
	_, err = w.rollback("")
	wantID(t, err, "APL-009")
}

func TestLostBackupsAreSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	b := backupPath(plan.Sum([]byte(sharedV0)))
	w.n.WriteMode(b, "garbage", 0o600)
	_, err := w.rollback("")
	wantID(t, err, "APL-016")
	if got := w.n.ReadFile(registries); got != sharedV1 {
		t.Errorf("%q", got)
	}
}

func TestUnderARootUnitsArePending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.n.UnitState().SetActive("k3s.service", "")
	w.n.SetLive(false)
	w.n.Containerd(endpoint).SetDown(true)
	before := w.outside()
	r := w.mustApply()
	var what []string
	for _, p := range r.Pending {
		what = append(what, p.What)
	}
	slices.Sort(what)
	want := []string{"import 2 images into containerd", "restart k3s.service", "start edgeprep-mirror.service"}
	if !slices.Equal(what, want) {
		t.Errorf("pending %q, want %q", what, want)
	}
	if u, _ := w.n.Units().Unit(context.Background(), "edgeprep-mirror.service"); !u.IsEnabled() {
		t.Error("not enabled by link")
	}
	if r := w.mustApply(); r.Outcome != OutcomeNothing || len(r.Pending) != 2 {
		t.Errorf("%+v", r)
	}
	w.mustRollback()
	equal(t, "rollback", before, w.outside())
}

func TestStatusNamesDrift(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustApply()
	w.n.WriteMode(registries, "x", 0o600)
	w.n.UnitState().SetActive("edgeprep-mirror.service", "failed")
	if err := os.Remove(w.n.Path("/etc/edgeprep-link")); err != nil {
		t.Fatal(err)
	}
	st, err := ReadStatus(context.Background(), asRoot(w.n))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range st.Drift {
		got = append(got, d.ID+": "+d.What)
	}
	want := []string{"file:" + registries + ": edited", "symlink:/etc/edgeprep-link: removed", "unit:edgeprep-mirror.service: does not run (failed)"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestTheLastTornLineIsTolerated(t *testing.T) {
	t.Parallel()
	x, err := parseRun("0001-x", []byte(`{"type":"run","verb":"apply"}`+"\n"+`{"type":"intent","seq":1,"id":"a"}`+"\n"+`{"type":"do`))
	if err != nil || !x.torn || len(x.changes) != 1 {
		t.Errorf("%v %+v", err, x)
	}
	x, err = parseRun("0001-x", []byte(`{"type":"run","verb":"apply"}`+"\n"+`{"type":"int`+"\n"+`{"type":"end","torn":true}`+"\n"))
	if err != nil || x.torn || !x.ended {
		t.Errorf("%v %+v", err, x)
	}
	if _, err = parseRun("0001-x", []byte(`{"type":"int`+"\n"+`{"type":"end"}`+"\n")); err == nil {
		t.Error("a damaged line in the middle is tolerated")
	}
}

func TestEachFailedWriteLeavesAWayOn(t *testing.T) {
	t.Parallel()
	ref := newWorld(t)
	before := ref.outside()
	ref.n.ResetCalls()
	ref.mustApply()
	after := ref.outside()
	stride := 8
	if testing.Short() {
		stride = 2
	}
	for _, op := range []string{"files.Write", "files.Append", "files.Mkdir", "files.Place", "files.Symlink", "units.Start", "units.Enable", "runtime.Import", "account.Ensure"} {
		total := len(ref.n.Calls(op))
		if op == "files.Write" {
			total-- // the last one is the result for monitoring, which fails no run
		}
		for k := 1; k <= total; k += max(1, total/stride) {
			w := newWorld(t)
			w.n.FailOn(op, k, errBroken)
			if _, err := w.apply(); !errors.Is(err, errBroken) {
				t.Errorf("%s %d: %v", op, k, err)
			}
			w.n.ClearFaults()
			if k%2 == 0 {
				w.mustApply()
				equal(t, op, after, w.outside())
			}
			w.mustRollback()
			equal(t, op, before, w.outside())
		}
	}
}

func TestProbeAsksLikeContainerd(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"docker.io/library/busybox:1.36":           "/v2/library/busybox/manifests/1.36?ns=docker.io",
		"registry.local:5000/a/b:v1":               "/v2/a/b/manifests/v1?ns=registry.local%3A5000",
		"ghcr.io/a/b@sha256:0123":                  "/v2/a/b/manifests/sha256:0123?ns=ghcr.io",
		"ghcr.io/a/b:v1@sha256:0123":               "/v2/a/b/manifests/sha256:0123?ns=ghcr.io",
		"docker.io/library/busybox":                "/v2/library/busybox/manifests/latest?ns=docker.io",
		"registry.local:5000/a/b@sha512:" + "abcd": "/v2/a/b/manifests/sha512:abcd?ns=registry.local%3A5000",
	} {
		if got := manifestURL(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestReportText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ask = func(context.Context, resource.HTTPGate, GateFiles) error { return errBroken }
	r, _ := w.apply()
	var b strings.Builder
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"failed   prove", "skipped  update   " + registries + ": needs gate:mirror", "edgeprep rollback 0001-20261122T210000Z puts it back"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestWhatOthersWentOnWithIsTheirs: a file that was made for another program, and a directory that others use.
func TestWhatOthersWentOnWithIsTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := with(file("/var/lib/rancher/images/.cache.json", "{}"), "dir:/var/lib/rancher/images")
	cache.File.Ephemeral, cache.File.Shared = true, true
	w.want = append(w.want, cache)
	w.mustApply()
	w.n.WriteFile(cache.File.Path, `{"theirs":1}`)
	st, err := ReadStatus(context.Background(), asRoot(w.n))
	if err != nil || len(st.Drift) != 0 {
		t.Errorf("%v %+v", err, st.Drift)
	}
	r := w.mustRollback()
	if r.Count(StatusKept) != 2 || !w.n.Exists(cache.File.Path) || w.n.Exists(plan.StateDir) {
		t.Errorf("%+v", r.Changes)
	}
}
