package check

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
)

func TestEgress(t *testing.T) {
	t.Parallel()
	const hub = "registry-1.docker.io"
	for name, tc := range map[string]struct {
		inject func(t *testing.T, e *Env, n *fakeNet, root string)
		state  EgressState
		reason string
	}{
		"cut": {state: EgressCut},
		"a name resolves and answers": {state: EgressOpen, reason: hub + ":443 by name", inject: func(_ *testing.T, _ *Env, n *fakeNet, _ string) {
			n.names[hub], n.open["192.0.2.77:443"] = []string{"192.0.2.1", "192.0.2.77"}, true
		}},
		"a recorded address answers though the name does not resolve": {state: EgressOpen, reason: "at 192.0.2.10 (recorded)",
			inject: func(_ *testing.T, _ *Env, n *fakeNet, _ string) { n.open["192.0.2.10:443"] = true }},
		"an upstream of the site answers": {state: EgressOpen, reason: "mirror.example.com:8443", inject: func(_ *testing.T, e *Env, n *fakeNet, _ string) {
			e.Site.Upstreams = []config.Upstream{{Host: "quay.io", URL: "https://mirror.example.com:8443/v2"}}
			n.names["mirror.example.com"], n.open["198.51.100.1:8443"] = []string{"198.51.100.1"}, true
		}},
		"a required registry was never recorded": {state: EgressUnproven, reason: "no address of quay.io:443 was recorded", inject: func(_ *testing.T, e *Env, _ *fakeNet, _ string) {
			e.Required = []preload.Ref{{Name: "quay.io/a/b:1", Host: "quay.io"}}
		}},
		"an extra probe answers": {state: EgressOpen, reason: "203.0.113.5:8080", inject: func(_ *testing.T, e *Env, n *fakeNet, _ string) {
			e.Site.Checklist.EgressProbes = []string{"203.0.113.5:8080"}
			n.open["203.0.113.5:8080"] = true
		}},
		"a probe that is none": {state: EgressUnproven, reason: "not host:port", inject: func(_ *testing.T, e *Env, _ *fakeNet, _ string) {
			e.Site.Checklist.EgressProbes = []string{"example.com"}
		}},
		"a proxy of this process gives a tunnel": {state: EgressOpen, reason: "through proxy 203.0.113.9:3128", inject: func(_ *testing.T, e *Env, n *fakeNet, _ string) {
			e.Environ = []string{"https_proxy=http://user:secret@203.0.113.9:3128"}
			n.open["203.0.113.9:3128"] = true
		}},
		"a proxy of the runtime's unit gives a tunnel": {state: EgressOpen, reason: "through proxy 203.0.113.9:80 (/etc/default/k3s.env)", inject: func(t *testing.T, e *Env, n *fakeNet, root string) {
			write(t, root, "/etc/systemd/system/k3s.service", "[Service]\nEnvironmentFile=-/etc/default/none\nEnvironmentFile=-/etc/default/k3s.env\n")
			write(t, root, "/etc/default/k3s.env", "CONTAINERD_HTTPS_PROXY='203.0.113.9'\n")
			e.Node.Units = []string{"k3s.service"}
			e.Reader.(*running).units["k3s.service"] = host.Unit{Name: "k3s.service", Load: "loaded", Fragment: "/etc/systemd/system/k3s.service"}
			n.open["203.0.113.9:80"] = true
		}},
		"a proxy that nobody answers at": {state: EgressCut, inject: func(_ *testing.T, e *Env, _ *fakeNet, _ string) {
			e.Environ = []string{"HTTP_PROXY=http://203.0.113.9:3128"}
		}},
		"nothing recorded": {state: EgressUnproven, reason: "nothing was recorded", inject: func(t *testing.T, _ *Env, _ *fakeNet, root string) {
			remove(t, root, EgressRecordPath)
		}},
		"the record is damaged": {state: EgressUnproven, reason: "egress.json", inject: func(t *testing.T, _ *Env, _ *fakeNet, root string) {
			write(t, root, EgressRecordPath, "{")
		}},
		"another network namespace": {state: EgressUnproven, reason: "another network namespace", inject: func(t *testing.T, _ *Env, _ *fakeNet, root string) {
			remove(t, root, "/proc/self/ns/net")
			link(t, root, "/proc/self/ns/net", "net:[2]")
		}},
		"routes cannot be read": {state: EgressUnproven, reason: "routes", inject: func(t *testing.T, _ *Env, _ *fakeNet, root string) {
			remove(t, root, "/proc/net/route")
		}},
		"the mirror is no upstream": {state: EgressCut, inject: func(_ *testing.T, e *Env, n *fakeNet, _ string) {
			e.Mirrors = []Mirror{{URL: "http://192.0.2.50:5000"}}
			e.Required = []preload.Ref{{Host: "192.0.2.50:5000"}}
			n.open["192.0.2.50:5000"] = true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := cutEnv(t)
			n := env.Net.(*fakeNet)
			if tc.inject != nil {
				tc.inject(t, &env, n, rootOf(t, env))
			}
			r := runChecks(t, env, Options{}, egressCheck())
			if r.Egress.State != tc.state || !strings.Contains(r.Egress.Reason, tc.reason) {
				t.Errorf("got %s (%s)", r.Egress.State, r.Egress.Reason)
			}
			if strings.Contains(r.Egress.Reason, "secret") {
				t.Error("the proxy's password is in the report")
			}
			if (r.Verdict == VerdictPass) != (tc.state == EgressCut) || r.ExitCode() != 0 {
				t.Errorf("verdict %s, exit %d", r.Verdict, r.ExitCode())
			}
		})
	}
}

