package check

import (
	"context"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/host"
)

const (
	routesHead = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
	routeEth0  = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
	routeDummy = "dummy0\t00000000\tFF7100CB\t0003\t0\t0\t1000\t00000000\t0\t0\t0\n"
	routeLocal = "eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	routeDead  = "eth0\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n"
	route6     = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000000 00000000 00000003     eth0\n"
	route6Dead = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
)

func TestDefaultRoute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, v4, v6 string
		uevent       string // of dummy0
		device       bool   // dummy0 has one
		want         Status
	}{
		{"none", routesHead + routeLocal, route6Dead, "", false, StatusFail},
		{"an empty table", "", "", "", false, StatusFail},
		{"unreachable", routesHead + routeDead, "", "", false, StatusFail},
		{"by a cable", routesHead + routeEth0, route6, "", false, StatusWarn},
		{"by a cable, IPv6 alone", routesHead, route6, "", false, StatusWarn},
		{"by a dummy", routesHead + routeDummy, "", "INTERFACE=dummy0\n", false, StatusPass},
		{"by both", routesHead + routeEth0 + routeDummy, "", "INTERFACE=dummy0\n", false, StatusPass},
		{"by a bridge", routesHead + routeDummy, "", "DEVTYPE=bridge\nINTERFACE=dummy0\n", false, StatusWarn},
		{"by a card of that name", routesHead + routeDummy, "", "INTERFACE=dummy0\n", true, StatusWarn},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			node, root := liveNode(t)
			write(t, root, "/proc/net/route", c.v4)
			write(t, root, "/proc/net/ipv6_route", c.v6)
			if c.uevent != "" {
				write(t, root, "/sys/class/net/dummy0/uevent", c.uevent)
			}
			if c.device {
				link(t, root, "/sys/class/net/dummy0/device", "../../../0000:00:01.0")
			}
			got := runDefaultRoute(context.Background(), &Env{Reader: node, memo: &memo{facts: node.facts}})
			if len(got) != 1 || got[0].Status != c.want {
				t.Errorf("%+v, want %s", got, c.want)
			}
			if c.want != StatusPass && !strings.Contains(got[0].Remedy.Command, "ip route add default") {
				t.Errorf("the fix is not named: %+v", got[0])
			}
		})
	}
	t.Run("a mounted image", func(t *testing.T) {
		t.Parallel()
		node, _ := liveNode(t)
		got := runDefaultRoute(context.Background(), &Env{Reader: node, memo: &memo{}})
		if len(got) != 1 || !got[0].Deferred {
			t.Errorf("%+v", got)
		}
	})
}

func TestBootWaits(t *testing.T) {
	t.Parallel()
	node, root := liveNode(t)
	env := &Env{Reader: node, memo: &memo{facts: node.facts}}
	if got := runBootWaits(context.Background(), env); len(got) != 1 || got[0].Status != StatusPass {
		t.Errorf("%+v", got)
	}
	for _, u := range []string{"systemd-networkd-wait-online.service", "chrony-wait.service"} {
		node.units[u] = host.Unit{Name: u, Load: "loaded", Enabled: "enabled"}
	}
	node.units["NetworkManager-wait-online.service"] = host.Unit{Load: "masked", Enabled: "masked"}
	write(t, root, sourcesInEffect, "# generated\ndatasource_list: [ NoCloud, None ]\n")
	if got := runBootWaits(context.Background(), env); len(got) != 2 || got[0].Status != StatusWarn || got[1].Subject != "chrony-wait.service" {
		t.Errorf("%+v", got)
	}
	write(t, root, sourcesInEffect, "datasource_list: [ Ec2, NoCloud, \"OpenStack\", None ]\n")
	if got := runBootWaits(context.Background(), env); len(got) != 3 || got[2].Observed != "tries Ec2, OpenStack" {
		t.Errorf("%+v", got)
	}
}
