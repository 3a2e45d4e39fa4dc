package check

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

func portCheck() Check {
	return Check{
		ID: "REG-21", Title: "the mirrors' ports are theirs, and open from this node",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the mirror's unit fails with \"address already in use\", or other nodes get time-outs",
			Cause:   "another program, a NodePort or an outgoing connection has the port; a firewall drops what comes from other nodes",
			Look:    "a connection from this node to every endpoint (each node shows its own row); who listens on the mirror's port; the kernel's range for outgoing connections; rules of firewalld and ufw",
			Fix:     "choose a port below 30000, reserve it, open it between the nodes",
			Sources: []string{"rke2-docs: known_issues.md (firewalld), requirements.md", "Linux: Documentation/networking/ip-sysctl.rst, ip_local_reserved_ports"},
		},
		Run: runPorts,
	}
}

func runPorts(ctx context.Context, e *Env) []Finding {
	out := e.perEndpoint(connectFinding)
	if e.withProbes() != nil || !e.memo.facts.Live {
		return out
	}
	for _, m := range e.Mirrors {
		if u, err := url.Parse(m.URL); err == nil && m.Admin != "" && e.Site.Mirror.Mode != string(config.ModeWorkload) {
			out = append(out, e.ownPort(ctx, u)...)
		}
	}
	return out
}

func connectFinding(_ *Env, p probed) Finding {
	switch p.failure {
	case silent:
		return Finding{Status: StatusFail, Subject: p.URL, Expected: "it accepts connections from this node", Observed: "no answer within 2 s: packets are dropped, or the machine is off", Source: p.source(),
			Remedy: Remedy{Text: "switch that node on, or open the port in its firewall: edgeprep check REG-21 there says how"}}
	case refused, unreachable, nameNotLocal:
		return p.notAsked()
	}
	return pass(p.URL, "it accepts connections from this node", p.source())
}

// ownPort judges the port that this node's mirror listens on.
func (e *Env) ownPort(ctx context.Context, u *url.URL) []Finding {
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil
	}
	var out []Finding
	warn := func(observed, source string, r Remedy) {
		out = append(out, Finding{Status: StatusWarn, Subject: "port " + u.Port(), Expected: "it is the mirror's alone", Observed: observed, Source: source, Remedy: r})
	}
	if port >= firstNodePort && port <= lastNodePort {
		warn("it is in the range of NodePorts: a Service may get it", "edgeprep.toml", Remedy{Text: "choose another with [mirror] listen, then", Command: "edgeprep apply --allow restart"})
	}
	if low, high, ok := outgoing(e.Reader.FS()); ok && port >= low && port <= high && !reserved(e.Reader.FS(), port) {
		warn(fmt.Sprintf("the kernel may give it to an outgoing connection (%d to %d) before the mirror starts", low, high), outgoingPath,
			Remedy{Text: "reserve it", Command: "echo net.ipv4.ip_local_reserved_ports=" + u.Port() + " > /etc/sysctl.d/90-edgeprep-port.conf && sysctl --system"})
	}
	if f, ok := e.portTaken(ctx, port); ok {
		out = append(out, f)
	}
	if f, ok := e.portClosed(ctx, u); ok {
		out = append(out, f)
	}
	return out
}

const outgoingPath = "/proc/sys/net/ipv4/ip_local_port_range"

// outgoing is the kernel's range of ports for connections.
func outgoing(f host.FS) (low, high int, ok bool) {
	data, err := f.ReadFile(outgoingPath, 4096)
	if err != nil {
		return 0, 0, false
	}
	n, err := fmt.Sscan(string(data), &low, &high)
	return low, high, err == nil && n == 2
}

// reserved says whether the kernel leaves a port out of that range.
func reserved(f host.FS, port int) bool {
	data, err := f.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports", 1<<20)
	if err != nil {
		return false
	}
	for _, r := range strings.Split(strings.TrimSpace(string(data)), ",") {
		low, high, isRange := strings.Cut(r, "-")
		if !isRange {
			high = low
		}
		a, err1 := strconv.Atoi(low)
		b, err2 := strconv.Atoi(high)
		if err1 == nil && err2 == nil && port >= a && port <= b {
			return true
		}
	}
	return false
}

// portTaken: somebody listens although the mirror's unit does not run.
func (e *Env) portTaken(ctx context.Context, port int) (Finding, bool) {
	u, err := e.Reader.Units().Unit(ctx, deploy.UnitName)
	if err != nil || u.Running() {
		return Finding{}, false
	}
	at := listeners(e.Reader.FS(), port)
	if len(at) == 0 {
		return Finding{}, false
	}
	return Finding{Status: StatusFail, Subject: fmt.Sprintf("port %d", port), Expected: "free, or the mirror's", Observed: deploy.UnitName + " does not run and somebody listens on " + strings.Join(at, ", "), Source: "/proc/net/tcp",
		Remedy: Remedy{Text: "see who", Command: fmt.Sprintf("ss -ltnp 'sport = :%d'", port)}}, true
}

// listeners are the addresses on which a TCP port is listened on.
func listeners(f host.FS, port int) []string {
	var out []string
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := f.ReadFile(file, 0)
		if err != nil {
			continue // a kernel without IPv6 has no such file
		}
		for line := range strings.Lines(string(data)) {
			if a, ok := listening(line); ok && int(a.Port()) == port && !slices.Contains(out, a.String()) {
				out = append(out, a.String())
			}
		}
	}
	return out
}

// listening reads a line of /proc/net/tcp: slot, local address, remote address, state 0A. The words of an address
// are in the order of the machine, which is little endian wherever this runs. Linux: net/ipv4/tcp_ipv4.c get_tcp4_sock
func listening(line string) (netip.AddrPort, bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[3] != "0A" {
		return netip.AddrPort{}, false
	}
	address, port, ok := strings.Cut(f[1], ":")
	raw, err := hex.DecodeString(address)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(p)), ok
}

// portClosed: other nodes pull from here, and a firewall runs that does not name the port.
func (e *Env) portClosed(ctx context.Context, u *url.URL) (Finding, bool) {
	if len(e.Site.Nodes) < 2 || isLoopback(u.Hostname()) {
		return Finding{}, false
	}
	for _, fw := range []struct{ unit, dir, mark, open string }{
		{"firewalld.service", "/etc/firewalld/zones", `port="` + u.Port() + `"`, "firewall-cmd --permanent --add-port=" + u.Port() + "/tcp && firewall-cmd --reload"},
		{"ufw.service", "/etc/ufw", "--dport " + u.Port() + " ", "ufw allow " + u.Port() + "/tcp"},
	} {
		s, err := e.Reader.Units().Unit(ctx, fw.unit)
		if err != nil || !s.Exists() || !s.Running() && !s.IsEnabled() || namesPort(e.Reader.FS(), fw.dir, fw.mark) {
			continue
		}
		return Finding{Status: StatusWarn, Subject: net.JoinHostPort(u.Hostname(), u.Port()), Expected: "open for the other nodes", Observed: fw.unit + " runs and no rule of it names the port", Source: fw.dir,
			Remedy: Remedy{Text: "open it", Command: fw.open}}, true
	}
	return Finding{}, false
}

// namesPort looks for text in the files of a directory.
func namesPort(f host.FS, dir, text string) bool {
	list, err := f.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(x host.FileInfo) bool {
		data, err := f.ReadFile(x.Path, 1<<20)
		return err == nil && strings.Contains(string(data), text)
	})
}
