package coldstart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Object is what the proof reads of one Kubernetes object on the disk.
type Object struct {
	Kind      string
	Namespace string
	Name      string
	Source    string // the file
	Static    bool   // a static pod: kubelet alone starts it
	Pod       *Pod   // of a Pod or of a workload's template
	Claim     *Claim
	Volume    *Volume
	// Provisioner is that of a StorageClass, Default whether claims without a class get it.
	Provisioner string
	Default     bool
}

// Pod is what starts.
type Pod struct {
	HostNetwork bool
	Labels      map[string]string
	Containers  []Container // init containers first
	Claims      []string
	HostPaths   []string
}

// Container is one of a pod's.
type Container struct {
	Image  string
	Always bool // the registry is asked at every start, also when the image is there
	words  []string
}

// Claim is a PersistentVolumeClaim.
type Claim struct {
	Class  *string // nil: the default class
	Volume string  // bound to this one
}

// Volume is a PersistentVolume.
type Volume struct {
	Class  string
	Claim  string // namespace/name that it is kept for
	Driver string // CSI; empty: kubelet mounts it by itself
}

// maxDocuments bounds one file.
const maxDocuments = 2000

// ParseManifest reads the objects of one file, YAML or JSON, as kubelet and the distributions' deploy
// controllers do: several documents and lists are allowed, unknown kinds and fields mean nothing here.
func ParseManifest(source string, data []byte, static bool) ([]Object, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var out []Object
	for range maxDocuments {
		var doc document
		err := dec.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return out, fmt.Errorf("%s is not a Kubernetes manifest: %w", source, err)
		}
		for _, d := range append(doc.Items, doc) {
			if o, ok := d.object(); ok {
				o.Source, o.Static = source, static
				out = append(out, o)
			}
		}
	}
	return out, fmt.Errorf("%s has more than %d documents", source, maxDocuments)
}

// document has the fields of every kind that matters.
type document struct {
	Kind     string   `yaml:"kind"`
	Metadata metadata `yaml:"metadata"`
	Spec     struct {
		podSpec    `yaml:",inline"`
		Template   template `yaml:"template"`
		Class      *string  `yaml:"storageClassName"`
		VolumeName string   `yaml:"volumeName"`
		ClaimRef   metadata `yaml:"claimRef"`
		CSI        *struct {
			Driver string `yaml:"driver"`
		} `yaml:"csi"`
	} `yaml:"spec"`
	Provisioner string     `yaml:"provisioner"`
	Items       []document `yaml:"items"`
}

type metadata struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type template struct {
	Metadata metadata `yaml:"metadata"`
	Spec     podSpec  `yaml:"spec"`
}

type podSpec struct {
	HostNetwork    bool        `yaml:"hostNetwork"`
	InitContainers []container `yaml:"initContainers"`
	Containers     []container `yaml:"containers"`
	Volumes        []struct {
		HostPath *struct {
			Path string `yaml:"path"`
		} `yaml:"hostPath"`
		Claim *struct {
			Name string `yaml:"claimName"`
		} `yaml:"persistentVolumeClaim"`
	} `yaml:"volumes"`
}

type container struct {
	Image   string   `yaml:"image"`
	Policy  string   `yaml:"imagePullPolicy"`
	Command []string `yaml:"command"`
	Args    []string `yaml:"args"`
	Env     []struct {
		Value string `yaml:"value"`
	} `yaml:"env"`
}

// object is what the document means here; ok is false for kinds that start nothing.
func (d document) object() (o Object, ok bool) {
	o = Object{Kind: d.Kind, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name}
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	switch d.Kind {
	case "Pod":
		o.Pod = d.Spec.pod(d.Metadata.Labels)
	case "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "ReplicationController", "Job":
		o.Pod = d.Spec.Template.Spec.pod(d.Spec.Template.Metadata.Labels)
	case "PersistentVolumeClaim":
		o.Claim = &Claim{Class: d.Spec.Class, Volume: d.Spec.VolumeName}
	case "PersistentVolume":
		o.Volume = d.volume()
	case "StorageClass":
		o.Provisioner = d.Provisioner
		o.Default = d.Metadata.Annotations["storageclass.kubernetes.io/is-default-class"] == "true"
	case "HelmChart": // k3s, RKE2: the images are in the chart
	default:
		return o, false
	}
	return o, o.Name != ""
}

func (d document) volume() *Volume {
	v := &Volume{}
	if d.Spec.Class != nil {
		v.Class = *d.Spec.Class
	}
	if d.Spec.ClaimRef.Name != "" {
		v.Claim = d.Spec.ClaimRef.Namespace + "/" + d.Spec.ClaimRef.Name
	}
	if d.Spec.CSI != nil {
		v.Driver = d.Spec.CSI.Driver
	}
	return v
}

func (s podSpec) pod(labels map[string]string) *Pod {
	p := &Pod{HostNetwork: s.HostNetwork, Labels: labels}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		p.Containers = append(p.Containers, c.container())
	}
	for _, v := range s.Volumes {
		switch {
		case v.HostPath != nil:
			p.HostPaths = append(p.HostPaths, v.HostPath.Path)
		case v.Claim != nil:
			p.Claims = append(p.Claims, v.Claim.Name)
		}
	}
	return p
}

func (c container) container() Container {
	out := Container{Image: c.Image, Always: c.always(), words: slices.Concat(c.Command, c.Args)}
	for _, e := range c.Env {
		out.words = append(out.words, e.Value)
	}
	return out
}

// always: without a policy kubelet takes Always for the tag latest, said or implied.
// kubernetes: pkg/apis/core/v1/defaults.go SetDefaults_Container
func (c container) always() bool {
	if c.Policy != "" {
		return c.Policy == "Always"
	}
	if strings.Contains(c.Image, "@") {
		return false
	}
	_, tag, ok := strings.Cut(c.Image[strings.LastIndexByte(c.Image, '/')+1:], ":")
	return !ok || tag == "latest"
}

// mentions says whether a container is told of a name, in its command, arguments or environment.
func (p *Pod) mentions(name string) bool {
	return slices.ContainsFunc(p.Containers, func(c Container) bool {
		return slices.ContainsFunc(c.words, func(w string) bool { return strings.Contains(w, name) })
	})
}

// runs says whether a container's program has a name.
func (p *Pod) runs(program string) bool {
	return slices.ContainsFunc(p.Containers, func(c Container) bool {
		return len(c.words) > 0 && c.words[0][strings.LastIndexByte(c.words[0], '/')+1:] == program
	})
}

// String names the object for people: "Deployment kube-system/coredns".
func (o Object) String() string {
	if o.Namespace == "default" && o.Static {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}
