package check

import (
	"context"
	"maps"
	"net"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
)

// machineFaults are those of the machine under the distribution.
func machineFaults() map[string]fault {
	all := kernelFaults()
	for _, group := range []map[string]fault{networkFaults(), operationFaults(), datastoreFaults()} {
		maps.Copy(all, group)
	}
	return all
}

func (s *site) append(file, text string) {
	s.rewrite(file, func(b []byte) []byte { return append(b, text...) })
}

func kernelFaults() map[string]fault {
	return map[string]fault{
		"FI-38: cgroup v1": {check: "HST-08", says: "version 1", inject: func(s *site) { s.remove("/sys/fs/cgroup/cgroup.controllers") }},
		"cgroup v1 with an older kubelet": {check: "HST-08", says: "version 1", status: StatusWarn, inject: func(s *site) {
			s.remove("/sys/fs/cgroup/cgroup.controllers")
			s.env.Node.Version = "v1.34.2"
		}},
		"swap is on":                     {check: "HST-09", says: "on: /dev/sdb1", inject: func(s *site) { s.append("/proc/swaps", "/dev/sdb1 partition 1024 0 -2\n") }},
		"swap comes back at boot":        {check: "HST-09", says: "after the next boot: /swapfile", inject: func(s *site) { s.append("/etc/fstab", "/swapfile none swap sw 0 0\n") }},
		"a module is missing":            {check: "HST-09", says: "no module br_netfilter", inject: func(s *site) { s.modules("6.12.48+deb13-amd64", "overlay", "nf_conntrack") }},
		"the next kernel has no modules": {check: "HST-09", says: "no module overlay", inject: func(s *site) { s.modules("6.12.100+deb13-amd64") }},
		"a kernel waits for a boot": {check: "HST-09", says: "waits for a boot", status: StatusWarn,
			inject: func(s *site) { s.modules("6.13.1+deb13-amd64", "overlay", "br_netfilter", "nf_conntrack") }},
		"a module was loaded by hand": {check: "HST-09", says: "modules-load.d", status: StatusWarn, inject: func(s *site) { s.remove("/etc/modules-load.d/kubernetes.conf") }},
		"forwarding was set by hand":  {check: "HST-09", says: "no file of sysctl.d", status: StatusWarn, inject: func(s *site) { s.remove("/etc/sysctl.d/90-kubernetes.conf") }},
		"forwarding is switched off":  {check: "HST-09", says: "0 after the next boot", inject: func(s *site) { s.append("/etc/sysctl.d/90-kubernetes.conf", "net.ipv4.ip_forward=0\n") }},
		"FI-38: /var is noexec": {check: "HST-10", says: "/var is mounted noexec",
			inject: func(s *site) { s.append("/proc/mounts", "/dev/sda3 /var ext4 rw,noexec 0 0\n") }},
		"FI-38: fapolicyd is on": {check: "HST-10", says: "does not work with containers", inject: func(s *site) { s.enabled("fapolicyd.service") }},
		"SELinux without the policy": {check: "HST-10", says: "enforced without it",
			inject: func(s *site) { s.node.WriteFile("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n") }},
		"the state is in memory": {check: "HST-11", says: "a power-off empties it",
			inject: func(s *site) { s.append("/proc/mounts", "tmpfs /var/lib/containerd tmpfs rw 0 0\n") }},
		"the root is an overlay in memory": {check: "HST-11", says: "writes to a tmpfs", also: []string{"MIR-15", "CRI-07"}, inject: func(s *site) {
			s.append("/proc/mounts", "tmpfs /media/root-rw tmpfs rw 0 0\noverlay / overlay rw,lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay,workdir=/media/root-rw/work 0 0\n")
		}},
		"a file system has recorded errors": {check: "HST-12", says: "3 errors recorded", inject: func(s *site) { s.node.WriteFile("/sys/fs/ext4/sda2/errors_count", "3\n") }},
		"an array lacks a disk": {check: "HST-12", says: "[U_]",
			inject: func(s *site) {
				s.rewrite("/proc/mdstat", func(b []byte) []byte { return []byte(strings.Replace(string(b), "[2/2] [UU]", "[2/1] [U_]", 1)) })
			}},
		"the flash is worn out": {check: "HST-12", says: "90 %", inject: func(s *site) {
			s.node.WriteFile("/sys/block/mmcblk0/device/pre_eol_info", "0x03\n")
			s.node.WriteFile("/sys/block/mmcblk0/device/life_time", "0x0a 0x0b\n")
		}},
		"a disk replaces sectors": {check: "HST-12", says: "8 sectors were replaced", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile("/var/lib/smartmontools/smartd.DISK-1.ata.state", "ata-smart-attribute.3.id = 5\nata-smart-attribute.3.val = 100\nata-smart-attribute.3.raw = 8\n")
		}},
		"nothing rotates logs":                  {check: "HST-12", says: "nothing rotates", status: StatusWarn, inject: func(s *site) { s.enabled("rsyslog.service") }},
		"the running kernel's modules are gone": {check: "HST-09", says: "no module", inject: func(s *site) { s.removeAll("/lib/modules/6.12.48+deb13-amd64") }},
	}
}

