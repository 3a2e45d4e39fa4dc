package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The values of [mirror] upstream.
const (
	UpstreamConnected = "connected"
	UpstreamNever     = "never"
)

// Risks are the changes that must be named to be allowed.
func Risks() []string {
	return []string{"restart", "overwrite", "remove", "plain-http", "untested-distro"}
}

// site checks every value; each problem is reported, not the first.
func (p *problems) site(s *Site) {
	switch {
	case s.Version == 0:
		p.at("CFG-004", "version", "version is missing", "later formats will differ", "version = 1")
	case s.Version != 1:
		p.at("CFG-004", "version", fmt.Sprintf("version %d is not known", s.Version), "this edgeprep reads version 1", "version = 1")
	}
	p.images(s)
	p.mirror(s)
	p.upstreams(s)
	p.registries(s)
	p.nodes(s)
	p.rest(s)
}

func (p *problems) enum(key, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		p.at("CFG-010", key, fmt.Sprintf("%s = %q is not one of %s", key, v, strings.Join(allowed, ", ")), "",
			suggestion(v, allowed))
	}
}

func (p *problems) absolute(key, v string) {
	if v != "" && (!path.IsAbs(v) || path.Clean(v) != v) {
		file := path.Join("/", v)
		if strings.HasSuffix(key, "_file") && !strings.Contains(v, "/") { // no path at all: a secret perhaps, which is not repeated
			file = "/etc/edgeprep/" + key[strings.LastIndexByte(key, '.')+1:]
		}
		p.at("CFG-012", key, fmt.Sprintf("%s = %q is not a clean absolute path", key, v),
			"edgeprep never depends on the directory that it was started in", fmt.Sprintf("%s = %q", key, file))
	}
}

// ownDirectory says whether a directory can be given to the mirror: one in or above the system's own, or with
// control characters, which a unit file cannot carry, cannot.
func ownDirectory(dir string) bool {
	if strings.ContainsFunc(dir, unicode.IsControl) {
		return false
	}
	for _, d := range []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr",
		"/var/lib/edgeprep/journal", "/var/lib/edgeprep/backups", "/var/lib/edgeprep/ledger.json", "/var/log", "/var/run", "/var/tmp"} {
		if strings.HasPrefix(dir+"/", d+"/") {
			return false
		}
	}
	return !slices.Contains([]string{"/", "/home", "/media", "/mnt", "/opt", "/srv", "/var", "/var/cache", "/var/lib", "/var/lib/edgeprep"}, dir)
}

func (p *problems) images(s *Site) {
	for i, a := range s.Images.Archives {
		p.absolute(fmt.Sprintf("images.archives[%d]", i), a)
	}
	p.absolute("images.required", s.Images.Required)
	p.absolute("images.bundle", s.Images.Bundle)
	if pl := s.Images.Platform; pl != "" && !validPlatform(pl) {
		p.at("CFG-013", "images.platform", fmt.Sprintf("platform %q is not OS/ARCH[/VARIANT]", pl), "", `platform = "linux/amd64"`)
	}
}

func validPlatform(s string) bool {
	parts := strings.Split(s, "/")
	return len(parts) >= 2 && len(parts) <= 3 && parts[0] == "linux" && !slices.Contains(parts, "")
}

func (p *problems) mirror(s *Site) {
	m := s.Mirror
	p.enum("mirror.mode", m.Mode, string(ModeSystemd), string(ModeWorkload), string(ModeNone))
	p.enum("mirror.upstream", m.Upstream, UpstreamConnected, UpstreamNever)
	p.absolute("mirror.cache", m.Cache)
	if strings.HasPrefix(m.Cache+"/", "/var/lib/rancher/") {
		p.at("CFG-014", "mirror.cache", "the cache is below /var/lib/rancher", "uninstalling k3s or RKE2 deletes that tree, cache and all",
			fmt.Sprintf("cache = %q", DefaultCache))
	}
	if m.Cache != "" && !ownDirectory(m.Cache) {
		p.at("CFG-022", "mirror.cache", fmt.Sprintf("cache = %q is a directory of the system or of edgeprep itself", m.Cache),
			"the cache's directory is given to the mirror's account", fmt.Sprintf("cache = %q", DefaultCache))
	}
	if m.Listen != "" && !validListen(m.Listen) {
		p.at("CFG-011", "mirror.listen", fmt.Sprintf("listen = %q is not ADDRESS:PORT", m.Listen),
			"containerd needs an address that it can be given, not a name or all interfaces", fmt.Sprintf("listen = %q", DefaultListen))
	}
	if (m.TLS.Cert == "") != (m.TLS.Key == "") {
		p.at("CFG-017", "mirror.tls", "a certificate needs its key and a key its certificate", "", "set both cert and key in [mirror.tls]")
	}
	for _, k := range [][2]string{{"mirror.tls.cert", m.TLS.Cert}, {"mirror.tls.key", m.TLS.Key}, {"mirror.tls.ca", m.TLS.CA},
		{"mirror.tls.client_ca", m.TLS.ClientCA}, {"mirror.tokens_file", m.TokensFile}} {
		p.absolute(k[0], k[1])
	}
	p.size("mirror.limits.max_cache", m.Limits.MaxCache)
	p.size("mirror.limits.min_free", m.Limits.MinFree)
	if m.Limits.ScrubPeriod != NoScrub {
		p.duration("mirror.limits.scrub_period", m.Limits.ScrubPeriod)
	}
	p.mirrorPorts(m)
	p.workload(s)
	p.mirrorGuard(s)
	for key, list := range map[string][]string{"mirror.allow_registries": m.AllowRegistries, "mirror.deny_registries": m.DenyRegistries} {
		for i, h := range list {
			if _, err := path.Match(h, ""); h == "" || strings.ContainsAny(h, "/ ") || err != nil {
				p.at("CFG-018", fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("%q is not a registry host or a pattern of them", h), "", `"*.example.com"`)
			}
		}
	}
}

