package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

func bootChecks() []Check {
	return []Check{
		{
			ID: "HST-02", Title: "there is a default route that does not go with a cable", Severity: SeverityFail, Scope: ScopeNode,
			Story: Story{
				Seen:    "the distribution does not start after a power-on with the cable out: \"no default routes found\", or ClusterIPs cannot be reached",
				Cause:   "kubelet, k3s and RKE2 take the node's address from the default route, and ClusterIPs need one; with no carrier, DHCP gives none",
				Look:    "the kernel's default routes now, and whether one is on an interface without a device behind it",
				Fix:     "give the node a dummy interface with a default route of a high metric before the distribution starts: docs/cloud-init.md has the unit",
				Sources: []string{"rke2-docs: airgap.md", "k3s-io/k3s#1103, #1144, #2135, #6265, #8748", "rancher/rke2#1242"},
			},
			Run: runDefaultRoute,
		},
		{
			ID: "HST-06", Title: "nothing at boot waits for a network, a clock or a cloud that is not there", Severity: SeverityWarn, Scope: ScopeNode,
			Story: Story{
				Seen:    "two to five minutes pass after power-on before anything starts",
				Cause:   "network-online.target waits for a carrier (120 s by default with systemd-networkd, 60 s with NetworkManager), time-sync.target for a time server, cloud-init for a metadata service",
				Look:    "units that wait, enabled on this node; the data sources that cloud-init tried in this boot",
				Fix:     "mask the waiting units or bound them; datasource_list: [NoCloud, None]",
				Sources: []string{"k3s-io/k3s#3491, rancher/k3os#203", "cloud-init: systemd/cloud-init.service.tmpl (After=systemd-networkd-wait-online.service)", "canonical/cloud-init#2812, #3803"},
			},
			Run: runBootWaits,
		},
	}
}

// dummyRoute makes such a route until the next boot.
const dummyRoute = "ip link add dummy0 type dummy && ip addr add 203.0.113.254/31 dev dummy0 && ip link set dummy0 up && ip route add default via 203.0.113.255 dev dummy0 metric 1000"

func runDefaultRoute(_ context.Context, e *Env) []Finding {
	const subject = "default route"
	if !e.memo.facts.Live {
		return []Finding{deferred(subject, "this is a mounted image or directory: its routes are those of another machine; run edgeprep check on the node")}
	}
	links, err := defaultLinks(e.Reader.FS())
	if err != nil {
		return []Finding{couldNotRun(subject, err)}
	}
	f := Finding{Subject: subject, Source: "/proc/net/route", Expected: "one on a dummy interface, which needs no cable",
		Remedy: Remedy{Text: "docs/cloud-init.md, A default route; until the next boot", Command: dummyRoute}}
	if len(links) == 0 {
		f.Status, f.Observed = StatusFail, "none"
		return []Finding{f}
	}
	for _, l := range links {
		if standsAlone(e.Reader.FS(), l) {
			return []Finding{pass(subject, "on "+l+", which needs no cable", "/proc/net/route")}
		}
	}
	f.Status, f.Observed = StatusWarn, "only on "+strings.Join(links, ", ")+": it may be gone when the cable is out at power-on"
	return []Finding{f}
}

// The flags of a route. Linux: include/uapi/linux/route.h.
const (
	routeUp     = 0x1
	routeReject = 0x200
)