// slowNet answers look-ups of unknown names never.
type slowNet struct{ Network }

func (n slowNet) LookupHost(ctx context.Context, name string) ([]string, error) {
	if strings.HasPrefix(name, "edgeprep-no-such-name.") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return n.Network.LookupHost(ctx, name)
}

func networkFaults() map[string]fault {
	self := func(address string) func(*site) {
		return func(s *site) { s.env.Site.Nodes = []config.Node{{Name: "node1", Address: address, Mirror: "primary"}} }
	}
	return map[string]fault{
		"FI-18: look-ups are never answered": {check: "HST-07", says: "within 2s", inject: func(s *site) { s.env.Net = slowNet{s.net} }},
		"resolv.conf is empty":               {check: "HST-07", says: "no nameserver", inject: func(s *site) { s.node.WriteFile("/etc/resolv.conf", "search lab\n") }},
		"too many nameservers": {check: "HST-07", says: "4 nameservers", status: StatusWarn,
			inject: func(s *site) { s.append("/etc/resolv.conf", "nameserver 10.0.0.3\nnameserver 10.0.0.4\n") }},
		"FI-33: a member of etcd has its address from DHCP": {check: "HST-03", says: "a member of etcd", inject: func(s *site) {
			s.node.WriteFile("/etc/netplan/50-cloud-init.yaml", "network:\n  ethernets:\n    eth0:\n      dhcp4: true\n")
		}},
		"an agent has its address from DHCP": {check: "HST-03", says: "another address at the site", status: StatusWarn, inject: func(s *site) {
			s.env.Node.Datastore.Etcd = ""
			s.node.WriteFile("/etc/systemd/network/10-eth.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n")
		}},
		"the hostname is that of the image": {check: "HST-03", says: "ubuntu", status: StatusWarn, inject: func(s *site) { s.node.WriteFile("/etc/hostname", "ubuntu\n") }},
		"the hostname changes at boot":      {check: "HST-03", says: `"node1" in use`, status: StatusWarn, inject: func(s *site) { s.node.WriteFile("/etc/hostname", "other\n") }},
		"the node has no site address yet": {check: "HST-03", says: "it has 192.0.2.11", status: StatusWarn, also: []string{"K8S-01", "K8S-09"}, inject: func(s *site) {
			self("10.9.9.9")(s)
			s.env.Node.Datastore.EtcdConfig = ""
			s.certificate("/etc/kubernetes/pki/apiserver.crt", certSpec{name: "apiserver", until: "2027-11-01", ips: []string{"10.9.9.9"}})
		}},
		"FI-33: etcd was made for another address": {check: "K8S-01", says: "10.1.1.1", inject: func(s *site) {
			s.rewrite("/etc/etcd.yaml", func(b []byte) []byte { return []byte(strings.ReplaceAll(string(b), "192.0.2.11", "10.1.1.1")) })
		}},
		"the API server's certificate is for the bench": {check: "K8S-09", says: "valid for 10.1.1.1", inject: func(s *site) {
			self("192.0.2.11")(s)
			s.certificate("/etc/kubernetes/pki/apiserver.crt", certSpec{name: "apiserver", until: "2027-11-01", ips: []string{"10.1.1.1"}})
		}},
		"a kubeconfig is for the bench": {check: "K8S-09", says: "or the bench's", status: StatusWarn, inject: func(s *site) {
			self("192.0.2.11")(s)
			s.certificate("/etc/kubernetes/pki/apiserver.crt", certSpec{name: "apiserver", until: "2027-11-01", ips: []string{"192.0.2.11"}})
			s.node.WriteFile("/etc/kubernetes/kubelet.conf", "clusters:\n- cluster:\n    server: https://10.1.1.1:6443\n")
		}},
	}
}

