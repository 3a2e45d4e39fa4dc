package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is the kernel's own limit on symbolic links in one path (path_resolution(7)).
const maxLinks = 40

// root maps node paths to paths of this machine. With an empty dir they are the same and the kernel resolves
// them; os.Root would not do, it refuses the absolute links that nodes have (/var/run -> /run).
type root struct{ dir string }

func (r root) live() bool { return r.dir == "" }

// resolve gives the real path of a node path; follow says whether a link at its end is followed. Each
// directory above the end must exist.
func (r root) resolve(path string, follow bool) (string, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
		return "", &fs.PathError{Op: "resolve", Path: path, Err: errNotAbsolute}
	}
	if r.live() {
		return path, nil
	}
	w := walk{root: r.dir, rest: path, follow: follow}
	if err := w.run(); err != nil {
		return "", &fs.PathError{Op: "resolve", Path: path, Err: err}
	}
	return filepath.Join(r.dir, w.at), nil
}

var errNotAbsolute = errors.New("not an absolute path")

// split gives the real directory of a node path and the name in it, for operations on the entry itself.
func (r root) split(path string) (dir, base string, err error) {
	p := strings.TrimRight(path, "/")
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", "", &fs.PathError{Op: "resolve", Path: path, Err: errNotAbsolute}
	}
	base = p[i+1:]
	if base == "." || base == ".." {
		return "", "", &fs.PathError{Op: "resolve", Path: path, Err: syscall.EINVAL}
	}
	dir, err = r.resolve(p[:i+1], true)
	return dir, base, err
}

// walk is one resolution: at is the part done, free of links, and rest what is to do.
type walk struct {
	root   string
	at     string
	rest   string
	follow bool
	dir    bool // what is at the end must be a directory: a slash follows it
	links  int
}

func (w *walk) run() error {
	for {
		part, rest, more := strings.Cut(strings.TrimLeft(w.rest, "/"), "/")
		w.rest = strings.TrimLeft(rest, "/")
		last := w.rest == ""
		switch part {
		case "", ".":
		case "..":
			w.at = filepath.Dir("/" + w.at)
		default:
			if err := w.step(part, last, more); err != nil {
				return err
			}
		}
		if w.rest == "" {
			return nil
		}
	}
}

// step takes one name. A missing name is an error unless it is the last: the caller may be about to make it.
func (w *walk) step(part string, last, slash bool) error {
	next := filepath.Join("/", w.at, part)
	info, err := os.Lstat(w.root + next)
	switch {
	case errors.Is(err, fs.ErrNotExist) && last:
		w.at = next
		return nil
	case err != nil:
		return unwrapPath(err)
	}
	w.dir = w.dir || (last && slash)
	switch {
	case info.Mode()&fs.ModeSymlink != 0 && (!last || w.follow || w.dir):
		w.follow = w.follow || last // and so on, to the end of the chain
		return w.link(next)
	case (!last || w.dir) && !info.IsDir():
		return syscall.ENOTDIR
	}
	w.at = next
	return nil
}

func (w *walk) link(path string) error {
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	target, err := os.Readlink(w.root + path)
	if err != nil {
		return unwrapPath(err)
	}
	if strings.HasPrefix(target, "/") {
		w.at = ""
	}
	if w.rest != "" {
		target += "/" + w.rest
	}
	if w.rest = target; strings.Trim(w.rest, "/") == "" { // a link to "/"
		w.rest = ""
	}
	return nil
}

// unwrapPath takes the error out of an os error, whose path is one of this machine.
func unwrapPath(err error) error {
	switch e := err.(type) { //nolint:errorlint // a wrapped one carries more than its path
	case *fs.PathError:
		return e.Err
	case *os.LinkError:
		return e.Err
	case *os.SyscallError:
		return e.Err
	}
	return err
}

// named gives an os error the node path that the caller knows.
func named(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: unwrapPath(err)}
}
