package check

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/registries"
)

// fallbackChecks are about what is asked besides this node's mirror.
func fallbackChecks() []Check {
	return []Check{fallbackCheck(), deadHostCheck(), driftCheck(), bootstrapCheck(), singleEndpointCheck()}
}

func fallbackCheck() Check {
	return Check{
		ID: "REG-09", Title: "a missing image fails at once: nothing behind the mirrors waits for a registry that is out of reach",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"REG-04"},
		Story: Story{
			Seen:    "each pull of an image that is missing takes minutes, although the mirror says so at once",
			Cause:   "the registry itself is asked last unless server is a mirror; dropped packets cost 30 s for each object. Only a rehearsal with egress dropped measures it",
			Look:    "the ordered list of hosts for docker.io and each required registry, and what stands at its end",
			Fix:     "server = the mirror in hosts.toml; on k3s and RKE2 disable-default-registry-endpoint, which works only for registries that registries.yaml names",
			Sources: []string{"containerd: core/remotes/docker/registry.go, docs/hosts.md", "containerd/containerd#4861, #10660, #9420", "rke2-docs: private_registry.md"},
		},
		Run: runFallback,
	}
}

func runFallback(_ context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	if len(e.Mirrors) == 0 {
		return []Finding{skip("registries", "no mirror is configured")}
	}
	var out []Finding
	for _, h := range e.registryHosts() {
		l := eff.For(h)
		if !l.Mirrors(e.wanted()) {
			out = append(out, skip(h, "its pulls do not begin at the mirrors: REG-04 says so"))
			continue
		}
		f := pass(h, route(l)+", and no further", at(l.File, l.Line))
		if asksItself(l) {
			f.Status, f.Expected, f.Observed = StatusWarn, "it ends at a mirror", route(l)+": up to 30 s for each object when packets are dropped"
			f.Remedy = e.noFallback()
			if !l.Upstream {
				f.Remedy = Remedy{Text: "take it out of the endpoints of " + h + " in " + l.File}
			}
		}
		out = append(out, f)
	}
	return out
}

// noFallback is how the registry itself is taken off the end.
func (e *Env) noFallback() Remedy {
	r := e.Node.Registries
	if r.Format == registries.FormatCertsD || r.NoFallback == "" || !e.Node.Gates.NoFallbackKey {
		return Remedy{Text: "let edgeprep write the mirror as the last host, too", Command: "edgeprep apply"}
	}
	// a file of its own, so that edgeprep's is not changed by hand; the last one that has the key counts
	file := path.Join(path.Dir(r.DropIn), "91-no-fallback.yaml")
	return Remedy{Text: "with the next start of " + e.Node.Name + " it is gone", Command: "echo '" + r.NoFallback + ": true' > " + file}
}

func deadHostCheck() Check {
	return Check{
		ID: "REG-25", Title: "a host that does not answer costs seconds: every one but the last has a dial_timeout",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"REG-04"},
		Story: Story{
			Seen:    "\"context canceled\" after five minutes; the healthy second host was never tried",
			Cause:   "a host that drops packets costs 30 s for every request, and the pull as a whole is given up after five minutes without progress",
			Look:    "the hosts of each registry in their order: those on other machines before the last one, their dial_timeout, and whether this containerd knows the key (2.0.7, 2.1)",
			Fix:     "dial_timeout = \"2s\" for each host; where it cannot be said (registries.yaml, an older containerd), one endpoint",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go, internal/cri/config/config.go (image_pull_progress_timeout)", "containerd/containerd#10624"},
		},
		Run: runDeadHosts,
	}
}

func runDeadHosts(_ context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	var out []Finding
	for _, h := range e.registryHosts() {
		for _, c := range order(eff.For(h)) {
			if c.last || e.onThisNode(c.URL) || slices.ContainsFunc(out, func(f Finding) bool { return f.Subject == c.URL && f.Source == c.source }) {
				continue
			}
			out = append(out, e.judgeDial(c))
		}
	}
	if len(out) == 0 {
		return []Finding{pass("hosts", "none on another machine stands before the last one", eff.Source.String())}
	}
	return out
}

