package check

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestHealthyNodesPassAndAreNotTouched(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, make := range map[string]func(*testing.T, template) *site{"kubeadm": kubeadmSite, "k3s": k3sStarted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := make(t, tpl)
			before := s.node.Hash()
			for _, deep := range []bool{false, true} {
				r := s.run(Options{Deep: deep})
				if r.Verdict != VerdictPass || r.ExitCode() != 0 {
					t.Errorf("deep %v: %s, %+v", deep, r.Verdict, r.Missing)
				}
				if len(r.Results) != len(Catalogue()) {
					t.Errorf("%d results of %d checks", len(r.Results), len(Catalogue()))
				}
			}
			if s.node.Hash() != before {
				t.Error("the checks changed the node")
			}
			if calls := s.node.CallLog("files"); calls != "" {
				t.Errorf("the checks wrote: %s", calls)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, f := range faults(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && len(name)%4 != 0 {
				t.Skip("a quarter of them with -short, which the race detector runs")
			}
			make := f.make
			if make == nil {
				make = kubeadmSite
			}
			s := make(t, tpl)
			f.inject(s)
			before := s.node.Hash()
			r := s.run(f.opts)
			want := f.status
			if want == "" {
				want = StatusFail
			}
			got, _ := r.Result(f.check)
			if got.Status != want || !said(got, f.says) {
				t.Errorf("%s is %s, want %s with %q: %+v", f.check, got.Status, want, f.says, got.Findings)
			}
			for _, x := range r.Results {
				if x.ID != f.check && x.Status != StatusPass && x.Status != StatusSkip && !slices.Contains(f.also, x.ID) {
					t.Errorf("%s is %s too: %+v", x.ID, x.Status, x.Findings)
				}
			}
			if bad := want == StatusFail || want == StatusError; bad != (r.Verdict == VerdictFail) {
				t.Errorf("verdict %s", r.Verdict)
			}
			if s.node.Hash() != before {
				t.Error("the checks changed the node")
			}
		})
	}
}

func said(r Result, text string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return strings.Contains(strings.Join([]string{f.Subject, f.Observed, f.Reason}, " "), text)
	})
}

// TestEveryCheckHasAFault keeps the table complete: a check without a node that fails it proves nothing.
func TestEveryCheckHasAFault(t *testing.T) {
	t.Parallel()
	covered := map[string]bool{"TAR-10": true, "MIR-04": true, "MIR-05": true, "MIR-09": true} // tests of their own below
	for _, f := range faults(t) {
		covered[f.check] = true
	}
	for _, c := range Catalogue() {
		if !covered[c.ID] {
			t.Errorf("no fault for %s", c.ID)
		}
	}
}

func digestName(set *imagetest.Set, name string) string {
	repo, _, _ := strings.Cut(name, ":")
	return repo + "@" + set.Digests()[name]
}

func (s *site) removeImage(name string) {
	s.t.Helper()
	if err := s.containerd().RemoveImage(s.t.Context(), name); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) images() map[string]host.Image {
	s.t.Helper()
	m, err := imageRecords(s.t.Context(), s.containerd())
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *site) setImage(img host.Image) {
	s.t.Helper()
	if err := s.containerd().SetImage(s.t.Context(), img); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) retarget(name, as string) {
	all := s.images()
	s.setImage(host.Image{Name: name, Target: all[as].Target})
}

func (s *site) unpin(name string) {
	digest := s.images()[name].Target.Digest
	for _, img := range s.images() {
		if img.Target.Digest == digest {
			s.setImage(host.Image{Name: img.Name, Target: img.Target})
		}
	}
}

func (s *site) rewrite(p string, f func([]byte) []byte) {
	s.t.Helper()
	s.node.WriteFile(p, string(f([]byte(s.node.ReadFile(p)))))
}

