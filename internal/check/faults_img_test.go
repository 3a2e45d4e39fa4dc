package check

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/preload"
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
	s.env.Node.Images = distro.Images{Lists: []string{path.Base(ownList)}}
	s.node.WriteFile(ownList, imagetest.PauseName+"\n"+imagetest.WebName+"\n")
}

// ownList is the list of the healthy node's distribution's own images.
const ownList = "/opt/edgeprep/images/own-images.txt"

// bring makes an image and imports it.
func (s *site) bring(spec imagetest.ImageSpec) *imagetest.Set {
	s.t.Helper()
	set, err := imagetest.Build(spec)
	if err != nil {
		s.t.Fatal(err)
	}
	const at = "/opt/brought.tar"
	if err := set.WriteArchive(s.node.Path(at), imagetest.Form{Layout: imagetest.OCI}); err != nil {
		s.t.Fatal(err)
	}
	src, err := preload.Open(s.t.Context(), s.node.FS(), at)
	if err != nil {
		s.t.Fatal(err)
	}
	defer src.Close()
	if _, err := s.containerd().Import(s.t.Context(), src, host.ImportOptions{Platform: spec.Platforms[0]}); err != nil {
		s.t.Fatal(err)
	}
	return set
}

// programOf is the beginning of a program for a machine.
func programOf(m elf.Machine) []byte {
	head := make([]byte, 64)
	copy(head, elf.ELFMAG)
	head[elf.EI_CLASS], head[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	binary.LittleEndian.PutUint16(head[18:], uint16(m))
	return head
}

// strange brings an image that a pod of the healthy node's runs then.
func (s *site) strange(platform string, files ...imagetest.File) *imagetest.Set {
	s.t.Helper()
	set := s.bring(imagetest.ImageSpec{Names: []string{"docker.io/library/strange:1"}, Platforms: []string{platform}, Cmd: []string{"app"},
		Layers: []imagetest.LayerSpec{{Files: files, Compression: imagetest.Zstd}}})
	s.pending(imagetest.APIName, "strange:1")
	return set
}

// archive adds one to the site's.
func (s *site) archive(name string, set *imagetest.Set, form imagetest.Form) {
	s.t.Helper()
	if err := set.WriteArchive(s.node.Path(name), form); err != nil {
		s.t.Fatal(err)
	}
	s.env.Archives = append(s.env.Archives, name)
}

// retyped replaces a text in an archive's index.json by one of any length: the tar is written anew.
func retyped(t *testing.T, archive []byte, old, with string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, r := tar.NewWriter(&out), tar.NewReader(bytes.NewReader(archive))
	found := false
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "index.json" {
			found = bytes.Contains(body, []byte(old))
			body = bytes.ReplaceAll(body, []byte(old), []byte(with))
		}
		h.Size = int64(len(body))
		if err := errors.Join(w.WriteHeader(h), ignoreCount(w.Write(body))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || !found {
		t.Fatalf("%q is not in index.json (%v)", old, err)
	}
	return out.Bytes()
}

func ignoreCount(_ int, err error) error { return err }

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
		"CRI cannot use an image that only the node has": {check: "IMG-04", says: "whose content CRI cannot use", also: []string{"IMG-03", "IMG-08"}, inject: func(s *site) {
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
		"the mirror waits for a volume whose driver only it has": {check: "IMG-03", says: "whose own volume waits for this driver", also: []string{"MIR-15", "COLD-02", "COLD-04", "CRI-10", "CRI-02"}, inject: func(s *site) {
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
		"an image of another architecture": {check: "IMG-08", says: "its config says linux/arm64", inject: func(s *site) { s.strange("linux/arm64") }},
		"a program of another architecture in an image that says otherwise": {check: "IMG-08", says: "app is a program for EM_AARCH64", opts: Options{Deep: true}, inject: func(s *site) {
			s.strange("linux/amd64", imagetest.File{Path: "bin", Link: "usr/bin"}, imagetest.File{Path: "usr/bin/app", Mode: 0o755, Content: programOf(elf.EM_AARCH64)})
		}},
		"an image of docker's first schema": {check: "IMG-15", says: "docker's schema 1", inject: func(s *site) {
			s.pending(imagetest.APIName, "old:1")
			old := s.images()[imagetest.WebName]
			old.Name, old.Target.MediaType = "docker.io/library/old:1", schema1Signed
			s.setImage(old)
		}},
		"an archive of docker's first schema": {check: "IMG-15", says: "docker's schema 1", also: []string{"TAR-01"}, inject: func(s *site) {
			s.archive("/opt/old.tar", s.set.Select(imagetest.SensorName), imagetest.Form{Layout: imagetest.OCI})
			s.rewrite("/opt/old.tar", func(b []byte) []byte {
				return retyped(s.t, b, `"mediaType":"application/vnd.oci.image.index.v1+json","digest"`, `"mediaType":"`+schema1+`","digest"`)
			})
		}},
		"an image is stored without its registry": {check: "IMG-09", says: imagetest.APIName + " is asked for and stored as this", also: []string{"CRI-10", "CRI-02"}, inject: func(s *site) {
			img := s.images()[imagetest.APIName]
			s.removeImage(imagetest.APIName)
			img.Name = "localhost/" + imagetest.APIName
			s.setImage(img)
		}},
		"an image is stored by its tag alone": {check: "IMG-09", says: "a name that nothing asks for", status: StatusWarn, inject: func(s *site) { s.onlyHere("v1.2") }},
		"FI-09: an archive with a tag for a name": {check: "IMG-10", says: "NOD-106", also: []string{"TAR-01", "TAR-16"}, inject: func(s *site) {
			s.archive("/opt/nameless.tar", s.set.Select(imagetest.WebName), imagetest.Form{Layout: imagetest.OCI})
			s.rewrite("/opt/nameless.tar", func(b []byte) []byte {
				return retyped(s.t, b, "io.containerd.image.name", "example.note") // what is left is the tag alone
			})
		}},
		"a tag moved": {check: "IMG-12", says: "it is sha256:", also: []string{"CRI-10", "TAR-17"}, inject: func(s *site) { s.retarget(imagetest.SensorName, imagetest.WebName) }},
		"an image of the release is nowhere": {check: "IMG-02", says: "docker.io/rancher/klipper-lb:v0.4.9", inject: func(s *site) {
			s.rewrite(ownList, func(b []byte) []byte { return append(b, "docker.io/rancher/klipper-lb:v0.4.9\n"...) })
		}},
		"the list of the release is none": {check: "IMG-02", says: "is not an image reference", inject: func(s *site) { s.node.WriteFile(ownList, "<html>Not Found</html>\n") }},
		"no list of the release":          {check: "IMG-02", says: "is not known here", status: StatusUnproven, inject: func(s *site) { s.remove(ownList) }},
		"no image of a name that every cluster runs": {check: "IMG-02", says: "only docker.io/library/edge-web:1.0", status: StatusWarn, inject: func(s *site) {
			s.env.Node.Images = distro.Images{Own: []string{"edge-api", "edge-web:2.0"}}
		}},
		"the archive of the release lies in the image directory alone": {make: k3sStarted, check: "IMG-02", says: "absent-own", inject: func(s *site) {
			s.env.Node.Images = distro.Images{Archives: []string{"own-*.tar"}}
			set, err := imagetest.Build(imagetest.ImageSpec{Names: []string{"docker.io/library/absent-own:1"}, Platforms: []string{"linux/amd64"}, Layers: []imagetest.LayerSpec{{Seed: "own", Size: 10}}})
			if err != nil {
				s.t.Fatal(err)
			}
			if err := set.WriteArchive(s.node.Path(s.env.Node.Preload.Dir+"/own-images.tar"), imagetest.Form{Layout: imagetest.Docker}); err != nil {
				s.t.Fatal(err)
			}
		}},
		"a registry is put before the names": {check: "IMG-11", says: "registry.site.example/library/edge-web:1.0", inject: func(s *site) {
			s.env.Node.Images.Prefix, s.env.Node.Images.PrefixSource = "registry.site.example", "/etc/rancher/k3s/config.yaml:1"
		}},
		"the cluster's own images are named after another registry": {check: "IMG-11", says: "only quay.io/edgeprep/edge-api:2.3", also: []string{"IMG-04", "COLD-03"}, inject: func(s *site) {
			s.env.Node.Images = distro.Images{Own: []string{"edge-api"}, Like: "kube-apiserver"}
			s.staticPod("registry.site.example/k8s/kube-apiserver:v1.37.2", "IfNotPresent")
		}},
		"a manifest is too large to be read": {check: "IMG-04", says: "larger than", status: StatusUnproven, also: []string{"COLD-03"},
			inject: func(s *site) {
				s.node.WriteFile(PendingManifests+"/big.yaml", strings.Repeat("# filler\n", maxManifestFile/9+1))
			}},
	}
}
