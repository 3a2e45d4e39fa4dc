package manifest

import (
	"slices"

	"go.yaml.in/yaml/v4"
)

// Webhook is one admission webhook.
type Webhook struct {
	Name       string
	Line       int
	Closed     bool   // failurePolicy Fail, the default: nothing is admitted while it does not answer
	Pods       bool   // asked when a pod is made
	Service    string // namespace/name of the service that answers; empty: URL
	URL        string
	Conditions bool // matchConditions narrow it down in a way that only the API server knows
	namespaces selector
	objects    selector
}

// selector is a label selector.
type selector struct {
	Labels      map[string]string `yaml:"matchLabels"`
	Expressions []requirement     `yaml:"matchExpressions"`
}

type requirement struct {
	Key      string   `yaml:"key"`
	Operator string   `yaml:"operator"`
	Values   []string `yaml:"values"`
}

// matches says whether labels are selected. kubernetes: apimachinery/pkg/labels
func (s selector) matches(labels map[string]string) bool {
	for k, v := range s.Labels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return !slices.ContainsFunc(s.Expressions, func(r requirement) bool { return !r.matches(labels) })
}

func (r requirement) matches(labels map[string]string) bool {
	v, ok := labels[r.Key]
	switch r.Operator {
	case "In":
		return ok && slices.Contains(r.Values, v)
	case "NotIn":
		return !ok || !slices.Contains(r.Values, v)
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	}
	return true // unknown: the API server would not take it
}

// nameLabel is on every namespace. kubernetes: pkg/apis/core, LabelMetadataName
const nameLabel = "kubernetes.io/metadata.name"

// Covers says whether pods of a namespace with these labels wait for the webhook. Pods are taken to have no labels
// that a webhook asks for: one that asks only for marked pods does not hold up the others.
func (w Webhook) Covers(namespace string, labels map[string]string) bool {
	all := map[string]string{nameLabel: namespace}
	for k, v := range labels {
		all[k] = v
	}
	return w.Closed && w.Pods && w.namespaces.matches(all) && w.objects.matches(nil)
}

// webhooks reads the webhooks of a configuration.
func webhooks(n *yaml.Node) []Webhook {
	list := get(n, "webhooks")
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	var out []Webhook
	for _, e := range list.Content {
		if h := resolved(e); h != nil && h.Kind == yaml.MappingNode {
			out = append(out, webhook(h))
		}
	}
	return out
}

func webhook(n *yaml.Node) Webhook {
	client := get(n, "clientConfig")
	w := Webhook{Name: text(get(n, "name")), Line: n.Line, Closed: text(get(n, "failurePolicy")) != "Ignore", URL: text(get(client, "url"))}
	if s := get(client, "service"); s != nil {
		w.Service = text(get(s, "namespace")) + "/" + text(get(s, "name"))
	}
	if c := get(n, "matchConditions"); c != nil && len(c.Content) > 0 {
		w.Conditions = true
	}
	for key, to := range map[string]*selector{"namespaceSelector": &w.namespaces, "objectSelector": &w.objects} {
		if s := get(n, key); s != nil && s.Decode(to) != nil {
			*to = selector{} // not a selector: it selects everything, which is the cautious side
		}
	}
	if rules := get(n, "rules"); rules != nil {
		w.Pods = slices.ContainsFunc(rules.Content, makesPods)
	}
	return w
}

// makesPods says whether a rule is about the creation of pods.
func makesPods(n *yaml.Node) bool {
	n = resolved(n)
	any := func(key string, want ...string) bool {
		return slices.ContainsFunc(texts(get(n, key)), func(v string) bool { return slices.Contains(want, v) })
	}
	return any("apiGroups", "", "*") && any("resources", "pods", "*", "*/*") && any("operations", "CREATE", "*") && text(get(n, "scope")) != "Cluster"
}