// defaultLinks are the interfaces with a usable default route.
func defaultLinks(f host.FS) ([]string, error) {
	v4, err := f.ReadFile("/proc/net/route", 0)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	v6, err := f.ReadFile("/proc/net/ipv6_route", 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 has no such file
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	var out []string
	add := func(link, flags string) {
		n, err := strconv.ParseUint(flags, 16, 32)
		if err == nil && n&routeUp != 0 && n&routeReject == 0 && link != "lo" && !slices.Contains(out, link) {
			out = append(out, link)
		}
	}
	for line := range strings.Lines(string(v4)) { // fields: see routes4
		if c := strings.Fields(line); len(c) >= 8 && c[1] == "00000000" && c[7] == "00000000" {
			add(c[0], c[3])
		}
	}
	for line := range strings.Lines(string(v6)) { // fields: see routes6
		if c := strings.Fields(line); len(c) >= 10 && c[1] == "00" && strings.Trim(c[0], "0") == "" {
			add(c[9], c[8])
		}
	}
	return out, nil
}

// standsAlone says whether an interface is up without a device: a dummy. Bridges, bonds and VLANs, which name
// their type, go with the devices in them.
func standsAlone(f host.FS, link string) bool {
	dir := "/sys/class/net/" + link
	if _, err := f.Stat(dir); err != nil {
		return false
	}
	if _, err := f.Lstat(dir + "/device"); err == nil {
		return false
	}
	kind, err := f.ReadFile(dir+"/uevent", 0)
	return err == nil && !strings.Contains(string(kind), "DEVTYPE=")
}

// waiters are units that only wait, and for what. The names are those of systemd, NetworkManager and chrony.
func waiters() [][2]string {
	return [][2]string{
		{"systemd-networkd-wait-online.service", "a network interface, 120 s"},
		{"NetworkManager-wait-online.service", "NetworkManager, 60 s"},
		{"ifupdown-wait-online.service", "an interface of /etc/network/interfaces, 120 s"},
		{"systemd-time-wait-sync.service", "a time server, without an end"},
		{"chrony-wait.service", "a time server, 180 s"},
	}
}

func runBootWaits(ctx context.Context, e *Env) []Finding {
	var out []Finding
	for _, w := range waiters() {
		u, err := e.Reader.Units().Unit(ctx, w[0])
		switch {
		case errors.Is(err, host.ErrUnavailable):
			return []Finding{deferred("units", "systemd cannot be asked here; run edgeprep check on the node")}
		case err != nil:
			out = append(out, couldNotRun(w[0], err))
		case u.Exists() && u.IsEnabled():
			out = append(out, Finding{Status: StatusWarn, Subject: w[0], Expected: "not enabled", Observed: "enabled: waits for " + w[1],
				Source: u.Fragment, Remedy: Remedy{Text: "if nothing on this node needs it", Command: "systemctl mask " + w[0]}})
		}
	}
	if f, ok := cloudSources(e.Reader.FS()); ok {
		out = append(out, f)
	}
	if len(out) == 0 {
		return []Finding{pass("boot", "no unit that waits is enabled", "systemctl is-enabled")}
	}
	return out
}

// sourcesInEffect is where cloud-init's generator leaves the data sources that this boot tries.
// cloud-init: tools/ds-identify
const sourcesInEffect = "/run/cloud-init/cloud.cfg"

var sourceList = regexp.MustCompile(`(?m)^datasource_list:\s*\[([^\]]*)\]`)

// cloudSources says whether cloud-init asks something over a network.
func cloudSources(f host.FS) (Finding, bool) {
	data, err := f.ReadFile(sourcesInEffect, 0)
	m := sourceList.FindSubmatch(data)
	if err != nil || m == nil {
		return Finding{}, false
	}
	var remote []string
	for _, s := range strings.Split(string(m[1]), ",") {
		s = strings.Trim(s, ` "'`)
		if !slices.Contains([]string{"NoCloud", "ConfigDrive", "OVF", "VMware", "None", ""}, s) {
			remote = append(remote, s)
		}
	}
	if len(remote) == 0 {
		return Finding{}, false
	}
	return Finding{Status: StatusWarn, Subject: "cloud-init", Expected: "NoCloud, None", Observed: "tries " + strings.Join(remote, ", "), Source: sourcesInEffect,
		Remedy: Remedy{Command: "echo 'datasource_list: [NoCloud, None]' > /etc/cloud/cloud.cfg.d/90-edgeprep.cfg"}}, true
}
