package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
)

// aboutTheMachine says whether a check of the host proves nothing on a mounted image.
func aboutTheMachine(id string) bool {
	return slices.Contains([]string{"HST-01"}, id)
}

// healthyHost makes the machine under the node one that can be shipped.
func healthyHost(s *site) {
	n := s.node
	s.env.Site.Checklist = config.Checklist{Ship: "2026-12-01", PowerOn: "2027-01-15", Mission: "180d"}
	n.WriteFile("/sys/class/rtc/rtc0/since_epoch", fmt.Sprintf("%d\n", clock().Unix()+1))
	n.WriteFile("/sys/class/rtc/rtc0/hctosys", "1\n")
	n.WriteFile("/proc/driver/rtc", "rtc_time\t: 12:00:01\nrtc_date\t: 2026-11-22\nbatt_status\t: okay\n")
	n.WriteFile("/etc/adjtime", "0.0 0 0.0\n0\nUTC\n")
	n.WriteFile("/etc/systemd/timesyncd.conf", "[Time]\n#NTP=\nNTP=10.0.0.1 time.site.lan\n")
	s.enabled("systemd-timesyncd.service")
	s.certificate("/etc/kubernetes/pki/ca.crt", certSpec{name: "ca", ca: true, until: "2036-11-01"})
	s.certificate("/etc/kubernetes/pki/apiserver.crt", certSpec{name: "apiserver", until: "2027-11-01"})
	s.certificate("/var/lib/kubelet/pki/kubelet-client-current.pem", certSpec{name: "system:node:node1", until: "2027-03-01"})
	s.env.Node.Certificates = []distro.Certificates{
		{Files: []string{"/etc/kubernetes/pki/*.crt", "/etc/kubernetes/*.conf"}, Renew: "kubeadm certs renew all"},
		{Files: []string{"/var/lib/kubelet/pki/*-current.pem"}, Renewed: "running"},
		{Files: []string{"/data/k3s/agent/*.crt"}, Renewed: "start", Within: 120},
	}
}

// enabled makes a unit with a file that starts at boot.
func (s *site) enabled(unit string) {
	s.t.Helper()
	if file := "/usr/lib/systemd/system/" + unit; !s.node.Exists(file) {
		s.node.WriteFile(file, "[Service]\nExecStart=/usr/bin/x\n[Install]\nWantedBy=multi-user.target\n")
		s.node.Symlink("/etc/systemd/system/multi-user.target.wants/"+unit, file)
	}
	s.node.UnitState().SetActive(unit, "active")
}

// certSpec is a certificate to be made.
type certSpec struct {
	name        string
	ca          bool
	from, until string // days; from: a month before clock
	ips         []string
}

