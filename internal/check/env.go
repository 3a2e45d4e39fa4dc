package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/kubelet"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/registries"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// Env is what the checks are given: the node and what is wanted of it.
type Env struct {
	Reader   host.Reader
	Node     distro.Node
	Site     config.Site
	Platform string        // "linux/amd64"; empty: the node's
	Required []preload.Ref // the references that must work with egress cut
	Archives []string      // node paths of the site's image archives, globs resolved
	// Resources is the desired state: where archives belong and what is still to be brought in.
	Resources []resource.Resource
	Mirrors   []Mirror // every endpoint that containerd is pointed at, in order
	// Cache is the directory, on this machine, of the cache of the mirror that this node runs; empty: none, or not
	// in files that can be found.
	Cache string
	// MirrorImage is the reference of the mirror's own image where it runs as a workload on this node.
	MirrorImage string
	// MirrorsRun: the mirrors answer to this process although the node does not run (a demonstration).
	MirrorsRun bool
	Known      preload.Known // archives verified before; nil: none
	// Recorded gives the sha256 that was recorded for a file which has not changed since; nil: none is known.
	Recorded func(path string, fi host.FileInfo) (sha256 string, ok bool)
	Environ  []string         // of this process, as os.Environ gives it: proxies
	Net      Network          // nil: SystemNetwork
	Now      func() time.Time // nil: time.Now

	opts Options
	memo *memo
}

// Mirror is one configured endpoint.
type Mirror struct {
	URL string // "http://127.0.0.1:5000"
	CA  string // file; empty: the system's
	// Files of what is shown to a mirror that asks for a client certificate; empty: nothing.
	ClientCert, ClientKey string
	// Admin is the socket on which this mirror tells what it did not have; empty: it runs on another node.
	Admin string
}

// memo holds what several checks need, found out once.
type memo struct {
	facts  host.Facts
	cri    func() (criAnswer, error)
	images func() (map[string]host.Image, error)
	// archives are those of the site, inspected once
	archives func() []inspected
	// loader is what lies in the image directory, unnamed the archives there that the site does not name
	loader  func() loaderDir
	unnamed func() []inspected
	mirrors func() []mirrorWalk
	plugins func() ([]host.Plugin, error)
	// criConfig are the settings of containerd's CRI plugin
	criConfig func() (registries.CRI, error)
	// registries is what the runtime would do for a pull
	registries func() (registries.Effective, error)
	cold       func() coldStart
	// kubelet is its configuration as the node's files say it
	kubelet func() (kubelet.Config, error)
	// endpoints are the mirrors, each asked once for what it speaks
	endpoints func() []probed
	// manifests are those on this disk, set is what they and the distribution ask for, and who has it
	manifests func() parsedManifests
	set       func() imageSet
	// certificates are those of the distribution
	certificates func() certificates
	// seen is what the record keeps of what checks read
	seen observed
	// cache is what is in the files of this node's cache
	cache  func() (mirror.VerifyReport, error)
	egress Egress
}

// criAnswer is the CRI service's account of itself.
type criAnswer struct {
	version host.CRIVersion
	status  host.CRIStatus
}

