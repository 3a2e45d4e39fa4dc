package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/check"
)

// clockRows say what was seen of the clocks; none where the record is of before they were kept.
func clockRows(c check.ClockRecord) [][2]string {
	if c.Time.IsZero() {
		return nil
	}
	rows := [][2]string{{"system clock", moment(c.Time)}}
	if !c.RTC.IsZero() {
		text := moment(c.RTC) + " (" + c.RTCName + ", " + distance(c.RTC.Sub(c.Time)) + ")"
		if c.Battery != "" {
			text += ", battery " + c.Battery
		}
		rows = append(rows, [2]string{"real-time clock", text})
	} else {
		rows = append(rows, [2]string{"real-time clock", "none was read"})
	}
	rows = append(rows, [2]string{"synchronized", string(c.Synchronized)})
	for _, row := range [][2]string{
		{"time service", strings.TrimSuffix(c.Service+": "+strings.Join(c.Sources, ", "), ": ")},
		{"planned power-on", c.PowerOn}, {"planned mission", c.Mission}, {"mission's end", c.MissionEnd},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return rows
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

// distance tells how far the real-time clock is from the system's.
func distance(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 0:
		return (-d).String() + " behind it"
	case d > 0:
		return d.String() + " ahead of it"
	}
	return "the same"
}

// certificateRows are one per certificate: state, last day, subject, file.
func certificateRows(all []check.CertificateRecord) [][4]string {
	rows := make([][4]string, 0, len(all))
	for _, c := range all {
		until, subject := "", c.Reason
		if c.State != check.CertificateUnread {
			until, subject = c.NotAfter.UTC().Format(time.DateOnly), c.Subject
		}
		if c.Authority {
			subject += " (authority)"
		}
		if c.More > 0 {
			subject += fmt.Sprintf(", and %d more that end later", c.More)
		}
		rows = append(rows, [4]string{string(c.State), until, subject, c.Path})
	}
	return rows
}

// facts prints clock and certificates, in short unless Verbose. A run of named checks is not about them.
func (p *printer) facts(r check.Report) {
	if r.Partial && !p.Verbose {
		return
	}
	p.clock(clockRows(r.Clock))
	if len(r.Certificates) > 0 {
		p.certificates(r)
	}
}

func (p *printer) clock(rows [][2]string) {
	switch {
	case len(rows) == 0:
		return
	case !p.Verbose:
		p.line("\nClock: %s; real-time clock %s; synchronized: %s", rows[0][1], oneLine(rows[1][1]), oneLine(rows[2][1]))
		return
	}
	p.line("\nClock:")
	for _, row := range rows {
		p.line("  %-16s %s", row[0], oneLine(row[1]))
	}
}

// certificates lists those that do not last; Verbose all.
func (p *printer) certificates(r check.Report) {
	lasting := func(c check.CertificateRecord) bool {
		return c.State == check.CertificateGood || c.State == check.CertificateRenewed
	}
	shown := slices.Clone(r.Certificates)
	if !p.Verbose {
		shown = slices.DeleteFunc(shown, lasting)
	}
	hidden := 0
	if len(shown) > maxFindings && !p.Verbose {
		shown, hidden = shown[:maxFindings], len(shown)-maxFindings
	}
	p.line("\nCertificates: %s", certificateCounts(r.Certificates))
	for _, row := range certificateRows(shown) {
		p.line("  %-8s %-10s %s, %s", row[0], row[1], oneLine(row[2]), oneLine(row[3]))
	}
	if hidden > 0 {
		p.line("  ... and %d more; -v or -o json shows them", hidden)
	}
}

// certificateCounts is "9 good, 1 ends".
func certificateCounts(all []check.CertificateRecord) string {
	var parts []string
	for _, s := range []check.CertificateState{
		check.CertificateGood, check.CertificateRenewed, check.CertificateEnds, check.CertificateShort, check.CertificateEarly, check.CertificateUnread,
	} {
		n := 0
		for _, c := range all {
			if c.State == s {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(parts, ", ")
}