// signer is made once: keys take time.
var signer = func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func (c certSpec) pem(t testing.TB) string {
	t.Helper()
	if c.from == "" {
		c.from = "2026-10-22"
	}
	from, err := time.Parse(time.DateOnly, c.from)
	if err != nil {
		t.Fatal(err)
	}
	until, err := time.Parse(time.DateOnly, c.until)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(from.Unix()), Subject: pkix.Name{CommonName: c.name}, NotBefore: from, NotAfter: until,
		IsCA: c.ca, BasicConstraintsValid: true, IPAddresses: parseIPs(c.ips)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &signer.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (s *site) certificate(file string, c certSpec) {
	s.t.Helper()
	s.node.WriteFile(file, c.pem(s.t))
}

func hostFaults() map[string]fault {
	return map[string]fault{
		"FI-27: the clock is 400 days ahead": {check: "HST-01", says: "9599h", also: []string{"K8S-02"},
			inject: func(s *site) { s.clockAt(clock().AddDate(0, 0, 400)) }},
		"FI-27: the clock is ten years behind": {check: "HST-01", says: "2016-", inject: func(s *site) { s.clockAt(clock().AddDate(-10, 0, 0)) }},
		"FI-27: the real-time clock is in local time": {check: "HST-01", says: "local time",
			inject: func(s *site) { s.node.WriteFile("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n") }},
		"the real-time clock is some minutes off": {check: "HST-01", says: "5m0s",
			inject: func(s *site) {
				s.node.WriteFile("/sys/class/rtc/rtc0/since_epoch", fmt.Sprint(clock().Unix()-300))
			}},
		"the real-time clock is seconds off": {check: "HST-01", says: "30s", status: StatusWarn,
			inject: func(s *site) {
				s.node.WriteFile("/sys/class/rtc/rtc0/since_epoch", fmt.Sprint(clock().Unix()+30))
			}},
		"the battery of the clock is empty": {check: "HST-01", says: "battery dead",
			inject: func(s *site) {
				s.rewrite("/proc/driver/rtc", func(b []byte) []byte { return []byte(strings.Replace(string(b), "okay", "dead", 1)) })
			}},
		"there is no real-time clock": {check: "HST-01", says: "no saved clock", inject: func(s *site) { s.removeAll("/sys/class/rtc") }},
		"there is a saved clock alone": {check: "HST-01", says: "last shutdown", status: StatusWarn, inject: func(s *site) {
			s.removeAll("/sys/class/rtc")
			s.node.WriteFile("/etc/fake-hwclock.data", "2026-11-22 12:00:00\n")
		}},
		"the planned power-on has passed": {check: "HST-01", says: "2026-11-22", status: StatusWarn,
			inject: func(s *site) { s.env.Site.Checklist.PowerOn = "2026-11-20" }},
		"a certificate is from the future": {check: "HST-01", says: "2026-11-22", also: nil,
			inject: func(s *site) {
				s.certificate("/etc/kubernetes/pki/front.crt", certSpec{name: "front", from: "2026-12-22", until: "2028-01-01"})
			}},
		"the time comes from the internet": {check: "HST-18", says: "none but pool.ntp.org", status: StatusWarn,
			inject: func(s *site) { s.node.WriteFile("/etc/systemd/timesyncd.conf", "[Time]\nNTP=pool.ntp.org 8.8.8.8\n") }},
		"the time service is as it came": {check: "HST-18", says: "maker's servers", status: StatusWarn,
			inject: func(s *site) { s.node.WriteFile("/etc/systemd/timesyncd.conf", "[Time]\n#NTP=\n") }},
		"no time service starts": {check: "HST-18", says: "none is enabled", status: StatusWarn, inject: func(s *site) { s.disabled("systemd-timesyncd.service") }},

		"FI-17: a certificate ends before power-on": {check: "K8S-02", says: "before power-on",
			inject: func(s *site) {
				s.certificate("/etc/kubernetes/pki/apiserver.crt", certSpec{name: "apiserver", until: "2026-11-23"})
			}},
		"a certificate ends right after power-on": {check: "K8S-02", says: "13 days after power-on",
			inject: func(s *site) {
				s.certificate("/var/lib/kubelet/pki/kubelet-client-current.pem", certSpec{name: "kubelet", until: "2027-01-28"})
			}},
		"a certificate ends during the mission": {check: "K8S-02", says: "before the mission's end", status: StatusWarn,
			inject: func(s *site) {
				s.certificate("/etc/kubernetes/pki/apiserver.crt", certSpec{name: "apiserver", until: "2027-06-01"})
			}},
		"an authority ends during the mission": {make: k3sStarted, check: "K8S-02", says: "before the mission's end", status: StatusWarn,
			inject: func(s *site) {
				s.certificate("/data/k3s/agent/ca.crt", certSpec{name: "ca", ca: true, until: "2027-03-01"})
			}},
		"no start renews a certificate in time": {make: k3sStarted, check: "K8S-02", says: "one after 2027-02-11 does", status: StatusWarn,
			inject: func(s *site) {
				s.certificate("/data/k3s/agent/kubelet.crt", certSpec{name: "kubelet", until: "2027-06-11"})
			}},
		"a certificate in a kubeconfig ends": {check: "K8S-02", says: "admin", inject: func(s *site) {
			c := certSpec{name: "admin", until: "2026-12-24"}.pem(s.t)
			s.node.WriteFile("/etc/kubernetes/admin.conf", "apiVersion: v1\nclusters: []\nusers:\n- user:\n    client-certificate-data: "+base64.StdEncoding.EncodeToString([]byte(c))+"\n")
		}},
		"a certificate is damaged": {check: "K8S-02", says: "damaged",
			inject: func(s *site) {
				s.node.WriteFile("/etc/kubernetes/pki/x.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})))
			}},
		"a certificate is empty": {check: "K8S-02", says: "no certificate is in it", inject: func(s *site) { s.node.WriteFile("/etc/kubernetes/pki/x.crt", "") }},
	}
}

// clockAt sets the system's clock, the real-time clock stays.
func (s *site) clockAt(t time.Time) { s.env.Now = func() time.Time { return t } }

func (s *site) disabled(unit string) {
	s.t.Helper()
	s.remove("/etc/systemd/system/multi-user.target.wants/" + unit)
	s.node.UnitState().SetActive(unit, "inactive")
}

func (s *site) removeAll(p string) {
	s.t.Helper()
	if err := os.RemoveAll(s.node.Path(p)); err != nil {
		s.t.Fatal(err)
	}
}

func parseIPs(list []string) (out []net.IP) {
	for _, s := range list {
		out = append(out, net.ParseIP(s))
	}
	return out
}

// TestRenewedAtStart: a certificate that a start renews is good where one that nobody renews is not.
func TestRenewedAtStart(t *testing.T) {
	t.Parallel()
	e := &Env{Site: config.Site{Checklist: config.Checklist{PowerOn: "2027-01-15", Mission: "180d"}}, Now: clock}
	for until, want := range map[string]map[string]Status{ // by who renews it
		"2027-01-14": {"": StatusFail, "start": StatusFail, "running": StatusFail},
		"2027-01-20": {"": StatusFail, "start": StatusFail, "running": StatusFail}, // late by a week is expired
		"2027-03-15": {"": StatusWarn, "start": StatusPass, "running": StatusPass},
		"2027-06-15": {"": StatusWarn, "start": StatusWarn, "running": StatusPass},
		"2027-11-15": {"": StatusPass, "start": StatusPass, "running": StatusPass},
	} {
		found, err := certificatesIn([]byte(certSpec{name: "x", until: until}.pem(t)))
		if err != nil || len(found) != 1 {
			t.Fatal(err)
		}
		for renewed, status := range want {
			c := foundCertificate{found[0], "f", distro.Certificates{Renewed: renewed, Within: 120}}
			if f := e.judgeCertificate(c); f.Status != status {
				t.Errorf("until %s, renewed %q: %+v, want %s", until, renewed, f, status)
			}
		}
	}
}
