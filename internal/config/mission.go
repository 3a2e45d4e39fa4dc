package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxMission keeps dates and durations far from their limits: 100 years.
const maxMission = 36525

// ParseMission reads a length in days or weeks: "180d", "26w". Nobody plans a mission in hours.
func ParseMission(s string) (time.Duration, error) {
	for suffix, days := range map[string]int{"d": 1, "w": 7} {
		number, ok := strings.CutSuffix(s, suffix)
		if n, err := strconv.ParseUint(number, 10, 16); ok && err == nil && int(n)*days <= maxMission {
			return time.Duration(int(n)*days) * 24 * time.Hour, nil
		}
	}
	return 0, fmt.Errorf("%q is not a length in days or weeks", s)
}

// dates checks the planned dates, and that the node is switched on after it was shipped.
func (p *problems) dates(c *Checklist) {
	at := map[string]time.Time{}
	for _, d := range [][2]string{{"checklist.ship", c.Ship}, {"checklist.power_on", c.PowerOn}} {
		t, err := time.Parse(time.DateOnly, d[1])
		if d[1] != "" && err != nil {
			p.at("CFG-015", d[0], fmt.Sprintf("%q is not a date", d[1]), "", `"2026-12-24"`)
			continue
		}
		at[d[0]] = t
	}
	if ship, on := at["checklist.ship"], at["checklist.power_on"]; !ship.IsZero() && !on.IsZero() && on.Before(ship) {
		p.at("CFG-015", "checklist.power_on", fmt.Sprintf("power_on = %q is before ship = %q", c.PowerOn, c.Ship),
			"certificates are judged by the day on which the node is switched on again", "correct one of the dates")
	}
	if _, err := ParseMission(c.Mission); c.Mission != "" && err != nil {
		p.at("CFG-015", "checklist.mission", fmt.Sprintf("mission = %v", err), "", `mission = "180d"`)
	}
}
