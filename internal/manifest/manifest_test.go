package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lines is what a file names, one thing a line.
func lines(t *testing.T, data string) []string {
	t.Helper()
	objects, err := Parse("x.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, o := range objects {
		out = append(out, o.String())
		for _, c := range o.Containers {
			out = append(out, fmt.Sprintf("%d %s %s %s %s", c.Line, c.Role, c.Name, c.Image, c.Effective()))
		}
		for _, x := range o.Texts {
			out = append(out, fmt.Sprintf("%d text %s %s", x.Line, x.Where, x.Image))
		}
		for _, x := range o.Sources {
			out = append(out, fmt.Sprintf("%d source %s %s local=%v", x.Line, x.Key, x.URL, x.Local()))
		}
		for _, x := range o.Signatures {
			out = append(out, fmt.Sprintf("%d signature %s", x.Line, x.Where))
		}
		for _, w := range o.Webhooks {
			out = append(out, fmt.Sprintf("%d webhook %s closed=%v pods=%v %s%s kube-system=%v own=%v", w.Line, w.Name, w.Closed, w.Pods, w.Service, w.URL,
				w.Covers("kube-system", nil), w.Covers("guard", map[string]string{"guard": "off"})))
		}
	}
	return out
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		data string
		want []string
	}{
		"every kind of container": {`kind: CronJob
metadata: {name: c, namespace: a}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: i, image: busybox}]
          containers:
          - {name: m, image: "x/y:1", imagePullPolicy: Never}
          ephemeralContainers: [{name: e, image: "x@sha256:` + strings.Repeat("0", 64) + `"}]
`, []string{"CronJob a/c", "8 init container i busybox Always", "10 container m x/y:1 Never", "11 ephemeral container e x@sha256:" + strings.Repeat("0", 64) + " IfNotPresent"}},
		"a hook": {"kind: Job\nmetadata: {name: h, annotations: {helm.sh/hook: post-install}}\nspec: {template: {spec: {containers: [{name: k, image: 'kubectl:latest'}]}}}\n",
			[]string{"Job default/h (hook post-install)", "3 container k kubectl:latest Always"}},
		"lists and JSON": {`{"kind":"List","items":[{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"a:1"}]}}]}`,
			[]string{"Pod default/p", "1 container c a:1 IfNotPresent"}},
		"environment, arguments and flags": {`kind: Deployment
metadata: {name: op}
spec:
  template:
    spec:
      containers:
      - name: c
        image: op:1
        env:
        - {name: RELATED_IMAGE_AGENT, value: "agent:2"}
        - {name: LEVEL, value: "info:2"}
        args: ["--sidecar-image=side:3", "--image", "two:4", "--listen=0.0.0.0:8080", "quay.io/x/y:5"]
`, []string{"Deployment default/op", "8 container c op:1 IfNotPresent", "10 text RELATED_IMAGE_AGENT agent:2", "12 text --sidecar-image side:3", "12 text --image two:4", "12 text args quay.io/x/y:5"}},
		"a file in a ConfigMap": {`kind: ConfigMap
metadata: {name: local-path, namespace: kube-system}
data:
  helperPod.yaml: |-
    kind: Pod
    spec:
      containers:
      - name: helper
        image: rancher/busybox
  setup: |-
    #!/bin/sh
    echo "docker run registry.k8s.io/tool:1.2 || exit 1"
  node: "node.kubernetes.io/unreachable:NoSchedule"
`, []string{"ConfigMap kube-system/local-path", "9 text container helper rancher/busybox", "12 text text registry.k8s.io/tool:1.2"}},
		"values of a chart": {`kind: HelmChart
metadata: {name: t}
spec:
  chart: https://%{KUBERNETES_API}%/static/charts/t.tgz
  jobImage: helm:1
  valuesContent: |
    image:
      registry: quay.io
      repository: app/web
      tag: 1.25
`, []string{"HelmChart default/t", "5 text jobImage helm:1", "10 text image quay.io/app/web:1.25", "4 source chart https://%{KUBERNETES_API}%/static/charts/t.tgz local=true"}},
		"a chart inside the object": {"kind: HelmChart\nmetadata: {name: t}\nspec: {chart: 'https://x.example/t.tgz', chartContent: H4sI}\n", []string{"HelmChart default/t"}},
		"sources": {`kind: Application
metadata: {name: a}
spec: {sources: [{repoURL: "https://charts.example.com"}, {repoURL: "git@github.com:x/y"}, {repoURL: "http://10.0.0.3:3000/x"}, {repoURL: "oci://registry.site.local/x"}]}
`, []string{"Application default/a", "3 source repoURL https://charts.example.com local=false", "3 source repoURL git@github.com:x/y local=false",
			"3 source repoURL http://10.0.0.3:3000/x local=true", "3 source repoURL oci://registry.site.local/x local=true"}},
		"a secret is not read": {"kind: Secret\nmetadata: {name: s}\nstringData: {image: 'quay.io/x/y:1'}\n", []string{"Secret default/s"}},
		"signatures": {`kind: ClusterPolicy
metadata: {name: v}
spec:
  rules:
  - verifyImages:
    - attestors:
      - entries:
        - keyless: {issuer: x}
        - keys: {publicKeys: k, rekor: {ignoreTlog: true}}
        - keys:
            rekor: {url: "https://rekor.sigstore.dev"}
`, []string{"ClusterPolicy default/v", "8 signature keyless", "11 signature rekor"}},
		"webhooks": {`kind: ValidatingWebhookConfiguration
metadata: {name: w}
webhooks:
- name: all
  clientConfig: {service: {namespace: guard, name: g}}
  rules: &pods [{apiGroups: [""], resources: [pods], operations: [CREATE]}]
- name: ignore
  failurePolicy: Ignore
  rules: *pods
- name: others
  rules: [{apiGroups: [apps], resources: ["*"], operations: ["*"]}]
- name: not-system
  namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}]}
  rules: *pods
- name: opt-out
  clientConfig: {url: "https://x.example"}
  namespaceSelector: {matchExpressions: [{key: guard, operator: NotIn, values: ["off"]}]}
  rules: *pods
- name: opt-in
  objectSelector: {matchLabels: {inject: "yes"}}
  rules: *pods
`, []string{"ValidatingWebhookConfiguration default/w",
			"4 webhook all closed=true pods=true guard/g kube-system=true own=true", "7 webhook ignore closed=false pods=true  kube-system=false own=false",
			"10 webhook others closed=true pods=false  kube-system=false own=false", "12 webhook not-system closed=true pods=true  kube-system=false own=true",
			"15 webhook opt-out closed=true pods=true https://x.example kube-system=true own=false", "19 webhook opt-in closed=true pods=true  kube-system=false own=false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(tc.want, lines(t, tc.data)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestHostileFiles: no file takes long, whatever its aliases say.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	bomb := "kind: ConfigMap\nmetadata: {name: b}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	for name, data := range map[string]string{
		"aliases":   bomb,
		"documents": strings.Repeat("---\nkind: Pod\n", maxDocuments+1),
		"not YAML":  "kind: Pod\nmetadata: [",
		"binary":    "\x00\x01\x02",
	} {
		if _, err := Parse("x.yaml", []byte(data)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, data := range []string{"", "---\n", "[]", "kind: [x]\n", "kind: Pod\nspec: {containers: {a: b}}\n", "kind: Pod\nspec: {containers: [1, null]}\n"} {
		if _, err := Parse("x.yaml", []byte(data)); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{image: a}]}\n")
	f.Add("a: &a [*a]\n")
	f.Add("kind: ConfigMap\ndata: {x: \"a: |\\n  image: b:1\\n\"}\n")
	f.Fuzz(func(t *testing.T, data string) {
		objects, _ := Parse("x", []byte(data))
		for _, o := range objects {
			_ = o.String()
		}
	})
}
