package check

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/edgeprep/edgeprep/internal/host"
)

// mirrorWorkload is what the manifests on this disk say about the mirror's pod and its storage.
type mirrorWorkload struct {
	pods    []mirrorPod
	claims  map[string]volumeClaim
	volumes []persistentVolume
	classes map[string]string // provisioner by name; "" is the default class
}

// mirrorPod is a pod, or the template of one, that runs the mirror's image.
type mirrorPod struct {
	kind, ns, id, source string
	replicas             int
	strategy             string
	spec                 podSpec
}

func (p mirrorPod) name() string { return p.kind + " " + p.ns + "/" + p.id }

type volumeClaim struct{ name, ns, class, volume, size, source string }

type persistentVolume struct {
	name, kind, path, class, claim, source string
	nodes                                  []string // that can mount it; empty: all
}

// kubeObject has the fields of the kinds that matter here.
type kubeObject struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name        string            `yaml:"name"`
		Namespace   string            `yaml:"namespace"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Provisioner string `yaml:"provisioner"`
	Spec        struct {
		podSpec  `yaml:",inline"`
		Replicas *int `yaml:"replicas"`
		Strategy struct {
			Type string `yaml:"type"`
		} `yaml:"strategy"`
		Template struct {
			Spec podSpec `yaml:"spec"`
		} `yaml:"template"`
		Class      string `yaml:"storageClassName"`
		VolumeName string `yaml:"volumeName"`
		Resources  struct {
			Requests map[string]string `yaml:"requests"`
		} `yaml:"resources"`
		ClaimRef struct {
			Name      string `yaml:"name"`
			Namespace string `yaml:"namespace"`
		} `yaml:"claimRef"`
		HostPath *pathOf `yaml:"hostPath"`
		Local    *pathOf `yaml:"local"`
		NFS      *pathOf `yaml:"nfs"`
		CSI      *struct {
			Driver string `yaml:"driver"`
		} `yaml:"csi"`
		NodeAffinity struct {
			Required struct {
				Terms []struct {
					Expressions []struct {
						Key    string   `yaml:"key"`
						Op     string   `yaml:"operator"`
						Values []string `yaml:"values"`
					} `yaml:"matchExpressions"`
				} `yaml:"nodeSelectorTerms"`
			} `yaml:"required"`
		} `yaml:"nodeAffinity"`
	} `yaml:"spec"`
	Items []kubeObject `yaml:"items"`
}

type pathOf struct {
	Path string `yaml:"path"`
}

type podSpec struct {
	Init       []podContainer `yaml:"initContainers"`
	Containers []podContainer `yaml:"containers"`
	Volumes    []podVolume    `yaml:"volumes"`
}

type podContainer struct {
	Image  string   `yaml:"image"`
	Policy string   `yaml:"imagePullPolicy"`
	Args   []string `yaml:"args"`
	Mounts []struct {
		Name string `yaml:"name"`
		Path string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type podVolume struct {
	Name     string    `yaml:"name"`
	EmptyDir *struct{} `yaml:"emptyDir"`
	HostPath *pathOf   `yaml:"hostPath"`
	Claim    *struct {
		Name string `yaml:"claimName"`
	} `yaml:"persistentVolumeClaim"`
}

// always says whether kubelet asks a registry at every start.
// kubernetes: pkg/apis/core/v1/defaults.go: Always for :latest and no tag, else IfNotPresent.
func (c podContainer) always() bool {
	if c.Policy != "" {
		return c.Policy == "Always"
	}
	if strings.Contains(c.Image, "@") {
		return false
	}
	tag := c.Image[strings.LastIndexByte(c.Image, '/')+1:]
	return !strings.Contains(tag, ":") || strings.HasSuffix(tag, ":latest")
}

// cacheVolume is the volume that the mirror's container mounts where --cache says, or above it.
func (s podSpec) cacheVolume() (podVolume, bool) {
	for _, c := range s.Containers {
		i := slices.Index(c.Args, "--cache")
		if i < 0 || i+1 >= len(c.Args) {
			continue
		}
		best, name := "", ""
		for _, m := range c.Mounts {
			if above(m.Path, c.Args[i+1]) && len(m.Path) > len(best) {
				best, name = m.Path, m.Name
			}
		}
		for _, v := range s.Volumes {
			if v.Name == name && name != "" {
				return v, true
			}
		}
	}
	return podVolume{}, false
}

// mirrorWorkload reads the manifests. One that cannot be read is COLD-03's to report.
func (e *Env) mirrorWorkload() mirrorWorkload {
	w := mirrorWorkload{claims: map[string]volumeClaim{}, classes: map[string]string{}}
	for _, dir := range []struct {
		path   string
		static bool
	}{{e.Node.Workload.StaticPods, true}, {e.Node.Workload.Manifests, false}, {PendingManifests, false}} {
		if dir.path == "" {
			continue
		}
		files, _ := manifestFiles(e.Reader.FS(), dir.path, dir.static)
		for _, f := range files {
			w.read(e.Reader.FS(), f, fullName(e.MirrorImage))
		}
	}
	return w
}

func (w *mirrorWorkload) read(f host.FS, file, image string) {
	data, err := f.ReadFile(file, maxManifestFile)
	if err != nil {
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for range maxManifestFiles {
		var o kubeObject
		if dec.Decode(&o) != nil {
			return
		}
		for _, x := range append(o.Items, o) {
			w.add(x, file, image)
		}
	}
}

func (w *mirrorWorkload) add(o kubeObject, file, image string) {
	ns := orWord(o.Metadata.Namespace, "default")
	switch o.Kind {
	case "Pod", "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet":
		p := mirrorPod{kind: o.Kind, ns: ns, id: o.Metadata.Name, source: file, replicas: 1, strategy: o.Spec.Strategy.Type, spec: o.Spec.Template.Spec}
		if o.Kind == "Pod" {
			p.spec = o.Spec.podSpec
		}
		if o.Spec.Replicas != nil {
			p.replicas = *o.Spec.Replicas
		}
		if slices.ContainsFunc(p.spec.Containers, func(c podContainer) bool { return fullName(c.Image) == image }) {
			w.pods = append(w.pods, p)
		}
	case "PersistentVolumeClaim":
		w.claims[o.Metadata.Name] = volumeClaim{name: o.Metadata.Name, ns: ns, class: o.Spec.Class, volume: o.Spec.VolumeName,
			size: o.Spec.Resources.Requests["storage"], source: file}
	case "PersistentVolume":
		w.volumes = append(w.volumes, o.persistentVolume(file))
	case "StorageClass":
		w.classes[o.Metadata.Name] = o.Provisioner
		if o.Metadata.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			w.classes[""] = o.Provisioner
		}
	}
}

func (o kubeObject) persistentVolume(file string) persistentVolume {
	v := persistentVolume{name: o.Metadata.Name, class: o.Spec.Class, source: file, kind: "another kind"}
	if o.Spec.ClaimRef.Name != "" {
		v.claim = orWord(o.Spec.ClaimRef.Namespace, "default") + "/" + o.Spec.ClaimRef.Name
	}
	for kind, p := range map[string]*pathOf{"hostPath": o.Spec.HostPath, "local": o.Spec.Local, "nfs": o.Spec.NFS} {
		if p != nil {
			v.kind, v.path = kind, path.Clean("/"+p.Path)
		}
	}
	if o.Spec.CSI != nil {
		v.kind = "CSI " + o.Spec.CSI.Driver
	}
	for _, t := range o.Spec.NodeAffinity.Required.Terms {
		for _, x := range t.Expressions {
			if x.Key == "kubernetes.io/hostname" && x.Op == "In" {
				v.nodes = append(v.nodes, x.Values...)
			}
		}
	}
	return v
}

// volumeOf is the volume that a claim gets, as far as manifests tell.
func (w *mirrorWorkload) volumeOf(c volumeClaim) (persistentVolume, bool) {
	for _, v := range w.volumes {
		if c.volume == v.name && v.name != "" || v.claim == c.ns+"/"+c.name || v.claim == "" && c.class != "" && v.class == c.class && c.volume == "" {
			return v, true
		}
	}
	return persistentVolume{}, false
}
