package registries

import (
	"bytes"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// dropEndpoints takes mirrors that edgeprep wrote earlier out of registries.yaml: a mirror that moved would
// otherwise stay in every list, and each request to its old address costs a dial time-out. Lines of their own
// go as lines; a list in another style has the file written anew.
func dropEndpoints(file string, data []byte, former []Endpoint) ([]byte, *diag.Diagnostic, error) {
	if len(former) == 0 || len(data) == 0 {
		return data, nil, nil
	}
	d, bad := parseYAML(file, data)
	if bad != nil {
		return nil, bad, nil
	}
	lines, whole := d.formerLines(former)
	if len(lines) == 0 && whole {
		return data, nil, nil
	}
	if whole {
		return without(data, lines), nil, nil
	}
	for _, kv := range pairs(child(d.root(), "mirrors")) {
		if list := child(kv[1], "endpoint"); list != nil {
			list.Content = slices.DeleteFunc(list.Content, func(n *yaml.Node) bool { return isFormer(n, former) })
		}
	}
	out, err := d.encode()
	return out, nil, err
}

// formerLines are the lines (from 1) that hold nothing but a former endpoint; whole is false when one stands
// elsewhere.
func (d *yamlDoc) formerLines(former []Endpoint) (lines []int, whole bool) {
	text := bytes.Split(d.data, []byte("\n"))
	whole = true
	for _, kv := range pairs(child(d.root(), "mirrors")) {
		list := child(kv[1], "endpoint")
		if list == nil {
			continue
		}
		for _, n := range list.Content {
			if !isFormer(n, former) {
				continue
			}
			line := strings.TrimSpace(string(text[n.Line-1]))
			whole = whole && strings.HasPrefix(line, "- ") && strings.Trim(strings.TrimSpace(line[2:]), `"'`) == n.Value
			lines = append(lines, n.Line)
		}
	}
	return lines, whole
}

func isFormer(n *yaml.Node, former []Endpoint) bool {
	have, ok := k3sEndpoint(n.Value)
	return n.Kind == yaml.ScalarNode && ok && slices.ContainsFunc(former, have.Same)
}

func without(data []byte, lines []int) []byte {
	var out []byte
	for i, l := range bytes.SplitAfter(data, []byte("\n")) {
		if !slices.Contains(lines, i+1) {
			out = append(out, l...)
		}
	}
	return out
}
