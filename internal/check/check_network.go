package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

func networkChecks() []Check {
	return []Check{
		{
			ID: "HST-03", Title: "address and name of the node are the same at the site", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:  "the node comes up under another name or address: etcd and kubelet refuse it, or it registers a second time",
				Cause: "the address comes from a DHCP server of the lab, the hostname from DHCP or a metadata service, or nobody said which interface counts",
				Look: "netplan, systemd-networkd, NetworkManager and ifupdown files for DHCP; /etc/hostname against the name in use; the address that the distribution was told; " +
					"the [[node]] address of edgeprep.toml against the addresses that the node has",
				Fix:     "a static address, node-ip (or --node-ip of kubelet), a static hostname",
				Sources: []string{"kubernetes/kubeadm#3299", "rancher/rke2#3176, #5651", "k3s-io/k3s#8059, #9957"},
			},
			Run: runIdentity,
		},
		{
			ID: "HST-07", Title: "a name that nobody knows is refused at once", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "pulls and pod starts hang for seconds in look-ups; CoreDNS crashes with \"no nameservers found\"",
				Cause:   "resolv.conf is empty or names a resolver that is not at the site and does not answer at all",
				Look:    "nameservers in /etc/resolv.conf, at most three; the time that one look-up of a name that does not exist takes, bounded by 2 s",
				Fix:     "a resolver on the node or the site that answers without an uplink (systemd-resolved, dnsmasq), and no forward in CoreDNS to one that does not",
				Sources: []string{"k3s-io/k3s#2919, #6787, #11270", "rancher/rke2#5137", "coredns/coredns#2878", "k0sproject/k0s#5140"},
			},
			Run: runResolver,
		},
	}
}

// dhcp are the ways to ask for an address. netplan(5), systemd.network(5), nm-settings(5), interfaces(5), ifcfg(5)
func dhcpForms() []struct {
	files   []string
	pattern *regexp.Regexp
} {
	form := func(pattern string, files ...string) struct {
		files   []string
		pattern *regexp.Regexp
	} {
		return struct {
			files   []string
			pattern *regexp.Regexp
		}{files, regexp.MustCompile(pattern)}
	}
	return []struct {
		files   []string
		pattern *regexp.Regexp
	}{
		form(`^dhcp[46]:\s*(true|yes|on)$`, "/etc/netplan/*.yaml", "/run/netplan/*.yaml"),
		form(`(?i)^DHCP\s*=\s*(yes|true|ipv4|ipv6)$`, "/etc/systemd/network/*.network", "/run/systemd/network/*.network"),
		form(`^method=auto$`, "/etc/NetworkManager/system-connections/*.nmconnection", "/run/NetworkManager/system-connections/*.nmconnection"),
		form(`^iface\s+\S+\s+inet6?\s+(dhcp|auto)$`, "/etc/network/interfaces", "/etc/network/interfaces.d/*"),
		form(`(?i)^BOOTPROTO=["']?dhcp`, "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*"),
	}
}

func runIdentity(_ context.Context, e *Env) []Finding {
	out := append(e.dhcp(), e.hostname()...)
	out = append(out, e.plannedAddress()...)
	if len(out) == 0 {
		return []Finding{pass("address and name", "static, as far as files tell", "network configuration, /etc/hostname")}
	}
	return out
}

// etcdMember says whether the node has a member of etcd, whose address is written into the cluster.
func (e *Env) etcdMember() bool {
	if e.Node.Datastore.Etcd == "" {
		return false
	}
	_, err := e.Reader.FS().Stat(e.Node.Datastore.Etcd + "/member")
	return err == nil
}

func (e *Env) dhcp() []Finding {
	var out []Finding
	for _, form := range dhcpForms() {
		for _, l := range configLines(e.Reader.FS(), form.files...) {
			if !form.pattern.MatchString(l.text) || len(out) == mostFindings {
				continue
			}
			f := Finding{Status: StatusWarn, Subject: l.file, Expected: "a static address", Observed: "DHCP: another address at the site, or none", Source: l.where(),
				Remedy: Remedy{Text: "write the site's address there, and tell the distribution which one is its own (node-ip)"}}
			if e.etcdMember() {
				f.Status, f.Observed = StatusFail, f.Observed+"; a member of etcd does not come up with another one"
			}
			out = append(out, f)
		}
	}
	return out
}

func (e *Env) hostname() []Finding {
	content, ok := readText(e.Reader.FS(), "/etc/hostname")
	name := strings.TrimSpace(content)
	f := Finding{Status: StatusWarn, Subject: "hostname", Expected: "a name of its own in /etc/hostname", Source: "/etc/hostname", Remedy: Remedy{Command: "hostnamectl set-hostname NAME"}}
	switch {
	case !ok || name == "":
		f.Observed = "none there: the name comes from the network, or is localhost"
	case genericName(name):
		f.Observed = fmt.Sprintf("%q, which other nodes have too", name)
	case e.memo.facts.Live && e.memo.facts.Hostname != "" && e.memo.facts.Hostname != name:
		f.Observed = fmt.Sprintf("%q in the file, %q in use: after the next boot the node has another name", name, e.memo.facts.Hostname)
	default:
		return nil
	}
	return []Finding{f}
}

