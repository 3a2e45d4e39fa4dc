// Package deploy describes the mirror on a node as resources: a systemd service that is up before the
// distribution's own units, so that no first start waits for an image that only the mirror has.
package deploy

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Names of what is put on a node. A unit must never be called k3s* or rke2-*: the distributions' kill and
// uninstall scripts stop and delete every such unit (k3s: install.sh, k3s-killall.sh).
const (
	UnitName  = "edgeprep-mirror.service"
	Account   = "edgeprep-mirror"
	Binary    = "/usr/local/bin/edgeprep"
	StateDir  = "/var/lib/edgeprep"
	AdminPath = "/run/edgeprep/mirror/admin.sock"
	unitDir   = "/etc/systemd/system"
	sysusers  = "/etc/sysusers.d/edgeprep-mirror.conf"
)

// Service is the mirror as it is wanted on one node.
type Service struct {
	Listen          string // "127.0.0.1:5000"
	Cache           string // "/var/lib/edgeprep/mirror"
	Upstream        string // "connected" or "never"
	Upstreams       Upstreams
	Limits          Limits
	DefaultRegistry string // "docker.io"
	AccessLog       bool
	Metrics         string // host:port; empty: none
	MaxConnections  int    // 0: the server's default
	TLSCert, TLSKey string // node paths; empty: plain http
	CA              string // to verify the own certificate with; empty: system roots
	ClientCA        string // node path; who may pull
	Tokens          string // node path; who may pull, too
	ClientCert      string // node path; what the gate shows to the mirror
	ClientKey       string // node path
	Binary          BinaryFile
	Names           []string // references that must be answered before anything depends on the mirror
}

// Limits are those of [mirror.limits] that are not the default, as they are written there; empty: the default.
type Limits struct{ MinFree, MaxCache, ScrubPeriod string }

// flags are the command line of limits.
func (l Limits) flags() []string {
	var args []string
	for _, f := range [][2]string{{"--min-free", l.MinFree}, {"--max-cache", l.MaxCache}, {"--scrub-period", l.ScrubPeriod}} {
		if f[1] != "" {
			args = append(args, f[0], strings.ReplaceAll(f[1], " ", ""))
		}
	}
	return args
}

// Upstreams are what the service reads for its upstreams. The zero value: nothing, it asks public registries.
type Upstreams struct {
	Config string          // edgeprep.toml on the node
	Sum    string          // changes when what is read from Config changes, so that the service starts anew
	Files  []UpstreamFiles // that the service's account may not read
}

// UpstreamFiles are the secrets of one upstream; empty: none.
type UpstreamFiles struct {
	Host             string
	Credentials, Key string // node paths
}

// ConfigName is the credential that holds edgeprep.toml, for a service that may not read the file itself.
const ConfigName = "edgeprep.toml"

// SecretName is the credential that holds a secret of an upstream.
func SecretName(what, host string) string {
	return "upstream-" + what + "-" + strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, strings.ToLower(host))
}

// BinaryFile is the edgeprep program that is put on the node, fingerprinted by the caller.
type BinaryFile struct {
	Source string // path on this machine
	Size   int64
	SHA256 string // hex
}

// URL is where the mirror answers.
func (s Service) URL() string {
	if s.TLSCert != "" {
		return "https://" + s.Listen
	}
	return "http://" + s.Listen
}

// GateID is the resource that proves that the mirror answers; what makes the node depend on the mirror
// comes after it.
func GateID() string { return resource.ID(resource.KindGate, "mirror") }

// CacheOwner are the resources that the cache's content must come after.
func CacheOwner(cache string) []string { return []string{resource.ID(resource.KindDir, cache)} }

// Resources are the mirror as a systemd service on the node. content names the resources that fill the cache.
func (s Service) Resources(n distro.Node, content []string) []resource.Resource {
	l := &list{}
	add, within := l.add, l.within
	program := add(withAfter(s.program(), within(Binary)...))
	users := add(withAfter(file(sysusers, sysusersConf(s.Cache), "the mirror's own account"), within(sysusers)...))
	account := add(resource.Resource{ID: resource.ID(resource.KindUser, Account), Kind: resource.KindUser,
		After: []string{users}, Why: "the mirror runs without root", User: &resource.User{Name: Account, Home: s.Cache}})
	root := dir(s.Cache, 0o750, Account, false)
	root.Dir.Parts = cacheParts()
	cache := add(withAfter(root, append(within(s.Cache), account)...))
	unitFile := path.Join(unitDir, UnitName)
	unit := add(withAfter(file(unitFile, s.unit(n.Units), "the mirror, up before "+n.Name), within(unitFile)...))
	service := resource.Resource{ID: resource.ID(resource.KindUnit, UnitName), Kind: resource.KindUnit,
		Why: "serves the cache at " + s.URL(), After: append([]string{program, account, cache, unit}, content...),
		Unit: &resource.Unit{Name: UnitName, Enabled: true, Active: true, RestartOn: []string{unit, program}}}
	for _, u := range n.Units {
		conf := path.Join(unitDir, u+".d", "10-edgeprep-mirror.conf")
		service.After = append(service.After, add(withAfter(file(conf, dropIn(u), u+" starts after the mirror"), within(conf)...)))
	}
	add(service)
	add(resource.Resource{ID: GateID(), Kind: resource.KindGate, After: []string{service.ID},
		Why: "nothing may depend on a mirror that does not answer",
		Gate: &resource.Gate{HTTP: &resource.HTTPGate{URL: s.URL(), Names: s.Names, CA: s.CA,
			ClientCert: s.ClientCert, ClientKey: s.ClientKey}, Within: 30 * time.Second}})
	return l.all
}

// cacheParts are what a cache holds: docs/cache.md.
func cacheParts() []string {
	return []string{"blobs", "misses.jsonl", "quarantine", "refs", "tmp", "usage"}
}

func (s Service) program() resource.Resource {
	return resource.Resource{ID: resource.ID(resource.KindArchive, Binary), Kind: resource.KindArchive,
		Why: "the program that the mirror's unit runs",
		Archive: &resource.Archive{Source: s.Binary.Source, Path: Binary, Size: s.Binary.Size, SHA256: s.Binary.SHA256,
			Mode: 0o755, Stage: path.Dir(Binary), Local: true}}
}

func file(p, content, why string) resource.Resource {
	return resource.Resource{ID: resource.ID(resource.KindFile, p), Kind: resource.KindFile, Why: why,
		File: &resource.File{Path: p, Content: []byte(content), Mode: 0o644}}
}

func dir(p string, mode uint32, owner string, keep bool) resource.Resource {
	return resource.Resource{ID: resource.ID(resource.KindDir, p), Kind: resource.KindDir,
		Dir: &resource.Dir{Path: p, Mode: fsMode(mode), Owner: owner, Keep: keep}}
}

func withAfter(r resource.Resource, after ...string) resource.Resource {
	r.After = append(r.After, after...)
	return r
}

// above are the directories over a path, from the top.
func above(p string) []string {
	var out []string
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		out = append([]string{d}, out...)
	}
	return out
}

// dropIn orders a unit of the distribution after the mirror. A drop-in survives a re-run of the
// distribution's install script, which rewrites the unit file itself.
func dropIn(unit string) string {
	return fmt.Sprintf("# Written by edgeprep: %s pulls its images from the mirror.\n[Unit]\nWants=%s\nAfter=%s\n", unit, UnitName, UnitName)
}

func sysusersConf(cache string) string {
	return fmt.Sprintf("# Written by edgeprep: the account that the mirror runs as.\nu %s - \"edgeprep image mirror\" %s\n", Account, cache)
}