// longDial is more than anybody should wait for a host of the same site.
const longDial = 5 * time.Second

func (e *Env) judgeDial(c configured) Finding {
	f := Finding{Status: StatusWarn, Subject: c.URL, Expected: "a dial_timeout of a few seconds", Source: c.source}
	d, err := time.ParseDuration(c.DialTimeout)
	switch {
	case c.DialTimeout == "":
		f.Observed = "none: 30 s for every request when it is off"
	case !registries.HasDialTimeout(e.Node.Runtime.Version):
		f.Observed = "containerd " + orUnknown(e.Node.Runtime.Version) + " does not know dial_timeout: 30 s for every request when it is off"
	case err != nil || d > longDial:
		f.Observed = c.DialTimeout + " for every request when it is off"
	default:
		return pass(c.URL, "dial_timeout "+c.DialTimeout, c.source)
	}
	f.Remedy = Remedy{Text: "let [registries] endpoints name one mirror, or containerd be 2.1 or later and [failover] mode = \"endpoints\"; then", Command: "edgeprep apply"}
	return f
}

func orUnknown(version string) string {
	if version == "" {
		return "of unknown version"
	}
	return version
}

// onThisNode says whether an endpoint is this machine: it refuses at once when nothing listens.
func (e *Env) onThisNode(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return isLoopback(u.Hostname()) || err == nil && slices.Contains(e.memo.facts.Addresses, a)
}

func driftCheck() Check {
	return Check{
		ID: "REG-17", Title: "every node's runtime is told the same of registries",
		Severity: SeverityFail, Scope: ScopeCluster, DependsOn: []string{"REG-04"},
		Story: Story{
			Seen:    "a pod works on one node and fails on another",
			Cause:   "one node was configured by hand, or not since the last change",
			Look:    "the digest of this node's registries with their mirrors, in any order: the other nodes' must be the same. One node alone proves nothing",
			Fix:     "edgeprep apply on every node, from the same edgeprep.toml",
			Sources: []string{"rke2-docs: private_registry.md (on each node)"},
		},
		Run: runDrift,
	}
}

func runDrift(_ context.Context, e *Env) []Finding {
	if len(e.Site.Nodes) < 2 {
		return []Finding{skip("nodes", "this site has one node")}
	}
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	f := skip("nodes", "one node cannot see the others' files: compare this digest with theirs")
	f.Observed, f.Source = registriesDigest(eff), eff.Source.String()
	f.Remedy = Remedy{Text: "on every node", Command: "edgeprep check REG-17"}
	return []Finding{f}
}

