package kubelet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host/hosttest"
)

const conf = "/var/lib/kubelet/config.yaml"

func TestConfigInEffect(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		k     distro.Kubelet
		want  map[string]string // "" means: nothing says it
	}{
		"nothing is said": {want: map[string]string{"serializeImagePulls": "true", "imageGCHighThresholdPercent": "85",
			"evictionHard/imagefs.available": "15%", "cgroupDriver": ""}},
		"the file": {files: map[string]string{conf: "serializeImagePulls: false\nevictionHard:\n  nodefs.available: 3%\n"},
			want: map[string]string{"serializeImagePulls": "false", "evictionHard/nodefs.available": "3%", "evictionHard/imagefs.available": "0%"}},
		"what is said is added to kubelet's own": {files: map[string]string{conf: "mergeDefaultEvictionSettings: true\nevictionHard: {nodefs.available: 3%}\n"},
			want: map[string]string{"evictionHard/nodefs.available": "3%", "evictionHard/imagefs.available": "15%"}},
		"later files win, by their path": {files: map[string]string{conf: "registryPullQPS: 1\nregistryBurst: 1\n", "/d/20.conf": "registryPullQPS: 3\n", "/d/10.conf": "registryPullQPS: 2\n",
			"/d/30/x.conf": "registryBurst: 7\n", "/d/99.yaml": "registryPullQPS: 9\n"},
			k: distro.Kubelet{ConfigDir: "/d"}, want: map[string]string{"registryPullQPS": "3", "registryBurst": "7"}},
		"null takes back":        {files: map[string]string{conf: "registryPullQPS: 1\n", "/d/1.conf": "registryPullQPS: null\n"}, k: distro.Kubelet{ConfigDir: "/d"}, want: map[string]string{"registryPullQPS": "5"}},
		"tables are united":      {files: map[string]string{conf: "featureGates: {A: true, B: true}\n", "/d/1.conf": "featureGates: {B: false}\n"}, k: distro.Kubelet{ConfigDir: "/d"}, want: map[string]string{"featureGates/A": "true", "featureGates/B": "false"}},
		"flags win over files":   {files: map[string]string{conf: "serializeImagePulls: false\n"}, k: args("serialize-image-pulls"), want: map[string]string{"serializeImagePulls": "true"}},
		"gates of flags add":     {files: map[string]string{conf: "featureGates: {A: true}\n"}, k: args("feature-gates=B=false,C=true"), want: map[string]string{"featureGates/A": "true", "featureGates/B": "false", "featureGates/C": "true"}},
		"a flag's table is all":  {files: map[string]string{conf: "evictionHard: {nodefs.available: 3%}\n"}, k: args("eviction-hard=imagefs.available<7%"), want: map[string]string{"evictionHard/imagefs.available": "7%", "evictionHard/nodefs.available": "0%"}},
		"the distribution's own": {files: map[string]string{conf: "failSwapOn: true\n"}, k: distro.Kubelet{Defaults: []string{"fail-swap-on=false", "serialize-image-pulls=false"}}, want: map[string]string{"failSwapOn": "true", "serializeImagePulls": "false"}},
		"several at a time":      {files: map[string]string{conf: "maxParallelImagePulls: 4\n"}, want: map[string]string{"serializeImagePulls": "false"}},
		"one at a time":          {files: map[string]string{conf: "maxParallelImagePulls: 1\n"}, want: map[string]string{"serializeImagePulls": "true"}},
		"JSON":                   {files: map[string]string{conf: `{"imageGCHighThresholdPercent": 90}`}, want: map[string]string{"imageGCHighThresholdPercent": "90"}},
		"an empty file":          {files: map[string]string{conf: ""}, want: map[string]string{"imageGCHighThresholdPercent": "85"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := hosttest.New(t)
			for p, content := range tc.files {
				n.WriteFile(p, content)
			}
			tc.k.Config = conf
			c, err := Read(n.FS(), tc.k)
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range tc.want {
				if v, _ := c.Get(key); v.Text != want {
					t.Errorf("%s is %q (%s), want %q", key, v.Text, v.Source, want)
				}
			}
		})
	}
}

func args(flags ...string) distro.Kubelet {
	var k distro.Kubelet
	for _, f := range flags {
		k.Args = append(k.Args, distro.Arg{Text: f, Source: "kubelet.service"})
	}
	return k
}

