package registries

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// registriesYAML is registries.yaml as k3s and RKE2 read it (rancher/wharfie: pkg/registries/types.go, not
// strict: what is not here is ignored).
type registriesYAML struct {
	Mirrors map[string]yamlMirror `yaml:"mirrors"`
	Configs map[string]yamlConfig `yaml:"configs"`
	Auths   map[string]yamlAuth   `yaml:"auths"`
}

type yamlMirror struct {
	Endpoints []string          `yaml:"endpoint"`
	Rewrites  map[string]string `yaml:"rewrite"`
}

type yamlConfig struct {
	Auth *yamlAuth `yaml:"auth"`
	TLS  *yamlTLS  `yaml:"tls"`
}

type yamlAuth struct {
	Username      string `yaml:"username"`
	Password      string `yaml:"password"`
	Auth          string `yaml:"auth"`
	IdentityToken string `yaml:"identity_token"`
}

type yamlTLS struct {
	CAFile             string `yaml:"ca_file"`
	CertFile           string `yaml:"cert_file"`
	KeyFile            string `yaml:"key_file"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// yamlDoc is a registries.yaml that is fit to be edited.
type yamlDoc struct {
	file string
	data []byte
	node *yaml.Node // the document; its content is a mapping
	body registriesYAML
}

// parseYAML reads a registries.yaml. A document that is empty, or nothing but comments, is an empty mapping.
func parseYAML(file string, data []byte) (*yamlDoc, *diag.Diagnostic) {
	d := &yamlDoc{file: file, data: data, node: &yaml.Node{}}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(d.node)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlSyntax(file, err)
	}
	if err == nil && !errors.Is(dec.Decode(&yaml.Node{}), io.EOF) {
		return nil, newDiag(idYAMLShape, diag.Where{File: file}, "it has more than one YAML document, or something that is not YAML behind the first",
			"k3s and RKE2 read the first document only", "make it one document")
	}
	if d.node.Kind == 0 {
		d.node = &yaml.Node{Kind: yaml.DocumentNode, HeadComment: d.node.HeadComment}
	}
	if len(d.node.Content) == 0 || isNull(d.node.Content[0]) {
		d.node.Content = []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}
	}
	if diagnostic := d.checkShape(); diagnostic != nil {
		return nil, diagnostic
	}
	return d, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func yamlSyntax(file string, err error) *diag.Diagnostic {
	return newDiag(idYAML, diag.Where{File: file, Line: yamlLine(err)}, "it is not YAML: "+yamlText(err),
		"k3s and RKE2 then wait for ever at start, with the message \"Waiting to retrieve agent configuration\"",
		`correct the line (a lone * must be quoted, tabs must not indent), or move the file away: mv `+file+" "+file+".bad")
}

// yamlText is the parser's message on one line.
func yamlText(err error) string {
	return strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
}

// yamlLine finds the line in a parser's message: its error types do not all carry it.
func yamlLine(err error) int {
	var line int
	if _, after, ok := strings.Cut(err.Error(), "line "); ok {
		_, _ = fmt.Sscanf(after, "%d", &line)
	}
	return line
}

func (d *yamlDoc) root() *yaml.Node { return d.node.Content[0] }

// checkShape makes sure that what will be edited is what it should be, and decodes it.
func (d *yamlDoc) checkShape() *diag.Diagnostic {
	if n := d.badNode(); n != nil {
		return newDiag(idYAMLShape, d.at(n), "it has a merge key or an alias where edgeprep must add to the file", "such a change could mean more than one place",
			"write the entries out, without << and *")
	}
	if d.root().Kind != yaml.MappingNode {
		return newDiag(idYAMLShape, d.at(d.root()), "it is YAML but not a mapping", "k3s and RKE2 cannot read it", "its top level keys must be mirrors: and configs:")
	}
	// The root as a value: repeated keys are found by the decoder only.
	var all map[string]any
	if err := d.root().Load(&all); err != nil {
		return d.shapeError(err)
	}
	if err := d.root().Load(&d.body); err != nil {
		return d.shapeError(err)
	}
	return nil
}

func (d *yamlDoc) shapeError(err error) *diag.Diagnostic {
	return newDiag(idYAMLShape, diag.Where{File: d.file, Line: yamlLine(err)}, "it is not what k3s and RKE2 read: "+yamlText(err), "they wait for ever at start with such a file",
		`the shape is: mirrors: {"docker.io": {endpoint: ["http://127.0.0.1:5000"]}}`)
}

// badNode finds what cannot be edited safely: aliases and merge keys down to the mirrors' endpoint lists.
func (d *yamlDoc) badNode() *yaml.Node {
	var find func(n *yaml.Node, depth int) *yaml.Node
	find = func(n *yaml.Node, depth int) *yaml.Node {
		if n.Kind == yaml.AliasNode {
			return n
		}
		if depth == 0 || n.Kind != yaml.MappingNode {
			return nil
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if k := n.Content[i]; k.ShortTag() == "!!merge" || k.Kind != yaml.ScalarNode {
				return k
			}
			if bad := find(n.Content[i+1], depth-1); bad != nil {
				return bad
			}
		}
		return nil
	}
	return find(d.root(), 3)
}

func (d *yamlDoc) at(n *yaml.Node) diag.Where {
	return diag.Where{File: d.file, Line: n.Line, Col: n.Column}
}

// child is the value of a key of a mapping.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// lint names the keys that k3s and RKE2 silently ignore, and endpoints that they skip.
func (d *yamlDoc) lint() []*diag.Diagnostic {
	out := d.unknown(d.root(), "mirrors", "configs", "auths")
	for _, kv := range pairs(child(d.root(), "mirrors")) {
		out = append(out, d.unknown(kv[1], "endpoint", "rewrite")...)
		if list := child(kv[1], "endpoint"); list != nil {
			out = append(out, d.endpoints(list)...)
		}
	}
	for _, kv := range pairs(child(d.root(), "configs")) {
		out = append(out, d.unknown(kv[1], "auth", "tls")...)
		out = append(out, d.unknown(child(kv[1], "auth"), "username", "password", "auth", "identity_token")...)
		out = append(out, d.unknown(child(kv[1], "tls"), "ca_file", "cert_file", "key_file", "insecure_skip_verify")...)
	}
	return out
}

func (d *yamlDoc) endpoints(list *yaml.Node) []*diag.Diagnostic {
	var out []*diag.Diagnostic
	for _, n := range list.Content {
		if _, ok := k3sEndpoint(n.Value); !ok {
			out = append(out, newDiag(idYAMLEndpoint, d.at(n), "endpoint "+quoted(n.Value)+" cannot be used and is skipped", "", `write it as "http://10.0.0.1:5000"`))
		}
	}
	return out
}

func pairs(n *yaml.Node) [][2]*yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	var out [][2]*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		out = append(out, [2]*yaml.Node{n.Content[i], n.Content[i+1]})
	}
	return out
}

func (d *yamlDoc) unknown(n *yaml.Node, known ...string) []*diag.Diagnostic {
	var out []*diag.Diagnostic
	for _, kv := range pairs(n) {
		if slices.Contains(known, kv[0].Value) {
			continue
		}
		fix := "remove it"
		if near := diag.Nearest(kv[0].Value, known); near != "" {
			fix = "did you mean " + near + "?"
		}
		w := d.at(kv[0])
		w.Key = kv[0].Value
		out = append(out, newDiag(idYAMLUnknown, w, "key "+quoted(w.Key)+" is not known; k3s and RKE2 ignore it without a word", "", fix))
	}
	return out
}

// k3sEndpoint is an endpoint as k3s takes it: without a scheme it is https, but http on this machine on
// another port than 443 (k3s: pkg/agent/containerd/config.go).
func k3sEndpoint(s string) (Endpoint, bool) {
	raw := s
	if !strings.Contains(raw, "://") {
		if u, err := url.Parse("//" + raw); err == nil && loopback(u.Host) && u.Port() != "" && u.Port() != "443" {
			raw = "http://" + raw
		} else {
			raw = "https://" + raw
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return Endpoint{}, false
	}
	return Endpoint{URL: u.Scheme + "://" + u.Host + strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v2")}, true
}
