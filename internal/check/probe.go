package check

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/host"
)

// Network is the way to the outside: what is needed of the node's own.
type Network interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// SystemNetwork is the network namespace of this process.
type SystemNetwork struct{}

// LookupHost asks the system's resolvers.
func (SystemNetwork) LookupHost(ctx context.Context, host string) ([]string, error) {
	return net.DefaultResolver.LookupHost(ctx, host)
}

// DialContext connects.
func (SystemNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// target is one thing that must not be reachable, and the way to try.
type target struct {
	name    string // host:port
	how     string
	address string // an IP address to use instead of the name; empty: look the name up
	proxy   *Proxy
}

// try says whether the target can be reached, and what answered or why not.
func (t target) try(ctx context.Context, n Network) (bool, string) {
	switch {
	case t.proxy != nil:
		return t.proxy.try(ctx, n, t.name)
	case t.address != "":
		_, port, err := net.SplitHostPort(t.name)
		if err != nil {
			return false, err.Error()
		}
		return connect(ctx, n, net.JoinHostPort(t.address, port))
	}
	return t.byName(ctx, n)
}

func (t target) byName(ctx context.Context, n Network) (bool, string) {
	host, port, err := net.SplitHostPort(t.name)
	if err != nil {
		return false, err.Error()
	}
	look, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	addrs, err := n.LookupHost(look, host)
	if err != nil {
		return false, err.Error()
	}
	return connectAny(ctx, n, addrs, port)
}

// connectAny tries all addresses at once: one that is black-holed must not hide one that answers.
func connectAny(ctx context.Context, n Network, addrs []string, port string) (bool, string) {
	type outcome struct {
		ok   bool
		text string
	}
	out := make(chan outcome, len(addrs))
	for _, a := range addrs {
		go func() {
			ok, text := connect(ctx, n, net.JoinHostPort(a, port))
			out <- outcome{ok, text}
		}()
	}
	last := outcome{text: "the name has no address"}
	for range addrs {
		if o := <-out; !last.ok {
			last = o
		}
	}
	return last.ok, last.text
}

func connect(ctx context.Context, n Network, address string) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", address)
	if err != nil {
		return false, err.Error()
	}
	_ = c.Close() // nothing was sent
	return true, address + " accepts connections"
}

// try asks a proxy for a tunnel. A proxy that does not answer is no way out; one that answers with
// something else than a refusal is.
func (p *Proxy) try(ctx context.Context, n Network, name string) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, 2*probeTimeout)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", p.address())
	if err != nil {
		return false, err.Error()
	}
	defer func() { _ = c.Close() }()
	if p.URL.Scheme != "http" && p.URL.Scheme != "" {
		return true, "the proxy accepts connections; what lies behind a " + p.URL.Scheme + " proxy is not tried"
	}
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d) // without one the context still closes nothing: bounded by the peer
	}
	return p.tunnel(c, name)
}

func (p *Proxy) tunnel(c net.Conn, name string) (bool, string) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: name}, Host: name, Header: http.Header{}}
	if p.URL.User != nil {
		pw, _ := p.URL.User.Password()
		auth := &http.Request{Header: http.Header{}}
		auth.SetBasicAuth(p.URL.User.Username(), pw)
		req.Header.Set("Proxy-Authorization", auth.Header.Get("Authorization"))
	}
	if err := req.Write(c); err != nil {
		return false, err.Error()
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return false, err.Error()
	}
	_ = resp.Body.Close() // the tunnel is not used
	return resp.StatusCode == http.StatusOK, "the proxy answered " + resp.Status
}

// Upstreams are the host:port of every registry that must not be reachable: those of the site file, those of
// the references' hosts, and Docker Hub. Mirrors and loopback names are none.
func Upstreams(site config.Site, hosts, mirrors []string) []string {
	var out []string
	add := func(host string) {
		if hp := upstreamAddress(host); hp != "" && !slices.Contains(out, hp) && !slices.Contains(mirrors, hp) {
			out = append(out, hp)
		}
	}
	add("docker.io")
	for _, u := range site.Upstreams {
		add(u.Host)
		add(u.URL)
	}
	for _, h := range hosts {
		add(h)
	}
	slices.Sort(out)
	return out
}

// upstreamAddress is the host:port behind a registry host or URL; empty when it is none or this node itself.
func upstreamAddress(s string) string {
	port := "443"
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			return ""
		}
		if s = u.Host; u.Scheme == "http" {
			port = "80"
		}
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		host = strings.Trim(s, "[]")
	} else {
		port = p
	}
	if host == "" || host == "*" || isLoopback(host) {
		return ""
	}
	// Docker Hub's registry is not at the name that references carry.
	if host == "docker.io" || host == "index.docker.io" {
		host = "registry-1.docker.io"
	}
	return net.JoinHostPort(host, port)
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// EgressRecord is what names resolved to while there was a network: the addresses that must be dead later,
// whatever the site's resolver then says.
type EgressRecord struct {
	Schema int                 `json:"schema"`
	Hosts  map[string]Recorded `json:"hosts"` // by host:port
}

// Recorded are the addresses of one host.
type Recorded struct {
	Addresses []string  `json:"addresses"`
	At        time.Time `json:"at"`
}

// EgressRecordPath is where apply keeps the EgressRecord.
const EgressRecordPath = "/var/lib/edgeprep/egress.json"

// Encode is the record as it is stored.
func (r EgressRecord) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// ReadEgressRecord reads the record of a node. Without one it is empty, and the error matches
// fs.ErrNotExist.
func ReadEgressRecord(f host.FS) (EgressRecord, error) {
	var r EgressRecord
	data, err := f.ReadFile(EgressRecordPath, 1<<20)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return EgressRecord{}, fmt.Errorf("read %s: %w", EgressRecordPath, err)
	}
	return r, nil
}

// RecordEgress looks up those of hosts (as Upstreams gives them) that prev does not have yet, and adds them.
// What is recorded stays: the record is the same, byte for byte, until a new registry is named. The error
// says which hosts could not be looked up; the record is good for the others all the same.
func RecordEgress(ctx context.Context, n Network, hosts []string, prev EgressRecord, now time.Time) (EgressRecord, error) {
	out := EgressRecord{Schema: 1, Hosts: map[string]Recorded{}}
	maps.Copy(out.Hosts, prev.Hosts)
	missing := slices.DeleteFunc(slices.Clone(hosts), func(hp string) bool { return len(prev.Hosts[hp].Addresses) > 0 })
	addrs, errs := make([][]string, len(missing)), make([]error, len(missing))
	var g errgroup.Group
	for i, hp := range missing {
		g.Go(func() error {
			if addrs[i], errs[i] = lookUp(ctx, n, hp); errs[i] != nil {
				errs[i] = fmt.Errorf("look up %s: %w", hp, errs[i])
			}
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	for i, hp := range missing {
		if errs[i] == nil {
			out.Hosts[hp] = Recorded{Addresses: addrs[i], At: now.UTC().Truncate(time.Second)}
		}
	}
	return out, errors.Join(errs...)
}

// lookUp gives the addresses of a host:port, sorted, without those that lead nowhere else.
func lookUp(ctx context.Context, n Network, hp string) ([]string, error) {
	host, _, err := net.SplitHostPort(hp)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	all, err := n.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range all {
		a, err := netip.ParseAddr(s)
		if err == nil && !a.IsLoopback() && !a.IsUnspecified() {
			out = append(out, a.String())
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it has no address outside this node")
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
