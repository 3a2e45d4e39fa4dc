package check

import (
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
)

func TestHorizon(t *testing.T) {
	t.Parallel()
	now := clock().Format(time.DateOnly) // 2026-11-22, noon
	for name, tc := range map[string]struct {
		list        config.Checklist
		profile     Profile
		from, until string
		stated      bool
	}{
		"nothing is said":              {from: now, until: now},
		"power_on and mission":         {list: config.Checklist{Ship: "2026-12-01", PowerOn: "2027-02-01", Mission: "180d"}, from: "2027-02-01", until: "2027-07-31", stated: true},
		"power_on is ship":             {list: config.Checklist{Ship: "2026-12-01", Mission: "2w"}, from: "2026-12-01", until: "2026-12-15", stated: true},
		"a mission from now":           {list: config.Checklist{Mission: "10d"}, from: now, until: "2026-12-02", stated: true},
		"a date alone":                 {list: config.Checklist{PowerOn: "2027-02-01"}, from: "2027-02-01", until: "2027-02-01", stated: true},
		"power_on was":                 {list: config.Checklist{PowerOn: "2026-11-01", Mission: "180d"}, from: now, until: "2027-04-30", stated: true},
		"the mission is over":          {list: config.Checklist{PowerOn: "2025-11-01", Mission: "180d"}, from: now, until: now, stated: true},
		"it runs before the day":       {list: config.Checklist{PowerOn: "2027-02-01", Mission: "180d"}, profile: ProfileRunning, from: now, until: "2027-07-31", stated: true},
		"what is no date is not there": {list: config.Checklist{PowerOn: "soon", Mission: "long"}, from: now, until: now},
	} {
		e := &Env{Site: config.Site{Checklist: tc.list}, Now: clock, opts: Options{Profile: tc.profile}}
		from, until, stated := e.horizon()
		if from.Format(time.DateOnly) != tc.from || until.Format(time.DateOnly) != tc.until || stated != tc.stated {
			t.Errorf("%s: %s to %s, %v", name, from, until, stated)
		}
	}
}

func TestValidity(t *testing.T) {
	t.Parallel()
	e := &Env{Site: config.Site{Checklist: config.Checklist{PowerOn: "2027-02-01", Mission: "180d"}}, Now: clock}
	for day, want := range map[string]struct {
		status Status
		text   string
	}{
		"2027-01-31": {StatusFail, "until 2027-01-31, 1 day before power-on (2027-02-01)"},
		"2027-02-01": {StatusFail, "until 2027-02-01, 0 days before power-on (2027-02-01)"},
		"2027-02-14": {StatusFail, "until 2027-02-14, 13 days after power-on (2027-02-01)"},
		"2027-02-15": {StatusWarn, "until 2027-02-15, 14 days after power-on (2027-02-01), before the mission's end (2027-07-31)"},
		"2027-07-30": {StatusWarn, "until 2027-07-30, 179 days after power-on (2027-02-01), before the mission's end (2027-07-31)"},
		"2027-07-31": {StatusPass, "until 2027-07-31, 180 days after power-on (2027-02-01)"},
	} {
		at, err := time.Parse(time.DateOnly, day)
		if err != nil {
			t.Fatal(err)
		}
		if status, text := e.validity(at); status != want.status || text != want.text {
			t.Errorf("%s is %s, %q", day, status, text)
		}
	}
}