// TestEgressDuringTheRun opens and shuts the way out, or changes a route and puts it back, while a check runs:
// only the periodic samples can see it.
func TestEgressDuringTheRun(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		on, off func(t *testing.T, n *fakeNet, root string)
		state   EgressState
	}{
		"open for a while": {state: EgressOpen,
			on:  func(_ *testing.T, n *fakeNet, _ string) { n.set("192.0.2.10:443", true) },
			off: func(_ *testing.T, n *fakeNet, _ string) { n.set("192.0.2.10:443", false) }},
		"another route for a while": {state: EgressUnproven,
			on: func(t *testing.T, _ *fakeNet, root string) {
				write(t, root, "/proc/net/route", "eth1\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n")
			},
			off: func(t *testing.T, _ *fakeNet, root string) {
				write(t, root, "/proc/net/route", "eth0\t00000000\t0102A8C0\t0003\t9\t9\t100\t00000000\t0\t0\t0\n")
			}},
		"a link goes down for a while": {state: EgressUnproven,
			on:  func(t *testing.T, _ *fakeNet, root string) { write(t, root, "/sys/class/net/eth0/operstate", "down\n") },
			off: func(t *testing.T, _ *fakeNet, root string) { write(t, root, "/sys/class/net/eth0/operstate", "up\n") }},
		"a pod comes and goes": {state: EgressCut,
			on: func(t *testing.T, _ *fakeNet, root string) {
				write(t, root, "/sys/class/net/veth0/operstate", "up\n")
				write(t, root, "/proc/net/route", "eth0\t00000000\t0102A8C0\t0003\t5\t7\t100\t00000000\t0\t0\t0\n"+
					"veth0\t0A0A0A0A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n")
			},
			off: func(t *testing.T, _ *fakeNet, root string) {
				write(t, root, "/proc/net/route", "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := cutEnv(t)
			n, root := env.Net.(*fakeNet), rootOf(t, env)
			c := Check{ID: "A", Severity: SeverityFail, Run: func(ctx context.Context, _ *Env) []Finding {
				tc.on(t, n, root)
				n.waitForSample(ctx)
				tc.off(t, n, root)
				return []Finding{pass("x", "", "")}
			}}
			r := runChecks(t, env, Options{Interval: time.Millisecond}, c, egressCheck())
			if r.Egress.State != tc.state {
				t.Errorf("got %s (%s) after %d samples", r.Egress.State, r.Egress.Reason, r.Egress.Samples)
			}
		})
	}
}

