package registries

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// MergeYAML puts the endpoints first for "*", for every registry that registries.yaml names, and for hosts.
// Everything else stays: other endpoints behind ours, rewrites, keys that nobody knows, comments, order. A
// file that says it all already is given back byte for byte. Endpoints with a CA get a configs entry.
func MergeYAML(file string, data []byte, endpoints []Endpoint, hosts []string) ([]byte, []*diag.Diagnostic, error) {
	d, bad := parseYAML(file, data)
	if bad != nil {
		return nil, nil, bad
	}
	warnings := d.lint()
	before, err := d.values()
	if err != nil {
		return nil, nil, err
	}
	names := d.registries(endpoints, hosts)
	if out, ok := mergeText(file, data, names, endpoints); ok && verifyMerge(file, before, out, names, endpoints) == nil {
		return out, warnings, nil
	}
	out, err := d.mergeNodes(names, endpoints)
	if err != nil {
		return nil, nil, err
	}
	if err := verifyMerge(file, before, out, names, endpoints); err != nil {
		return nil, nil, err
	}
	return out, warnings, nil
}

// mergeNodes makes the merge on the nodes and writes the file anew.
func (d *yamlDoc) mergeNodes(names []string, endpoints []Endpoint) ([]byte, error) {
	changed := false
	mirrors := d.mapping(d.root(), "mirrors")
	for _, h := range names {
		changed = d.mirror(mirrors, h, endpoints) || changed
	}
	changed = d.certificates(endpoints) || changed
	if !changed {
		return d.data, nil
	}
	return d.encode()
}

// registries are the names that must lead to the mirror. A specific entry, and a configs entry with TLS or
// credentials, take a registry out of "*" (k3s renders a directory for it).
func (d *yamlDoc) registries(endpoints []Endpoint, hosts []string) []string {
	skip := func(h string) bool {
		own := slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.Host() == h })
		return own || loopback(h) && !slices.Contains(hosts, h)
	}
	names := []string{"*"}
	add := func(h string) {
		if !skip(h) && !slices.Contains(names, h) {
			names = append(names, h)
		}
	}
	for _, kv := range append(pairs(child(d.root(), "mirrors")), pairs(child(d.root(), "configs"))...) {
		add(kv[0].Value)
	}
	for _, h := range hosts {
		add(h)
	}
	return names
}

// mapping is the mapping below key, made if it is missing or empty.
func (d *yamlDoc) mapping(n *yaml.Node, key string) *yaml.Node {
	v := child(n, key)
	if v == nil {
		v = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		n.Content = append(n.Content, str(key), v)
	}
	if isNull(v) {
		toMapping(v)
	}
	return v
}

// toMapping makes a null a mapping; its comments stay.
func toMapping(n *yaml.Node) { n.Kind, n.Tag, n.Value, n.Style = yaml.MappingNode, "!!map", "", 0 }

// str is a key or value, quoted unless that is never needed.
func str(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !plainKey.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// mirror puts the endpoints first for one registry and says whether that changed anything.
func (d *yamlDoc) mirror(mirrors *yaml.Node, host string, endpoints []Endpoint) bool {
	entry := d.mapping(mirrors, host)
	list := child(entry, "endpoint")
	if list != nil && leads(list, endpoints) {
		return false
	}
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		entry.Content = append([]*yaml.Node{str("endpoint"), list}, entry.Content...)
	}
	if isNull(list) {
		list.Kind, list.Tag, list.Value, list.Style = yaml.SequenceNode, "!!seq", "", 0
	}
	merged := make([]*yaml.Node, 0, len(endpoints)+len(list.Content))
	for _, e := range endpoints {
		merged = append(merged, d.take(list, e))
	}
	list.Content = append(merged, list.Content...)
	return true
}