// registriesDigest is of what the runtime is told, without what differs by design: the order of mirrors.
func registriesDigest(eff registries.Effective) string {
	h := sha256.New()
	for _, name := range eff.Names() {
		l := eff.Registries[name]
		var list []string
		for _, ep := range l.Endpoints {
			list = append(list, strings.TrimSuffix(strings.TrimSuffix(ep.URL, "/"), "/v2"))
		}
		slices.Sort(list)
		fmt.Fprintf(h, "%q %q %v\n", name, list, l.Upstream)
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

func bootstrapCheck() Check {
	return Check{
		ID: "REG-20", Title: "what runs before a NodePort answers is on this node",
		Severity: SeverityFail, Scope: ScopeCluster, DependsOn: []string{"COLD-02"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "after a cold start the pod network and the service proxy wait for a mirror that needs them",
			Cause:   "the mirror is reached by a NodePort, which nothing serves before the service proxy and the pod network run; their images must come from somewhere else, on every node that may run them",
			Look:    "the same graph as COLD-02, from the mirror down: each image that is needed before it answers. COLD-02 says whether the chain gets stuck and names its end, this one every image on the way and whether it is here; each node that may run the mirror has to pass it",
			Fix:     "preload the images on every node, name them in [mirror.workload] bootstrap, or run the mirror as a systemd service",
			Sources: []string{"containerd/containerd#10660, #5901", "zarf: init-package.mdx", "failure-modes: REG-20, MIR-01"},
		},
		Run: runBootstrap,
	}
}

func runBootstrap(_ context.Context, e *Env) []Finding {
	if e.Site.Mirror.Mode != string(config.ModeWorkload) || e.Site.Mirror.Workload.Form != config.FormDeployment {
		return []Finding{skip("the mirror", "it is reached without the cluster's network")}
	}
	g := e.memo.cold().graph
	m := g.MirrorStep()
	if m == nil {
		return []Finding{skip("the mirror", "no mirror is configured")}
	}
	var out []Finding
	for _, s := range imagesBelow(g, m) {
		f := pass(s.Label, s.Detail, "units and manifests on this disk, containerd")
		if s.State != coldstart.Served {
			f.Status, f.Expected, f.Observed = StatusFail, "on this node before the mirror answers", "it is not: "+notHere(s)
			f.Remedy = Remedy{Text: "put an archive of it into [images] archives, then", Command: "edgeprep apply"}
		}
		if s.State == coldstart.Unknown {
			f = unproven(s.Label, s.Detail)
		}
		out = append(out, f)
	}
	for _, s := range g.Steps {
		if s.Kind == coldstart.KindPart && s.State == coldstart.Unknown {
			out = append(out, unproven(s.Label, s.Detail))
		}
	}
	if len(e.Site.Nodes) > 1 {
		out = append(out, skip("the other nodes", "each of them has to run this check"))
	}
	if len(out) == 0 {
		return []Finding{skip("the mirror", "nothing on this node's disk starts it: COLD-02 says why, and this is for the nodes that may run it")}
	}
	return out
}

func notHere(s *coldstart.Step) string {
	if s.Detail != "" {
		return s.Detail
	}
	return "only the mirror has it"
}

// imagesBelow are the image steps that a step waits for, directly or not.
func imagesBelow(g *coldstart.Graph, from *coldstart.Step) []*coldstart.Step {
	seen := map[string]bool{}
	var out []*coldstart.Step
	var walk func(s *coldstart.Step)
	walk = func(s *coldstart.Step) {
		if s == nil || seen[s.ID] {
			return
		}
		seen[s.ID] = true
		if s.Kind == coldstart.KindImage {
			out = append(out, s)
		}
		for _, id := range s.Needs {
			walk(g.Step(id))
		}
	}
	walk(from)
	return out
}

func singleEndpointCheck() Check {
	return Check{
		ID: "REG-29", Title: "the loss of one other machine does not stop pulls on this node",
		Severity: SeverityWarn, Scope: ScopeCluster,
		Story: Story{
			Seen:    "all pulls stop when one box is lost",
			Cause:   "every node is pointed at the same one machine",
			Look:    "the endpoints of a site with several nodes: this node's own mirror, or two and more machines",
			Fix:     "give this node a mirror, list a second endpoint, or rehearse edgeprep failover",
			Sources: []string{"aceeric/ociregistry: docs/docs/airgap-considerations.md"},
		},
		Run: runSingleEndpoint,
	}
}

func runSingleEndpoint(_ context.Context, e *Env) []Finding {
	if len(e.Site.Nodes) < 2 {
		return []Finding{skip("nodes", "this site has one node")}
	}
	if len(e.Mirrors) == 0 {
		return []Finding{skip("mirror endpoints", "no mirror is configured")}
	}
	var machines []string
	for _, m := range e.Mirrors {
		u, err := url.Parse(m.URL)
		if err != nil {
			continue
		}
		if m.Admin != "" || e.onThisNode(m.URL) {
			return []Finding{pass(m.URL, "it is on this node", "edgeprep.toml")}
		}
		if !slices.Contains(machines, u.Hostname()) {
			machines = append(machines, u.Hostname())
		}
	}
	if len(machines) > 1 {
		return []Finding{pass("mirror endpoints", strings.Join(machines, ", "), "edgeprep.toml")}
	}
	return []Finding{{Status: StatusWarn, Subject: strings.Join(machines, ", "), Expected: "two machines, or a mirror on this node", Observed: "the only machine that this node pulls from", Source: "edgeprep.toml",
		Remedy: Remedy{Text: "give this [[node]] mirror = \"replica\", or list a second one in [registries] endpoints; then", Command: "edgeprep apply"}}}
}
