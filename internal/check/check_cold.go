package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/mirror/deploy"
)

func coldChecks() []Check {
	return []Check{coldUnitsCheck(), coldMirrorCheck(), coldPodsCheck(), coldImagesCheck()}
}

func coldUnitsCheck() Check {
	return Check{
		ID: "COLD-01", Title: "the units start at boot, the mirror's before the distribution's",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "after the first power-on at the site nothing runs, or the first pods fail to pull and back off for minutes",
			Cause:   "a unit was started by hand at staging and never enabled; or the distribution starts beside the mirror, not after it",
			Look:    "whether each unit of the distribution and the mirror's is enabled, and whether the distribution's are ordered After= the mirror's by a file on this disk",
			Fix:     "edgeprep apply writes the ordering and enables the mirror; enable the distribution: systemctl enable UNIT",
			Sources: []string{"systemd.unit(5), After=", "failure-modes: HST-04, MIR-14"},
		},
		Run: runColdUnits,
	}
}

func runColdUnits(ctx context.Context, e *Env) []Finding {
	c := e.memo.cold()
	var out []Finding
	service := e.coldMirror(ctx).Unit
	for _, u := range c.units {
		out = append(out, judgeUnit(u, service != nil && u.Name != e.Node.Runtime.Unit))
	}
	if service != nil {
		out = append(out, judgeUnit(coldUnit{Unit: *service}, false))
	}
	if len(out) == 0 {
		return []Finding{skip("units", "this distribution has no unit")}
	}
	return out
}

// judgeUnit: ordered says whether the unit has to come after the mirror's. A runtime of its own unit need not:
// it pulls nothing by itself.
func judgeUnit(u coldUnit, ordered bool) Finding {
	switch {
	case u.Unknown != "":
		return unproven(u.Name, u.Unknown)
	case u.Problem != "":
		f := Finding{Status: StatusFail, Subject: u.Name, Expected: "started at boot", Observed: u.Problem, Source: "systemctl is-enabled " + u.Name,
			Remedy: Remedy{Text: "start it at boot", Command: "systemctl enable " + u.Name}}
		if u.Name == deploy.UnitName {
			f.Remedy = Remedy{Text: "put it there", Command: "edgeprep apply"}
		}
		return f
	case ordered && !u.after:
		return Finding{Status: StatusWarn, Subject: u.Name, Expected: "After=" + deploy.UnitName, Observed: "no ordering with the mirror: its first pulls may come too early",
			Source: "the unit's files", Remedy: Remedy{Text: "write the ordering", Command: "edgeprep apply"}}
	case ordered:
		return pass(u.Name, "starts at boot, after "+deploy.UnitName, u.source)
	}
	return pass(u.Name, "starts at boot", "systemctl is-enabled "+u.Name)
}

func coldMirrorCheck() Check {
	return Check{
		ID: "COLD-02", Title: "the mirror comes up cold without anything that only the mirror has",
		Severity: SeverityFail, Scope: ScopeNode, Unwaivable: true, Timeout: deepTimeout,
		Story: Story{
			Seen:    "at the site the mirror's pod stays in ErrImagePull or Pending, and every other pod after it",
			Cause:   "the deadlock: the mirror's own image, the pause image, or the images of what it waits for (pod network, service proxy, storage driver) are only in the mirror",
			Look:    "everything that the mirror waits for between power-on and its first answer, from units, static pods and manifests on this disk; for each image who has it at that moment. --graph draws it",
			Fix:     "preload and pin the image that the chain names on every node that may run it, or run the mirror as a systemd service",
			Sources: []string{"containerd/containerd#10660, #5901", "spegel-org/spegel#2", "failure-modes: MIR-01, REG-20"},
		},
		Run: runColdMirror,
	}
}

func runColdMirror(_ context.Context, e *Env) []Finding {
	g := e.memo.cold().graph
	m := g.MirrorStep()
	if m == nil {
		return []Finding{skip("the mirror", "no mirror is configured")}
	}
	return []Finding{judgeStep(g, m)}
}

