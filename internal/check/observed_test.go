package check

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/edgeprep/edgeprep/internal/host"
)

// states are the certificates of a record, one a line, without what differs from run to run.
func states(r Report) string {
	var b strings.Builder
	for _, c := range r.Certificates {
		if c.State == CertificateUnread {
			fmt.Fprintf(&b, "%s  %s %s\n", c.State, c.Path, c.Reason)
			continue
		}
		fmt.Fprintf(&b, "%s %s %s %s %v\n", c.State, day(c.NotAfter), c.Path, c.Subject, c.Authority)
		if len(c.SHA256) != 64 || c.NotBefore.IsZero() {
			fmt.Fprintf(&b, "  incomplete: %+v\n", c)
		}
	}
	return b.String()
}

func TestTheRecordHasCertificatesAndClock(t *testing.T) {
	t.Parallel()
	s := kubeadmSite(t, newTemplate(t))
	s.node.Info.ClockSync = host.ClockSynchronized
	s.certificate("/etc/kubernetes/pki/front-proxy-client.crt", certSpec{name: "front", until: "2027-01-20"})
	s.certificate("/etc/kubernetes/pki/etcd.crt", certSpec{name: "etcd", until: "2027-05-01"})
	s.certificate("/etc/kubernetes/pki/young.crt", certSpec{name: "young", ca: true, from: "2027-03-01", until: "2030-01-01"})
	s.node.WriteFile("/etc/kubernetes/pki/none.crt", "no PEM at all\n")
	r := s.run(Options{})
	want := `good 2027-11-01 /etc/kubernetes/pki/apiserver.crt CN=apiserver false
good 2036-11-01 /etc/kubernetes/pki/ca.crt CN=ca true
ends 2027-05-01 /etc/kubernetes/pki/etcd.crt CN=etcd false
short 2027-01-20 /etc/kubernetes/pki/front-proxy-client.crt CN=front false
unread  /etc/kubernetes/pki/none.crt no certificate is in it
early 2030-01-01 /etc/kubernetes/pki/young.crt CN=young true
renewed 2027-03-01 /var/lib/kubelet/pki/kubelet-client-current.pem CN=system:node:node1 false
`
	if d := cmp.Diff(want, states(r)); d != "" {
		t.Errorf("certificates (-want +got):\n%s", d)
	}
	clockWant := ClockRecord{Time: clock(), RTC: clock().Add(time.Second), RTCName: "rtc0", Battery: "okay", Synchronized: ClockSynchronized,
		Service: "systemd-timesyncd.service", Sources: []string{"10.0.0.1", "time.site.lan"}, PowerOn: "2027-01-15", Mission: "180d", MissionEnd: "2027-07-14"}
	if d := cmp.Diff(clockWant, r.Clock); d != "" {
		t.Errorf("clock (-want +got):\n%s", d)
	}
	b, err := json.Marshal(r)
	if err != nil || strings.Contains(string(b), "PRIVATE KEY") {
		t.Errorf("a private key is in the record, or: %v", err)
	}
}

// What the checks of the mirrors' TLS read is in the record too: the files of hosts.toml, and what the mirror shows.
func TestTheRecordHasTheMirrorsCertificates(t *testing.T) {
	t.Parallel()
	s := tlsSite(t, newTemplate(t))
	r := s.run(Options{IDs: []string{"REG-12", "REG-13"}})
	url := s.env.Mirrors[0].URL
	if d := cmp.Diff("good 2126-11-22 "+caPath+" CN=site CA true\ngood "+day(time.Now().AddDate(1, 0, 0))+" "+url+" CN=mirror false\n", states(r)); d != "" {
		t.Errorf("certificates (-want +got):\n%s", d)
	}
}

// A clock of the year 31 million cannot be written in RFC 3339: the record is kept nevertheless.
func TestAClockBeyondTheCalendarKeepsTheRecordWritable(t *testing.T) {
	t.Parallel()
	for _, seconds := range []string{"999999999999999", "-999999999999999"} {
		s := kubeadmSite(t, newTemplate(t))
		s.node.WriteFile("/sys/class/rtc/rtc0/since_epoch", seconds+"\n")
		r := s.run(Options{IDs: []string{"HST-01"}})
		if _, err := json.Marshal(r); err != nil || r.Clock.RTC.IsZero() {
			t.Errorf("%s: %v, %+v", seconds, err, r.Clock)
		}
	}
}

func TestCompareNamesCertificatesAndClocks(t *testing.T) {
	t.Parallel()
	at := clock()
	leaf := CertificateRecord{Path: "/pki/a.crt", Subject: "CN=a", SHA256: strings.Repeat("a", 64), NotAfter: at.AddDate(1, 0, 0), State: CertificateGood}
	ca := CertificateRecord{Path: "/pki/ca.crt", Subject: "CN=ca", SHA256: strings.Repeat("c", 64), NotAfter: at.AddDate(9, 0, 0), State: CertificateGood, Authority: true}
	base := func(at time.Time, certs ...CertificateRecord) Report {
		return Report{Started: at, Finished: at.Add(time.Second), Certificates: certs, Clock: ClockRecord{Time: at, RTC: at, Service: "chrony.service"}}
	}
	renewed := leaf
	renewed.SHA256, renewed.NotAfter = strings.Repeat("b", 64), leaf.NotAfter.AddDate(1, 0, 0)
	short := leaf
	short.State = CertificateShort
	otherCA := ca
	otherCA.SHA256 = strings.Repeat("d", 64)
	unread := CertificateRecord{Path: "/pki/*.crt", State: CertificateUnread, Reason: "run as root"}
	later := at.AddDate(0, 3, 0)
	for name, tc := range map[string]struct {
		is   Report
		want []Drift
	}{
		"the same": {is: base(later, leaf, ca)},
		"made anew in time": {is: base(later, renewed, ca),
			want: []Drift{{"certificate /pki/a.crt CN=a", "until 2027-11-22 (good), sha256:aaaaaaaaaaaa", "until 2028-11-22 (good), sha256:bbbbbbbbbbbb", false}}},
		"another authority": {is: base(later, leaf, otherCA),
			want: []Drift{{"certificate /pki/ca.crt CN=ca", "until 2035-11-22 (good), sha256:cccccccccccc", "until 2035-11-22 (good), sha256:dddddddddddd", true}}},
		"too old now": {is: base(later, short, ca),
			want: []Drift{{"certificate /pki/a.crt CN=a", "until 2027-11-22 (good), sha256:aaaaaaaaaaaa", "until 2027-11-22 (short), sha256:aaaaaaaaaaaa", true}}},
		"gone": {is: base(later, ca), want: []Drift{{"certificate /pki/a.crt CN=a", "until 2027-11-22 (good), sha256:aaaaaaaaaaaa", "gone", true}}},
		"not readable is not gone": {is: base(later, unread),
			want: []Drift{{"certificate /pki/*.crt", "not there", "unread: run as root", true}}},
		"named checks alone": {is: Report{Started: later, Finished: later, Partial: true}},
		"both clocks ran backwards": {is: base(at.AddDate(-1, 0, 0), leaf, ca), want: []Drift{
			{"system clock", "2026-11-22T12:00:01Z", "2025-11-22T12:00:00Z: it ran backwards", true},
			{"real-time clock", "2026-11-22T12:00:00Z", "2025-11-22T12:00:00Z: it ran backwards", true}}},
	} {
		got := Compare(base(at, leaf, ca), tc.is)
		if d := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	if got := Compare(Report{Started: at, Finished: at}, base(later, leaf, ca)); len(got) > 0 {
		t.Errorf("a record of before certificates were kept: %+v", got)
	}
}