// prepared is a copy with defaults filled in and the memo made.
func (e Env) prepared(ctx context.Context, opts Options) (*Env, error) {
	facts, err := e.Reader.Facts(ctx)
	if err != nil {
		return nil, fmt.Errorf("identify the node: %w", err)
	}
	if e.Platform == "" {
		e.Platform = e.Node.Platform
	}
	if e.Net == nil {
		e.Net = SystemNetwork{}
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	e.opts = opts
	e.memo = &memo{facts: facts}
	e.memo.cri = sync.OnceValues(func() (criAnswer, error) { return askCRI(ctx, e.Reader.CRI(e.Node.Runtime.Endpoint)) })
	e.memo.images = sync.OnceValues(func() (map[string]host.Image, error) {
		return imageRecords(ctx, e.Reader.Runtime(e.Node.Runtime.Endpoint))
	})
	e.memo.archives = sync.OnceValue(func() []inspected { return inspectAll(ctx, &e) })
	e.memo.loader = sync.OnceValue(func() loaderDir { return readLoaderDir(&e) })
	e.memo.unnamed = sync.OnceValue(func() []inspected { return inspectUnnamed(ctx, &e) })
	e.memo.mirrors = sync.OnceValue(func() []mirrorWalk { return walkMirrors(ctx, &e) })
	e.memo.plugins = sync.OnceValues(func() ([]host.Plugin, error) { return listPlugins(ctx, e.Reader.Runtime(e.Node.Runtime.Endpoint)) })
	e.memo.criConfig = sync.OnceValues(func() (registries.CRI, error) { return registries.ReadCRI(e.Reader.FS(), e.Node) })
	e.memo.registries = sync.OnceValues(func() (registries.Effective, error) {
		return registries.ReadEffective(ctx, e.Reader, e.Node)
	})
	e.memo.kubelet = sync.OnceValues(func() (kubelet.Config, error) { return kubelet.Read(e.Reader.FS(), e.Node.Kubelet) })
	e.memo.endpoints = sync.OnceValue(func() []probed { return e.probeEndpoints(ctx) })
	e.memo.certificates = sync.OnceValue(e.readCertificates)
	e.memo.cache = sync.OnceValues(func() (mirror.VerifyReport, error) { return e.readCache(ctx) })
	e.memo.cold = sync.OnceValue(func() coldStart { return e.coldStart(ctx) })
	e.memo.manifests = sync.OnceValue(e.manifests)
	e.memo.set = sync.OnceValue(func() imageSet { return e.imageSet(ctx) })
	return &e, nil
}

func askCRI(ctx context.Context, c host.CRI) (criAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout/2)
	defer cancel()
	v, err := c.Version(ctx)
	if err != nil {
		return criAnswer{}, err
	}
	s, err := c.Status(ctx)
	return criAnswer{version: v, status: s}, err
}

func imageRecords(ctx context.Context, r host.Runtime) (map[string]host.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout/2)
	defer cancel()
	all, err := r.Images(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]host.Image, len(all))
	for _, i := range all {
		out[i.Name] = i
	}
	return out, nil
}

func listPlugins(ctx context.Context, r host.Runtime) ([]host.Plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout/2)
	defer cancel()
	return r.Plugins(ctx)
}

func (e *Env) identity() Identity {
	f, n := e.memo.facts, e.Node
	return Identity{
		Hostname: f.Hostname, MachineID: f.MachineID, BootID: f.BootID, Live: f.Live,
		Distro: n.ID, Version: n.Version, Role: string(n.Role), Platform: e.Platform,
	}
}

// withRuntime is nil when the node's CRI service answers, else the one finding of a check that needs it.
// Before the site a node without a running runtime is normal and the proof is deferred; on site it is not.
func (e *Env) withRuntime(ctx context.Context, subject string) []Finding {
	if !e.memo.facts.Live {
		return []Finding{deferred(subject, "no runtime: this is a mounted image or directory, not a running node; run edgeprep check on the node")}
	}
	_, err := e.memo.cri()
	if err == nil {
		return nil
	}
	socket := e.Node.Runtime.Endpoint.Socket
	if !errors.Is(err, host.ErrUnavailable) || e.runtimeExpected(ctx) {
		f := couldNotRun(subject, fmt.Errorf("CRI at %s does not answer: %w", socket, err))
		f.Remedy = Remedy{Text: "see why", Command: "journalctl -u " + e.runtimeUnit() + " -n 50"}
		return []Finding{f}
	}
	return []Finding{deferred(subject, "no runtime: "+e.runtimeUnit()+" is not running; start it and run edgeprep check again")}
}

