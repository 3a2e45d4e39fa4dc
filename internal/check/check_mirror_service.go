package check

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

func mirrorServiceChecks() []Check {
	return []Check{offlineCheck(), listenCheck(), serviceCheck(), singleMirrorCheck()}
}

// runsUnit says whether this node's mirror is the systemd service; why is the reason when it is not.
func (e *Env) runsUnit() (ok bool, why string) {
	self, err := e.Site.Self("", e.memo.facts)
	switch {
	case e.Site.Mirror.Mode == string(config.ModeNone) || len(e.Mirrors) == 0:
		return false, "no mirror is configured"
	case e.Site.Mirror.Mode == string(config.ModeWorkload):
		return false, "the mirror runs in Kubernetes"
	case err != nil || !e.Site.HasMirror(self):
		return false, "no mirror runs on this node"
	}
	return true, ""
}

// mirrorUnit is the mirror's unit as its files say it.
func (e *Env) mirrorUnit(ctx context.Context) (distro.UnitFile, []Finding) {
	if ok, why := e.runsUnit(); !ok {
		return distro.UnitFile{}, []Finding{skip(deploy.UnitName, why)}
	}
	u, ok, err := distro.ReadUnitFile(ctx, e.Reader, deploy.UnitName)
	switch {
	case err != nil:
		return u, []Finding{couldNotRun(deploy.UnitName, err)}
	case !ok && e.MirrorsRun:
		return u, []Finding{skip(deploy.UnitName, "the mirror that answers was started by hand")}
	case !ok:
		return u, []Finding{{Status: StatusFail, Subject: deploy.UnitName, Expected: "a unit", Observed: "there is none, or it is masked",
			Source: "/etc/systemd/system", Remedy: Remedy{Command: "edgeprep apply"}}}
	}
	return u, nil
}

func offlineCheck() Check {
	return Check{
		ID: "MIR-10", Title: "the mirror that runs asks upstreams only as the site file says",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"COLD-01"},
		Story: Story{
			Seen:    "each image that the mirror lacks holds a pod up for as long as a pull may take; or the mirror opens connections that the site must not see",
			Cause:   "a mirror that was staged with an uplink and not told that there is none any more asks upstream for every miss",
			Look:    "--upstream of the mirror's unit against [mirror] upstream; with \"connected\" what a miss costs: 2 s for the first, 50 ms for those after it",
			Fix:     "[mirror] upstream = \"never\" where no uplink is to come, then edgeprep apply",
			Sources: []string{"aceeric/ociregistry: docs/docs/configuring-the-server.md (airGapped)", "docs/upstreams.md"},
		},
		Run: runOffline,
	}
}

func runOffline(ctx context.Context, e *Env) []Finding {
	u, fs := e.mirrorUnit(ctx)
	if fs != nil {
		return fs
	}
	want := e.Site.Mirror.Upstream
	if want == "" {
		want = config.UpstreamConnected
	}
	v, ok := u.Flag("upstream")
	if !ok {
		v = distro.UnitValue{Value: config.UpstreamConnected, Source: u.Path}
	}
	if v.Value != want {
		return []Finding{{Status: StatusWarn, Subject: deploy.UnitName, Expected: "--upstream " + want, Observed: "--upstream " + v.Value, Source: v.Source,
			Remedy: Remedy{Text: "take the site file in", Command: "edgeprep apply"}}}
	}
	text := "never: it has no code path that opens a connection"
	if want == config.UpstreamConnected {
		text = "connected: while the upstream is away the first miss waits for 2 s at most, later ones for 50 ms, and what is cached for neither"
	}
	return []Finding{pass(deploy.UnitName, text, v.Source)}
}

func listenCheck() Check {
	return Check{
		ID: "MIR-13", Title: "the mirror listens where the nodes ask for it, on an address that is there at boot",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "pulls work on the mirror's own node only; or the mirror does not start: cannot assign requested address",
			Cause:   "it listens on loopback while other nodes are pointed at it, or on an address that this node had on the bench",
			Look:    "--listen of the unit, else [mirror] listen, against this node's addresses and the endpoints of the other nodes",
			Fix:     "[mirror] listen = \"0.0.0.0:5000\" or the address of the site, then edgeprep apply",
			Sources: []string{"failure-modes: MIR-13", "bind(2), EADDRNOTAVAIL"},
		},
		Run: runListen,
	}
}

