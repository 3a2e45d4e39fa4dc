package check

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/registries"
)

// endpointChecks are about the way to the mirrors.
func endpointChecks() []Check {
	return []Check{schemeCheck(), caFilesCheck(), certificateCheck(), loopbackPortCheck(), nameCheck(), portCheck(), authCheck(), proxyCheck(), namespaceCheck()}
}

func schemeCheck() Check {
	return Check{
		ID: "REG-11", Title: "the mirrors speak the scheme that is configured for them",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "\"server gave HTTP response to HTTPS client\", or a TLS handshake error",
			Cause:   "an endpoint without a scheme is https (k3s: http only on this machine on an odd port); http with a TLS key on another port than 80 is tried as https first",
			Look:    "GET /v2/ at every mirror in exactly the configured scheme; TLS settings beside plain http",
			Fix:     "state the scheme; no TLS settings on http hosts",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go", "k3s: pkg/agent/containerd/config.go", "zarf-dev/zarf#5325"},
		},
		Run: func(_ context.Context, e *Env) []Finding {
			return e.registryFindings("REG-11", func(e *Env, _ registries.Effective) []Finding { return e.perEndpoint(schemeFinding) })
		},
	}
}

// perEndpoint judges every mirror that was asked.
func (e *Env) perEndpoint(judge func(e *Env, p probed) Finding) []Finding {
	if fs := e.withProbes(); fs != nil {
		return fs
	}
	var out []Finding
	for _, p := range e.memo.endpoints() {
		out = append(out, judge(e, p))
	}
	return out
}

// notAsked is the finding about a mirror that was not reached: that fails MIR-03, which nobody can waive.
func (p probed) notAsked() Finding {
	f := skip(p.URL, "it does not answer ("+p.text+"); MIR-03 fails for that")
	f.Source = p.source()
	return f
}

func schemeFinding(e *Env, p probed) Finding {
	scheme, _, _ := strings.Cut(p.URL, "://")
	f := pass(p.URL, fmt.Sprintf("it speaks %s, status %d", scheme, p.status), p.source())
	switch p.failure {
	case answered, handshake:
		if p.failure == handshake { // of TLS: the scheme is right
			f.Observed = "it speaks TLS"
		}
		return f
	case speaksTLS, speaksPlain:
		other := map[string]string{"http": "https", "https": "http"}[scheme]
		f.Status, f.Expected, f.Observed = StatusFail, "it speaks "+scheme, "it speaks "+other+": "+p.text
		f.Remedy = Remedy{Text: "give its URL the scheme " + other + ":// where it is configured (" + e.whereConfigured(p) + "), or set [mirror.tls], then", Command: "edgeprep apply"}
		return f
	case wrongAnswer:
		f.Status, f.Expected, f.Observed = StatusFail, "a registry", "what listens there is none: "+p.text
		f.Remedy = p.remedy()
		return f
	}
	return p.notAsked()
}

// whereConfigured names the file that points the runtime at a mirror.
func (e *Env) whereConfigured(p probed) string {
	eff, err := e.memo.registries()
	if err != nil {
		return "edgeprep.toml"
	}
	for _, c := range e.configuredHosts(eff) {
		if c.Same(p.entry.Endpoint) {
			return c.source
		}
	}
	return "edgeprep.toml"
}

func loopbackPortCheck() Check {
	return Check{
		ID: "REG-18", Title: "no endpoint is a NodePort on loopback that nothing answers",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-04"},
		Story: Story{
			Seen:    "connection refused on 127.0.0.1:3xxxx, while the node's address answers",
			Cause:   "kube-proxy answers a NodePort on loopback in iptables mode and on IPv4 only, not in nftables or ipvs mode; localhost may be ::1 first",
			Look:    "endpoints on loopback with a port of the NodePort range, against what the node's configuration says of its service proxy",
			Fix:     "point at the node's own address, or run the mirror as a systemd service, static pod or DaemonSet",
			Sources: []string{"kubernetes: cmd/kube-proxy/app/server_linux.go", "kubernetes/kubernetes#67730, #90236, #138427", "zarf-dev/zarf#993, #3745"},
		},
		Run: runLoopbackPort,
	}
}

// The range of NodePorts unless the API server is told otherwise. kubernetes: pkg/kubeapiserver/options/options.go
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

func runLoopbackPort(_ context.Context, e *Env) []Finding {
	var out []Finding
	for _, c := range e.endpointURLs() {
		u, err := url.Parse(c.URL)
		if err != nil || !isLoopback(u.Hostname()) {
			continue
		}
		port, _ := strconv.Atoi(u.Port())
		if port < firstNodePort || port > lastNodePort {
			continue
		}
		out = append(out, e.judgeLoopback(c, u.Hostname()))
	}
	if len(out) == 0 {
		return []Finding{skip("endpoints", "none is on loopback with a port of the NodePort range")}
	}
	return out
}

