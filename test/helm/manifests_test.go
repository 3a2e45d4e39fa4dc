// Package helm holds the mirror's manifests and its Helm chart against Kubernetes' own types and Helm's own library.
// It is a module of its own: edgeprep links neither.
package helm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const deploy = "../../internal/mirror/deploy"

// objects are the objects of a manifest, by kind. A field that Kubernetes does not know is an error.
func objects(t *testing.T, text string) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		var head struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		kinds := map[string]any{"Pod": &corev1.Pod{}, "Namespace": &corev1.Namespace{}, "Secret": &corev1.Secret{}, "Service": &corev1.Service{},
			"PersistentVolumeClaim": &corev1.PersistentVolumeClaim{}, "DaemonSet": &appsv1.DaemonSet{}, "Deployment": &appsv1.Deployment{}}
		into, ok := kinds[head.Kind]
		if !ok {
			if strings.TrimSpace(doc) != "" {
				t.Fatalf("kind %q in\n%s", head.Kind, doc)
			}
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Fatalf("%s: %v\n%s", head.Kind, err, doc)
		}
		out[head.Kind] = into
	}
	return out
}

// spec is the pod in a manifest.
func spec(t *testing.T, objs map[string]any) corev1.PodSpec {
	t.Helper()
	switch {
	case objs["Pod"] != nil:
		return objs["Pod"].(*corev1.Pod).Spec
	case objs["DaemonSet"] != nil:
		return objs["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec
	}
	return objs["Deployment"].(*appsv1.Deployment).Spec.Template.Spec
}

func TestManifestsAreKubernetes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(deploy + "/testdata/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			objs := objects(t, string(text))
			s := spec(t, objs)
			for _, problem := range restricted(s) {
				t.Error(problem)
			}
			deployed := objs["Deployment"] != nil
			if s.HostNetwork == deployed {
				t.Errorf("hostNetwork is %v", s.HostNetwork)
			}
			for _, v := range s.Volumes {
				if v.EmptyDir != nil || deployed && v.HostPath != nil {
					t.Errorf("volume %+v", v)
				}
				if v.Secret != nil && (*v.Secret.DefaultMode != 0o440 || s.SecurityContext.FSGroup == nil) {
					t.Errorf("the secret cannot be read by the pod's user: %+v", v.Secret)
				}
			}
			if deployed {
				d := objs["Deployment"].(*appsv1.Deployment)
				if *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
					t.Errorf("a cache has one writer: %+v", d.Spec)
				}
			}
		})
	}
}

// restricted is the restricted pod security standard but for host network and host paths.
func restricted(s corev1.PodSpec) []string {
	var out []string
	want := func(ok bool, what string) {
		if !ok {
			out = append(out, what)
		}
	}
	c := s.Containers[0]
	p, cs := s.SecurityContext, c.SecurityContext
	want(p.RunAsNonRoot != nil && *p.RunAsNonRoot && *p.RunAsUser > 0, "runs as root")
	want(p.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "no seccomp")
	want(!*cs.AllowPrivilegeEscalation && *cs.ReadOnlyRootFilesystem, "escalation or a writable root")
	want(len(cs.Capabilities.Drop) == 1 && cs.Capabilities.Drop[0] == "ALL" && len(cs.Capabilities.Add) == 0, "capabilities")
	want(c.ImagePullPolicy == corev1.PullNever && len(s.InitContainers) == 0, "another image, or one that is pulled")
	want(!c.Resources.Requests.Memory().IsZero() && !c.Resources.Limits.Memory().IsZero(), "no requests or limits")
	want(c.ReadinessProbe != nil && c.LivenessProbe != nil, "no probes")
	want(!*s.AutomountServiceAccountToken && s.PriorityClassName == "system-node-critical", "a token, or no priority")
	return out
}
