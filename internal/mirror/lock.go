package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Whoever writes references holds a shared lock on the cache's directory from before it looks what is there
// until the last reference is written; who removes content holds it exclusively from before it looks what is
// reachable. So nothing that a writer found is gone when its reference comes. Reading takes no lock. The lock is
// flock(2) on the directory itself: there is no lock file that a copy could carry or a crash leave.

// Times that are waited for the lock.
const (
	lockPoll    = 20 * time.Millisecond
	lockRemove  = 5 * time.Second // somebody who removes, for those who write
	lockKeep    = time.Second     // a mirror that wants to keep what it serves anyway
	lockForever = time.Duration(1<<63 - 1)
)

// lock takes the lock, unix.LOCK_SH or unix.LOCK_EX, or gives up after a while.
func (s *Store) lock(ctx context.Context, how int, wait time.Duration) (release func(), err error) {
	f, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	release = func() {
		// Unlocked, not only closed: a program that is being started has a copy of the descriptor for a moment.
		unix.Flock(int(f.Fd()), unix.LOCK_UN) //nolint:errcheck,gosec // closing unlocks too; a descriptor fits
		f.Close()
	}
	start := time.Now()
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB) //nolint:gosec // a descriptor fits
		switch {
		case err == nil:
			return release, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			if how == unix.LOCK_SH { // a file system without locks: what removes refuses to
				return release, nil
			}
			release()
			return nil, fail("MER-061", s.dir, "the cache's directory cannot be locked", "without a lock, what is just being written could be removed",
				"run it where the cache's disk is", err)
		case time.Since(start) >= wait:
			release()
			return nil, fail("MER-060", s.dir, "another edgeprep is "+occupation(how)+" the cache", "", "run it again when that is done",
				&host.LockedError{Path: s.dir, Holder: "edgeprep is " + occupation(how) + " it"})
		}
		if err := sleep(ctx, lockPoll); err != nil {
			release()
			return nil, err
		}
	}
}

// occupation is what keeps who asks from the lock.
func occupation(how int) string {
	if how == unix.LOCK_EX {
		return "writing to"
	}
	return "removing from"
}