func (e *Env) judgeLoopback(c configured, name string) Finding {
	a, err := netip.ParseAddr(name)
	four := err == nil && a.Is4()
	own := slices.ContainsFunc(e.Mirrors, func(m Mirror) bool {
		return m.Admin != "" && c.Same(registries.Endpoint{URL: m.URL})
	})
	switch {
	case own && e.Site.Mirror.Mode != "workload":
		return pass(c.URL, "this node's mirror listens there itself", c.source)
	case four && e.Node.Workload.LoopbackNodePort:
		return pass(c.URL, "the service proxy of this node answers there, as its configuration tells", c.source)
	}
	return Finding{Status: StatusFail, Subject: c.URL, Expected: "an address on which the service proxy answers",
		Observed: "nothing on this node tells that a NodePort answers on " + name, Source: c.source,
		Remedy: Remedy{Text: "remove it from [registries] endpoints: each node is then pointed at its own address; then", Command: "edgeprep apply"}}
}

// endpointURLs are all hosts that the runtime is pointed at, and mirrors that are still to be written.
func (e *Env) endpointURLs() []configured {
	var out []configured
	if eff, err := e.memo.registries(); err == nil {
		out = e.configuredHosts(eff)
	}
	for _, m := range e.Mirrors {
		ep := registries.Endpoint{URL: m.URL}
		if !slices.ContainsFunc(out, func(c configured) bool { return c.Same(ep) }) {
			out = append(out, configured{HostEntry: registries.HostEntry{Endpoint: ep}, source: "edgeprep.toml"})
		}
	}
	return out
}

func nameCheck() Check {
	return Check{
		ID: "REG-19", Title: "endpoints are addresses, or names that this node knows without DNS",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "look-up errors or time-outs for the mirror's name",
			Cause:   "the runtime resolves names as the node does: there may be no resolver at the site, and it cannot use the cluster's DNS",
			Look:    "the host of every endpoint: an address, or a name in /etc/hosts that nothing writes anew at boot",
			Fix:     "use addresses, or write /etc/hosts on every node",
			Sources: []string{"kubernetes/enhancements#3824", "cloud-init: cloudinit/config/cc_update_etc_hosts.py"},
		},
		Run: runNames,
	}
}

func runNames(_ context.Context, e *Env) []Finding {
	known := hostsFile(e.Reader.FS())
	var out []Finding
	for _, c := range e.endpointURLs() {
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" {
			continue // REG-04 says so
		}
		name := strings.ToLower(u.Hostname())
		if _, err := netip.ParseAddr(name); err == nil || isLoopback(name) {
			out = append(out, pass(c.URL, "an address of its own", c.source))
			continue
		}
		f := Finding{Status: StatusFail, Subject: c.URL, Expected: name + " in /etc/hosts", Observed: "it is not there: its address needs a resolver", Source: c.source + "; /etc/hosts",
			Remedy: Remedy{Text: "write the mirror's address into [registries] endpoints, or into /etc/hosts of every node"}}
		if !slices.ContainsFunc(e.wanted(), c.Same) { // somebody else's, asked for what the mirrors have not
			f.Status, f.Remedy = StatusWarn, Remedy{Text: "write " + name + " into /etc/hosts, or take it out of " + c.source}
		}
		if addrs := known[name]; len(addrs) > 0 {
			f = pass(c.URL, name+" is "+strings.Join(addrs, ", "), "/etc/hosts")
			if by := hostsWriter(e.Reader.FS()); by != "" {
				f.Status, f.Observed, f.Source = StatusWarn, f.Observed+", and cloud-init writes the file anew at boot", by
				f.Remedy = Remedy{Text: "keep the file", Command: "echo 'manage_etc_hosts: false' > /etc/cloud/cloud.cfg.d/91-edgeprep-hosts.cfg"}
			}
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return []Finding{skip("endpoints", "none is configured")}
	}
	return out
}

// managedHosts is the key by which cloud-init makes /etc/hosts from its template at every boot.
var managedHosts = regexp.MustCompile(`(?mi)^manage_etc_hosts:\s*["']?(true|template)\b`)

// hostsWriter is the file that lets cloud-init write /etc/hosts; the last one that says anything counts.
func hostsWriter(f host.FS) string {
	files := []string{"/etc/cloud/cloud.cfg"}
	if list, err := f.ReadDir("/etc/cloud/cloud.cfg.d"); err == nil {
		for _, x := range list {
			if x.Type == host.TypeFile && strings.HasSuffix(x.Path, ".cfg") {
				files = append(files, x.Path)
			}
		}
	}
	last := ""
	for _, file := range files {
		data, err := f.ReadFile(file, 1<<20)
		switch {
		case err != nil:
		case managedHosts.Match(data):
			last = file
		case strings.Contains(string(data), "\nmanage_etc_hosts:") || strings.HasPrefix(string(data), "manage_etc_hosts:"):
			last = ""
		}
	}
	return last
}