// take is the node of an endpoint in list, removed from it, or a new one.
func (d *yamlDoc) take(list *yaml.Node, e Endpoint) *yaml.Node {
	for i, n := range list.Content {
		if have, ok := k3sEndpoint(n.Value); ok && have.Same(e) {
			list.Content = slices.Delete(list.Content, i, i+1)
			return n
		}
	}
	n := str(e.URL)
	if len(list.Content) > 0 {
		n.Style = list.Content[0].Style
	}
	return n
}

// leads says whether list begins with the endpoints.
func leads(list *yaml.Node, endpoints []Endpoint) bool {
	if len(list.Content) < len(endpoints) {
		return false
	}
	for i, e := range endpoints {
		if have, ok := k3sEndpoint(list.Content[i].Value); !ok || !have.Same(e) {
			return false
		}
	}
	return true
}

// certificates names the TLS files; one that is named already stays.
func (d *yamlDoc) certificates(endpoints []Endpoint) bool {
	changed := false
	for _, e := range endpoints {
		files := e.tlsFiles()
		if len(files) == 0 {
			continue
		}
		tls := d.mapping(d.mapping(d.mapping(d.root(), "configs"), e.Host()), "tls")
		for _, f := range files {
			if child(tls, f[0]) == nil {
				tls.Content = append(tls.Content, str(f[0]), str(f[1]))
				changed = true
			}
		}
	}
	return changed
}

// values is the document as plain values.
func (d *yamlDoc) values() (map[string]any, error) {
	out := map[string]any{}
	if err := d.root().Load(&out); err != nil {
		return nil, d.shapeError(err)
	}
	return out, nil
}

// encode writes the document with the indentation that it had.
func (d *yamlDoc) encode() ([]byte, error) {
	indent, compact := d.style()
	var b bytes.Buffer
	dump, err := yaml.NewDumper(&b, yaml.WithV3Defaults(), yaml.WithIndent(indent), yaml.WithCompactSeqIndent(compact), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.file, err)
	}
	if err := dump.Dump(d.node); err != nil {
		return nil, fmt.Errorf("%s: write YAML: %w", d.file, err)
	}
	if err := dump.Close(); err != nil {
		return nil, fmt.Errorf("%s: write YAML: %w", d.file, err)
	}
	out := b.Bytes()
	if bytes.Contains(d.data, []byte("\r\n")) {
		out = bytes.ReplaceAll(out, []byte("\n"), []byte("\r\n"))
	}
	return out, nil
}

// style finds the indentation of mappings, and whether lists stand below their key without any.
func (d *yamlDoc) style() (indent int, compact bool) {
	indent = 2
	mirrors, value := entry(d.root(), "mirrors")
	for _, kv := range append([][2]*yaml.Node{{mirrors, value}}, pairs(d.root())...) {
		if v := kv[1]; v != nil && v.Kind == yaml.MappingNode && v.Style&yaml.FlowStyle == 0 && len(v.Content) > 0 && v.Line > kv[0].Line {
			indent = max(2, min(9, v.Content[0].Column-kv[0].Column))
			break
		}
	}
	for _, kv := range pairs(child(d.root(), "mirrors")) {
		for _, e := range pairs(kv[1]) {
			if e[1].Kind == yaml.SequenceNode && e[1].Line > e[0].Line {
				return indent, e[1].Column == e[0].Column
			}
		}
	}
	return indent, false
}

// verifyMerge reads the result back: it must be the old values with ours added, and fit for k3s.
func verifyMerge(file string, before map[string]any, out []byte, names []string, endpoints []Endpoint) error {
	d, bad := parseYAML(file, out)
	if bad != nil {
		return fmt.Errorf("the merged file would not be valid; change it by hand: %w", bad)
	}
	after, err := d.values()
	if err != nil {
		return err
	}
	want, _ := cloneValue(before).(map[string]any)
	if err := expectMerge(want, names, endpoints); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if !reflect.DeepEqual(want, after) {
		return newDiag(idYAMLShape, diag.Where{File: file}, "edgeprep cannot add to this file without changing more than it should", "",
			`add the mirror as the first endpoint of every entry by hand, and as "*"`)
	}
	return nil
}