func runListen(ctx context.Context, e *Env) []Finding {
	const subject = "the mirror's address"
	self, err := e.Site.Self("", e.memo.facts)
	switch {
	case len(e.Mirrors) == 0 || err != nil || !e.Site.HasMirror(self):
		return []Finding{skip(subject, "no mirror runs on this node")}
	case e.Site.Mirror.Mode == string(config.ModeWorkload) && e.Site.Mirror.Workload.Form == config.FormDeployment:
		return []Finding{skip(subject, "the cluster's service proxy answers for it, on every address of the node")}
	}
	listen, source := e.Site.Listen(self), "[mirror] listen"
	if u, fs := e.mirrorUnit(ctx); fs == nil {
		if v, ok := u.Flag("listen"); ok && v.Value != listen {
			return []Finding{{Status: StatusFail, Subject: subject, Expected: listen + ", as the site file says", Observed: "the unit listens on " + v.Value, Source: v.Source,
				Remedy: Remedy{Text: "take the site file in", Command: "edgeprep apply"}}}
		}
	}
	return []Finding{e.judgeListen(self, listen, source)}
}

func (e *Env) judgeListen(self config.Node, listen, source string) Finding {
	f := pass(listen, "", source)
	f.Remedy = Remedy{Text: "[mirror] listen = \"0.0.0.0:5000\", or an address that the node has on site; then", Command: "edgeprep apply"}
	fail := func(format string, args ...any) Finding {
		f.Status, f.Observed = StatusFail, fmt.Sprintf(format, args...)
		return f
	}
	host, _, err := net.SplitHostPort(listen)
	addr, perr := netip.ParseAddr(host)
	users := e.askers(self)
	switch {
	case err != nil:
		return fail("it is not host:port")
	case host == "" || perr == nil && addr.IsUnspecified():
		f.Observed = "every address of the node"
	case perr == nil && !addr.IsLoopback() && !e.memo.facts.Live:
		return deferred(listen, "the addresses of a mounted image are those of another machine; run edgeprep check on the node")
	case perr == nil && !addr.IsLoopback() && !slices.Contains(e.memo.facts.Addresses, addr):
		return fail("this node has not got the address %s now: the mirror cannot start until it has", addr)
	case perr == nil && !addr.IsLoopback():
		f.Observed = "an address of this node"
	case perr != nil && host != "localhost":
		f.Status, f.Observed = StatusWarn, "a name, which a resolver must know when the mirror starts"
		return f
	case len(users) > 0:
		return fail("loopback, and %s ask this mirror", strings.Join(users, ", "))
	default:
		f.Observed = "loopback, for this node alone"
	}
	f.Remedy = Remedy{}
	return f
}

// askers are the other nodes that are pointed at this node's mirror.
func (e *Env) askers(self config.Node) []string {
	var out []string
	for _, n := range e.Site.Nodes {
		own := e.Site.HasMirror(n)
		if n.Name != self.Name && (!own || e.Site.Failover.Mode == "endpoints") {
			out = append(out, n.Name)
		}
	}
	return out
}

func serviceCheck() Check {
	return Check{
		ID: "MIR-14", Title: "the mirror's unit is restarted for ever and waits for no network",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"COLD-01"},
		Story: Story{
			Seen:    "after a reboot on site the mirror is down until somebody logs in",
			Cause:   "a unit that is not restarted, that systemd gives up after five starts, or that waits for a network which is not there",
			Look:    "Restart=, StartLimitIntervalSec= and what the unit comes after, drop-ins included; whether it has failed",
			Fix:     "remove the drop-in that the finding names, then edgeprep apply",
			Sources: []string{"systemd.service(5), systemd.unit(5)", "aceeric/ociregistry: docs/docs/systemd.md"},
		},
		Run: runService,
	}
}

// late are units that come up after a network, a clock or a cloud is there.
func late() []string {
	return []string{"network-online.target", "time-sync.target", "cloud-init.target", "cloud-final.service", "multi-user.target", "remote-fs.target"}
}

