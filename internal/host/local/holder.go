package local

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// LockHolder is the process that holds the lock at a path, without touching the lock: a lock that is tried
// would be in the way of whoever wants it at that moment. held is false when nobody has it.
func (h *Host) LockHolder(p string) (pid int, held bool, err error) {
	real, err := h.RealPath(p)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	fi, err := os.Stat(real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, false, nil
	case err != nil:
		return 0, false, explain("look at the lock", p, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false, nil
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0, false, fmt.Errorf("see who holds %s: %w", p, err)
	}
	defer locks.Close()
	in := bufio.NewScanner(locks)
	for in.Scan() {
		if pid, ok := flockOf(in.Text(), st.Ino); ok {
			return pid, true, nil
		}
	}
	return 0, false, in.Err()
}

// flockOf reads a line of /proc/locks: "1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF". The device is left
// out: on btrfs and overlayfs it is not the one that stat gives. A line of somebody who waits begins with "->".
func flockOf(line string, ino uint64) (pid int, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" {
		return 0, false
	}
	at := strings.LastIndexByte(f[5], ':')
	if got, err := strconv.ParseUint(f[5][at+1:], 10, 64); err != nil || got != ino {
		return 0, false
	}
	pid, err := strconv.Atoi(f[4])
	return pid, err == nil
}
