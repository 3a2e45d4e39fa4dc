package registries

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// Hosts is a hosts.toml as containerd 2.x understands it.
type Hosts struct {
	Hosts []HostEntry // [host."URL"] tables in the order of their headers
	// Server is the last resort; its URL is empty when the file names none: then it is the registry itself.
	Server    HostEntry
	HasServer bool // the key is there, if only empty
	Ignored   bool // containerd ignores this file as a whole
}

// HostEntry is one host of a hosts.toml.
type HostEntry struct {
	Endpoint
	Path         string   // of the API on the host: "/v2"
	Capabilities []string // empty: all
	Files        []string // certificates and keys that must be readable, absolute
	SkipVerify   bool
	TLSSet       bool // any of ca, client, skip_verify is there
	DialTimeout  string
	Line         int
}

// Endpoints are the hosts as endpoints.
func (h Hosts) Endpoints() []Endpoint {
	var out []Endpoint
	for _, e := range h.Hosts {
		out = append(out, e.Endpoint)
	}
	return out
}

// hostKeys are the keys of a host and of the root (containerd: core/remotes/docker/config/hosts.go).
var hostKeys = []string{"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}

var rootKeys = []string{"server", "host", "capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}

var capabilities = []string{"pull", "resolve", "push", "referrers"}

// hostsParser collects findings about one file.
type hostsParser struct {
	file  string
	doc   *tomledit.Doc
	diags []*diag.Diagnostic
	out   Hosts
}

// ParseHosts reads a hosts.toml strictly: it understands what containerd understands, and says what
// containerd would silently ignore, with the line.
func ParseHosts(file string, data []byte) (Hosts, []*diag.Diagnostic) {
	p := &hostsParser{file: file}
	doc, err := tomledit.Parse(data)
	if err != nil {
		p.ignored(idHostsTOML, syntaxWhere(file, err), "it is not TOML: "+syntaxText(err))
		// Seen with 1.6.20 on `server =` without a value: the panic of go-toml v1 is not caught.
		p.diags[0].Why += "; containerd 1.6 can crash on it"
		return p.out, p.diags
	}
	p.doc = doc
	if !p.types(data) {
		return p.out, p.diags
	}
	root := fold(doc.Tree(), rootKeys)
	p.keys(root, nil, rootKeys)
	table, _ := root["host"].(map[string]any)
	for _, name := range headerOrder(data) {
		t, _ := table[name].(map[string]any)
		t = fold(t, hostKeys)
		p.out.Hosts = append(p.out.Hosts, p.entry(name, t, "host", name))
	}
	p.unordered(table)
	p.server(root)
	return p.out, p.diags
}

// types decodes the file into the types that containerd has for it: one wrong type and the file is ignored.
func (p *hostsParser) types(data []byte) bool {
	type host struct {
		Capabilities []string       `toml:"capabilities"`
		CACert       any            `toml:"ca"`
		Client       any            `toml:"client"`
		SkipVerify   *bool          `toml:"skip_verify"`
		Header       map[string]any `toml:"header"`
		OverridePath bool           `toml:"override_path"`
		DialTimeout  string         `toml:"dial_timeout"`
	}
	var file struct {
		host
		Server string          `toml:"server"`
		Hosts  map[string]host `toml:"host"`
	}
	err := toml.Unmarshal(data, &file)
	if err == nil {
		return true
	}
	w := diag.Where{File: p.file}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		w.Line, w.Col = de.Position()
		w.Key = strings.Join(de.Key(), ".")
	}
	p.ignored(idHostsValue, w, strings.TrimPrefix(err.Error(), "toml: "))
	return false
}

func (p *hostsParser) server(root map[string]any) {
	server, _ := root["server"].(string)
	_, p.out.HasServer = root["server"]
	p.out.Server = p.entry(server, root)
	if len(p.out.Hosts) == 0 && server != "" {
		p.diags = append(p.diags, newDiag(idHostsServer, p.where("server"), `there is a server and no [host."URL"] table`,
			"containerd before 1.7.32, and every 1.6, ignores such a file and pulls from upstream", "repeat the server as [host."+quoted(server)+"]"))
	}
}

// fold gives known keys their lower case: the decoder of containerd takes "CA" for "ca".
func fold(t map[string]any, known []string) map[string]any {
	for _, k := range sortedKeys(t) {
		i := slices.IndexFunc(known, func(s string) bool { return strings.EqualFold(s, k) })
		if i >= 0 && known[i] != k && t[known[i]] == nil {
			t[known[i]] = t[k]
			delete(t, k)
		}
	}
	return t
}

// unordered finds hosts that stand in no header: containerd 2.x does not see them.
func (p *hostsParser) unordered(table map[string]any) {
	for _, name := range sortedKeys(table) {
		if slices.ContainsFunc(p.out.Hosts, func(h HostEntry) bool { return h.URL == name || h.raw(name) }) {
			continue
		}
		p.diags = append(p.diags, newDiag(idHostsInline, p.where("host", name), "host "+quoted(name)+" is not written as a table of its own",
			"containerd 2.x takes hosts from [host.\"URL\"] headers only and does not see this one", "write it below a line [host."+quoted(name)+"]"))
	}
}

// raw says whether h was made from the header name.
func (h HostEntry) raw(name string) bool { return canonical(withScheme(name)) == canonical(h.URL) }

// headerOrder are the hosts as containerd finds them (getSortedHosts in containerd's hosts.go).
func headerOrder(data []byte) []string {
	var out []string
	var p unstable.Parser
	p.Reset(data)
	host := ""
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var parts []string
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
		}
		if len(parts) < 2 || parts[0] != "host" || parts[1] == host {
			continue
		}
		host = parts[1]
		out = append(out, host)
	}
	return out
}

