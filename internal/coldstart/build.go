package coldstart

import (
	"slices"
	"strings"
)

// Input is what is known of a node.
type Input struct {
	Units    []Unit // of the distribution, in start order: kubelet is the last or part of it
	Sandbox  string // reference of the pause image; empty: not known
	Objects  []Object
	Charts   bool     // whether charts among Objects are installed by the distribution itself
	Required []string // references that must be had at power-on
	Mirror   Mirror
	// Brings are the parts of the cluster that the distribution's own unit brings: "api", "network", "proxy".
	Brings []string
	// Bootstrap are images of pods that are in no manifest on the disk and must run before the mirror serves.
	Bootstrap []string
	// HasAPI: the API server is to run on this node.
	HasAPI bool
	// Image says who has an image. The reference is as it is written in the manifest.
	Image func(reference string) Holding
}

// Unit is a systemd unit of the node.
type Unit struct {
	Name    string
	Problem string // why it does not start at boot; empty: it does
	Unknown string // why that is not known; empty: it is
}

// Mirror is how the image mirror runs.
type Mirror struct {
	Unit  *Unit  // as a systemd service
	Image string // as a workload: the reference of its image
	// NodePort: containerd reaches it through the service proxy and the pod network.
	NodePort bool
	// Elsewhere: it runs on another node, and only there this can be proven.
	Elsewhere string
	None      bool // there is none
}

// Holding says who has an image.
type Holding struct {
	Node    string // where this node has it: "in containerd"; empty: it has not
	Mirror  bool   // the mirror has it, complete
	Unknown string // why nothing is known; empty: it is
	// Asked is why it is not known whether the mirror has it. What the mirror itself waits for is no help there,
	// whatever it has.
	Asked string
}

const (
	mirrorID  = "mirror"
	apiID     = "part:api"
	networkID = "part:network"
	proxyID   = "part:proxy"
)

// Build lays out what waits for what and says how each step ends.
func Build(in Input) *Graph {
	b := &builder{in: in, g: &Graph{}}
	for _, u := range in.Units {
		b.unit(u)
	}
	b.mirror()
	for _, o := range in.Objects {
		if o.Pod != nil || o.Kind == "HelmChart" {
			b.object(o)
		}
	}
	for _, r := range in.Required {
		b.image(r, false)
	}
	if in.Sandbox != "" {
		b.image(in.Sandbox, false)
	}
	b.g.solve()
	return b.g
}

type builder struct {
	in Input
	g  *Graph
}

// MirrorStep is the mirror, serving; nil: there is none.
func (g *Graph) MirrorStep() *Step { return g.byID[mirrorID] }

// ImageStep is an image that is wanted as it is, nil: none such.
func (g *Graph) ImageStep(reference string) *Step { return g.byID[imageID(reference, false)] }

func imageID(reference string, always bool) string {
	if always {
		return "image:" + reference + " (always)"
	}
	return "image:" + reference
}

func (b *builder) unit(u Unit) string {
	s := Step{ID: "unit:" + u.Name, Kind: KindUnit, Label: u.Name}
	switch {
	case u.Problem != "":
		s.State, s.Detail = Missing, u.Problem
	case u.Unknown != "":
		s.State, s.Detail = Unknown, u.Unknown
	}
	return b.g.add(s).ID
}

// kubelet is the unit that starts pods.
func (b *builder) kubelet() []string {
	if len(b.in.Units) == 0 {
		return nil
	}
	return []string{"unit:" + b.in.Units[len(b.in.Units)-1].Name}
}

func (b *builder) mirror() {
	m := b.in.Mirror
	if m.None {
		return
	}
	s := b.g.add(Step{ID: mirrorID, Kind: KindMirror, Label: "the mirror"})
	switch {
	case m.Unit != nil:
		s.needs(b.unit(*m.Unit))
	case m.Elsewhere != "":
		s.State, s.Detail = Unknown, m.Elsewhere
	default:
		b.mirrorPods(s)
	}
}

