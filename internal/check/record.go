package check

import (
	"maps"
	"slices"

	"github.com/edgeprep/edgeprep/internal/plan"
)

// Tool is the edgeprep that ran.
type Tool struct {
	Version string `json:"version"`          // as edgeprep version prints it
	SHA256  string `json:"sha256,omitempty"` // of the program, hex
}

// Input is a file that a run was about.
type Input struct {
	Name   string `json:"name"`             // "configuration", "archive", "required"
	Path   string `json:"path"`             // on the node
	Size   int64  `json:"size"`             // in bytes
	SHA256 string `json:"sha256,omitempty"` // hex; empty: it could not be read
}

// ImageRecord is an image that containerd has.
type ImageRecord struct {
	Name   string `json:"name"`             // reference, with tag or digest
	Digest string `json:"digest"`           // of its manifest or index
	Pinned bool   `json:"pinned,omitempty"` // kubelet does not collect it
}

// Drift is one thing that is not as it was when the node left.
type Drift struct {
	What    string `json:"what"`    // "image NAME", "file PATH", "check ID", ...
	Was     string `json:"was"`     // when the node left
	Is      string `json:"is"`      // now
	Matters bool   `json:"matters"` // it can keep the node from working
}

// Compare says what changed since an earlier record of the same node.
func Compare(was, is Report) []Drift {
	out := driftOf("machine id", was.Node.MachineID, is.Node.MachineID, true)
	out = append(out, driftOf("host name", was.Node.Hostname, is.Node.Hostname, true)...)
	out = append(out, driftOf("distribution", was.Node.Distro+" "+was.Node.Version, is.Node.Distro+" "+is.Node.Version, true)...)
	out = append(out, driftOf("platform", was.Node.Platform, is.Node.Platform, true)...)
	out = append(out, driftOf("edgeprep", was.Tool.SHA256, is.Tool.SHA256, false)...)
	out = append(out, drifts("file ", inputs(was), inputs(is))...)
	out = append(out, drifts("image ", images(was), images(is))...)
	out = append(out, certificateDrift(was, is)...)
	out = append(out, clockDriftOf(was, is)...)
	for _, x := range is.Results {
		old, ok := was.Result(x.ID)
		if ok && old.Status != x.Status {
			out = append(out, Drift{"check " + x.ID, string(old.Status), string(x.Status), failing(x) && !failing(old)})
		}
	}
	return out
}

func driftOf(what, was, is string, matters bool) []Drift {
	if was == is {
		return nil
	}
	return []Drift{{what, was, is, matters}}
}

// entry is something by name: order keeps the list of the earlier record, then of the later one.
type entry struct{ name, value string }

// drifts compares two lists. What came new does no harm; what went or changed may.
func drifts(kind string, was, is []entry) []Drift {
	now, before := map[string]string{}, map[string]bool{}
	for _, e := range is {
		now[e.name] = e.value
	}
	var out []Drift
	for _, e := range was {
		before[e.name] = true
		switch v, ok := now[e.name]; {
		case !ok:
			out = append(out, Drift{kind + e.name, e.value, "gone", true})
		case v != e.value:
			out = append(out, Drift{kind + e.name, e.value, v, true})
		}
	}
	for _, e := range is {
		if !before[e.name] {
			out = append(out, Drift{kind + e.name, "not there", e.value, false})
		}
	}
	return out
}

func inputs(r Report) []entry {
	var out []entry
	for _, i := range r.Inputs {
		out = append(out, entry{i.Path, i.SHA256})
	}
	return out
}

func images(r Report) []entry {
	var out []entry
	for _, i := range r.Images {
		pin := ""
		if i.Pinned {
			pin = " pinned"
		}
		out = append(out, entry{i.Name, i.Digest + pin})
	}
	return out
}

// inventory lists what containerd has, sorted; nothing where none answers.
func (e *Env) inventory() []ImageRecord {
	if !e.memo.facts.Live {
		return nil
	}
	records, err := e.memo.images()
	if err != nil {
		return nil
	}
	var out []ImageRecord
	for _, name := range slices.Sorted(maps.Keys(records)) {
		img := records[name]
		out = append(out, ImageRecord{name, img.Target.Digest, img.Labels[plan.PinLabel] == "pinned"})
	}
	return out
}