// withContainerd is withRuntime for checks that ask containerd itself, whose CRI plugin may be away.
func (e *Env) withContainerd(ctx context.Context, subject string) []Finding {
	if !e.memo.facts.Live {
		return e.withRuntime(ctx, subject)
	}
	_, err := e.memo.images()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, host.ErrUnavailable) && !e.runtimeExpected(ctx):
		return []Finding{deferred(subject, "no runtime: "+e.runtimeUnit()+" is not running; start it and run edgeprep check again")}
	}
	f := couldNotRun(subject, err)
	f.Remedy = Remedy{Text: "see why", Command: "journalctl -u " + e.runtimeUnit() + " -n 50"}
	return []Finding{f}
}

// runtimeUnit is the unit that brings the runtime up.
func (e *Env) runtimeUnit() string {
	switch {
	case e.Node.Runtime.Unit != "":
		return e.Node.Runtime.Unit
	case len(e.Node.Units) > 0:
		return e.Node.Units[0]
	}
	return "containerd.service"
}

// runtimeExpected says whether a runtime should be running: its unit is, or the profile is one of the site.
func (e *Env) runtimeExpected(ctx context.Context) bool {
	if e.opts.Profile == ProfileArrival || e.opts.Profile == ProfileRunning {
		return true
	}
	u, err := e.Reader.Units().Unit(ctx, e.runtimeUnit())
	return err == nil && u.Active == "active"
}

// requiredHosts are the registries of the required references, each once.
func (e *Env) requiredHosts() []string {
	var out []string
	for _, r := range e.Required {
		if !slices.Contains(out, r.Host) {
			out = append(out, r.Host)
		}
	}
	return out
}

// mirrorAddresses are the host:port of the endpoints.
func (e *Env) mirrorAddresses() []string {
	var out []string
	for _, m := range e.Mirrors {
		if u, err := url.Parse(m.URL); err == nil {
			out = append(out, upstreamAddress(m.URL), u.Host)
		}
	}
	return out
}

// egressTargets are all ways out that must be dead, and what is owed before "cut" may be said.
func (e *Env) egressTargets(ctx context.Context) (targets []target, owed []string) {
	record, err := ReadEgressRecord(e.Reader.FS())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		owed = append(owed, "nothing was recorded while there was a network ("+EgressRecordPath+"; edgeprep apply does it)")
	case err != nil:
		owed = append(owed, err.Error())
	}
	if err := sameNetwork(e.Reader.FS()); err != nil {
		owed = append(owed, err.Error())
	}
	// the mirror's unit too: it is the one that talks to upstreams
	units := append(slices.Clone(e.Node.Units), e.Node.Runtime.Unit, deploy.UnitName)
	proxies := Proxies(ctx, e.Reader, units, e.Environ)
	for _, hp := range Upstreams(e.Site, e.requiredHosts(), e.mirrorAddresses()) {
		addrs := record.Hosts[hp].Addresses
		if len(addrs) == 0 && err == nil {
			owed = append(owed, "no address of "+hp+" was recorded while there was a network (edgeprep apply does it)")
		}
		targets = append(targets, waysTo(hp, addrs, proxies)...)
	}
	for _, p := range e.Site.Checklist.EgressProbes {
		if _, _, err := net.SplitHostPort(p); err != nil {
			owed = append(owed, fmt.Sprintf("[checklist] egress_probes: %q is not host:port", p))
			continue
		}
		targets = append(targets, waysTo(p, nil, proxies)...)
	}
	return targets, owed
}

// waysTo are the ways to one host:port: by name, at each recorded address, through each proxy.
func waysTo(hp string, addrs []string, proxies []Proxy) []target {
	out := []target{{name: hp, how: "by name"}}
	for _, a := range addrs {
		out = append(out, target{name: hp, how: "at " + a + " (recorded)", address: a})
	}
	for i := range proxies {
		out = append(out, target{name: hp, how: "through proxy " + proxies[i].String(), proxy: &proxies[i]})
	}
	return out
}

// parallel calls fn for 0 … n-1, as many at a time as there are cores.
func parallel(n int, fn func(i int)) {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		g.Go(func() error {
			fn(i)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
}