func (b *builder) mirrorPods(s *Step) {
	for _, o := range b.in.Objects {
		if o.Pod != nil && slices.ContainsFunc(o.Pod.Containers, func(c Container) bool { return c.Image == b.in.Mirror.Image }) {
			s.needs(b.object(o))
		}
	}
	if len(s.Needs) == 0 {
		s.State, s.Detail = Missing, "no manifest on this disk starts its image "+b.in.Mirror.Image
	}
	if b.in.Mirror.NodePort {
		s.needs(b.part(proxyID), b.part(networkID))
	}
}

// object is a pod, or the pods of a workload, or a chart whose pods are not known.
func (b *builder) object(o Object) string {
	id := "pod:" + o.String() + "@" + o.Source
	if b.g.byID[id] != nil {
		return id
	}
	s := b.g.add(Step{ID: id, Kind: KindPod, Label: o.String(), Source: o.Source})
	s.needs(b.kubelet()...)
	if o.Pod == nil {
		s.State, s.Detail = Unknown, "its images are in the chart"
		s.needs(b.part(apiID))
		return id
	}
	if b.in.Sandbox != "" {
		s.needs(b.image(b.in.Sandbox, false))
	}
	for _, c := range o.Pod.Containers {
		s.needs(b.image(c.Image, c.Always))
	}
	if !o.Static {
		s.needs(b.part(apiID))
	}
	if !o.Pod.HostNetwork {
		s.needs(b.part(networkID))
	}
	for _, c := range o.Pod.Claims {
		s.needs(b.claim(o.Namespace, c))
	}
	return id
}

// image is had by the node, or waits for the mirror. With the policy Always a registry is asked in any case.
func (b *builder) image(ref string, always bool) string {
	id := imageID(ref, always)
	if b.g.byID[id] != nil {
		return id
	}
	s := b.g.add(Step{ID: id, Kind: KindImage, Label: "image " + ref})
	switch h := b.in.Image(ref); {
	case h.Node != "" && !always:
		s.State, s.Detail = Served, h.Node
	case h.Mirror:
		s.needs(mirrorID)
	case h.Unknown != "":
		s.State, s.Detail = Unknown, h.Unknown
	case h.Asked != "" && (h.Node == "" || always):
		s.State, s.Detail = Unknown, h.Asked
		s.needs(mirrorID)
	case always && h.Node != "":
		s.State, s.Detail = Missing, "the mirror has not got it, and the pull policy Always asks a registry although the node has it"
	default:
		s.State, s.Detail = Missing, "neither the node nor the mirror has it"
	}
	return id
}

// part is something of the cluster that other steps wait for.
func (b *builder) part(id string) string {
	if b.g.byID[id] != nil {
		return id
	}
	p := parts()[id]
	s := b.g.add(Step{ID: id, Kind: KindPart, Label: p.label})
	if slices.Contains(b.in.Brings, strings.TrimPrefix(id, "part:")) {
		s.needs(b.kubelet()...)
		return id
	}
	if id == apiID && !b.in.HasAPI {
		s.State, s.Detail = Unknown, "it runs on another node"
		return id
	}
	for _, o := range b.in.Objects {
		if o.Pod != nil && p.is(o) {
			s.needs(b.object(o))
		}
	}
	if len(s.Needs) > 0 {
		return id
	}
	for _, r := range b.in.Bootstrap {
		s.needs(b.image(r, false))
	}
	if len(s.Needs) == 0 {
		s.State, s.Detail = Unknown, "no manifest on this disk says what brings it; name its images in [mirror.workload] bootstrap"
	}
	return id
}

// partRule recognises what brings a part by what it does, not by its name.
type partRule struct {
	label string
	is    func(Object) bool
}

func parts() map[string]partRule {
	return map[string]partRule{
		apiID: {"the Kubernetes API", func(o Object) bool { return o.Static && o.Pod.Labels["tier"] == "control-plane" }},
		networkID: {"the pod network", func(o Object) bool {
			return slices.ContainsFunc(o.Pod.HostPaths, func(p string) bool {
				return strings.HasPrefix(p, "/etc/cni") || strings.HasPrefix(p, "/opt/cni")
			})
		}},
		proxyID: {"the service proxy", func(o Object) bool { return o.Pod.runs("kube-proxy") }},
	}
}
