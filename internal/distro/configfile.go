package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// The configuration file of k3s and RKE2 (k3s:pkg/configfilearg/parser.go): YAML whose keys are names of
// flags. FILE.d/*.yaml and *.yml are read after it in name order; a key replaces the earlier value, "key+"
// adds to it. The drop-ins count without the file too.

// configValues are the values of each key and where the last of them stands.
type configValues map[string]configValue

type configValue struct {
	Values []string
	Source string
	order  int // of the key's first appearance: the order of the flags it becomes
}

// last is the value that a flag which takes one gets: of several keys the one that comes last.
func (c configValues) last(keys []string) (value, source string, ok bool) {
	at := -1
	for _, k := range keys {
		if v, found := c[k]; found && len(v.Values) > 0 && v.order > at {
			at, value, source, ok = v.order, v.Values[len(v.Values)-1], v.Source, true
		}
	}
	return value, source, ok
}

// readConfig reads file and its drop-ins.
func readConfig(fsys host.FS, file string) (configValues, error) {
	out := configValues{}
	files := append([]string{file}, configDropIns(fsys, file+".d")...)
	for _, f := range files {
		data, err := fsys.ReadFile(f, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, unreadable(f, err)
		}
		if err := out.add(f, data); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func configDropIns(fsys host.FS, dir string) []string {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries { // by name, as ReadDir promises
		if ext := path.Ext(e.Path); ext == ".yaml" || ext == ".yml" {
			out = append(out, path.Join(dir, path.Base(e.Path)))
		}
	}
	return out
}

func (c configValues) add(file string, data []byte) error {
	root, err := yamlRoot(file, data)
	if err != nil || root == nil {
		return err
	}
	if root.Kind != yaml.MappingNode {
		return badConfig(file, root.Line, "it is not a list of \"key: value\" lines")
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		k := root.Content[i]
		key, appends := strings.CutSuffix(k.Value, "+")
		v := configValue{Values: scalars(root.Content[i+1]), Source: fmt.Sprintf("%s:%d", file, k.Line), order: len(c)}
		if old, ok := c[key]; ok {
			v.order = old.order
			if appends {
				v.Values = append(append([]string(nil), old.Values...), v.Values...)
			}
		}
		c[key] = v
	}
	return nil
}

// scalars are the values that a node gives a flag: one, or one for each element.
func scalars(n *yaml.Node) []string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return []string{""}
		}
		return []string{n.Value}
	case yaml.SequenceNode:
		var out []string
		for _, e := range n.Content {
			if e.Kind == yaml.ScalarNode {
				out = append(out, e.Value)
			}
		}
		return out
	}
	return nil
}

// yamlRoot is the first document's root node, nil when there is none.
func yamlRoot(file string, data []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, badConfig(file, yamlLine(err), strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return doc.Content[0], nil
}

var lineInError = regexp.MustCompile(`line (\d+)`)

func yamlLine(err error) int {
	if m := lineInError.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits; too many give 0, which is "not known"
		return n
	}
	return 0
}

func badConfig(file string, line int, what string) error {
	return &diag.Refused{Err: &diag.Diagnostic{
		ID: "NOD-012", Severity: diag.Error, What: "the distribution's configuration cannot be read: " + what,
		Where: diag.Where{File: file, Line: line},
		Why:   "the data directory and the registry file may be set in it, and the distribution itself does not start with it",
		Fix:   "correct " + file + ", then run edgeprep detect again",
	}}
}

// unreadable refuses a node of which a file that decides paths cannot be read.
func unreadable(file string, err error) error {
	fix := "see what is at " + file + ", then run edgeprep detect again"
	if errors.Is(err, fs.ErrPermission) {
		fix = "run edgeprep as root"
	}
	return &diag.Refused{Err: &diag.Diagnostic{
		ID: "NOD-013", Severity: diag.Error, What: "cannot be read: " + err.Error(), Where: diag.Where{File: file},
		Why: "it may say where the distribution keeps its data", Fix: fix,
	}}
}

// fileValue reads one value of a YAML or JSON file, "a.b", or without a key the trimmed text of the file.
func fileValue(fsys host.FS, file, key string) (value, source string, ok bool, err error) {
	data, err := fsys.ReadFile(file, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", false, nil
	}
	if err != nil {
		return "", "", false, unreadable(file, err)
	}
	if key == "" {
		text := strings.TrimSpace(string(data))
		return text, file, text != "", nil
	}
	n, err := yamlRoot(file, data)
	if err != nil {
		return "", "", false, err
	}
	for _, k := range strings.Split(key, ".") {
		n = child(n, k)
	}
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		return "", "", false, nil
	}
	return n.Value, fmt.Sprintf("%s:%d (%s)", file, n.Line, key), true, nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			if v := n.Content[i+1]; v.Kind == yaml.AliasNode {
				return v.Alias
			}
			return n.Content[i+1]
		}
	}
	return nil
}
