package manifest

import (
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"go.yaml.in/yaml/v4"
)

// scanner looks for images in everything that an object says.
type scanner struct {
	p      *parser
	o      *Object
	offset int // of lines, inside a text that is YAML itself
	inText bool
}

// node looks at a value; key is what it belongs to.
func (s *scanner) node(n *yaml.Node, key string, depth int) {
	n = resolved(n)
	s.p.nodes++
	if n == nil || depth > maxDepth || s.p.nodes > maxNodes {
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		s.mapping(n, key, depth)
	case yaml.SequenceNode:
		for i, e := range n.Content {
			k := key
			if i > 0 && strings.HasPrefix(n.Content[i-1].Value, "-") && !strings.Contains(n.Content[i-1].Value, "=") {
				k = n.Content[i-1].Value // "--image", "busybox:1"
			}
			s.node(e, k, depth+1)
		}
	case yaml.ScalarNode:
		s.scalar(n, key, depth)
	}
}

// mapping takes containers out, and pairs of repository and tag as Helm's values have them.
func (s *scanner) mapping(n *yaml.Node, key string, depth int) {
	if name := text(get(n, "name")); name != "" && get(n, "value") != nil { // of an environment
		key = name
	}
	if repo, tag := text(get(n, "repository")), text(get(n, "tag")); repo != "" && tag != "" {
		if r := text(get(n, "registry")); r != "" {
			repo = r + "/" + repo
		}
		s.found(key, repo+":"+tag, get(n, "tag").Line)
	}
	for k, v := range pairs(n) {
		role, ok := map[string]string{"containers": "container", "initContainers": "init container", "ephemeralContainers": "ephemeral container"}[k.Value]
		switch {
		case ok && v.Kind == yaml.SequenceNode:
			s.containers(v, role, depth)
		case k.Value == "value":
			s.node(v, key, depth+1)
		default:
			s.node(v, k.Value, depth+1)
		}
	}
}

// containers takes the images of a pod's containers; the rest of a container is searched as everything else.
func (s *scanner) containers(list *yaml.Node, role string, depth int) {
	for _, e := range list.Content {
		c := resolved(e)
		image := get(c, "image")
		if s.p.nodes++; s.p.nodes > maxNodes {
			return
		}
		if text(image) == "" {
			s.node(c, "containers", depth+1)
			continue
		}
		if s.o.Workload && !s.inText {
			s.o.Containers = append(s.o.Containers, Container{Role: role, Name: text(get(c, "name")), Image: image.Value, Policy: text(get(c, "imagePullPolicy")),
				Words: words(c), Line: image.Line})
		} else {
			s.found(role+" "+text(get(c, "name")), image.Value, image.Line)
		}
		for k, v := range pairs(c) {
			if k.Value != "image" {
				s.node(v, k.Value, depth+1)
			}
		}
	}
}

func words(c *yaml.Node) []string {
	out := slices.Concat(texts(get(c, "command")), texts(get(c, "args")))
	if env := get(c, "env"); env != nil && env.Kind == yaml.SequenceNode {
		for _, e := range env.Content {
			out = append(out, text(get(e, "value")))
		}
	}
	return out
}

func (s *scanner) found(where, image string, line int) {
	if _, err := reference.ParseNormalizedNamed(image); err != nil || len(s.o.Texts) >= maxTexts {
		return
	}
	t := Text{Where: where, Image: image, Line: line + s.offset}
	if !slices.ContainsFunc(s.o.Texts, func(x Text) bool { return x.Image == t.Image && x.Where == t.Where }) {
		s.o.Texts = append(s.o.Texts, t)
	}
}

// scalar looks into a string: a reference, a flag with one, a whole file.
func (s *scanner) scalar(n *yaml.Node, key string, depth int) {
	switch {
	case n.Tag != "!!str":
	case strings.Contains(n.Value, "\n"):
		s.file(n, depth)
	default:
		if flag, value, ok := strings.Cut(n.Value, "="); ok {
			if isImage(flag, value) {
				s.found(flag, value, n.Line)
			}
			return
		}
		if isImage(key, n.Value) {
			s.found(key, n.Value, n.Line)
		}
	}
}

// file reads a text of several lines: YAML or JSON as such, anything else word by word.
func (s *scanner) file(n *yaml.Node, depth int) {
	line := n.Line
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		line++
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(n.Value), &doc); err == nil {
		if r := resolved(&doc); r != nil && r.Kind != yaml.ScalarNode {
			inner := scanner{p: s.p, o: s.o, offset: s.offset + line - 1, inText: true}
			inner.node(r, "", depth+1)
			return
		}
	}
	for i, l := range strings.Split(n.Value, "\n") {
		for _, w := range strings.FieldsFunc(l, func(r rune) bool { return strings.ContainsRune(" \t\r\"'`=,;()[]{}<>", r) }) {
			if isImage("", w) {
				s.found("text", w, line+i)
			}
		}
	}
}

// imageKey is a key or flag whose value is an image.
var imageKey = regexp.MustCompile(`(?i)image`)

// isImage says whether a string is meant as an image reference: it has a tag or digest, and either a registry
// before it, a digest, or a key that says so.
func isImage(key, value string) bool {
	if len(value) > 512 || !strings.Contains(value, ":") {
		return false
	}
	named, err := reference.ParseNormalizedNamed(value)
	if err != nil {
		return false
	}
	_, digested := named.(reference.Digested)
	tagged, ok := named.(reference.Tagged)
	if !ok && !digested || ok && slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, tagged.Tag()) { // taints look like it
		return false
	}
	first, _, path := strings.Cut(value, "/")
	return digested || imageKey.MatchString(key) || path && (strings.ContainsAny(first, ".:") || first == "localhost")
}