func authCheck() Check {
	return Check{
		ID: "REG-22", Title: "the runtime has the credentials that the mirrors ask for",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"REG-11", "REG-12", "REG-13"},
		Story: Story{
			Seen:    "401 from the mirror",
			Cause:   "the mirror wants a token or a client certificate, and the registries configuration has none; a template of config.toml of one's own drops those of registries.yaml",
			Look:    "the status of GET /v2/ with the client certificate of the registries configuration, if it has one",
			Fix:     "[registries] client_cert and client_key, or anonymous reading on the closed network",
			Sources: []string{"k3s: pkg/agent/containerd/config.go warnMissingRegistryAuth"},
		},
		Run: func(_ context.Context, e *Env) []Finding { return e.perEndpoint(authFinding) },
	}
}

func authFinding(e *Env, p probed) Finding {
	refused := p.status == http.StatusUnauthorized || p.status == http.StatusForbidden || p.failure == handshake && p.asks
	with := "without credentials"
	if p.entry.ClientCert != "" {
		with = "with the client certificate " + p.entry.ClientCert
	}
	switch {
	case refused && e.hasAuth(p):
		return pass(p.URL, "it wants credentials, and the registries file has some", p.source())
	case refused:
		return Finding{Status: StatusWarn, Subject: p.URL, Expected: "it lets the runtime pull", Observed: "it refuses " + with + " (" + p.refusal() + ")", Source: p.source(),
			Remedy: Remedy{Text: "set [registries] client_cert and client_key, then", Command: "edgeprep apply"}}
	case p.failure != answered:
		return p.notAsked()
	}
	return pass(p.URL, fmt.Sprintf("it answers %s, status %d", with, p.status), p.source())
}

// refusal is how it said no.
func (p probed) refusal() string {
	if p.status != 0 {
		return fmt.Sprintf("status %d", p.status)
	}
	return p.text
}

// hasAuth says whether registries.yaml has credentials for the mirror's host.
func (e *Env) hasAuth(p probed) bool {
	eff, err := e.memo.registries()
	if err != nil || eff.Written == nil {
		return false
	}
	c, ok := eff.Written.Config(p.entry.Host())
	return ok && c.Auth
}

func namespaceCheck() Check {
	return Check{
		ID: "REG-24", Title: "the mirrors tell registries apart by ?ns=",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"MIR-03"},
		Story: Story{
			Seen:    "the wrong software runs under a right name; or 400 or 404 for every mirrored pull",
			Cause:   "containerd names the registry in the ns parameter alone; a server that ignores it gives what another registry has under the same path, one that does not know it refuses all",
			Look:    "one required reference with its own ns, and with the ns of a registry that exists nowhere",
			Fix:     "use a mirror that looks images up by ns: edgeprep mirror serve does",
			Sources: []string{"containerd: docs/hosts.md", "containerd/containerd#3734", "opencontainers/distribution-spec#66", "openSUSE/open-build-service#16186"},
		},
		Run: runNamespace,
	}
}

func runNamespace(ctx context.Context, e *Env) []Finding {
	if fs := e.withProbes(); fs != nil {
		return fs
	}
	i := slices.IndexFunc(e.Required, func(r preload.Ref) bool { return r.Tag != "" && r.Digest == "" })
	if i < 0 {
		return []Finding{skip("mirror endpoints", "no reference with a tag is required, and digests cannot be mixed up")}
	}
	var out []Finding
	for _, p := range e.memo.endpoints() {
		if p.failure != answered {
			out = append(out, p.notAsked())
			continue
		}
		out = append(out, e.judgeNamespace(ctx, p.Mirror, e.Required[i]))
	}
	return out
}

func (e *Env) judgeNamespace(ctx context.Context, m Mirror, r preload.Ref) Finding {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout/3)
	defer cancel()
	c, err := e.mirrorClient(m)
	if err != nil {
		return couldNotRun(m.URL, err)
	}
	defer c.Close()
	tail := strings.TrimPrefix(r.Name, r.Host)
	own, err := c.Resolve(ctx, r.Name)
	f := Finding{Subject: m.URL, Expected: "another ns, another image", Source: "HEAD /v2/" + r.Repository + "/manifests/" + r.Tag + " with ?ns=" + r.Host + " and ?ns=" + mirror.ProbeRegistry}
	if err != nil {
		f.Status, f.Reason = StatusUnproven, "it does not serve "+r.Name+": "+err.Error()
		if strings.Contains(err.Error(), "400") {
			f.Status, f.Reason, f.Observed = StatusFail, "", "it refuses the ns parameter: "+err.Error()
		}
		return f
	}
	other, err := c.Resolve(ctx, mirror.ProbeRegistry+tail)
	switch {
	case err == nil:
		f.Status, f.Observed = StatusFail, "it gives "+other.Digest+" for a registry that exists nowhere"
		if other.Digest == own.Digest {
			f.Observed = "it ignores ns: " + own.Digest + " for a registry that exists nowhere, too"
		}
		f.Remedy = Remedy{Text: "point the runtime at a mirror that tells registries apart: set [mirror] mode = \"systemd\" and remove this one from [registries] endpoints, then", Command: "edgeprep apply"}
	case ctx.Err() != nil:
		f.Status, f.Reason = StatusUnproven, "no answer for another ns: "+err.Error()
	default:
		f.Status, f.Observed = StatusPass, "ns="+r.Host+" is "+own.Digest+"; a registry that exists nowhere is refused"
	}
	return f
}
