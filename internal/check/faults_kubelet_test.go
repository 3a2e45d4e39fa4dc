package check

import (
	"bytes"
	"testing"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/kubelet"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

const kubeletConfig = "/var/lib/kubelet/config.yaml"

// healthyKubelet is a kubelet as kubeadm configures it, that pulled nothing yet.
func healthyKubelet(s *site) {
	s.env.Node.Kubelet = distro.Kubelet{Root: "/var/lib/kubelet", Config: kubeletConfig,
		Args: []distro.Arg{{Text: "config=" + kubeletConfig, Source: "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf:4"}}}
	s.node.WriteFile(kubeletConfig, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/manifests\nserializeImagePulls: false\n")
}

func (s *site) kubeletSays(text string) {
	s.node.WriteFile(kubeletConfig, s.node.ReadFile(kubeletConfig)+text)
}

// intent is a pull that kubelet could not end.
func (s *site) intent(image string) {
	s.node.WriteFile("/var/lib/kubelet/image_manager/pulling/sha256-00", `{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"`+image+`"}`)
}

// pulledWith is the record of an image that kubelet pulled under a name; creds is JSON.
func (s *site) pulledWith(image, name, creds string) {
	s.t.Helper()
	img, ok, err := s.node.CRI(s.env.Node.Runtime.Endpoint).ImageStatus(s.t.Context(), image)
	if err != nil || !ok {
		s.t.Fatalf("%s: %v, %v", image, ok, err)
	}
	_, file, _, _ := kubelet.PulledRecord(s.node.FS(), "/var/lib/kubelet", img.ID)
	s.node.WriteFile(file, `{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2026-10-21T12:26:40Z","imageRef":"`+img.ID+`","credentialMapping":{"`+name+`":`+creds+`}}`)
}

const withSecret = `{"kubernetesSecrets":[{"uid":"u","namespace":"shop","name":"pull","credentialHash":"0123"}]}`

func kubeletFaults() map[string]fault {
	return map[string]fault{
		"FI-35: a pull was cut off before the image was brought in": {check: "K8S-05", says: "a pull of it was cut off",
			inject: func(s *site) { s.intent(imagetest.WebName) }},
		"a pull of an image that nobody requires was cut off": {check: "K8S-05", says: "a pull of it was cut off", status: StatusWarn,
			inject: func(s *site) { s.intent("quay.io/nobody/asks:1") }},
		"a record of a pull without an end is half written": {check: "K8S-05", says: "kubelet cannot read it", status: StatusWarn,
			inject: func(s *site) { s.node.WriteFile("/var/lib/kubelet/image_manager/pulling/sha256-00", `{"kind":`) }},
		"kubelet pulled a required image with a secret": {check: "K8S-05", says: "secret shop/pull", status: StatusWarn,
			inject: func(s *site) { s.pulledWith(imagetest.APIName, "quay.io/edgeprep/edge-api", withSecret) }},
		"kubelet pulled a required image's content under another name": {check: "K8S-05", says: "under another name", status: StatusWarn,
			inject: func(s *site) { s.pulledWith(imagetest.APIName, "quay.io/other/name", `{"nodePodsAccessible":true}`) }},
		"kubelet verifies every image": {check: "K8S-05", says: "AlwaysVerify", status: StatusWarn,
			inject: func(s *site) { s.kubeletSays("imagePullCredentialsVerificationPolicy: AlwaysVerify\n") }},
		"kubelet verifies every image but those of a list": {check: "K8S-05", says: imagetest.APIName, status: StatusWarn,
			inject: func(s *site) {
				s.kubeletSays("imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: [docker.io/*, registry.k8s.io/*, ghcr.io/*]\n")
			}},
		"one pull at a time, and the registry is asked after the mirror": {check: "K8S-06", says: "on another node", status: StatusWarn, also: []string{"COLD-02", "REG-16"},
			inject: func(s *site) {
				s.kubeletSays("maxParallelImagePulls: 1\n")
				s.rewrite(kubeletConfig, func(b []byte) []byte { return bytes.Replace(b, []byte("serializeImagePulls: false"), nil, 1) })
				s.env.Mirrors[0].Admin = ""
			}},
		"kubelet has a flag that was removed": {check: "K8S-07", says: "removed in 1.35",
			inject: func(s *site) {
				s.env.Node.Kubelet.Args = append(s.env.Node.Kubelet.Args, distro.Arg{Text: "pod-infra-container-image=registry.k8s.io/pause:3.10", Source: "/etc/default/kubelet:1"})
			}},
		"kubelet's configuration is not YAML": {check: "K8S-07", says: "not YAML", also: []string{"K8S-05", "K8S-06"},
			inject: func(s *site) { s.kubeletSays("x: [\n") }},
		"kubelet's version is not known": {check: "K8S-07", says: "version is not known", status: StatusUnproven,
			inject: func(s *site) {
				s.env.Node.Version = ""
				s.env.Node.Kubelet.Args = append(s.env.Node.Kubelet.Args, distro.Arg{Text: "container-runtime=remote", Source: "/etc/default/kubelet:1"})
			}},
	}
}

// TestPullRecordsThatDoNoHarm: what is there and means nothing is not reported.
func TestPullRecordsThatDoNoHarm(t *testing.T) {
	t.Parallel()
	tpl := newTemplate(t)
	for name, inject := range map[string]func(*site){
		"pulled without credentials": func(s *site) {
			s.pulledWith(imagetest.APIName, "quay.io/edgeprep/edge-api", `{"nodePodsAccessible":true}`)
		},
		"kubelet before 1.33": func(s *site) {
			s.env.Node.Version = "v1.32.4"
			s.intent(imagetest.WebName)
		},
		"the feature is off": func(s *site) {
			s.kubeletSays("featureGates: {KubeletEnsureSecretPulledImages: false}\n")
			s.intent(imagetest.WebName)
		},
		"nothing is verified": func(s *site) {
			s.kubeletSays("imagePullCredentialsVerificationPolicy: NeverVerify\n")
			s.intent(imagetest.WebName)
		},
		"everything is in the list": func(s *site) {
			s.kubeletSays("imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: [docker.io/*, registry.k8s.io/*, ghcr.io/*, quay.io/edgeprep/edge-api]\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeadmSite(t, tpl)
			inject(s)
			if r := s.run(Options{IDs: []string{"K8S-05"}}).Results[0]; r.Status != StatusPass && r.Status != StatusSkip {
				t.Errorf("%s: %+v", r.Status, r.Findings)
			}
		})
	}
}