func TestSources(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	n.WriteFile(conf, "kind: KubeletConfiguration\nregistryPullQPS: 1\npreloadedImagesVerificationAllowlist:\n  - quay.io/a\n  - quay.io/b/*\n")
	c, err := Read(n.FS(), distro.Kubelet{Config: conf})
	if err != nil {
		t.Fatal(err)
	}
	if _, v, ok := c.Number("registryPullQPS"); !ok || v.Source != conf+":2" {
		t.Errorf("%+v", v)
	}
	v, _ := c.Get("preloadedImagesVerificationAllowlist")
	if d := cmp.Diff([]string{"quay.io/a", "quay.io/b/*"}, v.List); d != "" {
		t.Error(d)
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"not YAML": "a: [", "a list": "- a\n", "too long": "a: " + strings.Repeat("x", maxConfigFile)} {
		n := hosttest.New(t)
		n.WriteFile(conf, content)
		if _, err := Read(n.FS(), distro.Kubelet{Config: conf}); err == nil || !strings.Contains(err.Error(), conf) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemovedFlags(t *testing.T) {
	t.Parallel()
	given := args("container-runtime=remote", "pod-infra-container-image=pause:3", "image-gc-high-threshold=90").Args
	for version, want := range map[string]int{"v1.26.9": 0, "v1.27.0": 1, "v1.34.1+k3s1": 1, "1.35.0": 2, "v1.37.2": 2, "": 0, "nightly": 0} {
		if got := RemovedFlags(given, version); len(got) != want {
			t.Errorf("%s: %+v", version, got)
		}
	}
}

// The texts are as kubelet 1.37 writes them.
func TestRecords(t *testing.T) {
	t.Parallel()
	const id = "sha256:" + "aa"
	n := hosttest.New(t)
	in := func(dir, name, content string) { n.WriteFile("/var/lib/kubelet/image_manager/"+dir+"/"+name, content) }
	in("pulling", "sha256-1", `{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"quay.io/a:1"}`)
	in("pulling", "sha256-2", `{"kind":"ImagePul`)
	in("pulling", "sha256-3.tmp", `x`)
	in("pulling", "README", `x`)
	got, err := Intents(n.FS(), "/var/lib/kubelet")
	if err != nil || len(got) != 2 || got[0].Image != "quay.io/a:1" || got[1].Err == nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, _, ok, err := PulledRecord(n.FS(), "/var/lib/kubelet", id); ok || err != nil {
		t.Errorf("no record: %v, %v", ok, err)
	}
	_, file, _, _ := PulledRecord(n.FS(), "/var/lib/kubelet", id)
	n.WriteFile(file, `{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"`+id+`","credentialMapping":{"quay.io/a":{"kubernetesSecrets":[{"uid":"u","namespace":"default","name":"pull","credentialHash":"secrethash"}]}}}`)
	p, _, ok, err := PulledRecord(n.FS(), "/var/lib/kubelet", id)
	want := Pulled{ImageRef: id, Credentials: map[string]Credentials{"quay.io/a": {Secrets: []Named{{"default", "pull"}}}}}
	if d := cmp.Diff(want, p); d != "" || !ok || err != nil {
		t.Errorf("%v, %v\n%s", ok, err, d)
	}
	if c, err := CountPulled(n.FS(), "/var/lib/kubelet"); c != 1 || err != nil {
		t.Errorf("%d, %v", c, err)
	}
	n.WriteFile(file, `{"kind":"ImagePulledRecord","imageRef":`)
	if _, _, ok, err := PulledRecord(n.FS(), "/var/lib/kubelet", id); !ok || err == nil {
		t.Errorf("a broken record: %v, %v", ok, err)
	}
}

// A pull of another image may have a file of this name only by accident; kubelet then has no record of this one.
func TestRecordOfAnotherImage(t *testing.T) {
	t.Parallel()
	n := hosttest.New(t)
	_, file, _, _ := PulledRecord(n.FS(), "/var/lib/kubelet", "sha256:aa")
	n.WriteFile(file, `{"kind":"ImagePulledRecord","imageRef":"sha256:bb"}`)
	if _, _, ok, err := PulledRecord(n.FS(), "/var/lib/kubelet", "sha256:aa"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("evictionHard: {nodefs.available: 3%}\n")
	f.Add("a: &x [1]\nb: *x\n")
	f.Add("<<: {a: 1}\n? [a]\n: b\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := Config{values: map[string]Value{}}
		if c.merge("f", []byte(text)) == nil {
			c.Get("serializeImagePulls")
		}
	})
}
