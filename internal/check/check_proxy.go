package check

import (
	"context"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/edgeprep/edgeprep/internal/host"
)

func proxyCheck() Check {
	return Check{
		ID: "REG-23", Title: "no proxy setting of the runtime catches pulls from the mirrors",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "pulls time out at the proxy's address, which is not there at the site",
			Cause:   "containerd sends requests to its mirrors through HTTP_PROXY and HTTPS_PROXY too, loopback alone is left out; NO_PROXY has to name them. k3s and RKE2 take CONTAINERD_HTTP_PROXY and the like besides",
			Look:    "the environment of the unit that runs containerd, from its files, drop-ins, environment files and the manager's defaults, and where it sends each endpoint by net/http's own rules",
			Fix:     "name the mirrors' addresses in NO_PROXY, or remove the proxy",
			Sources: []string{"containerd: core/remotes/docker/config/hosts.go (http.ProxyFromEnvironment)", "k3s: pkg/agent/containerd/containerd.go"},
		},
		Run: runProxy,
	}
}

func runProxy(ctx context.Context, e *Env) []Finding {
	endpoints := e.endpointURLs()
	if len(endpoints) == 0 {
		return []Finding{skip("endpoints", "none is configured")}
	}
	unit := e.runtimeUnit()
	env, err := unitProxies(ctx, e.Reader, unit, e.Node.Runtime.Unit == "")
	if err != nil {
		return []Finding{unproven(unit, "its environment cannot be read: "+err.Error())}
	}
	if env.http.value == "" && env.https.value == "" {
		return []Finding{pass(unit, "no proxy is set", "unit files of "+unit)}
	}
	through := env.config().ProxyFunc()
	var out []Finding
	for _, c := range endpoints {
		u, err := url.Parse(c.URL)
		if err != nil {
			continue // REG-04 says so
		}
		proxy, err := through(u)
		if err == nil && proxy == nil {
			out = append(out, pass(c.URL, "not through the proxy", env.source(u)))
			continue
		}
		f := Finding{Status: StatusFail, Subject: c.URL, Expected: "asked directly", Observed: "the runtime asks it through a proxy", Source: env.source(u),
			Remedy: Remedy{Text: "add " + u.Hostname() + " to NO_PROXY there, then", Command: "systemctl daemon-reload && systemctl restart " + unit}}
		if proxy != nil {
			f.Observed += " at " + (Proxy{URL: proxy}).address()
		}
		out = append(out, f)
	}
	return out
}

// setting is the value of an environment variable and the file that gives it.
type setting struct{ value, source string }

// proxies are a unit's proxy settings.
type proxies struct{ http, https, no setting }

func (p proxies) config() *httpproxy.Config {
	return &httpproxy.Config{HTTPProxy: p.http.value, HTTPSProxy: p.https.value, NoProxy: p.no.value}
}

func (p proxies) source(u *url.URL) string {
	s := p.http
	if u.Scheme == "https" {
		s = p.https
	}
	if s.source == "" {
		s.source = p.no.source
	}
	return s.source
}

// unitProxies reads what a unit's process will have in its environment. Of two assignments the later one counts;
// what begins with CONTAINERD_ wins where the distribution starts containerd (starts), and means nothing elsewhere.
func unitProxies(ctx context.Context, r host.Reader, unit string, starts bool) (proxies, error) {
	u, err := r.Units().Unit(ctx, unit)
	if err != nil {
		return proxies{}, err
	}
	plain, own := map[string]setting{}, map[string]setting{}
	add := func(source string, assignments []string) {
		for _, a := range assignments {
			name, value, ok := strings.Cut(a, "=")
			if !ok {
				continue
			}
			if rest, is := strings.CutPrefix(name, "CONTAINERD_"); is && starts {
				own[rest] = setting{value, source}
				continue
			}
			plain[name] = setting{value, source}
		}
	}
	managerEnvironment(r.FS(), add)
	for _, file := range append([]string{u.Fragment}, u.DropIns...) {
		unitEnvironment(r.FS(), unit, file, add)
	}
	// net/http: getEnvAny takes the upper case first
	get := func(name string) setting {
		for _, from := range []map[string]setting{own, plain} {
			for _, n := range []string{name, strings.ToLower(name)} {
				if s := from[n]; s.value != "" {
					return s
				}
			}
		}
		return setting{}
	}
	return proxies{http: get("HTTP_PROXY"), https: get("HTTPS_PROXY"), no: get("NO_PROXY")}, nil
}
