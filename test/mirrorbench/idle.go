package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// activity is what the machine's cores did since it started, all together.
type activity struct {
	total, idle, steal time.Duration
	own                time.Duration // this program and the children that have ended
}

// What others may take of the cores before figures are doubted: the kernel's own threads write files back meanwhile.
const (
	maxOthers = 0.10
	maxSteal  = 0.02
)

func machineActivity() (activity, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return activity{}, err
	}
	a, err := parseActivity(string(b))
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		err = errors.Join(err, unix.Getrusage(who, &u))
		a.own += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return a, err
}

// parseActivity reads the first line of /proc/stat, proc(5): user nice system idle iowait irq softirq steal.
func parseActivity(stat string) (a activity, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return a, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, s := range f[1:9] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return a, fmt.Errorf("/proc/stat: %w", err)
		}
		d := time.Duration(n) * clockTick
		a.total += d
		switch i {
		case 3, 4: // iowait is idle time
			a.idle += d
		case 7:
			a.steal += d
		}
	}
	return a, nil
}

// doubts says loudly that others used the machine between two looks at it; empty: they did not.
func doubts(from, to activity) string {
	total := (to.total - from.total).Seconds()
	if total <= 0 {
		return ""
	}
	steal := (to.steal - from.steal).Seconds() / total
	others := (total-(to.idle-from.idle).Seconds()-(to.own-from.own).Seconds())/total - steal
	if others <= maxOthers && steal <= maxSteal {
		return ""
	}
	return fmt.Sprintf("**THE MACHINE WAS NOT IDLE: other programs took %.0f %% of its cores, its host %.0f %% (steal). Do not trust these figures; "+
		"the ratios within a row are the best of them. Run it again when nothing else runs.**", 100*max(others, 0), 100*steal)
}
