package check

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// timeSpan reads systemd's form of a duration, "90", "1min 30s" or "infinity", which is zero here.
// systemd.time(7), PARSING TIME SPANS
func timeSpan(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if s == "infinity" || s == "0" {
		return 0, nil
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = strings.TrimLeft(rest[len(digits):], " ")
		unit := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzM"))]
		rest = strings.TrimLeft(rest[len(unit):], " ")
		n, err := strconv.ParseFloat(digits, 64)
		each, ok := spanUnit(unit)
		if err != nil || !ok || n > 1e9 {
			return 0, fmt.Errorf("%q is not a time span", s)
		}
		sum += time.Duration(n * float64(each))
	}
	if s == "" {
		return 0, fmt.Errorf("an empty time span")
	}
	return sum, nil
}

func spanUnit(name string) (time.Duration, bool) {
	for unit, names := range map[time.Duration]string{
		time.Microsecond: "us usec", time.Millisecond: "ms msec", time.Second: "s sec second seconds",
		time.Minute: "m min minute minutes", time.Hour: "h hr hour hours", 24 * time.Hour: "d day days", 7 * 24 * time.Hour: "w week weeks",
	} {
		for _, n := range strings.Fields(names) {
			if n == name {
				return unit, true
			}
		}
	}
	return time.Second, name == ""
}
