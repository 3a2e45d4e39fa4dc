package check

import (
	"fmt"
	"path"
	"time"
)

// certificateDrift says which certificates changed or are gone. A record of before certificates were kept has none
// to compare with, and a run of named checks reads only some.
func certificateDrift(was, is Report) []Drift {
	if len(was.Certificates) == 0 || was.Partial || is.Partial {
		return nil
	}
	var out []Drift
	now, before := byName(is.Certificates), byName(was.Certificates)
	for _, e := range before {
		if c, ok := certificateNamed(now, e.name); ok {
			out = append(out, changed(e.name, e.CertificateRecord, c)...)
		} else if !hidden(is.Certificates, e.Path) {
			out = append(out, Drift{"certificate " + e.name, e.text(), "gone", e.State != CertificateUnread})
		}
	}
	for _, e := range now {
		if _, ok := certificateNamed(before, e.name); !ok && !hidden(was.Certificates, e.Path) {
			out = append(out, Drift{"certificate " + e.name, "not there", e.text(), e.bad()})
		}
	}
	return out
}

// namedCertificate is a certificate with what it is called in both records.
type namedCertificate struct {
	name string
	CertificateRecord
}

// byName calls each certificate by its file and subject; those of one subject in one file are numbered.
func byName(all []CertificateRecord) []namedCertificate {
	out, count := make([]namedCertificate, 0, len(all)), map[string]int{}
	for _, c := range all {
		name := c.Path
		if c.Subject != "" {
			name += " " + c.Subject
		}
		if count[name]++; count[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, count[name])
		}
		out = append(out, namedCertificate{name, c})
	}
	return out
}

func certificateNamed(all []namedCertificate, name string) (CertificateRecord, bool) {
	for _, e := range all {
		if e.name == name {
			return e.CertificateRecord, true
		}
	}
	return CertificateRecord{}, false
}

// hidden says whether a file may be there unseen: it, or the files of its pattern, could not be read.
func hidden(all []CertificateRecord, file string) bool {
	for _, c := range all {
		if match, err := path.Match(c.Path, file); c.State == CertificateUnread && (c.Path == file || match && err == nil) {
			return true
		}
	}
	return false
}

// changed compares two certificates of one name. One that was made anew in time does no harm; another authority
// does, since what the old one signed is not believed any more.
func changed(name string, was, is CertificateRecord) []Drift {
	if was.SHA256 == is.SHA256 && was.More == is.More && was.bad() == is.bad() {
		return nil
	}
	return []Drift{{"certificate " + name, was.text(), is.text(), is.bad() || is.Authority || was.Authority}}
}

// bad says that the certificate does not hold at power-on, or cannot be judged.
func (c CertificateRecord) bad() bool {
	return c.State == CertificateShort || c.State == CertificateEarly || c.State == CertificateUnread
}

func (c CertificateRecord) text() string {
	if c.State == CertificateUnread {
		return "unread: " + c.Reason
	}
	text := fmt.Sprintf("until %s (%s), sha256:%.12s", day(c.NotAfter), c.State, c.SHA256)
	if c.More > 0 {
		text += fmt.Sprintf(" and %d more", c.More)
	}
	return text
}

// clockDriftOf says whether a clock ran backwards. Nothing on a node can be older than its earlier record, whatever
// time it is. A real-time clock ticks in seconds, so one is allowed.
func clockDriftOf(was, is Report) []Drift {
	var out []Drift
	if is.Started.Before(was.Finished) {
		out = append(out, backwards("system clock", was.Finished, is.Started))
	}
	if w, i := was.Clock.RTC, is.Clock.RTC; !w.IsZero() && !i.IsZero() && i.Before(w.Add(-time.Second)) {
		out = append(out, backwards("real-time clock", w, i))
	}
	if !was.Clock.Time.IsZero() && !is.Clock.Time.IsZero() && !was.Partial && !is.Partial { // else the one run or the other did not look
		out = append(out, driftOf("time service", was.Clock.Service, is.Clock.Service, false)...)
	}
	return out
}

func backwards(clock string, was, is time.Time) Drift {
	return Drift{clock, was.UTC().Format(time.RFC3339), is.UTC().Format(time.RFC3339) + ": it ran backwards", true}
}