// mirrorGuard checks that who must pull can: containerd can be given a client certificate by path, and a token
// only in a file that everybody reads and in every plan.
func (p *problems) mirrorGuard(s *Site) {
	m, r := s.Mirror, s.Registries
	if m.TLS.ClientCA != "" && m.TLS.Cert == "" {
		p.at("CFG-017", "mirror.tls.client_ca", "client certificates need TLS", "", "set cert and key in [mirror.tls], too")
	}
	if (r.ClientCert == "") != (r.ClientKey == "") {
		p.at("CFG-017", "registries.client_cert", "a client certificate needs its key and a key its certificate", "",
			"set both client_cert and client_key in [registries]")
	}
	p.absolute("registries.client_cert", r.ClientCert)
	p.absolute("registries.client_key", r.ClientKey)
	guarded := m.TLS.ClientCA != "" || m.TokensFile != ""
	if guarded && m.Mode != string(ModeNone) && r.Write && (r.ClientCert == "" || m.TLS.ClientCA == "") {
		p.at("CFG-046", "mirror", "the mirror would refuse this node's containerd", "it asks for a client certificate or a token, and containerd has none",
			"set [mirror.tls] client_ca, and client_cert and client_key in [registries]; tokens are for other clients")
	}
}

// mirrorPorts checks the metrics' address, which may be every address of the node, and the limit.
func (p *problems) mirrorPorts(m Mirror) {
	if m.Metrics != "" && (!validAddress(m.Metrics, true) || m.Metrics == m.Listen) {
		p.at("CFG-011", "mirror.metrics", fmt.Sprintf("metrics = %q is not ADDRESS:PORT, or the mirror's own", m.Metrics), "",
			`metrics = "127.0.0.1:9464"`)
	}
	if m.Limits.MaxConnections < 0 {
		p.at("CFG-015", "mirror.limits.max_connections", fmt.Sprintf("max_connections = %d is not a number of connections", m.Limits.MaxConnections), "",
			"max_connections = 1024")
	}
}

func validListen(s string) bool { return validAddress(s, false) }

func validAddress(s string, all bool) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	addr, aerr := netip.ParseAddr(host)
	return err == nil && n > 0 && n < 65536 && aerr == nil && (all || !addr.IsUnspecified())
}

func (p *problems) size(key, v string) {
	if v == "" {
		return
	}
	if _, err := ParseSize(v); err != nil {
		p.at("CFG-015", key, fmt.Sprintf("%s = %q is not a size", key, v), "", key[strings.LastIndexByte(key, '.')+1:]+` = "40GiB"`)
	}
}

func (p *problems) duration(key, v string) {
	if d, err := time.ParseDuration(v); v != "" && (err != nil || d <= 0) {
		p.at("CFG-015", key, fmt.Sprintf("%s = %q is not a duration", key, v), "", key[strings.LastIndexByte(key, '.')+1:]+` = "168h"`)
	}
}

// ParseSize reads a size in bytes: "512", "40GiB", "500MB".
func ParseSize(s string) (int64, error) {
	units := []struct {
		suffix string
		factor int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1}}
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.factor {
			return 0, fmt.Errorf("%q is not a size: write it like 40GiB", s)
		}
		return n * u.factor, nil
	}
	return 0, fmt.Errorf("%q is not a size: write it like 40GiB", s)
}

