package check

import (
	"fmt"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
)

// margin is how long something must still be valid when the node is switched on: a box that arrives late, a
// clock that is off by a day, and the time that a person needs to renew it.
const margin = 14 * 24 * time.Hour

// horizon is the time that a node must work without anybody who could renew a certificate: from the day on
// which it is switched on at its site to the end of its mission. stated is false when the site file names
// neither date nor length: then both are now.
func (e *Env) horizon() (from, until time.Time, stated bool) {
	now := e.Now()
	c := e.Site.Checklist
	from = now
	for _, s := range []string{c.PowerOn, c.Ship} {
		if t, err := time.Parse(time.DateOnly, s); err == nil {
			from, stated = t, true
			break
		}
	}
	mission, err := config.ParseMission(c.Mission)
	if err == nil {
		stated = true
	}
	until = from.Add(mission)
	// a node that runs on its site, or whose dates have passed, needs what it has from now on
	if e.opts.Profile == ProfileRunning || from.Before(now) {
		from = now
	}
	if until.Before(from) {
		until = from
	}
	return from, until, stated
}

// validity judges the last day of something, a certificate for instance, against the horizon: too early for
// the day of power-on and its margin fails, too early for the mission's end warns.
func (e *Env) validity(notAfter time.Time) (Status, string) {
	from, until, _ := e.horizon()
	days := daysBetween(from, notAfter)
	text := fmt.Sprintf("until %s, %s after power-on (%s)", notAfter.UTC().Format(time.DateOnly), plural(days, "day"), from.UTC().Format(time.DateOnly))
	switch {
	case !notAfter.After(from):
		return StatusFail, fmt.Sprintf("until %s, %s before power-on (%s)", notAfter.UTC().Format(time.DateOnly), plural(-days, "day"), from.UTC().Format(time.DateOnly))
	case notAfter.Before(from.Add(margin)):
		return StatusFail, text
	case notAfter.Before(until):
		return StatusWarn, text + ", before the mission's end (" + until.UTC().Format(time.DateOnly) + ")"
	}
	return StatusPass, text
}

// daysBetween counts whole days.
func daysBetween(from, to time.Time) int { return int(to.Sub(from).Hours() / 24) }

func plural(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}
