package check

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// healthyArchives gives a node with an image directory what its loader expects of one.
func healthyArchives(s *site) {
	s.node.Info.Root = os.Geteuid() == 0 // else the files here are not root's
	p := &s.env.Node.Preload
	if p.Method != "directory" {
		return
	}
	p.MaxWindow, p.Sentinel, p.CacheFile = 32<<20, "zzz-edgeprep-sentinel.txt", ".cache.json"
	p.PullLists, p.LoaderPin = ".txt", "io.example.pinned"
	s.env.Node.Gates.PartialIndex = true
	s.node.WriteFile(path.Join(p.Dir, p.Sentinel), "")
}

// drop puts a file into the image directory.
func (s *site) drop(name, content string) string {
	p := path.Join(s.env.Node.Preload.Dir, name)
	s.node.WriteFile(p, content)
	return p
}

// dropImages puts an archive there that the site does not name.
func (s *site) dropImages(set *imagetest.Set, name string, f imagetest.Form) string {
	s.t.Helper()
	p := s.drop(name, "")
	if err := set.WriteArchive(s.node.Path(p), f); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// another is an image of its own, or another one of a name that the site has.
func (s *site) another(name string) *imagetest.Set {
	s.t.Helper()
	set, err := imagetest.Build(imagetest.ImageSpec{Names: []string{name}, Platforms: []string{"linux/amd64"},
		Layers: []imagetest.LayerSpec{{Seed: "another", Size: 100}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return set
}

// rearchive writes the site's archive in another form and places it.
func (s *site) rearchive(f imagetest.Form) {
	s.t.Helper()
	if err := s.set.WriteArchive(s.node.Path(archivePath), f); err != nil {
		s.t.Fatal(err)
	}
	s.place()
}

// loaderPins makes every pin the loader's own.
func (s *site) loaderPins() {
	for _, img := range s.images() {
		if img.Labels[plan.PinLabel] != "" {
			img.Labels[s.env.Node.Preload.LoaderPin] = "pinned"
			s.setImage(img)
		}
	}
}

func archiveFaults() map[string]fault {
	const free = "docker.io/library/extra:1"
	return map[string]fault{
		"FI-06: an archive is packed with xz": {check: "TAR-03", says: "packed with xz", also: []string{"TAR-01"},
			inject: func(s *site) { s.node.WriteFile(archivePath, "\xfd7zXZ\x00"+strings.Repeat("x", 1000)) }},
		"FI-06: an ending that the loader ignores": {make: k3sStarted, check: "TAR-03", says: "ignores",
			inject: func(s *site) { s.drop("more.tar.xz", "\xfd7zXZ\x00") }},
		"FI-06: gzip for a loader of plain tar": {make: k3sStarted, check: "TAR-03", says: "ignores", inject: func(s *site) {
			s.env.Node.Preload.Extensions = []string{".tar"}
			s.dropImages(s.another(free), "more.tar.gz", imagetest.Form{Layout: imagetest.OCI, Compression: imagetest.Gzip})
		}},
		"an ending in upper case": {make: k3sStarted, check: "TAR-03", says: "upper from lower case",
			inject: func(s *site) {
				s.dropImages(s.another(free), "MORE.TAR", imagetest.Form{Layout: imagetest.OCI})
			}},
		"an archive is packed otherwise than it is named": {make: k3sStarted, check: "TAR-03", says: "packed with gzip",
			inject: func(s *site) {
				s.dropImages(s.another(free), "more.tar", imagetest.Form{Layout: imagetest.OCI, Compression: imagetest.Gzip})
			}},
		"FI-06: an archive needs a window of 128 MiB": {make: k3sStarted, check: "TAR-04", says: "a window of 128.0 MiB", also: []string{"TAR-01"},
			inject: func(s *site) {
				s.drop("more.tar.zst", "\x28\xb5\x2f\xfd\x00\x88"+strings.Repeat("\x00", 100)) // RFC 8878, 3.1.1.1.2: exponent 17
			}},
		"FI-04: an archive that the site does not name is cut short": {make: k3sStarted, check: "TAR-01", says: "NOD-102", inject: func(s *site) {
			p := s.dropImages(s.another(free), "more.tar", imagetest.Form{Layout: imagetest.OCI})
			s.rewrite(p, func(b []byte) []byte { return b[:len(b)/2] })
		}},
		"an archive may be exchanged by everybody": {make: k3sStarted, check: "TAR-06", says: "may be written by others", status: StatusWarn,
			inject: func(s *site) {
				if err := os.Chmod(s.node.Path(s.placedPath()), 0o666); err != nil {
					s.t.Fatal(err)
				}
			}},
		"importing takes longer than the unit may": {make: k3sStarted, check: "TAR-07", says: "systemd stops the start after 1s", status: StatusWarn,
			inject: func(s *site) {
				s.rewrite("/etc/systemd/system/k3s.service.d/10-edgeprep-mirror.conf", func(b []byte) []byte { return append(b, []byte("[Service]\nTimeoutStartSec=1\n")...) })
			}},
		"FI-10: the loader's cache file with a release that does not pin again": {make: k3sStarted, check: "TAR-08", says: "takes the pins off",
			inject: func(s *site) { s.drop(".cache.json", "{}") }},
		"FI-11: the archive of images that the loader pinned is gone": {make: k3sStarted, check: "TAR-09", says: "no archive there holds it", also: []string{"TAR-05", "MIR-03", "MIR-04", "REG-16"},
			inject: func(s *site) {
				s.loaderPins()
				s.remove(s.placedPath())
				s.stop()
			}},
		"the archive of images that the loader pinned is gone, the mirror has them": {make: k3sStarted, check: "TAR-09", says: "the mirror has it", status: StatusWarn, also: []string{"TAR-05"},
			inject: func(s *site) {
				s.loaderPins()
				s.remove(s.placedPath())
				s.env.Resources = nil // nobody wants it placed
			}},
		"one name, two images": {make: k3sStarted, check: "TAR-12", says: "sha256:", also: []string{"TAR-17"},
			inject: func(s *site) {
				s.dropImages(s.another(imagetest.WebName), "more.tar", imagetest.Form{Layout: imagetest.OCI})
			}},
		"FI-40: an archive is half copied": {make: k3sStarted, check: "TAR-13", says: "not finished",
			inject: func(s *site) { s.drop("more.tar.partial", "x") }},
		"FI-40: an archive is still being written": {make: k3sStarted, check: "TAR-13", says: "process 4242 (cp) has it open for writing", inject: func(s *site) {
			p := s.dropImages(s.another(free), "more.tar", imagetest.Form{Layout: imagetest.OCI})
			s.node.Symlink("/proc/4242/fd/4", p)
			s.node.WriteFile("/proc/4242/fdinfo/4", "pos:\t0\nflags:\t0100001\nmnt_id:\t29\n")
			s.node.WriteFile("/proc/4242/comm", "cp\n")
		}},
		"a stopped run left an archive in the staging directory": {make: k3sStarted, check: "TAR-13", says: "left by a run", status: StatusWarn,
			inject: func(s *site) { s.node.WriteFile(s.env.Node.Preload.Stage+"/edge.tar.1", "x") }},
		"a pull list names what is not here": {make: k3sStarted, check: "TAR-14", says: "docker.io/library/absent:1",
			inject: func(s *site) { s.drop("list.txt", "\n"+imagetest.WebName+"\nabsent:1\n") }},
		"a pull list names what is in no archive, before the first start": {make: func(t *testing.T, tpl template) *site {
			t.Helper()
			s := k3sSite(t, tpl, false)
			s.node.SetLive(false)
			return s
		}, check: "TAR-14", says: "in none of the archives",
			inject: func(s *site) { s.drop("list.txt", imagetest.WebName+"\nabsent:1\n") }},
		"FI-08: an index with one platform's content, and a loader that refuses it": {make: k3sStarted, check: "TAR-15", says: "refuses the archive", inject: func(s *site) {
			s.rearchive(imagetest.Form{Layout: imagetest.OCI, Platforms: []string{"linux/amd64"}})
			s.env.Node.Gates.PartialIndex = false
		}},
		"a piece of a split archive": {make: k3sStarted, check: "TAR-16", says: "a piece of a split file", also: []string{"TAR-01"}, inject: func(s *site) {
			whole := s.node.ReadFile(archivePath)
			s.drop("haul_1.tar", whole[len(whole)/2:])
		}},
		"a store without names": {check: "TAR-16", says: "has a name", also: []string{"TAR-01", "IMG-10"}, inject: func(s *site) {
			if err := s.another(free).WriteArchive(s.node.Path("/opt/haul.tar"), imagetest.Form{Layout: imagetest.OCI, NoNames: true}); err != nil {
				s.t.Fatal(err)
			}
			s.env.Archives = append(s.env.Archives, "/opt/haul.tar")
		}},
		"an archive was replaced and not imported again": {check: "TAR-17", says: "containerd has sha256:", status: StatusWarn, also: []string{"MIR-03"}, inject: func(s *site) {
			s.retarget(imagetest.WebName, imagetest.APIName)
		}},
	}
}

// TestFI08AllLoaders: the same archive for each kind of loader.
func TestFI08AllLoaders(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, c := range map[string]struct {
		make func(*testing.T, template) *site
		open bool
		want Status
		says string
	}{
		"imported by edgeprep":      {kubeadmSite, false, StatusPass, "edgeprep imports linux/amd64 alone"},
		"a loader that skips":       {k3sStarted, true, StatusPass, "skips what is missing"},
		"a loader that is too old":  {k3sStarted, false, StatusFail, "refuses"},
		"a directory of a new node": {func(t *testing.T, tpl template) *site { t.Helper(); return k3sSite(t, tpl, false) }, true, StatusPass, "skips"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := c.make(t, tpl)
			s.env.Node.Gates.PartialIndex = c.open
			if err := s.set.WriteArchive(s.node.Path(archivePath), imagetest.Form{Layout: imagetest.OCI, Platforms: []string{"linux/amd64"}}); err != nil {
				t.Fatal(err)
			}
			r := s.run(Options{IDs: []string{"TAR-15", "TAR-01"}})
			x, _ := r.Result("TAR-15")
			if whole, _ := r.Result("TAR-01"); x.Status != c.want || !said(x, c.says) || whole.Status != StatusPass {
				t.Errorf("%+v, TAR-01 %s", x.Findings, whole.Status)
			}
		})
	}
}

// TestTheSameImageInTwoForms: docker save loses the digest, not the image.
func TestTheSameImageInTwoForms(t *testing.T) {
	t.Parallel()
	s := k3sStarted(t, newTemplate(t))
	s.dropImages(s.set.Select(imagetest.WebName), "saved.tar", imagetest.Form{Layout: imagetest.Docker, Platforms: []string{"linux/amd64"}})
	r := s.run(Options{IDs: []string{"TAR-12", "TAR-17"}})
	if x, _ := r.Result("TAR-12"); x.Status != StatusWarn || !said(x, "in two forms") {
		t.Errorf("%+v", x.Findings)
	}
	if x, _ := r.Result("TAR-17"); x.Status != StatusPass {
		t.Errorf("%+v", x.Findings)
	}
}

// TestLargeUnnamedArchivesWait: without --deep a check does not read gigabytes that nobody asked about.
func TestLargeUnnamedArchivesWait(t *testing.T) {
	t.Parallel()
	s := k3sStarted(t, newTemplate(t))
	p := s.dropImages(s.another("docker.io/library/extra:1"), "large.tar", imagetest.Form{Layout: imagetest.OCI})
	if err := os.Truncate(s.node.Path(p), unnamedBudget+1); err != nil {
		t.Fatal(err)
	}
	for deep, want := range map[bool]Status{false: StatusSkip, true: StatusPass} {
		r := s.run(Options{IDs: []string{"TAR-01"}, Deep: deep})
		if x := r.Results[0]; x.Status != want || x.Owed() == deep {
			t.Errorf("deep %v: %+v", deep, x.Findings)
		}
	}
}

// TestALabelThatThePolicyDoesNotKnow: SELinux, as far as a kernel without it lets it be shown.
func TestALabelThatThePolicyDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := k3sStarted(t, newTemplate(t))
	s.node.WriteFile("/sys/fs/selinux/enforce", "1")
	dir, file := s.env.Node.Preload.Dir, s.placedPath()
	for name, c := range map[string]struct {
		labels map[string]string
		want   Status
		says   string
	}{
		"right":            {map[string]string{dir: "container_var_lib_t", file: "container_var_lib_t"}, StatusPass, ""},
		"moved from home":  {map[string]string{dir: "container_var_lib_t", file: "user_home_t"}, StatusFail, "user_home_t"},
		"no policy for it": {map[string]string{dir: "default_t", file: "default_t"}, StatusFail, "default_t"},
		"no labels at all": {nil, StatusFail, `type ""`},
	} {
		s.env.Reader = labelled{s.node, c.labels}
		r := s.run(Options{IDs: []string{"TAR-06"}})
		if x := r.Results[0]; x.Status != c.want || c.says != "" && !said(x, c.says) {
			t.Errorf("%s: %+v", name, x.Findings)
		}
	}
}

// labelled gives files SELinux labels.
type labelled struct {
	host.Reader
	types map[string]string
}

type labelledFS struct {
	host.FS
	types map[string]string
}

func (l labelled) FS() host.FS { return labelledFS{l.Reader.FS(), l.types} }

func (f labelledFS) Label(p string) (string, error) {
	if t := f.types[p]; t != "" {
		return "system_u:object_r:" + t + ":s0", nil
	}
	return "", nil
}

// TestHostileImageDirectory: what may lie there makes findings, and neither a hang nor a panic.
func TestHostileImageDirectory(t *testing.T) {
	t.Parallel()
	s := k3sStarted(t, newTemplate(t))
	s.env.Node.Gates.Recursive = true
	dir := s.env.Node.Preload.Dir
	s.node.Symlink(dir+"/loop", dir)
	s.node.Symlink(dir+"/nowhere.tar", "/none")
	s.node.Symlink(dir+"/link.tar", archivePath)
	s.node.Mkdir(dir + "/dir.tar")
	s.drop("list.txt", strings.Repeat("\x00\xff", 1000)+"\n")
	s.drop("binary.tar.zst", string(bytes.Repeat([]byte{0x50, 0x2a, 0x4d, 0x18}, 2000)))
	if err := mkfifo(filepath.Join(s.node.Path(dir), "fifo.tar")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := s.run(Options{})
	for _, x := range r.Results {
		if strings.HasPrefix(x.ID, "TAR-") && x.Count(StatusError) > 0 {
			t.Errorf("%s: %+v", x.ID, x.Findings)
		}
	}
	if took := time.Since(began); took > DefaultTimeout {
		t.Errorf("it took %s", took)
	}
}

func TestImportTime(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]time.Duration{0: time.Second, 1: time.Second, importRate: 2 * time.Second, 30 << 30: 615 * time.Second} {
		if got := importTime(bytes); got != want {
			t.Errorf("%d bytes: %s, want %s", bytes, got, want)
		}
	}
}

func TestTimeSpan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, " 5min ": 5 * time.Minute, "1min 30s": 90 * time.Second, "2h30m": 150 * time.Minute,
		"infinity": 0, "0": 0, "1.5s": 1500 * time.Millisecond, "500ms": 500 * time.Millisecond,
	} {
		if got, err := timeSpan(text); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "s", "five", "5 parsecs", "1..2", "-1", "9e99"} {
		if got, err := timeSpan(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}

func TestPieces(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"haul_1.tar": true, "haul_0.tar.zst": true, "a.tar.aa": true, "a.tar.001": true, "a.tar.part2": true, "a.chunk-3.tar.zst": true,
		"a.tar": false, "edge_api.tar.zst": false, "k3s-airgap-images-amd64.tar.zst": false, "": false,
	} {
		if got := piece.MatchString(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func mkfifo(p string) error { return unix.Mkfifo(p, 0o600) }