func (p *problems) upstreams(s *Site) {
	seen := map[string]bool{}
	for i, u := range s.Upstreams {
		key := fmt.Sprintf("upstream[%d]", i)
		if u.Host == "" || strings.ContainsAny(u.Host, "/ ") {
			p.at("CFG-018", key+".host", fmt.Sprintf("host = %q is not a registry host", u.Host), "", `host = "registry.example.com:5000"`)
		}
		if seen[u.Host] {
			p.at("CFG-018", key+".host", fmt.Sprintf("upstream %q stands twice", u.Host), "", "remove one of the [[upstream]] tables")
		}
		seen[u.Host] = true
		if u.URL != "" && !validURL(u.URL) {
			p.at("CFG-018", key+".url", fmt.Sprintf("url = %q is not an http or https URL without credentials", u.URL), "", `url = "https://registry.example.com"`)
		}
		if _, err := ParseSize(strings.TrimSuffix(u.Rate, "/s")); u.Rate != "" && err != nil {
			p.at("CFG-015", key+".rate", fmt.Sprintf("rate = %q is not a rate", u.Rate), "", `rate = "10MiB/s"`)
		}
		for k, v := range map[string]string{"credentials_file": u.CredentialsFile, "client_key": u.ClientKey} {
			if strings.ContainsFunc(v, unicode.IsControl) {
				p.at("CFG-018", key+"."+k, fmt.Sprintf("%s = %q is not a path", k, v), "a unit file cannot carry it", k+` = "/etc/edgeprep/pull-secret"`)
			}
		}
		if u.CredentialsHelper != "" && (u.CredentialsFile != "" || !helperName.MatchString(u.CredentialsHelper)) {
			p.at("CFG-018", key+".credentials_helper", fmt.Sprintf("credentials_helper = %q is not the name of a helper, or stands beside credentials_file", u.CredentialsHelper),
				"it is the end of the name of a program: docker-credential-NAME", `credentials_helper = "ecr-login"`)
		}
		if c := u.CredentialsFile; c != "" && !strings.HasPrefix(c, "env:") {
			p.absolute(key+".credentials_file", c)
		}
	}
}

// helperName is what can be the end of a program's name.
var helperName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

func validURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

func (p *problems) registries(s *Site) {
	for i, h := range s.Registries.Hosts {
		if h == "" || strings.ContainsAny(h, "/ ") {
			p.at("CFG-018", fmt.Sprintf("registries.hosts[%d]", i), fmt.Sprintf("%q is not a registry host", h), "", `hosts = ["registry.example.com:5000"]`)
		}
	}
	for i, e := range s.Registries.Endpoints {
		if !validURL(e) {
			p.at("CFG-018", fmt.Sprintf("registries.endpoints[%d]", i), fmt.Sprintf("%q is not an http or https URL", e), "", `endpoints = ["http://127.0.0.1:5000"]`)
		}
	}
	if s.Mirror.Mode == string(ModeNone) && s.Registries.Write && len(s.Registries.Endpoints) == 0 {
		p.at("CFG-019", "mirror.mode", `mode = "none" leaves containerd nothing to pull from`, "",
			"name the mirrors in [registries] endpoints, or set [registries] write = false")
	}
}

func (p *problems) nodes(s *Site) {
	seen := map[string]bool{}
	mirrors := 0
	for i, n := range s.Nodes {
		key := fmt.Sprintf("node[%d]", i)
		if n.Name == "" || seen[n.Name] {
			p.at("CFG-020", key+".name", fmt.Sprintf("node name %q is empty or stands twice", n.Name), "", `name = "bravo-2"`)
		}
		seen[n.Name] = true
		if n.Mirror != "" {
			p.enum(key+".mirror", n.Mirror, "primary", "replica", "none")
		}
		if n.Mirror != "none" {
			mirrors++
		}
		if _, err := netip.ParseAddr(n.Address); n.Address != "" && err != nil {
			p.at("CFG-011", key+".address", fmt.Sprintf("address = %q is not an IP address", n.Address), "names may not resolve where there is no network", `address = "10.0.0.11"`)
		}
		if n.Address == "" && len(s.Nodes) > 1 && n.Mirror != "none" {
			p.at("CFG-020", key+".address", fmt.Sprintf("node %q has no address", n.Name), "the other nodes pull from its mirror", `address = "10.0.0.11"`)
		}
	}
	if len(s.Nodes) > 0 && mirrors == 0 && s.Mirror.Mode != string(ModeNone) && s.Mirror.Workload.Form != FormDeployment && len(s.Registries.Endpoints) == 0 {
		p.at("CFG-020", "node", "no node has a mirror", "", `give one [[node]] mirror = "primary"`)
	}
}

func (p *problems) rest(s *Site) {
	p.enum("replication.engine", s.Replication.Engine, "none", "syncthing", "builtin")
	p.enum("failover.mode", s.Failover.Mode, "manual", "endpoints")
	for i, a := range s.Apply.Allow {
		p.enum(fmt.Sprintf("apply.allow[%d]", i), a, Risks()...)
	}
	p.enum("checklist.profile", s.Checklist.Profile, "stage", "ship", "arrival", "running")
	p.absolute("checklist.out", s.Checklist.Out)
	for i, e := range s.Checklist.EgressProbes {
		if _, _, err := net.SplitHostPort(e); err != nil {
			p.at("CFG-011", fmt.Sprintf("checklist.egress_probes[%d]", i), fmt.Sprintf("%q is not HOST:PORT", e), "", `egress_probes = ["1.1.1.1:443"]`)
		}
	}
	p.dates(&s.Checklist)
	for i, w := range s.Checklist.Waive {
		if _, err := time.Parse(time.DateOnly, w.Until); w.ID == "" || w.Reason == "" || w.Owner == "" || err != nil {
			p.at("CFG-021", fmt.Sprintf("checklist.waive[%d]", i), "a waiver needs id, reason, owner and until (a date)", "it stands in every report until it expires",
				`id = "HST-12", reason = "...", owner = "...", until = "2026-12-24"`)
		}
	}
}