// genericName are names that images come with.
func genericName(s string) bool {
	return slices.Contains([]string{"localhost", "localhost.localdomain", "ubuntu", "debian", "raspberrypi", "fedora", "rocky", "alma", "opensuse", "template", "changeme"}, strings.ToLower(s))
}

// plannedAddress compares the [[node]] address with what the node has and with what the distribution was told.
func (e *Env) plannedAddress() []Finding {
	self, err := e.Site.Self("", e.memo.facts)
	if err != nil || self.Address == "" {
		return nil
	}
	want, err := netip.ParseAddr(self.Address)
	if err != nil {
		return nil
	}
	var out []Finding
	f := Finding{Status: StatusWarn, Subject: "address", Expected: self.Address + " ([[node]] " + self.Name + ")", Remedy: Remedy{Text: "give the node this address, or correct [[node]] address"}}
	if e.memo.facts.Live && len(e.memo.facts.Addresses) > 0 && !slices.Contains(e.memo.facts.Addresses, want) {
		f.Observed, f.Source = "it has "+joinAddrs(e.memo.facts.Addresses), "network interfaces"
		if e.opts.Profile == ProfileArrival || e.opts.Profile == ProfileRunning {
			f.Status = StatusFail
		}
		out = append(out, f)
	}
	if told := e.Node.Address; told != "" && !slices.Contains(strings.Split(told, ","), self.Address) {
		f.Status, f.Observed, f.Source = StatusFail, "the distribution was told that its address is "+told, "its configuration"
		out = append(out, f)
	}
	return out
}

func joinAddrs(list []netip.Addr) string {
	out := make([]string, 0, len(list))
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// lookupLimit bounds the one look-up, and is what an operator may have to wait for each.
const (
	lookupLimit    = 2 * time.Second
	mostNameserver = 3 // resolv.conf(5), MAXNS; kubelet leaves out the others
)

func runResolver(ctx context.Context, e *Env) []Finding {
	const file = "/etc/resolv.conf"
	content, err := e.Reader.FS().ReadFile(file, maxText)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []Finding{couldNotRun(file, err)}
	}
	if err != nil && !e.memo.facts.Live {
		return e.notLive(file, "its resolver is that")
	}
	var servers []string
	for l := range strings.Lines(string(content)) {
		if w := strings.Fields(l); len(w) > 1 && w[0] == "nameserver" {
			servers = append(servers, w[1])
		}
	}
	f := Finding{Status: StatusFail, Subject: file, Expected: "one to three nameservers", Source: file, Remedy: Remedy{Text: "name a resolver that answers at the site"}}
	switch {
	case len(servers) == 0:
		f.Observed = "no nameserver: CoreDNS does not start with it"
		return []Finding{f}
	case len(servers) > mostNameserver:
		f.Status, f.Observed = StatusWarn, fmt.Sprintf("%d nameservers, of which three are used", len(servers))
	default:
		f = pass(file, strings.Join(servers, ", "), file)
	}
	if fs := e.notLive("look-up", "its resolver is that"); fs != nil {
		return append(fs, f)
	}
	return []Finding{f, e.lookup(ctx)}
}

// lookup measures one negative look-up, of a name below a registry's: what a resolver invents for reserved names
// says nothing about its forwarders.
func (e *Env) lookup(ctx context.Context) Finding {
	name := "edgeprep-no-such-name.example.com"
	if all := Upstreams(e.Site, e.requiredHosts(), e.mirrorAddresses()); len(all) > 0 {
		host, _, _ := strings.Cut(all[0], ":")
		name = "edgeprep-no-such-name." + host
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	begin := time.Now()
	_, err := e.Net.LookupHost(ctx, name)
	took := time.Since(begin).Round(time.Millisecond)
	if ctx.Err() != nil || took >= lookupLimit {
		return Finding{Status: StatusFail, Subject: "look-up", Expected: "an answer within 2 s", Observed: fmt.Sprintf("none for %s within %s", name, lookupLimit), Source: "getaddrinfo",
			Remedy: Remedy{Text: "use a resolver that refuses what it does not know; for now", Command: "echo 'options timeout:1 attempts:1' >> /etc/resolv.conf"}}
	}
	answer := "no such name"
	if err == nil {
		answer = "an address"
	}
	f := pass("look-up", fmt.Sprintf("%s for %s within %s", answer, name, took.Truncate(100*time.Millisecond)+100*time.Millisecond), "getaddrinfo")
	return f
}
