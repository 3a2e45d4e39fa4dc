// Package coldstart proves on paper that a node comes up with the cable out: it lays out what waits for what
// between power-on and the last image, and finds what waits for itself or for something that nobody has. It
// is given what is on the disk and reads nothing itself.
package coldstart

import "slices"

// Kind is what a step is.
type Kind string

// The kinds.
const (
	KindUnit   Kind = "unit"   // a systemd unit
	KindImage  Kind = "image"  // an image that a container is started from
	KindPod    Kind = "pod"    // a static pod, or the pods of a workload
	KindVolume Kind = "volume" // a claim and its storage
	KindPart   Kind = "part"   // of the cluster: its API, pod network, service proxy
	KindMirror Kind = "mirror" // the image mirror, serving
)

// State is what is known of a step by itself, without what it waits for.
type State string

// The states. The zero value depends on what the step waits for alone.
const (
	Served  State = "served"  // it is there
	Missing State = "missing" // nobody brings it
	Unknown State = "unknown" // nothing on this disk tells
)

// Outcome is how a step ends.
type Outcome string

// The outcomes, from good to bad.
const (
	Up       Outcome = "up"       // proven
	Unproven Outcome = "unproven" // up if what is not known is as hoped
	Stuck    Outcome = "stuck"    // it never comes up
)

// Step is one thing that happens at power-on, or does not.
type Step struct {
	ID      string   `json:"id"`
	Kind    Kind     `json:"kind"`
	Label   string   `json:"label"` // in words: "pod kube-system/coredns"
	Needs   []string `json:"needs,omitempty"`
	State   State    `json:"state,omitempty"`
	Detail  string   `json:"detail,omitempty"` // why it is in State
	Source  string   `json:"source,omitempty"` // the file that says so
	Outcome Outcome  `json:"outcome"`
}

// Graph is everything that happens at power-on. Steps are in the order in which they were found.
type Graph struct {
	Steps []*Step `json:"steps"`
	byID  map[string]*Step
}

// Step finds a step; nil: there is none.
func (g *Graph) Step(id string) *Step { return g.byID[id] }

// add puts a step in once; a second one of the same id is the first.
func (g *Graph) add(s Step) *Step {
	if old := g.byID[s.ID]; old != nil {
		return old
	}
	if g.byID == nil {
		g.byID = map[string]*Step{}
	}
	p := &s
	g.byID[s.ID] = p
	g.Steps = append(g.Steps, p)
	return p
}

// needs adds what a step waits for, once each, never itself.
func (s *Step) needs(ids ...string) {
	for _, id := range ids {
		if id != s.ID && !slices.Contains(s.Needs, id) {
			s.Needs = append(s.Needs, id)
		}
	}
}

// solve gives every step its outcome. What waits in a circle never comes up in either reading.
func (g *Graph) solve() {
	proven, hoped := g.comesUp(false), g.comesUp(true)
	for _, s := range g.Steps {
		switch {
		case proven[s.ID]:
			s.Outcome = Up
		case hoped[s.ID]:
			s.Outcome = Unproven
		default:
			s.Outcome = Stuck
		}
	}
}

// comesUp is the least set of steps that come up, with what is not known taken as there or not.
func (g *Graph) comesUp(hope bool) map[string]bool {
	up := map[string]bool{}
	for changed := true; changed; {
		changed = false
		for _, s := range g.Steps {
			if !up[s.ID] && s.State != Missing && (hope || s.State != Unknown) && g.all(s.Needs, up) {
				up[s.ID], changed = true, true
			}
		}
	}
	return up
}

func (g *Graph) all(ids []string, up map[string]bool) bool {
	return !slices.ContainsFunc(ids, func(id string) bool { return !up[id] })
}

// Chain follows a step that does not come up to the reason: a step of whose needs none is to blame, or the
// first one that the chain meets again.
func (g *Graph) Chain(id string) []*Step {
	var chain []*Step
	for s := g.byID[id]; s != nil; s = g.blamed(s) {
		again := slices.Contains(chain, s)
		chain = append(chain, s)
		if again {
			break
		}
	}
	return chain
}

// blamed is what holds a step back: a need that is stuck, else one that is unproven; nil: the step itself.
func (g *Graph) blamed(s *Step) *Step {
	if s.State == Missing || s.Outcome == Unproven && s.State == Unknown {
		return nil
	}
	for _, o := range []Outcome{Stuck, Unproven} {
		for _, id := range s.Needs {
			if n := g.byID[id]; n != nil && n.Outcome == o {
				return n
			}
		}
		if s.Outcome == o {
			break
		}
	}
	return nil
}