func withScheme(server string) string {
	if strings.HasPrefix(server, "http") {
		return server
	}
	return "https://" + server
}

// entry reads one host; path names its table.
func (p *hostsParser) entry(server string, t map[string]any, at ...string) HostEntry {
	e := HostEntry{Line: p.where(at...).Line}
	if len(at) > 0 {
		p.keys(t, at, hostKeys)
	}
	override, _ := t["override_path"].(bool)
	e.SkipVerify, _ = t["skip_verify"].(bool)
	p.headers(t, at)
	e.DialTimeout = p.timeout(t, at)
	e.Capabilities = p.capabilities(t, at)
	e.Files = append(p.files(t, "ca", at), p.files(t, "client", at)...)
	_, skip := t["skip_verify"]
	e.TLSSet = skip || len(e.Files) > 0
	if len(e.Files) > 0 && t["ca"] != nil {
		e.CA = e.Files[0]
	}
	if pairs, ok := t["client"].([]any); ok && len(pairs) == 1 {
		if pair, ok := pairs[0].([]any); ok && len(pair) == 2 {
			e.ClientCert, _ = pair[0].(string)
			e.ClientKey, _ = pair[1].(string)
		}
	}
	if server != "" {
		p.url(&e, server, override, at)
	}
	p.advice(e, at)
	return e
}

func (p *hostsParser) url(e *HostEntry, server string, override bool, at []string) {
	u, err := url.Parse(withScheme(server))
	if err != nil {
		p.ignored(idHostsValue, p.where(at...), quoted(server)+" is not a URL")
		return
	}
	if u.Host == "" {
		p.diags = append(p.diags, newDiag(idHostsValue, p.where(at...), quoted(server)+" names no host", "containerd then asks the registry itself", `write it as "http://10.0.0.1:5000"`))
		if len(at) == 0 {
			return
		}
	}
	if u.Path != "" {
		u.Path = path.Clean(u.Path)
	}
	if !override && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2" // a final slash makes it "//v2", in containerd too
	}
	e.URL, e.Path = withScheme(server), u.Path
}

// advice names settings that work otherwise than they look.
func (p *hostsParser) advice(e HostEntry, at []string) {
	u, err := url.Parse(e.URL)
	if e.URL == "" || err != nil {
		return
	}
	if u.Scheme == "http" && u.Port() != "80" && e.TLSSet {
		p.diags = append(p.diags, warning(newDiag(idHostsTLS, p.where(at...), "plain http with TLS settings",
			"containerd tries https first then, and falls back after an error", "remove skip_verify, ca and client from this host")))
	}
	if len(at) > 0 && !p.out.Ignored && len(e.Capabilities) > 0 && (!slices.Contains(e.Capabilities, "resolve") || !slices.Contains(e.Capabilities, "pull")) {
		p.diags = append(p.diags, newDiag(idHostsResolve, p.where(append(slices.Clone(at), "capabilities")...), "host "+quoted(e.URL)+" is not used to look up tags",
			"a tag needs both pull and resolve; without them containerd asks the next host", `write capabilities = ["pull", "resolve"]`))
	}
}

