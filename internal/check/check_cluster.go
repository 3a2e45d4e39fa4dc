package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

func clusterChecks() []Check {
	return []Check{
		{
			ID: "K8S-01", Title: "etcd's addresses are those of the site", Severity: SeverityFail, Scope: ScopeCluster,
			Story: Story{
				Seen:    "the API server never comes up after the move: etcd cannot bind its address, or \"this server is a not a member of the etcd cluster\"",
				Cause:   "a member's peer address is written into the cluster's own data; it was that of the bench",
				Look:    "the URLs in etcd's configuration or static pod on this node, against the [[node]] addresses, else against the addresses that the node has now; other members' are seen on their nodes",
				Fix:     "stage with the site's addresses or a private network of the cluster; else reset to one member at the site and join the others again",
				Sources: []string{"k3s-io/k3s#4296, #2732, #7558", "rancher/rke2#5651", "kubernetes/kubeadm#3299", "rke2-docs: backup_restore.md"},
			},
			Run: runEtcdAddresses,
		},
		{
			ID: "K8S-03", Title: "the number of servers is odd", Severity: SeverityFail, Scope: ScopeCluster,
			Story: Story{
				Seen:    "one server is lost, or switched on alone, and the cluster has no leader",
				Cause:   "of two members both are needed, of four three: an even number adds a failure and no spare",
				Look:    "the members that etcd's configuration on this node names, and [[node]] with the role server; how many are up is for the cluster, the order of power-on for a rehearsal",
				Fix:     "one or three servers, and the order of power-on on the paper in the box",
				Sources: []string{"rke2-docs: ha.md", "etcd: docs, FAQ, cluster size"},
			},
			Run: runQuorum,
		},
		{
			ID: "K8S-04", Title: "what brings the cluster back is on this node", Severity: SeverityFail, Scope: ScopeCluster,
			Story: Story{
				Seen:    "the database is damaged at the site, and the cluster is built anew by hand",
				Cause:   "nobody made a snapshot, or it is on the disk that failed, or the token and keys that belong to it are in the lab",
				Look:    "the newest snapshot where the descriptor says, not older than 30 days at the time of shipping; the files that a restore needs; that a second node has copies is for the cluster",
				Fix:     "make a snapshot right before shipping, copy it with token and keys to a second node or into the box",
				Sources: []string{"rke2-docs: backup_restore.md, certificates.md", "etcd: docs, disaster recovery"},
			},
			Run: runRecovery,
		},
		{
			ID: "K8S-09", Title: "the API server's certificate and the kubeconfigs fit the site's addresses", Severity: SeverityFail, Scope: ScopeCluster,
			Story: Story{
				Seen:    "kubectl and agents: \"certificate is valid for 10.1.2.3, not 192.168.7.11\"",
				Cause:   "certificate and kubeconfigs were made for the addresses of the bench",
				Look:    "names in the API server's certificate and server: in kubeconfigs on this node, and the server that it joins, against [[node]] addresses",
				Fix:     "make the certificate with the site's addresses (certSANs, tls-san) before shipping",
				Sources: []string{"kubernetes/kubeadm#3299", "kubeadm: certSANs"},
			},
			Run: runServerAddresses,
		},
	}
}

// etcdURLs finds etcd's options in a configuration file (YAML) or in the flags of a static pod.
var etcdURLs = regexp.MustCompile(`(?m)^\s*(?:-\s+)?"?(?:--)?(initial-advertise-peer-urls|advertise-client-urls|listen-peer-urls|initial-cluster)"?\s*[:=]\s*"?([^"\s]+)"?`)

// planned are the addresses of the site's nodes; own those of this one.
func (e *Env) planned() (all []string, own string) {
	for _, n := range e.Site.Nodes {
		if n.Address != "" {
			all = append(all, n.Address)
		}
	}
	if self, err := e.Site.Self("", e.memo.facts); err == nil {
		own = self.Address
	}
	return all, own
}