func (s *site) remove(p string) {
	s.t.Helper()
	if err := os.Remove(s.node.Path(p)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) removeBlob(digest string) {
	s.t.Helper()
	if err := os.Remove(s.blob(digest)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) configTOML(path string) {
	s.node.WriteFile("/etc/containerd/config.toml", "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '"+path+"'\n")
}

// TestWithoutARuntime is the demo, --root, and a node before its first start: nothing fails, and nothing is
// said to be proven that is not.
func TestWithoutARuntime(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, tc := range map[string]struct {
		prepare func(*site)
		skipped []string
	}{
		"a directory whose mirror runs": {prepare: func(s *site) {
			s.node.SetLive(false)
			s.env.MirrorsRun = true
		}, skipped: []string{"CRI-10", "CRI-02", "IMG-01", "IMG-07", "IMG-08", "IMG-09", "IMG-12", "IMG-15", "REG-16", "REG-01", "REG-02", "PRC-03", "REG-04", "HST-02"}},
		"a mounted image": {prepare: func(s *site) { s.node.SetLive(false) },
			skipped: []string{"CRI-10", "CRI-02", "IMG-01", "IMG-07", "IMG-08", "IMG-09", "IMG-12", "IMG-15", "REG-16", "REG-01", "REG-02", "PRC-03", "REG-04", "MIR-03", "MIR-04", "MIR-07", "MIR-09", "MIR-18", "HST-02", "REG-11", "REG-21", "REG-22", "REG-24"}},
		"before the first start": {prepare: func(s *site) {
			s.containerd().SetDown(true)
			s.node.UnitState().SetActive("k3s.service", "inactive")
		}, skipped: []string{"CRI-10", "CRI-02", "IMG-01", "IMG-07", "IMG-08", "IMG-09", "IMG-12", "IMG-15", "REG-16", "REG-01", "REG-02", "REG-04"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := k3sSite(t, tpl, false)
			tc.prepare(s)
			r := s.run(Options{})
			if r.Verdict != VerdictUnproven || r.ExitCode() != 0 {
				t.Errorf("%s, exit %d: %+v", r.Verdict, r.ExitCode(), r.Missing)
			}
			for _, x := range r.Results {
				want := StatusPass
				if slices.Contains(tc.skipped, x.ID) || !s.env.Reader.(*hosttest.Node).Info.Live && aboutTheMachine(x.ID) {
					want = StatusSkip
				}
				if want == StatusPass && x.Status == StatusSkip {
					continue // it does not apply to such a node, or waits for its runtime
				}
				if x.Status != want || want == StatusSkip && !x.Owed() {
					t.Errorf("%s is %s, want %s: %+v", x.ID, x.Status, want, x.Findings)
				}
			}
		})
	}
}

// TestWithoutARuntimeArchivesStillTell: what can be seen without a runtime is seen.
func TestWithoutARuntimeArchivesStillTell(t *testing.T) {
	t.Parallel()
	s := k3sSite(t, newTemplate(t), false)
	s.node.SetLive(false)
	s.env.Node.Sandbox = "rancher/mirrored-pause:3.6"
	s.require("ghcr.io/edgeprep/edge-sensor@sha256:" + strings.Repeat("0", 64))
	r := s.run(Options{})
	for _, id := range []string{"IMG-01", "IMG-07"} {
		if x, _ := r.Result(id); x.Status != StatusFail {
			t.Errorf("%s is %s: %+v", id, x.Status, x.Findings)
		}
	}
}

func TestARuntimeThatShouldRunIsAnError(t *testing.T) {
	t.Parallel()
	s := k3sSite(t, newTemplate(t), true)
	s.containerd().SetDown(true)
	s.node.UnitState().SetActive("k3s.service", "inactive")
	for profile, exit := range map[Profile]int{ProfileStage: 0, ProfileRunning: 4} {
		if r := s.run(Options{Profile: profile}); r.ExitCode() != exit {
			t.Errorf("profile %s: exit %d, want %d", profile, r.ExitCode(), exit)
		}
	}
}

// TestWrongNamespace: the image is in containerd, and kubelet does not see it.
func TestWrongNamespace(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	stray := hosttest.New(t)
	other := stray.Containerd(s.env.Node.Runtime.Endpoint)
	src := s.open()
	defer src.Close()
	if _, err := other.Import(t.Context(), src, host.ImportOptions{Platform: "linux/amd64"}); err != nil {
		t.Fatal(err)
	}
	s.removeImage(imagetest.APIName)
	s.env.Reader = namespaces{s.node, map[string]host.Runtime{"default": other}}
	r := s.run(Options{IDs: []string{"CRI-10"}})
	if x := r.Results[0]; x.Status != StatusFail || !said(x, "namespace default") {
		t.Errorf("%+v", x.Findings)
	}
}

// A required image that was pulled into the mirror's cache and is in no archive: apply does not bring it in.
func TestARequiredImageOfTheCacheAlone(t *testing.T) {
	t.Parallel()
	for archives, want := range map[bool]string{true: "edgeprep apply", false: "crictl --runtime-endpoint unix:///run/containerd/containerd.sock pull " + imagetest.APIName} {
		s := kubeadmSite(t, newTemplate(t))
		s.removeImage(imagetest.APIName)
		if !archives {
			s.env.Archives = nil
		}
		r := s.run(Options{IDs: []string{"CRI-10"}})
		x := r.Results[0]
		got := ""
		for _, f := range x.Findings {
			if f.Status == StatusFail {
				got = f.Remedy.Command
			}
		}
		if got != want {
			t.Errorf("archives %v: %q", archives, got)
		}
	}
}

// namespaces gives other containerd namespaces to a node.
type namespaces struct {
	host.Reader
	more map[string]host.Runtime
}

func (n namespaces) Runtime(ep host.Endpoint) host.Runtime {
	if r, ok := n.more[ep.Namespace]; ok {
		return r
	}
	return n.Reader.Runtime(ep)
}