func runService(ctx context.Context, e *Env) []Finding {
	u, fs := e.mirrorUnit(ctx)
	if fs != nil {
		return fs
	}
	out := []Finding{}
	bad := func(v distro.UnitValue, expected, observed string) {
		if v.Source == "" {
			v.Source = u.Path
		}
		out = append(out, Finding{Status: StatusFail, Subject: deploy.UnitName, Expected: expected, Observed: observed, Source: v.Source,
			Remedy: Remedy{Text: "take the line out of " + v.Source + ", or", Command: "edgeprep apply && systemctl daemon-reload"}})
	}
	if v, ok := u.Last("Service", "Restart"); !ok || v.Value != "always" {
		bad(v, "Restart=always", "Restart="+orWord(v.Value, "no"))
	}
	if v, ok := u.Last("Unit", "StartLimitIntervalSec"); !ok || v.Value != "0" {
		bad(v, "StartLimitIntervalSec=0", "StartLimitIntervalSec="+orWord(v.Value, "10s")+": systemd gives it up after a few failed starts")
	}
	for _, key := range []string{"After", "Requires", "Requisite", "BindsTo"} {
		for _, unit := range slices.Concat(late(), e.startUnits()) {
			if v, ok := u.Names("Unit", key, unit); ok {
				bad(v, "no "+key+"="+unit, key+"="+unit+": it starts too late, or not at all without a cable")
			}
		}
	}
	out = append(out, e.unitState(ctx)...)
	if len(out) == 0 {
		return []Finding{pass(deploy.UnitName, "Restart=always, without a limit, and after nothing that needs a network", u.Path)}
	}
	return out
}

func orWord(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// unitState is what systemd says of the mirror's unit.
func (e *Env) unitState(ctx context.Context) []Finding {
	if !e.memo.facts.Live {
		return nil
	}
	st, err := e.Reader.Units().Unit(ctx, deploy.UnitName)
	switch {
	case err != nil:
		return []Finding{couldNotRun(deploy.UnitName, err)}
	case st.Active == "failed":
		return []Finding{{Status: StatusFail, Subject: deploy.UnitName, Expected: "active", Observed: "failed", Source: "systemctl is-active " + deploy.UnitName,
			Remedy: Remedy{Text: "see why", Command: "journalctl -u " + deploy.UnitName + " -n 50"}}}
	}
	return nil
}

func singleMirrorCheck() Check {
	return Check{
		ID: "MIR-19", Title: "the loss of one node leaves a mirror that the others can use",
		Severity: SeverityWarn, Scope: ScopeCluster,
		Story: Story{
			Seen:    "one box is lost, and no node can pull any more",
			Cause:   "one mirror for several nodes is a single point of failure, whatever runs in the cluster",
			Look:    "the nodes of the site file that have a mirror",
			Fix:     "mirror = \"replica\" on a second [[node]], with a copy of the cache, and [failover] mode",
			Sources: []string{"failure-modes: MIR-19"},
		},
		Run: runSingleMirror,
	}
}

func runSingleMirror(_ context.Context, e *Env) []Finding {
	const subject = "mirrors of the site"
	if len(e.Mirrors) == 0 {
		return []Finding{skip(subject, "no mirror is configured")}
	}
	if len(e.Site.Nodes) < 2 {
		return []Finding{skip(subject, "the site file names one node: with it everything that asks the mirror is lost too")}
	}
	var have []string
	for _, n := range e.Site.Nodes {
		if e.Site.HasMirror(n) {
			have = append(have, n.Name)
		}
	}
	f := Finding{Status: StatusWarn, Subject: subject, Expected: "two at least", Source: "[[node]] mirror"}
	switch {
	case e.Site.Mirror.Mode == string(config.ModeWorkload) && e.Site.Mirror.Workload.Form == config.FormDeployment:
		f.Observed = "a deployment has one pod, on one volume"
		f.Remedy = Remedy{Text: "[mirror.workload] form = \"daemonset\" or \"static-pod\", so that every node has a cache"}
	case len(have) < 2:
		f.Observed = "only " + strings.Join(have, ", ") + " has one: without it none of the other nodes can pull"
		f.Remedy = Remedy{Text: "mirror = \"replica\" on another [[node]], then edgeprep apply there"}
	default:
		return []Finding{pass(subject, strings.Join(have, ", "), "[[node]] mirror")}
	}
	return []Finding{f}
}