// etcdOptions reads etcd's options on this node; nil with a finding when there are none.
func (e *Env) etcdOptions() (options map[string][]string, file string, none []Finding) {
	const subject = "etcd"
	file = e.Node.Datastore.EtcdConfig
	if file == "" || !e.etcdMember() {
		return nil, file, []Finding{skip(subject, "no member of etcd is on this node")}
	}
	content, err := e.Reader.FS().ReadFile(file, maxText)
	if err != nil {
		return nil, file, []Finding{unproven(subject, "its configuration cannot be read: "+err.Error())}
	}
	options = map[string][]string{}
	for _, m := range etcdURLs.FindAllStringSubmatch(string(content), -1) {
		options[m[1]] = strings.Split(m[2], ",")
	}
	return options, file, nil
}

func runEtcdAddresses(_ context.Context, e *Env) []Finding {
	options, file, none := e.etcdOptions()
	if none != nil {
		return none
	}
	_, own := e.planned()
	var out []Finding
	for _, key := range []string{"initial-advertise-peer-urls", "listen-peer-urls", "advertise-client-urls"} {
		for _, u := range options[key] {
			host := hostOf(u)
			if host == "" || host == "127.0.0.1" || host == "::1" || host == "0.0.0.0" || host == "localhost" {
				continue
			}
			f := pass(key, u, file)
			switch has := slices.ContainsFunc(e.memo.facts.Addresses, func(a netip.Addr) bool { return a.String() == host }); {
			case own != "" && host != own:
				f.Status, f.Expected = StatusFail, own+", the [[node]] address of this node"
			case own == "" && e.memo.facts.Live && !has:
				f.Status, f.Expected = StatusFail, "one of "+joinAddrs(e.memo.facts.Addresses)
			}
			if f.Status == StatusFail {
				f.Remedy = Remedy{Text: "give the node the address back that it was made with, or reset the cluster to this member with the new one"}
			}
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return []Finding{unproven("etcd", file+" names no address")}
	}
	return out
}

// hostOf is the host of a URL, or of "name=URL".
func hostOf(s string) string {
	if _, rest, ok := strings.Cut(s, "="); ok {
		s = rest
	}
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func runQuorum(_ context.Context, e *Env) []Finding {
	var out []Finding
	if options, file, none := e.etcdOptions(); none == nil {
		if n := len(options["initial-cluster"]); n > 0 {
			out = append(out, judgeMembers("etcd members", n, file))
		}
	}
	servers := 0
	for _, n := range e.Site.Nodes {
		if slices.Contains(n.Roles, "server") || slices.Contains(n.Roles, "control-plane") {
			servers++
		}
	}
	if servers > 0 {
		out = append(out, judgeMembers("servers", servers, "edgeprep.toml, [[node]] roles"))
		if servers > 1 {
			out = append(out, deferred("quorum", "how many members are up is seen from the cluster; switch on "+plural(servers/2+1, "server")+" at least"))
		}
	}
	if len(out) == 0 {
		return []Finding{skip("servers", "neither etcd's configuration nor [[node]] roles names several")}
	}
	return out
}

func judgeMembers(subject string, n int, source string) Finding {
	f := pass(subject, plural(n, "member"), source)
	f.Expected = "an odd number"
	switch {
	case n == 2:
		f.Status, f.Observed = StatusFail, "2 members: with either of them lost nothing works"
	case n%2 == 0:
		f.Status, f.Observed = StatusWarn, fmt.Sprintf("%d members bear the loss of no more than %d would", n, n-1)
	default:
		return f
	}
	f.Remedy = Remedy{Text: "take one out, or add one"}
	return f
}

// snapshotAge is how old a snapshot may be when the box is closed: what changed since is lost with it.
const snapshotAge = 30 * 24 * time.Hour

func runRecovery(_ context.Context, e *Env) []Finding {
	d := e.Node.Datastore
	if len(d.Snapshots) == 0 && len(d.Recovery) == 0 || !e.Node.Started {
		return []Finding{skip("recovery", "this node keeps no datastore, or none yet")}
	}
	var out []Finding
	for _, p := range d.Recovery {
		switch info, err := e.Reader.FS().Stat(p); {
		case errors.Is(err, fs.ErrPermission):
			out = append(out, deferred(p, "readable by root only; run as root"))
		case err != nil || info.Size == 0:
			out = append(out, Finding{Status: StatusFail, Subject: p, Expected: "there", Observed: "absent or empty", Source: p, Remedy: Remedy{Text: "without it a snapshot cannot be restored; take it from another server"}})
		}
	}
	if e.etcdMember() {
		out = append(out, e.snapshots(d.Snapshots))
	}
	if len(e.Site.Nodes) > 1 {
		out = append(out, deferred("copies", "whether another node has copies is seen there"))
	}
	if len(out) == 0 {
		return []Finding{pass("recovery", strings.Join(d.Recovery, ", "), d.Recovery[0])}
	}
	return out
}

func (e *Env) snapshots(patterns []string) Finding {
	var newest time.Time
	file := ""
	for _, p := range patterns {
		files, _ := glob(e.Reader.FS(), p)
		for _, x := range files {
			if info, err := e.Reader.FS().Stat(x); err == nil && info.Type == "file" && info.Size > 0 && info.ModTime.After(newest) {
				newest, file = info.ModTime, x
			}
		}
	}
	f := Finding{Status: StatusFail, Subject: "etcd snapshot", Expected: "one of the last 30 days", Source: strings.Join(patterns, ", "),
		Remedy: Remedy{Text: "make one right before shipping, into the first of these places: etcdctl snapshot save, or the distribution's own command"}}
	switch {
	case file == "":
		f.Observed = "none"
	case e.Now().Sub(newest) > snapshotAge:
		f.Status, f.Observed, f.Source = StatusWarn, "the newest is of "+day(newest), file
	default:
		return pass("etcd snapshot", "of "+day(newest), file)
	}
	return f
}

// kubeconfigServer is server: of a kubeconfig.
var kubeconfigServer = regexp.MustCompile(`(?m)^\s*server:\s*"?(https?://[^"\s]+)`)

func runServerAddresses(_ context.Context, e *Env) []Finding {
	all, own := e.planned()
	if len(all) == 0 {
		return []Finding{skip("API server", "no [[node]] says which addresses the site has")}
	}
	var out []Finding
	if file := e.Node.Datastore.Certificate; file != "" && own != "" {
		out = append(out, e.certificateNames(file, own)...)
	}
	servers := map[string]string{}
	if e.Node.Join != "" {
		servers[e.Node.Join] = "the distribution's configuration"
	}
	for _, rule := range e.Node.Certificates {
		for _, p := range rule.Files {
			files, _ := glob(e.Reader.FS(), p)
			for _, file := range files {
				content, _ := readText(e.Reader.FS(), file)
				if m := kubeconfigServer.FindStringSubmatch(content); m != nil {
					servers[m[1]] = file
				}
			}
		}
	}
	for u, source := range servers {
		out = append(out, e.judgeServer(u, source, all))
	}
	if len(out) == 0 {
		return []Finding{skip("API server", "the distribution makes its certificate for the addresses that it has, and no kubeconfig is here")}
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Subject, b.Subject) })
	return out
}

