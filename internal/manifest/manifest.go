// Package manifest reads what Kubernetes objects in a file name: the images of their containers, strings
// elsewhere that are image references, charts and repositories to be fetched, admission webhooks. It knows files
// alone, no API; what the content means for a node is for others to say.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Object is one Kubernetes object.
type Object struct {
	APIVersion string
	Kind       string
	Namespace  string // "default" when not said
	Name       string
	Labels     map[string]string
	Hook       string // Helm's annotation: "post-install"; empty: none
	File       string
	Line       int
	// Workload: an object of Kubernetes itself that starts pods.
	Workload   bool
	Containers []Container // of a workload, in the order of the file
	Texts      []Text      // image references elsewhere
	Sources    []Source    // what is fetched at run time
	Webhooks   []Webhook
	Signatures []Text // rules that need a certificate or transparency log elsewhere
	Driver     string // provisioner of a StorageClass
}

// Container is one of a workload's.
type Container struct {
	Role   string // "container", "init container", "ephemeral container"
	Name   string
	Image  string
	Policy string   // as written; empty: not said
	Words  []string // command, arguments, values of the environment
	Line   int
}

// Text is a string that is an image reference.
type Text struct {
	Where string // the key it belongs to: "RELATED_IMAGE_AGENT"
	Image string
	Line  int
}

// Source is where something is fetched from.
type Source struct {
	Key  string
	URL  string
	Line int
}

// String names the object for people: "Deployment kube-system/coredns".
func (o Object) String() string {
	s := o.Kind + " " + o.Namespace + "/" + o.Name
	if o.Hook != "" {
		s += " (hook " + o.Hook + ")"
	}
	return s
}

// At is a place in the object's file.
func (o Object) At(line int) string { return fmt.Sprintf("%s:%d", o.File, line) }

// Effective is the pull policy after defaulting: Always for the tag latest, said or implied.
// kubernetes: pkg/apis/core/v1/defaults.go SetDefaults_Container
func (c Container) Effective() string {
	if c.Policy != "" {
		return c.Policy
	}
	if Moving(c.Image) {
		return "Always"
	}
	return "IfNotPresent"
}

// Moving says whether an image is named without a tag or digest, or by the tag latest.
func Moving(image string) bool {
	if strings.Contains(image, "@") {
		return false
	}
	_, tag, ok := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	return !ok || tag == "latest"
}

// Bounds of one file: what kubelet or a deploy controller takes is far below, and a hostile file costs no more.
const (
	maxDocuments = 2000
	maxNodes     = 500_000
	maxDepth     = 100
	maxTexts     = 2000 // of one object
)

// Parse reads the objects of one file, YAML or JSON, lists taken apart. Unknown kinds are objects like others.
func Parse(file string, data []byte) ([]Object, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	p := &parser{file: file}
	for range maxDocuments {
		var doc yaml.Node
		err := dec.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return p.objects, nil
		case err != nil:
			return p.objects, fmt.Errorf("%s is not a Kubernetes manifest: %w", file, err)
		}
		p.document(&doc, 0)
		if p.nodes > maxNodes {
			return p.objects, fmt.Errorf("%s has more than %d values", file, maxNodes)
		}
	}
	return p.objects, fmt.Errorf("%s has more than %d documents", file, maxDocuments)
}

type parser struct {
	file    string
	nodes   int // visited so far: aliases may make a small file large
	objects []Object
}

// document takes an object in, or each of a list.
func (p *parser) document(n *yaml.Node, depth int) {
	n = resolved(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > 2 {
		return
	}
	if items := get(n, "items"); items != nil && items.Kind == yaml.SequenceNode && strings.HasSuffix(text(get(n, "kind")), "List") {
		for _, i := range items.Content {
			p.document(i, depth+1)
		}
		return
	}
	meta := get(n, "metadata")
	o := Object{
		APIVersion: text(get(n, "apiVersion")), Kind: text(get(n, "kind")), Name: text(get(meta, "name")), Namespace: text(get(meta, "namespace")),
		Hook: text(get(get(meta, "annotations"), "helm.sh/hook")), File: p.file, Line: n.Line, Labels: map[string]string{},
	}
	if o.Kind == "" {
		return
	}
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	for k, v := range pairs(get(meta, "labels")) {
		o.Labels[k.Value] = text(v)
	}
	p.content(&o, n)
	p.objects = append(p.objects, o)
}

// content reads what the object's kind makes it say.
func (p *parser) content(o *Object, n *yaml.Node) {
	o.Workload = slices.Contains([]string{"Pod", "PodTemplate", "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"}, o.Kind)
	switch o.Kind {
	case "CustomResourceDefinition", "Secret": // descriptions of fields; what nobody else may read
		return
	case "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration":
		o.Webhooks = webhooks(n)
		return
	case "StorageClass":
		o.Driver = text(get(n, "provisioner"))
		return
	}
	s := scanner{p: p, o: o}
	for k, v := range pairs(n) {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "status"}, k.Value) {
			s.node(v, k.Value, 0)
		}
	}
	o.Sources = p.sources(o.Kind, n)
	o.Signatures = p.signatures(o.Kind, n)
}

// resolved follows documents and aliases.
func resolved(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		switch {
		case n == nil:
			return nil
		case n.Kind == yaml.DocumentNode && len(n.Content) > 0:
			n = n.Content[0]
		case n.Kind == yaml.AliasNode:
			n = n.Alias
		default:
			return n
		}
	}
	return nil
}

// pairs goes through a mapping.
func pairs(n *yaml.Node) func(func(k, v *yaml.Node) bool) {
	return func(yield func(k, v *yaml.Node) bool) {
		n := resolved(n)
		if n == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if v := resolved(n.Content[i+1]); v != nil && !yield(n.Content[i], v) {
				return
			}
		}
	}
}

// get is the value of a key of a mapping, nil when there is none.
func get(n *yaml.Node, key string) *yaml.Node {
	for k, v := range pairs(n) {
		if k.Value == key {
			return v
		}
	}
	return nil
}

// text is the value of a scalar.
func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// texts are the scalars of a sequence.
func texts(n *yaml.Node) []string {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	var out []string
	for _, e := range n.Content {
		if e = resolved(e); e != nil && e.Kind == yaml.ScalarNode {
			out = append(out, e.Value)
		}
	}
	return out
}
