package check

import (
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// pendingFile is a manifest of the healthy node.
const pendingFile = PendingManifests + "/site.yaml"

// healthyIMG gives the node something of every kind that the checks of images look at, all of it right. Its pods
// are those of CronJobs: nothing of them starts at power-on.
func healthyIMG(s *site) {
	s.node.WriteFile(pendingFile, strings.NewReplacer("@WEB", imagetest.WebName, "@API", imagetest.APIName, "@SENSOR", imagetest.SensorName).Replace(`apiVersion: batch/v1
kind: CronJob
metadata: {name: driver, namespace: storage}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: prepare, image: "@API"}]
          containers:
          - name: driver
            image: "@WEB"
            imagePullPolicy: Always
            args: [--driver=disk.example]
            env: [{name: RELATED_IMAGE_SENSOR, value: "@SENSOR"}]
---
kind: StorageClass
metadata: {name: disk}
provisioner: disk.example
---
kind: ConfigMap
metadata: {name: helper, namespace: storage}
data:
  helperPod.yaml: |
    spec:
      containers: [{name: helper, image: "@API"}]
---
kind: Application
metadata: {name: site}
spec: {source: {repoURL: "https://charts.site.internal"}}
---
kind: ValidatingWebhookConfiguration
metadata: {name: guard}
webhooks:
- name: pods.guard.example
  clientConfig: {service: {namespace: guard, name: guard}}
  namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, guard, storage]}]}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}]
`))
}

// pending changes the healthy node's manifest.
func (s *site) pending(old, with string) {
	s.t.Helper()
	s.rewrite(pendingFile, func(b []byte) []byte {
		out := strings.Replace(string(b), old, with, 1)
		if out == string(b) {
			s.t.Fatalf("%q is not in %s", old, pendingFile)
		}
		return []byte(out)
	})
}

// onlyHere makes a record that no mirror has.
func (s *site) onlyHere(name string) {
	img := s.images()[imagetest.WebName]
	img.Name = name
	s.setImage(img)
}

// IMGFaults are those of the images that files on this disk ask for.
func IMGFaults() map[string]fault {
	const absent = "quay.io/absent/tool:1"
	return map[string]fault{
		"an init container of a CronJob has no image": {check: "IMG-04", says: "CronJob storage/driver, init container prepare", also: []string{"IMG-03"},
			inject: func(s *site) { s.pending(imagetest.APIName, absent) }},
		"a container's image is no reference": {check: "IMG-04", says: "is not an image reference", also: []string{"IMG-03"},
			inject: func(s *site) { s.pending(imagetest.APIName, "Not/An Image") }},
		"CRI cannot use an image that only the node has": {check: "IMG-04", says: "whose content CRI cannot use", also: []string{"IMG-03"}, inject: func(s *site) {
			s.onlyHere("docker.io/library/broken:1")
			img := s.images()["docker.io/library/broken:1"]
			img.Target.Digest = "sha256:" + strings.Repeat("0", 64)
			s.setImage(img)
			s.pending(imagetest.APIName, "broken:1")
		}},
		"a pull policy of Always that no mirror serves": {check: "IMG-06", says: "pull policy Always, and no mirror has it", inject: func(s *site) {
			s.onlyHere("docker.io/library/only-here:1")
			s.pending(imagetest.WebName, "only-here:1")
		}},
		"a name without a tag and a policy": {check: "IMG-06", says: "pull policy Always, and no mirror has it", inject: func(s *site) {
			s.onlyHere("docker.io/library/only-here:latest")
			s.pending(`"`+imagetest.APIName+`"`, "only-here")
		}},
		"a tag that moves": {check: "IMG-06", says: "latest, said or implied", status: StatusWarn, inject: func(s *site) {
			s.onlyHere("docker.io/library/only-here:latest")
			s.pending(`"`+imagetest.APIName+`"`, "only-here, imagePullPolicy: IfNotPresent")
		}},
		"AlwaysPullImages in the API server": {check: "IMG-06", says: "AlwaysPullImages of the API server, and no mirror has it", inject: func(s *site) {
			s.onlyHere("docker.io/library/only-here:1")
			s.pending(`"`+imagetest.APIName+`"`, "only-here:1")
			s.rewrite("/etc/kubernetes/manifests/agent.yaml", func(b []byte) []byte {
				return []byte(strings.Replace(string(b), "{name: agent, image", "{name: agent, command: [kube-apiserver, '--enable-admission-plugins=NodeRestriction,AlwaysPullImages'], image", 1))
			})
		}},
		"AlwaysPullImages in an API server without a pod": {make: k3sStarted, check: "IMG-06", says: "AlwaysPullImages of the API server, and no mirror has it", inject: func(s *site) {
			s.onlyHere("docker.io/library/only-here:1")
			s.pending(`"`+imagetest.APIName+`"`, "only-here:1")
			s.env.Node.Workload.APIArgs = "v=2 enable-admission-plugins=AlwaysPullImages"
		}},
		"the helper pod of a storage driver has no image": {check: "IMG-03", says: "disk: ConfigMap storage/helper, container helper", also: []string{"IMG-05"},
			inject: func(s *site) { s.pending(`name: helper, image: "`+imagetest.APIName, `name: helper, image: "`+absent) }},
		"the mirror waits for a volume whose driver only it has": {check: "IMG-03", says: "whose own volume waits for this driver", also: []string{"COLD-02", "COLD-04", "CRI-10", "CRI-02"}, inject: func(s *site) {
			s.env.Site.Mirror.Mode, s.env.Site.Mirror.Workload.Form = string(config.ModeWorkload), config.FormDeployment
			s.removeImage(imagetest.APIName)
		}},
		"a variable names an image that is nowhere": {check: "IMG-05", says: "RELATED_IMAGE_SENSOR", status: StatusWarn,
			inject: func(s *site) { s.pending(imagetest.SensorName, absent) }},
		"a custom resource names an image that is nowhere": {check: "IMG-05", says: "Sensor default/s, image", status: StatusWarn, inject: func(s *site) {
			s.node.WriteFile(PendingManifests+"/cr.yaml", "apiVersion: edge.example/v1\nkind: Sensor\nmetadata: {name: s}\nspec: {image: {repository: quay.io/absent/sensor, tag: v1}}\n")
		}},
		"a chart is fetched from the internet": {check: "IMG-13", says: "fetched from https://charts.example.com", status: StatusWarn,
			inject: func(s *site) { s.pending("charts.site.internal", "user:secret@charts.example.com") }},
		"a webhook keeps the cluster's own pods out": {check: "IMG-14", says: "fails closed for pods in kube-system",
			inject: func(s *site) { s.pending("[kube-system, guard, storage]", "[guard, storage]") }},
		"a webhook keeps its own pods out": {check: "IMG-14", says: "fails closed for pods in guard",
			inject: func(s *site) { s.pending("[kube-system, guard, storage]", "[kube-system, storage]") }},
		"a webhook whose conditions nobody can judge": {check: "IMG-14", says: "which only the API server can tell", status: StatusWarn,
			inject: func(s *site) {
				s.pending("values: [kube-system, guard, storage]}]}", "values: []}]}\n  matchConditions: [{name: x, expression: 'true'}]")
			}},
		"signatures are verified on the internet": {check: "IMG-14", says: "with the help of the internet", inject: func(s *site) {
			s.node.WriteFile(PendingManifests+"/policy.yaml", "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: signed}\nspec: {rules: [{verifyImages: [{attestors: [{entries: [{keyless: {issuer: x}}]}]}]}]}\n")
		}},
		"the API server asks about every image": {check: "IMG-14", says: "asks a service about every image", status: StatusWarn, make: k3sStarted,
			inject: func(s *site) { s.env.Node.Workload.APIArgs = "enable-admission-plugins=ImagePolicyWebhook" }},
		"a manifest is too large to be read": {check: "IMG-04", says: "larger than", status: StatusUnproven, also: []string{"COLD-03"},
			inject: func(s *site) {
				s.node.WriteFile(PendingManifests+"/big.yaml", strings.Repeat("# filler\n", maxManifestFile/9+1))
			}},
	}
}