func (e *Env) judgeServer(u, source string, all []string) Finding {
	host := hostOf(u)
	f := pass(u, "an address of the site", source)
	f.Expected = "one of " + strings.Join(all, ", ")
	switch {
	case slices.Contains(all, host), host == "127.0.0.1", host == "localhost", host == "::1":
	case onSite(e.Reader.FS(), host) && strings.Trim(host, "0123456789.:abcdef") != "":
		f.Observed = "a name of the site"
	default:
		f.Status, f.Observed = StatusWarn, "no [[node]] has this address: a load balancer's, or the bench's"
		f.Remedy = Remedy{Text: "if it is the bench's, make the kubeconfig anew with the site's address"}
	}
	return f
}

func (e *Env) certificateNames(file, own string) []Finding {
	for _, c := range e.memo.certificates().all {
		if c.file != file || c.IsCA {
			continue
		}
		f := pass(file, "valid for "+own, file)
		if err := c.VerifyHostname(own); err != nil {
			f.Status, f.Expected, f.Observed = StatusFail, "valid for "+own+", the [[node]] address of this node", "valid for "+names(c.Certificate)
			f.Remedy = Remedy{Text: "put the address into the certificate's names (certSANs), remove the certificate and its key, and have it made anew"}
		}
		return []Finding{f}
	}
	return nil
}

func names(c *x509.Certificate) string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return strings.Join(out, ", ")
}
