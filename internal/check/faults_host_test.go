package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"hash/fnv"
	"math/big"
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
	return slices.Contains([]string{"HST-01", "HST-07", "HST-08", "HST-09", "HST-10", "HST-11", "HST-12"}, id)
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
	n.WriteFile("/etc/hostname", "node1\n")
	n.WriteFile("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
	n.WriteFile("/etc/resolv.conf", "# by hand\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n")
	n.WriteFile("/etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx5 root@node1\n")
	n.WriteFile("/etc/passwd", "root:x:0:0::/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nedge:x:1000:1000::/home/edge:/bin/bash\n")
	n.WriteMode("/etc/shadow", "root:$6$NEVERSHOWN:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\nedge:!:20000:0:99999:7:::\n", 0o600)
	n.Mkdir("/var/log/journal")
	healthyKernel(s)
	healthyDatastore(s)
	s.env.Node.Certificates = []distro.Certificates{
		{Files: []string{"/etc/kubernetes/pki/*.crt", "/etc/kubernetes/*.conf"}, Renew: "kubeadm certs renew all"},
		{Files: []string{"/var/lib/kubelet/pki/*-current.pem"}, Renewed: "running"},
		{Files: []string{"/data/k3s/agent/*.crt"}, Renewed: "start", Within: 120},
	}
}

func healthyKernel(s *site) {
	n := s.node
	n.WriteFile("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n")
	n.WriteFile("/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
	n.WriteFile("/etc/fstab", "UUID=1 / ext4 defaults 0 1\n#/swapfile none swap sw 0 0\n")
	n.WriteFile("/proc/mounts", "/dev/sda2 / ext4 rw,relatime 0 0\ntmpfs /run tmpfs rw,nosuid,nodev,noexec 0 0\n")
	n.WriteFile("/sys/fs/ext4/sda2/errors_count", "0\n")
	n.WriteFile("/proc/mdstat", "Personalities : [raid1]\nmd0 : active raid1 sdb1[1] sda1[0]\n      1046528 blocks super 1.2 [2/2] [UU]\n")
	n.WriteFile("/proc/sys/kernel/osrelease", "6.12.48+deb13-amd64\n")
	s.modules("6.12.48+deb13-amd64", "overlay", "br_netfilter", "nf_conntrack")
	s.modules("6.12.38+deb13-amd64") // an older one: never booted by itself
	n.WriteFile("/etc/modules-load.d/kubernetes.conf", "overlay\nbr_netfilter\n")
	n.WriteFile("/proc/sys/net/ipv4/ip_forward", "1\n")
	n.WriteFile("/etc/sysctl.d/90-kubernetes.conf", "net.ipv4.ip_forward = 1\n")
	s.env.Node.Kernel = distro.Kernel{Modules: []string{"overlay", "br_netfilter", "nf_conntrack"}, SELinux: "container"}
}

// modules gives a kernel modules on disk; overlay is built in.
func (s *site) modules(kernel string, names ...string) {
	dep, builtin := "", ""
	for _, m := range names {
		if m == "overlay" {
			builtin += "kernel/fs/overlayfs/overlay.ko\n"
		} else {
			dep += "kernel/net/" + strings.ReplaceAll(m, "_conn", "-conn") + ".ko.xz: kernel/net/bridge/bridge.ko.xz\n"
		}
	}
	s.node.WriteFile("/lib/modules/"+kernel+"/modules.dep", dep)
	s.node.WriteFile("/lib/modules/"+kernel+"/modules.builtin", builtin)
}

func healthyDatastore(s *site) {
	s.env.Node.Datastore = distro.Datastore{Etcd: "/var/lib/etcd", EtcdConfig: "/etc/etcd.yaml", SQLite: "/var/lib/state.db", Snapshots: []string{"/var/backups/etcd-*/snapshot.db"},
		Recovery: []string{"/etc/kubernetes/pki/ca.key"}, Certificate: "/etc/kubernetes/pki/apiserver.crt"}
	s.node.WriteFile("/var/lib/etcd/member/snap/db", boltFile(3))
	s.node.WriteFile("/var/lib/state.db", sqliteFile(2))
	s.node.WriteFile("/etc/etcd.yaml", "spec:\n  containers:\n  - command:\n    - etcd\n    - --advertise-client-urls=https://192.0.2.11:2379\n"+
		"    - --initial-advertise-peer-urls=https://192.0.2.11:2380\n    - --initial-cluster=node1=https://192.0.2.11:2380\n    - --listen-peer-urls=https://192.0.2.11:2380\n")
	s.node.WriteFile("/var/backups/etcd-1/snapshot.db", "x")
	s.node.WriteMode("/etc/kubernetes/pki/ca.key", "x", 0o600)
}

// boltFile is a bbolt file of some pages: two headers, then what they count.
func boltFile(pages int) string {
	const size = 4096
	out := make([]byte, pages*size)
	for i := range 2 {
		m := out[i*size+boltHeader:]
		binary.LittleEndian.PutUint32(m, boltMagic)
		binary.LittleEndian.PutUint32(m[4:], 2)
		binary.LittleEndian.PutUint32(m[8:], size)
		binary.LittleEndian.PutUint64(m[40:], uint64(pages))
		binary.LittleEndian.PutUint64(m[48:], uint64(i+1))
		h := fnv.New64a()
		h.Write(m[:boltMeta-8])
		binary.LittleEndian.PutUint64(m[boltMeta-8:], h.Sum64())
	}
	return string(out)
}

// sqliteFile is a SQLite database of some pages, as far as its header goes.
func sqliteFile(pages int) string {
	out := make([]byte, pages*4096)
	copy(out, "SQLite format 3\x00")
	binary.BigEndian.PutUint16(out[16:], 4096)
	binary.BigEndian.PutUint32(out[24:], 7)
	binary.BigEndian.PutUint32(out[28:], uint32(pages))
	binary.BigEndian.PutUint32(out[92:], 7)
	return string(out)
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
		"FI-27: the clock is 400 days ahead": {check: "HST-01", says: "9599h", also: []string{"K8S-02", "K8S-04"},
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
