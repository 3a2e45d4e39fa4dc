package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
)

// The pauses between two attempts: flock(2) itself cannot be given up on when the context ends.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	maxHolder  = 1024
)

// Lock also makes the directories above path: /run is empty after a boot, and the lock comes before the plan
// that would make them. The file stays when it is unlocked, since removing it would let two runs hold two
// different files of one name. The kernel ends the lock with the process.
func (f *files) Lock(ctx context.Context, p, what string, wait time.Duration) (func() error, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := f.parents(path.Dir(path.Clean(p))); err != nil {
		return nil, explain("lock", p, err)
	}
	dir, base, err := f.root.split(p)
	if err != nil {
		return nil, explain("lock", p, err)
	}
	file, err := acquire(ctx, filepath.Join(dir, base), p, wait)
	if err != nil {
		return nil, err
	}
	if err := note(file, what); err != nil {
		return nil, errors.Join(explain("lock", p, err), file.Close())
	}
	return func() error { return release(file) }, nil
}

// release ends the lock itself instead of leaving it to the close: a child that is just being forked holds a
// copy of the descriptor until it execs, and with it the lock.
func release(file *os.File) error {
	return errors.Join(file.Truncate(0), unix.Flock(int(file.Fd()), unix.LOCK_UN), file.Close())
}

// parents makes missing directories, without syncing: those of /run are gone after a boot anyway.
func (f *files) parents(dir string) error {
	real, err := f.root.resolve(dir, true)
	if err == nil {
		if _, err = os.Stat(real); err == nil {
			return nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
		return err
	}
	if err := f.parents(path.Dir(dir)); err != nil {
		return err
	}
	if real, err = f.root.resolve(dir, true); err != nil {
		return err
	}
	if err := os.Mkdir(real, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// acquire tries until it has the lock or the time is up.
func acquire(ctx context.Context, real, p string, wait time.Duration) (*os.File, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		file, err := try(real)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, explain("lock", p, err)
		}
		held := &host.LockedError{Path: p, Holder: holder(real)}
		if wait <= 0 {
			return nil, held
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), held)
		case <-deadline.C:
			return nil, held
		case <-time.After(pause):
		}
	}
}

// try takes the lock or fails at once. A file that was replaced between open and flock is tried again.
func try(real string) (*os.File, error) {
	for {
		// 0600: who can open the file can hold the lock.
		file, err := os.OpenFile(real, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if same(file, real) {
			return file, nil
		}
		file.Close()
	}
}

func same(file *os.File, real string) bool {
	a, err := file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(real)
	return err == nil && os.SameFile(a, b)
}

func note(file *os.File, what string) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return syscall.EINVAL
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	text := fmt.Sprintf("%s (pid %d, since %s)\n", what, os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	_, err = file.WriteAt([]byte(text), 0)
	return err
}

// holder is what the other one wrote; empty when it cannot be read.
func holder(real string) string {
	file, err := os.OpenFile(real, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxHolder))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}