// judgeStep tells in words why a step does not come up.
func judgeStep(g *coldstart.Graph, s *coldstart.Step) Finding {
	words := strings.TrimPrefix(coldstart.Words(g.Chain(s.ID)), s.Label+": ")
	source := s.Source
	if source == "" {
		source = "units and manifests on this disk, containerd, the mirror's cache"
	}
	switch s.Outcome {
	case coldstart.Up:
		return pass(s.Label, upText(s), source)
	case coldstart.Unproven:
		f := unproven(s.Label, words)
		f.Source = source
		return f
	}
	return Finding{Status: StatusFail, Subject: s.Label, Expected: "comes up with the cable out", Observed: words, Source: source, Remedy: coldRemedy(g.Chain(s.ID))}
}

func upText(s *coldstart.Step) string {
	switch {
	case s.Detail != "":
		return s.Detail
	case s.Kind == coldstart.KindImage:
		return "from the mirror, which is up by then"
	}
	return fmt.Sprintf("each of the %d things that it waits for comes up", len(s.Needs))
}

// coldRemedy is about the image or unit that the chain ends with.
func coldRemedy(chain []*coldstart.Step) Remedy {
	for i := len(chain) - 1; i >= 0; i-- {
		switch chain[i].Kind {
		case coldstart.KindImage:
			return Remedy{Text: "put an archive of the image into [images] archives, so that it is preloaded, then", Command: "edgeprep apply"}
		case coldstart.KindUnit:
			return Remedy{Text: "start it at boot", Command: "systemctl enable " + chain[i].Label}
		}
	}
	return Remedy{Text: "see the drawing", Command: "edgeprep check --graph mermaid"}
}

func coldPodsCheck() Check {
	return Check{
		ID: "COLD-03", Title: "every pod that starts at power-on has somebody who serves its images",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"COLD-02", "IMG-04", "IMG-06"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "some of the cluster's own pods (CNI, CoreDNS, metrics) never start at the site",
			Cause:   "their images were pulled at staging, collected as garbage or never listed, and no archive and no mirror has them",
			Look:    "static pods, the manifests that the distribution applies by itself, and those that wait in " + PendingManifests + ": images with their pull policy, volumes, and what they wait for",
			Fix:     "preload the image that the chain names, or bring it into the mirror's cache",
			Sources: []string{"failure-modes: IMG-02, IMG-04, IMG-06, REG-20"},
		},
		Run: runColdPods,
	}
}

func runColdPods(_ context.Context, e *Env) []Finding {
	c := e.memo.cold()
	out := c.bad
	for _, s := range c.graph.Steps {
		if s.Kind == coldstart.KindPod {
			out = append(out, judgeStep(c.graph, s))
		}
	}
	if len(out) == 0 {
		return []Finding{skip("pods", "no manifest on this disk starts one")}
	}
	return out
}

func coldImagesCheck() Check {
	return Check{
		ID: "COLD-04", Title: "every required reference and the pause image can be had right after power-on",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"COLD-02", "MIR-03", "CRI-10"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "a pod that ran at staging stays in ImagePullBackOff at the site",
			Cause:   "its image is neither on the node nor in a mirror that is up",
			Look:    "for every required reference: containerd's images, archives that the distribution imports at start, the mirror's cache on disk, and whether that mirror comes up",
			Fix:     "edgeprep apply, or edgeprep mirror fill while there is a network",
			Sources: []string{"failure-modes: IMG-01, MIR-01, MIR-03"},
		},
		Run: runColdImages,
	}
}

func runColdImages(_ context.Context, e *Env) []Finding {
	g := e.memo.cold().graph
	var refs []string
	if e.Node.Sandbox != "" {
		refs = append(refs, fullName(e.Node.Sandbox))
	}
	for _, r := range e.Required {
		refs = append(refs, r.Name)
	}
	var out []Finding
	seen := map[string]bool{}
	for _, r := range refs {
		if s := g.ImageStep(r); s != nil && !seen[r] {
			seen[r] = true
			out = append(out, judgeStep(g, s))
		}
	}
	if len(out) == 0 {
		return []Finding{nothingRequired()}
	}
	return out
}