func TestUpstreams(t *testing.T) {
	t.Parallel()
	site := config.Site{Upstreams: []config.Upstream{
		{Host: "docker.io"}, {Host: "registry.example.com", URL: "http://10.0.0.1:5000"}, {Host: "*"}, {URL: "https://[2001:db8::1]/x"},
	}}
	got := Upstreams(site, []string{"quay.io", "localhost:5000", "127.0.0.1:5000", "docker.io", "10.1.1.1:5000"}, []string{"10.1.1.1:5000"})
	want := []string{"10.0.0.1:5000", "[2001:db8::1]:443", "quay.io:443", "registry-1.docker.io:443", "registry.example.com:443"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestRecordEgress(t *testing.T) {
	t.Parallel()
	n := newNet()
	n.names["a.example"] = []string{"192.0.2.2", "192.0.2.1", "127.0.0.1"}
	n.names["sink.example"] = []string{"0.0.0.0"}
	n.names["known.example"] = []string{"192.0.2.77"}
	hosts := []string{"a.example:443", "known.example:443", "sink.example:443", "new.example:443"}
	prev := EgressRecord{Hosts: map[string]Recorded{
		"known.example:443": {Addresses: []string{"192.0.2.9"}}, "left.example:443": {Addresses: []string{"192.0.2.8"}},
	}}
	got, err := RecordEgress(t.Context(), n, hosts, prev, clock())
	if err == nil || !strings.Contains(err.Error(), "new.example") || !strings.Contains(err.Error(), "sink.example") {
		t.Errorf("error %v", err)
	}
	if a := got.Hosts["a.example:443"]; !slices.Equal(a.Addresses, []string{"192.0.2.1", "192.0.2.2"}) || !a.At.Equal(clock()) {
		t.Errorf("a: %+v", a)
	}
	if g := got.Hosts["known.example:443"]; !slices.Equal(g.Addresses, []string{"192.0.2.9"}) || len(got.Hosts) != 3 {
		t.Errorf("kept %+v of %+v", g, got.Hosts)
	}
	n.names["a.example"] = []string{"192.0.2.3"}
	again, _ := RecordEgress(t.Context(), n, hosts, got, clock().Add(time.Hour))
	first, err1 := got.Encode()
	second, err2 := again.Encode()
	if err1 != nil || err2 != nil || string(first) != string(second) {
		t.Errorf("recorded again:\n%s\n%s", first, second)
	}
	s, root := liveNode(t)
	write(t, root, EgressRecordPath, string(first))
	if back, err := ReadEgressRecord(s.FS()); err != nil || len(back.Hosts) != 3 {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	got := words(`"HTTP_PROXY=http://a b" X=1	'Y=2 3' Z="q"`)
	if !slices.Equal(got, []string{"HTTP_PROXY=http://a b", "X=1", "Y=2 3", "Z=q"}) {
		t.Errorf("got %q", got)
	}
}

func TestProxyThatRefuses(t *testing.T) {
	t.Parallel()
	for scheme, reached := range map[string]bool{"http": true, "https": true, "socks5": true} {
		n := newNet()
		p := Proxy{URL: &url.URL{Scheme: scheme, Host: "203.0.113.9:1"}}
		if ok, _ := p.try(t.Context(), n, "a.example:443"); ok {
			t.Errorf("%s: reached through a dead proxy", scheme)
		}
		n.set("203.0.113.9:1", true)
		if ok, text := p.try(t.Context(), n, "a.example:443"); ok != reached {
			t.Errorf("%s: reached %v: %s", scheme, ok, text)
		}
	}
}
