package check

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
)

// CertificateState compares a certificate with the planned power-on and the mission's end.
type CertificateState string

// The states.
const (
	CertificateGood    CertificateState = "good"    // valid from power-on to the mission's end
	CertificateRenewed CertificateState = "renewed" // ends before that, but the distribution makes it anew by then
	CertificateEnds    CertificateState = "ends"    // valid at power-on, ends before the mission does
	CertificateShort   CertificateState = "short"   // ends before power-on, or less than 14 days after it
	CertificateEarly   CertificateState = "early"   // not valid yet at power-on
	CertificateUnread  CertificateState = "unread"  // the file cannot be read, or no certificate is in it
)

// CertificateRecord is a certificate that a check read: no key, nothing secret.
type CertificateRecord struct {
	Path      string           `json:"path"`                // file on the node, or URL of the mirror that shows it
	Subject   string           `json:"subject,omitempty"`   // distinguished name
	Authority bool             `json:"authority,omitempty"` // it signs others
	SHA256    string           `json:"sha256,omitempty"`    // of the certificate (DER), hex
	NotBefore time.Time        `json:"notBefore,omitzero"`  // first moment of its validity
	NotAfter  time.Time        `json:"notAfter,omitzero"`   // last moment of its validity
	State     CertificateState `json:"state"`               // against the planned power-on and the mission's end
	Reason    string           `json:"reason,omitempty"`    // why it is unread
	More      int              `json:"more,omitempty"`      // certificates of the file that end later and are not listed
}

// ClockSync says whether something holds the node's clock right.
type ClockSync string

// The answers.
const (
	ClockSynchronized ClockSync = "yes"     // the kernel says that a time source does
	ClockFree         ClockSync = "no"      // it runs freely
	ClockUnknown      ClockSync = "unknown" // a mounted image, or the kernel does not say
)

// ClockRecord is what was seen of the node's clocks.
type ClockRecord struct {
	Time         time.Time `json:"time"`                 // by the system's clock, at the moment at which RTC was read
	RTC          time.Time `json:"rtc,omitzero"`         // by the real-time clock; missing: there is none, or it was not read
	RTCName      string    `json:"rtcName,omitempty"`    // "rtc0"
	Battery      string    `json:"battery,omitempty"`    // of the real-time clock, as the kernel says: "okay"
	Synchronized ClockSync `json:"synchronized"`         // whether a time source holds the clock
	Service      string    `json:"service,omitempty"`    // unit that sets the clock and starts at boot
	Sources      []string  `json:"sources,omitempty"`    // what the unit asks, those on the site first
	PowerOn      string    `json:"powerOn,omitempty"`    // [checklist] power_on
	Mission      string    `json:"mission,omitempty"`    // [checklist] mission
	MissionEnd   string    `json:"missionEnd,omitempty"` // the day until which certificates are needed; missing: not planned
}

// mostOfAFile is how many certificates of one file are listed: a bundle of public authorities has some 150.
const mostOfAFile = 16

// observed is what checks saw on their way that the record keeps. A check that hangs is left behind, so the
// record takes what is there instead of asking again.
type observed struct {
	mu           sync.Mutex
	certificates []CertificateRecord
	clock        ClockRecord
}

// seen notes the certificates of one file, or of one mirror's handshake.
func (e *Env) seen(path string, all []foundCertificate) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b foundCertificate) int { return a.NotAfter.Compare(b.NotAfter) })
	var out []CertificateRecord
	for i, c := range all {
		if i == mostOfAFile {
			out[i-1].More = len(all) - i
			break
		}
		out = append(out, e.certificateRecord(path, c))
	}
	e.memo.seen.mu.Lock()
	defer e.memo.seen.mu.Unlock()
	e.memo.seen.certificates = append(e.memo.seen.certificates, out...)
}

// seenPlain is seen for certificates that nobody renews.
func (e *Env) seenPlain(path string, all ...*x509.Certificate) {
	found := make([]foundCertificate, 0, len(all))
	for _, c := range all {
		found = append(found, foundCertificate{Certificate: c, file: path})
	}
	e.seen(path, found)
}

// unread notes a file that should hold a certificate.
func (e *Env) unread(path, reason string) {
	e.memo.seen.mu.Lock()
	defer e.memo.seen.mu.Unlock()
	e.memo.seen.certificates = append(e.memo.seen.certificates, CertificateRecord{Path: path, State: CertificateUnread, Reason: reason})
}

// seenClock notes something of the clocks.
func (e *Env) seenClock(note func(*ClockRecord)) {
	e.memo.seen.mu.Lock()
	defer e.memo.seen.mu.Unlock()
	note(&e.memo.seen.clock)
}

func (e *Env) certificateRecord(path string, c foundCertificate) CertificateRecord {
	sum := sha256.Sum256(c.Raw)
	subject := c.Subject.String()
	if subject == "" {
		subject = c.name()
	}
	return CertificateRecord{Path: path, Subject: subject, Authority: c.IsCA, SHA256: hex.EncodeToString(sum[:]),
		NotBefore: writable(c.NotBefore), NotAfter: writable(c.NotAfter), State: e.certificateState(c)}
}

// writable is a time that JSON can express, RFC 3339 having four digits for the year: a broken clock or a hostile
// certificate must not keep the record from being written.
func writable(t time.Time) time.Time {
	t = t.UTC()
	switch y := t.Year(); {
	case y < 1:
		return time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC) // not the zero time, which stands for none
	case y > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// certificateState compares a certificate with the planned dates and with who renews it when.
func (e *Env) certificateState(c foundCertificate) CertificateState {
	from, until, _ := e.horizon()
	switch {
	case c.NotBefore.After(from):
		return CertificateEarly
	case c.NotAfter.Before(from.Add(margin)): // also where a start would renew it: a box that arrives late finds it expired
		return CertificateShort
	case c.renewedAt(from):
		return CertificateRenewed
	case !c.NotAfter.Before(until):
		return CertificateGood
	case !c.IsCA && c.rule.Renewed == "running":
		return CertificateRenewed
	}
	return CertificateEnds
}

// certificateRecords are the certificates that checks of this run read, each once per file.
func (e *Env) certificateRecords() []CertificateRecord {
	e.memo.seen.mu.Lock()
	all := slices.Clone(e.memo.seen.certificates)
	e.memo.seen.mu.Unlock()
	slices.SortStableFunc(all, func(a, b CertificateRecord) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.SHA256, b.SHA256))
	})
	return slices.CompactFunc(all, func(a, b CertificateRecord) bool { return a.Path == b.Path && a.SHA256 == b.SHA256 })
}

// clockRecord is what the checks of this run saw of the clocks, with what was planned.
func (e *Env) clockRecord() ClockRecord {
	e.memo.seen.mu.Lock()
	c := e.memo.seen.clock
	e.memo.seen.mu.Unlock()
	if c.Time.IsZero() {
		c.Time = writable(e.Now())
	}
	c.Synchronized = ClockUnknown
	switch e.memo.facts.ClockSync {
	case host.ClockSynchronized:
		c.Synchronized = ClockSynchronized
	case host.ClockFree:
		c.Synchronized = ClockFree
	}
	c.PowerOn, c.Mission = e.Site.Checklist.PowerOn, e.Site.Checklist.Mission
	if _, until, stated := e.horizon(); stated {
		c.MissionEnd = day(until)
	}
	return c
}
