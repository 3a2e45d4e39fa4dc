package check

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
)

const gib = 1 << 30

// disks gives a node file systems of the test's choice.
type disks struct {
	host.Reader
	by map[string]host.Space // by path prefix; "" is the rest
}

type diskFS struct {
	host.FS
	by map[string]host.Space
}

func (d disks) FS() host.FS { return diskFS{d.Reader.FS(), d.by} }

func (f diskFS) Space(path string) (host.Space, error) {
	best := ""
	for prefix := range f.by {
		if strings.HasPrefix(path, prefix) && len(prefix) > len(best) {
			best = prefix
		}
	}
	return f.by[best], nil
}

func TestSpace(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	roomy := host.Space{Total: 100 * gib, Free: 60 * gib, Inodes: 1000, FreeInodes: 900, Dev: 1}
	with := func(f func(*host.Space)) host.Space { s := roomy; f(&s); return s }
	// what the archive needs: its content and layers are a few KiB, so the thresholds are set around that
	tight := host.Space{Total: 1 << 20, Free: 200 << 10, Inodes: 1000, FreeInodes: 900, Dev: 1}
	for name, tc := range map[string]struct {
		disks  map[string]host.Space
		empty  bool // nothing is imported, placed or cached yet
		status Status
		says   string
	}{
		"room":                 {disks: map[string]host.Space{"": roomy}, status: StatusPass, says: "40 % used"},
		"full":                 {disks: map[string]host.Space{"": with(func(s *host.Space) { s.Free = 15 * gib })}, status: StatusFail, says: "85 % used"},
		"everything is in":     {disks: map[string]host.Space{"": tight}, status: StatusPass, says: "once 0 B more"},
		"full once it is in":   {disks: map[string]host.Space{"": tight}, empty: true, status: StatusFail, says: "more are in"},
		"more than there is":   {disks: map[string]host.Space{"": with(func(s *host.Space) { s.Total, s.Free = 1000*gib, 1<<10 })}, empty: true, status: StatusFail},
		"no inodes":            {disks: map[string]host.Space{"": with(func(s *host.Space) { s.FreeInodes = 49 })}, status: StatusFail, says: "49 of 1000 inodes"},
		"inodes without limit": {disks: map[string]host.Space{"": with(func(s *host.Space) { s.Inodes, s.FreeInodes = 0, 0 })}, status: StatusPass},
		"read-only":            {disks: map[string]host.Space{"": with(func(s *host.Space) { s.ReadOnly = true })}, status: StatusFail, says: "read-only"},
		"size unknown":         {disks: map[string]host.Space{"": {Dev: 1}}, status: StatusUnproven},
		"the cache's own disk is full, with nothing to come": {disks: map[string]host.Space{"": roomy,
			"/var/lib/edgeprep": with(func(s *host.Space) { s.Free, s.Dev = 5*gib, 2 })}, status: StatusWarn, says: "95 % used"},
		"containerd's own disk is full": {disks: map[string]host.Space{"": roomy,
			"/var/lib/containerd": with(func(s *host.Space) { s.Free, s.Dev = 5*gib, 2 })}, status: StatusFail, says: "95 % used"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeadmSite(t, tpl)
			if tc.empty {
				for _, n := range s.set.Names() {
					s.removeImage(n)
				}
				s.stop()
				s.env.Site.Mirror.Cache = "/var/lib/empty"
			}
			s.env.Reader = disks{s.node, tc.disks}
			r := s.run(Options{IDs: []string{"TAR-10"}}).Results[0]
			if r.Status != tc.status || tc.says != "" && !said(r, tc.says) {
				t.Errorf("%s: %+v", r.Status, r.Findings)
			}
		})
	}
}

// TestSpaceOfAStoppedNode: what it has imported cannot be told, so nothing is claimed.
func TestSpaceOfAStoppedNode(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for started, status := range map[bool]Status{true: StatusSkip, false: StatusPass} {
		s := k3sSite(t, tpl, started)
		s.node.SetLive(false)
		s.env.Reader = disks{s.node, map[string]host.Space{"": {Total: 100 * gib, Free: 60 * gib, Dev: 1}}}
		if r := s.run(Options{IDs: []string{"TAR-10"}}).Results[0]; r.Status != status {
			t.Errorf("started %v: %s: %+v", started, r.Status, r.Findings)
		}
	}
}

// TestSpaceOnARealFullDisk fills a tmpfs that holds containerd's root.
func TestSpaceOnARealFullDisk(t *testing.T) {
	t.Parallel()
	if unix.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	s := kubeadmSite(t, newTemplate(t))
	s.node.Mkdir("/var/lib/containerd")
	dir := s.node.Path("/var/lib/containerd")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.node.WriteFile("/var/lib/containerd/ballast", strings.Repeat("x", 950<<10))
	r := s.run(Options{IDs: []string{"TAR-10"}}).Results[0]
	if r.Status != StatusFail || !said(r, "/var/lib/containerd") {
		t.Errorf("%s: %+v", r.Status, r.Findings)
	}
	s.remove("/var/lib/containerd/ballast")
	r = s.run(Options{IDs: []string{"TAR-10"}}).Results[0]
	for _, f := range r.Findings { // the machine's own disk may be as full as it likes
		if strings.Contains(f.Subject, "/var/lib/containerd") && f.Status != StatusPass {
			t.Errorf("still: %+v", f)
		}
	}
}

func TestBytesText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 62: "4096.0 PiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