func (p *hostsParser) keys(t map[string]any, at []string, known []string) {
	for _, k := range sortedKeys(t) {
		if slices.Contains(known, k) {
			continue
		}
		fix := "remove it"
		if near := diag.Nearest(k, known); near != "" {
			fix = "did you mean " + near + "?"
		}
		p.diags = append(p.diags, newDiag(idHostsKey, p.where(append(slices.Clone(at), k)...), "key "+quoted(k)+" is not known and ignored", "", fix))
	}
}

func (p *hostsParser) headers(t map[string]any, at []string) {
	table, _ := t["header"].(map[string]any)
	for _, k := range sortedKeys(table) {
		_, isString := table[k].(string)
		list, isList := stringList(table[k])
		if !isString && (!isList || list == nil) {
			p.wrongType("header", "a table of strings and lists of strings", at)
		}
	}
}

func (p *hostsParser) timeout(t map[string]any, at []string) string {
	s, _ := t["dial_timeout"].(string)
	if s == "" {
		return ""
	}
	if _, err := time.ParseDuration(s); err != nil {
		p.wrongType("dial_timeout", `a duration as "2s"`, at)
	}
	return s
}

func (p *hostsParser) capabilities(t map[string]any, at []string) []string {
	list, _ := stringList(t["capabilities"])
	for i, c := range list {
		c = strings.ToLower(c)
		list[i] = c
		where := p.where(append(slices.Clone(at), "capabilities")...)
		if !slices.Contains(capabilities, c) {
			p.ignored(idHostsValue, where, "capability "+quoted(c)+" is not known (they are "+strings.Join(capabilities, ", ")+")")
		} else if c == "referrers" {
			p.diags = append(p.diags, warning(newDiag(idHostsValue, where, `capability "referrers" is known from containerd 2.2 on`,
				"before that the whole file is ignored for it", `write capabilities = ["pull", "resolve"]`)))
		}
	}
	return list
}

// files reads ca and client: a string, a list, or a list of pairs.
func (p *hostsParser) files(t map[string]any, key string, at []string) []string {
	v, there := t[key]
	if !there {
		return nil
	}
	var out []string
	add := func(s string) {
		if !path.IsAbs(s) {
			s = path.Join(path.Dir(p.file), s)
		}
		out = append(out, s)
	}
	if s, ok := v.(string); ok {
		add(s)
		return out
	}
	list, ok := v.([]any)
	for _, x := range list {
		pair, isList := stringList(x)
		if s, isString := x.(string); isString {
			add(s)
		} else if isList && key == "client" && len(pair) == 2 {
			add(pair[0])
			add(pair[1])
		} else {
			ok = false
		}
	}
	if !ok {
		p.wrongType(key, "a path or a list of paths", at)
	}
	return out
}

func (p *hostsParser) wrongType(key, want string, at []string) {
	p.ignored(idHostsValue, p.where(append(slices.Clone(at), key)...), quoted(key)+" is not "+want)
}

// ignored reports what makes containerd ignore the whole file.
func (p *hostsParser) ignored(id string, w diag.Where, what string) {
	p.out.Ignored = true
	p.diags = append(p.diags, newDiag(id, w, what, "containerd logs this once, ignores the file and pulls from upstream", "correct the file; containerd reads it at the next pull"))
}

func (p *hostsParser) where(at ...string) diag.Where {
	w := diag.Where{File: p.file, Key: strings.Join(at, ".")}
	if pos, ok := p.doc.Index().Nearest(p.asWritten(at)...); ok {
		w.Line, w.Col = pos.Line, pos.Col
	}
	return w
}

// asWritten undoes fold: the path in the file's own spelling.
func (p *hostsParser) asWritten(at []string) []string {
	out := slices.Clone(at)
	for i, k := range out {
		v, _ := p.doc.Get(out[:i]...)
		t, _ := v.(map[string]any)
		if _, exact := t[k]; exact {
			continue
		}
		for _, have := range sortedKeys(t) {
			if strings.EqualFold(have, k) {
				out[i] = have
			}
		}
	}
	return out
}

func syntaxWhere(file string, err error) diag.Where {
	var se *tomledit.SyntaxError
	if errors.As(err, &se) {
		return diag.Where{File: file, Line: se.Line, Col: se.Col}
	}
	return diag.Where{File: file}
}

func syntaxText(err error) string {
	var se *tomledit.SyntaxError
	if errors.As(err, &se) {
		return se.Msg
	}
	return fmt.Sprint(err)
}
