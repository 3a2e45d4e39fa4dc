package check

import (
	"context"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Proxy is a proxy that something on the node is told to use: a way out that routes do not show.
type Proxy struct {
	URL    *url.URL
	Source string // the file or "environment"
}

// String names the proxy without its credentials.
func (p Proxy) String() string { return p.address() + " (" + p.Source + ")" }

func (p Proxy) address() string {
	if p.URL.Port() != "" {
		return p.URL.Host
	}
	port := map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[p.URL.Scheme]
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(p.URL.Hostname(), port)
}

// Proxies finds the proxies configured for this process (environ, as os.Environ gives it) and for units.
func Proxies(ctx context.Context, r host.Reader, units, environ []string) []Proxy {
	var out []Proxy
	add := func(source string, assignments []string) {
		for _, a := range assignments {
			if p, ok := proxyOf(a, source); ok && !slices.ContainsFunc(out, p.same) {
				out = append(out, p)
			}
		}
	}
	add("environment", environ)
	managerEnvironment(r.FS(), add)
	for _, name := range units {
		u, err := r.Units().Unit(ctx, name)
		if err != nil {
			continue // a unit that cannot be asked for starts nothing that could use a proxy
		}
		for _, file := range append([]string{u.Fragment}, u.DropIns...) {
			unitEnvironment(r.FS(), name, file, add)
		}
	}
	return out
}

func (p Proxy) same(q Proxy) bool { return p.URL.String() == q.URL.String() }

// proxyOf reads NAME=VALUE when NAME names a proxy.
func proxyOf(assignment, source string) (Proxy, bool) {
	name, value, ok := strings.Cut(assignment, "=")
	// CONTAINERD_ is the prefix under which k3s and RKE2 pass proxies to containerd alone (k3s docs, "Configuring an HTTP proxy").
	name = strings.TrimPrefix(strings.ToUpper(name), "CONTAINERD_")
	if !ok || value == "" || name != "HTTP_PROXY" && name != "HTTPS_PROXY" && name != "ALL_PROXY" {
		return Proxy{}, false
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value // as net/http reads it
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" {
		return Proxy{}, false
	}
	return Proxy{URL: u, Source: source}, true
}

// managerEnvironment gives what the service manager adds to every unit. systemd-system.conf(5)
func managerEnvironment(f host.FS, add func(source string, assignments []string)) {
	unitEnvironment(f, "", "/etc/systemd/system.conf", add)
	list, err := f.ReadDir("/etc/systemd/system.conf.d")
	if err != nil {
		return // most nodes have none
	}
	for _, x := range list {
		if strings.HasSuffix(x.Path, ".conf") {
			unitEnvironment(f, "", x.Path, add)
		}
	}
}

// unitEnvironment gives the assignments of a file of the unit and of the environment files it names.
func unitEnvironment(f host.FS, unit, file string, add func(source string, assignments []string)) {
	for _, line := range textLines(f, file) {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		switch strings.TrimSpace(key) {
		case "Environment", "DefaultEnvironment":
			add(file, words(value))
		case "EnvironmentFile":
			env := specifiers(unit).Replace(strings.TrimPrefix(strings.TrimSpace(value), "-"))
			for _, l := range textLines(f, env) {
				name, v, _ := strings.Cut(l, "=")
				add(env, []string{strings.TrimSpace(name) + "=" + strings.Trim(strings.TrimSpace(v), `"'`)})
			}
		}
	}
}

// specifiers are those that units of distributions have in EnvironmentFile=: k3s reads /etc/default/%N.
// systemd.unit(5)
func specifiers(unit string) *strings.Replacer {
	bare := strings.TrimSuffix(unit, path.Ext(unit))
	prefix, instance, _ := strings.Cut(bare, "@")
	return strings.NewReplacer("%n", unit, "%N", bare, "%p", prefix, "%i", instance, "%%", "%")
}

// textLines gives a file's lines, none when it cannot be read: an optional environment file may be missing.
func textLines(f host.FS, file string) []string {
	if file == "" {
		return nil
	}
	data, err := f.ReadFile(file, 1<<20)
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(strings.ReplaceAll(string(data), "\\\n", " ")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
			out = append(out, line)
		}
	}
	return out
}

// words splits an Environment= value: assignments separated by spaces, each optionally quoted.
func words(s string) []string {
	var out []string
	var cur strings.Builder
	quote := rune(0)
	for _, c := range strings.TrimSpace(s) + " " {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && (c == ' ' || c == '\t'):
			if cur.Len() > 0 {
				out = append(out, cur.String())
				cur.Reset()
			}
		default:
			cur.WriteRune(c)
		}
	}
	return out
}
