package registries

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A merge is made by inserting text where that is enough, so that blank lines and layout stay too. What needs
// more (an endpoint that must move, a value that is an explicit null) is left to the node encoder, and so is
// whatever does not read back as it should.

// addition is a value that is missing at the end of path: a list's first items, or one text.
type addition struct {
	path  []string
	items []string // for a list
	text  string   // for a scalar
}

// mergeText makes the merge by insertions; ok is false when it cannot.
func mergeText(file string, data []byte, names []string, endpoints []Endpoint) (out []byte, ok bool) {
	for _, a := range additions(names, endpoints) {
		d, bad := parseYAML(file, data)
		if bad != nil {
			return nil, false
		}
		var urls []Endpoint
		if a.items != nil {
			urls = endpoints
		}
		need, possible := d.needs(a, urls)
		if !possible {
			return nil, false
		}
		if !need {
			continue
		}
		if data, ok = d.insert(a); !ok {
			return nil, false
		}
	}
	return data, true
}

// additions are all that must be in the file. Registries are inserted at the head of mirrors, so the last
// comes first; so do the files of an endpoint.
func additions(names []string, endpoints []Endpoint) []addition {
	var urls []string
	for _, e := range endpoints {
		urls = append(urls, e.URL)
	}
	var out []addition
	for i := len(names) - 1; i >= 0; i-- {
		out = append(out, addition{path: []string{"mirrors", names[i], "endpoint"}, items: urls})
	}
	for _, e := range endpoints {
		for _, f := range slices.Backward(e.tlsFiles()) {
			out = append(out, addition{path: []string{"configs", e.Host(), "tls", f[0]}, text: f[1]})
		}
	}
	return out
}

// needs says whether the addition is missing, and whether inserting it would be enough.
func (d *yamlDoc) needs(a addition, endpoints []Endpoint) (need, possible bool) {
	n := d.root()
	for _, k := range a.path {
		if n = child(n, k); n == nil {
			return true, true
		}
	}
	if a.items == nil {
		return false, true
	}
	if n.Kind != yaml.SequenceNode || leads(n, endpoints) {
		return n.Kind != yaml.SequenceNode, true
	}
	for _, item := range n.Content {
		if e, ok := k3sEndpoint(item.Value); ok && containsEndpoint(endpoints, e) {
			return true, false
		}
	}
	return true, true
}

// insert adds text at the deepest node of the path that is there.
func (d *yamlDoc) insert(a addition) ([]byte, bool) {
	var key *yaml.Node
	value, rest := d.root(), a.path
	for len(rest) > 0 {
		k, v := entry(value, rest[0])
		if k == nil {
			break
		}
		key, value, rest = k, v, rest[1:]
	}
	step, compact := d.style()
	w := yamlWriter{step: strings.Repeat(" ", step), compact: compact, eol: "\n"}
	if bytes.Contains(d.data, []byte("\r\n")) {
		w.eol = "\r\n"
	}
	switch {
	case value.Style&yaml.FlowStyle != 0 && value.Line > 0:
		return d.insertFlow(value, w.flow(rest, a))
	case key == nil:
		return d.insertLines(len(d.data), w.block(strings.Repeat(" ", max(0, value.Column-1)), rest, a), w.eol), true
	case isNull(value) && value.Value == "":
		indent := strings.Repeat(" ", key.Column-1)
		if !compact || len(rest) > 0 || a.items == nil {
			indent += w.step
		}
		return d.insertLines(d.lineAfter(key), w.block(indent, rest, a), w.eol), true
	case (value.Kind == yaml.MappingNode || value.Kind == yaml.SequenceNode) && value.Line > key.Line:
		return d.insertLines(d.lineAfter(key), w.block(strings.Repeat(" ", value.Column-1), rest, a), w.eol), true
	}
	return nil, false
}

func entry(n *yaml.Node, key string) (k, v *yaml.Node) {
	for _, kv := range pairs(n) {
		if kv[0].Value == key {
			return kv[0], kv[1]
		}
	}
	return nil, nil
}

// insertFlow inserts behind the bracket that opens n.
func (d *yamlDoc) insertFlow(n *yaml.Node, text string) ([]byte, bool) {
	at := d.offset(n.Line)
	for i := 1; i < n.Column && at < len(d.data); i++ {
		at += runeLen(d.data[at])
	}
	if at >= len(d.data) || d.data[at] != '{' && d.data[at] != '[' {
		return nil, false
	}
	if len(n.Content) > 0 {
		text += ", "
	}
	return splice(d.data, at+1, text), true
}

// runeLen is the length of the UTF-8 sequence that begins with c.
func runeLen(c byte) int {
	switch {
	case c < 0xC0:
		return 1
	case c < 0xE0:
		return 2
	case c < 0xF0:
		return 3
	}
	return 4
}

// insertLines inserts whole lines at the start of a line or at the end of the file.
func (d *yamlDoc) insertLines(at int, text, eol string) []byte {
	if at > 0 && d.data[at-1] != '\n' {
		text = eol + strings.TrimSuffix(text, eol)
	}
	return splice(d.data, at, text)
}

func splice(data []byte, at int, text string) []byte {
	return append(append(bytes.Clone(data[:at]), text...), data[at:]...)
}

// offset is where line n begins, from 1.
func (d *yamlDoc) offset(n int) int {
	at := 0
	for ; n > 1; n-- {
		i := bytes.IndexByte(d.data[at:], '\n')
		if i < 0 {
			return len(d.data)
		}
		at += i + 1
	}
	return at
}

func (d *yamlDoc) lineAfter(n *yaml.Node) int { return d.offset(n.Line + 1) }

// yamlWriter writes what is inserted.
type yamlWriter struct {
	step    string
	compact bool // lists stand below their key without indentation
	eol     string
}

// block writes the keys of path below each other, then the value.
func (w yamlWriter) block(indent string, path []string, a addition) string {
	var b strings.Builder
	for i, k := range path {
		b.WriteString(indent + yamlKey(k) + ":")
		if i == len(path)-1 && a.items == nil {
			return b.String() + " " + quoted(a.text) + w.eol
		}
		b.WriteString(w.eol)
		if i < len(path)-1 || !w.compact {
			indent += w.step
		}
	}
	for _, item := range a.items {
		b.WriteString(indent + "- " + quoted(item) + w.eol)
	}
	return b.String()
}

func (w yamlWriter) flow(path []string, a addition) string {
	if len(path) == 0 {
		return quoteAll(a.items)
	}
	text := quoted(a.text)
	if a.items != nil {
		text = "[" + quoteAll(a.items) + "]"
	}
	for i := len(path) - 1; i > 0; i-- {
		text = "{" + yamlKey(path[i]) + ": " + text + "}"
	}
	return yamlKey(path[0]) + ": " + text
}

func quoteAll(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, quoted(s))
	}
	return strings.Join(out, ", ")
}

// plainKey can stand without quotes in every YAML version: a word or a domain name.
var plainKey = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+$|^(mirrors|configs|endpoint|tls|ca_file|cert_file|key_file)$`)

func yamlKey(k string) string {
	if plainKey.MatchString(k) {
		return k
	}
	return quoted(k)
}
