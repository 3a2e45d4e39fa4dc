package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseMission(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{"180d": 180 * day, "26w": 182 * day, "0d": 0, "36525d": 36525 * day} {
		if got, err := ParseMission(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "d", "180", "-1d", "1.5d", "180h", "36526d", "6000w", "99999999999999999999d", "180 d", "180d ", "1d1w"} {
		if got, err := ParseMission(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}

func TestDates(t *testing.T) {
	t.Parallel()
	for src, want := range map[string][]string{
		"ship = \"2026-12-01\"\npower_on = \"2027-02-01\"\nmission = \"180d\"": nil,
		"power_on = \"2027-02-01\"":                        nil,
		"ship = \"1.12.2026\"":                             {`CFG-015 f:3:1 "1.12.2026" is not a date`},
		"ship = \"2026-02-30\"":                            {`CFG-015 f:3:1 "2026-02-30" is not a date`},
		"mission = \"half a year\"":                        {`CFG-015 f:3:1 mission = "half a year" is not a length in days or weeks`},
		"ship = \"2027-02-01\"\npower_on = \"2026-12-01\"": {`CFG-015 f:4:1 power_on = "2026-12-01" is before ship = "2027-02-01"`},
	} {
		_, found := Parse("f", []byte("version = 1\n[checklist]\n"+src+"\n"))
		var got []string
		for _, d := range found {
			got = append(got, d.ID+" "+d.Where.String()+" "+d.What)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", src, d)
		}
	}
}
