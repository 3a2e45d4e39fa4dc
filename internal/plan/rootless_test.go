package plan_test

import (
	"os"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

// asRoot lets a test that runs as an ordinary user play root: every file is shown as root's, since no owner can
// be set.
func asRoot(n *hosttest.Node) host.Host {
	if os.Geteuid() == 0 {
		return n
	}
	return rootless{n}
}

type rootless struct{ *hosttest.Node }

func (r rootless) FS() host.FS { return rootFS{r.Node.FS()} }

func (r rootless) Account(name string) (host.Account, bool, error) {
	a, ok, err := r.Node.Account(name)
	a.UID, a.GID = 0, 0
	return a, ok, err
}

type rootFS struct{ host.FS }

func rootly(fi host.FileInfo, err error) (host.FileInfo, error) {
	fi.UID, fi.GID = 0, 0
	return fi, err
}

func (f rootFS) Lstat(p string) (host.FileInfo, error) { return rootly(f.FS.Lstat(p)) }
func (f rootFS) Stat(p string) (host.FileInfo, error)  { return rootly(f.FS.Stat(p)) }
func (f rootFS) ReadDir(p string) ([]host.FileInfo, error) {
	list, err := f.FS.ReadDir(p)
	for i := range list {
		list[i], _ = rootly(list[i], nil)
	}
	return list, err
}