func operationFaults() map[string]fault {
	return map[string]fault{
		"a unit has failed": {check: "HST-04", says: "failed", inject: func(s *site) {
			s.node.UnitState().SetActive("kubelet.service", "failed")
		}},
		"a unit stays down": {check: "HST-04", says: "no Restart=", status: StatusWarn, inject: func(s *site) { s.kubeletUnit("[Service]\nExecStart=/usr/bin/kubelet\n") }},
		"a unit runs into its limit": {check: "HST-04", says: "at most 5 times within 10 s", status: StatusWarn,
			inject: func(s *site) { s.kubeletUnit("[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\nRestartSec=1s\n") }},
		"FI-31: the machine-id is that of no machine": {check: "HST-05", says: "not one", inject: func(s *site) { s.node.WriteFile("/etc/machine-id", strings.Repeat("0", 32)+"\n") }},
		"there is no machine-id":                      {check: "HST-05", says: "none", inject: func(s *site) { s.node.WriteFile("/etc/machine-id", "") }},
		"FI-37: updates are on":                       {check: "HST-13", says: "apt-daily-upgrade.timer", status: StatusWarn, inject: func(s *site) { s.enabled("apt-daily-upgrade.timer") }},
		"a firewall starts":                           {check: "HST-14", says: "firewalld.service", status: StatusWarn, inject: func(s *site) { s.enabled("firewalld.service") }},
		"NetworkManager takes every interface": {check: "HST-14", says: "no unmanaged-devices", status: StatusWarn,
			inject: func(s *site) { s.enabled("NetworkManager.service") }},
		"a disk is unlocked over the network": {check: "HST-16", says: "waits for the network", inject: func(s *site) {
			s.node.WriteFile("/etc/crypttab", "data UUID=1 none luks,_netdev\n")
		}},
		"a disk is unlocked by hand": {check: "HST-16", says: "must type", inject: func(s *site) { s.node.WriteFile("/etc/crypttab", "data UUID=1 none luks\n") }},
		"a disk is unlocked by clevis": {check: "HST-16", says: "LUKS header", status: StatusUnproven, inject: func(s *site) {
			s.node.WriteFile("/etc/crypttab", "data UUID=1 none luks\n")
			s.enabled("clevis-luks-askpass.path")
		}},
		"the account expires": {check: "HST-17", says: "expires on 2027-02-01", status: StatusWarn,
			inject: func(s *site) { s.node.WriteMode("/etc/shadow", "root:$6$NEVERSHOWN:20000:0:99999:7::20850:\n", 0o600) }},
		"the password expires": {check: "HST-17", says: "password expires", status: StatusWarn,
			inject: func(s *site) { s.node.WriteMode("/etc/shadow", "root:$6$NEVERSHOWN:20700:0:90:7:::\n", 0o600) }},
		"nobody can log in": {check: "HST-17", says: "none with a password", status: StatusWarn,
			inject: func(s *site) { s.node.WriteMode("/etc/shadow", "root:*:20000:0:99999:7:::\n", 0o600) }},
		"the journal is in memory": {check: "HST-19", says: "in memory", status: StatusWarn, inject: func(s *site) { s.removeAll("/var/log/journal") }},
	}
}

// kubeletUnit gives kubelet a unit file.
func (s *site) kubeletUnit(content string) {
	const file = "/etc/systemd/system/kubelet.service"
	s.node.WriteFile(file, content)
	for _, u := range []string{"kubelet.service"} {
		conf := "/etc/systemd/system/" + u + ".d/10-edgeprep-mirror.conf"
		s.node.UnitState().Add(host.Unit{Name: u, Active: "active", Enabled: "enabled", Fragment: file, DropIns: []string{conf}})
	}
}

func datastoreFaults() map[string]fault {
	return map[string]fault{
		"etcd's database is cut short": {check: "HST-15", says: "cut short",
			inject: func(s *site) {
				s.rewrite("/var/lib/etcd/member/snap/db", func(b []byte) []byte { return b[:len(b)-4096] })
			}},
		"etcd's database lost its headers": {check: "HST-15", says: "neither of its two headers", inject: func(s *site) {
			s.rewrite("/var/lib/etcd/member/snap/db", func(b []byte) []byte { b[boltHeader+40] ^= 1; b[4096+boltHeader+40] ^= 1; return b })
		}},
		"the SQLite database is cut short": {check: "HST-15", says: "cut short",
			inject: func(s *site) { s.rewrite("/var/lib/state.db", func(b []byte) []byte { return b[:4096] }) }},
		"the SQLite database is something else": {check: "HST-15", says: "does not begin", inject: func(s *site) { s.node.WriteFile("/var/lib/state.db", strings.Repeat("x", 8192)) }},
		"there are two members of etcd": {check: "K8S-03", says: "2 members", inject: func(s *site) {
			s.rewrite("/etc/etcd.yaml", func(b []byte) []byte {
				return []byte(strings.Replace(string(b), "node1=https://192.0.2.11:2380", "node1=https://192.0.2.11:2380,node2=https://192.0.2.12:2380", 1))
			})
		}},
		"there is no snapshot":             {check: "K8S-04", says: "none", inject: func(s *site) { s.removeAll("/var/backups/etcd-1") }},
		"the key of the authority is gone": {check: "K8S-04", says: "absent or empty", inject: func(s *site) { s.remove("/etc/kubernetes/pki/ca.key") }},
	}
}

func parseIPs(list []string) (out []net.IP) {
	for _, s := range list {
		out = append(out, net.ParseIP(s))
	}
	return out
}
