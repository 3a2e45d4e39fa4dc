package check

import (
	"context"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/manifest"
)

func admissionCheck() Check {
	return Check{
		ID: "IMG-14", Title: "no admission webhook or signature policy keeps the first pods out at a cold start",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "after a power cycle nothing is admitted: every pod is refused with a webhook's time-out, or with an error of TUF or Rekor",
			Cause:   "a webhook that fails closed asks pods that wait for it themselves; a policy verifies signatures with a certificate authority or log on the internet",
			Look:    "webhook configurations in manifests on this disk: failurePolicy, rules, selectors, against kube-system, the webhook's own namespace and the mirror's; policies of Kyverno and sigstore; the API server's admission plugins. What only the API knows is not seen here",
			Fix:     "exempt kube-system, the webhook's own and the mirror's namespace by namespaceSelector, or failurePolicy: Ignore; verify with keys of your own and rekor.ignoreTlog",
			Sources: []string{"kubernetes: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook", "kyverno/policies#1273", "kyverno/kyverno#5714"},
		},
		Run: runAdmission,
	}
}

func runAdmission(_ context.Context, e *Env) []Finding {
	var out []Finding
	for _, o := range e.memo.manifests().objects {
		for _, w := range o.Webhooks {
			out = append(out, e.judgeWebhook(o, w))
		}
		for _, s := range o.Signatures {
			out = append(out, Finding{Status: StatusFail, Subject: o.String() + ", " + s.Where, Expected: "keys at the site", Observed: "signatures are verified with the help of the internet", Source: o.At(s.Line),
				Remedy: Remedy{Text: "verify with a public key of your own and rekor: {ignoreTlog: true}"}})
		}
	}
	if plugins, source := e.admissionPlugins(); slices.Contains(plugins, "ImagePolicyWebhook") {
		out = append(out, Finding{Status: StatusWarn, Subject: "ImagePolicyWebhook", Expected: "not enabled", Observed: "the API server asks a service about every image; whether that comes up before the first pod is not seen here",
			Source: source, Remedy: Remedy{Text: "prove it by a power cycle with egress cut, or take the plugin out"}})
	}
	return findings(out, "admission", "no manifest on this disk has a webhook or policy that is asked about pods; what only the API knows is not seen here")
}

// judgeWebhook: pods of these namespaces must be admitted before the webhook can answer.
func (e *Env) judgeWebhook(o manifest.Object, w manifest.Webhook) Finding {
	subject := o.Kind + " " + o.Name + ", " + w.Name
	var covered []string
	for _, ns := range e.firstNamespaces(w) {
		if w.Covers(ns, e.namespaceLabels(ns)) {
			covered = append(covered, ns)
		}
	}
	switch {
	case len(covered) == 0 && w.Closed && w.Pods:
		return pass(subject, "exempts the namespaces that come up first", o.At(w.Line))
	case len(covered) == 0:
		return pass(subject, "keeps no pod out", o.At(w.Line))
	}
	f := Finding{Status: StatusFail, Subject: subject, Expected: "the namespaces that come up first are exempt, or failurePolicy: Ignore",
		Observed: "fails closed for pods in " + strings.Join(covered, ", "), Source: o.At(w.Line),
		Remedy: Remedy{Text: "add to its namespaceSelector: {key: kubernetes.io/metadata.name, operator: NotIn, values: [" + strings.Join(covered, ", ") + "]}"}}
	if w.Conditions {
		f.Status, f.Reason = StatusWarn, "its matchConditions may exempt them, which only the API server can tell"
	}
	return f
}

// firstNamespaces are those whose pods come up before anything else can: the cluster's own, the webhook's, the
// mirror's.
func (e *Env) firstNamespaces(w manifest.Webhook) []string {
	out := []string{"kube-system"}
	if ns, _, ok := strings.Cut(w.Service, "/"); ok && ns != "" {
		out = append(out, ns)
	}
	for _, o := range e.memo.manifests().objects {
		if e.MirrorImage != "" && slices.ContainsFunc(o.Containers, func(c manifest.Container) bool { return fullName(c.Image) == fullName(e.MirrorImage) }) {
			out = append(out, o.Namespace)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// namespaceLabels are those that a manifest on this disk gives a namespace.
func (e *Env) namespaceLabels(name string) map[string]string {
	for _, o := range e.memo.manifests().objects {
		if o.Kind == "Namespace" && o.Name == name {
			return o.Labels
		}
	}
	return nil
}
