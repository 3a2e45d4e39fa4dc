package check

import (
	"context"
	"fmt"
)

// egressID is the check that judges what the watcher saw.
const egressID = "PRC-03"

func egressCheck() Check {
	return Check{
		ID: egressID, Title: "egress was cut while the checks ran", Severity: SeverityFail, Scope: ScopeRehearsal,
		Last: true,
		Story: Story{
			Seen:  "everything is green in the lab and dead on site",
			Cause: "with a network, a missing image is pulled quietly and every other check passes for the wrong reason",
			Look: "before, after and every 5 s during the run, from this node's network namespace: each upstream registry " +
				"by name and at the addresses recorded at staging (TCP, 2 s), [checklist] egress_probes, and both through every configured proxy; " +
				"routes and links must not change meanwhile",
			Fix:     "take the uplink away (pull the cable, drop the default route) and run edgeprep check again",
			Sources: []string{"polarsquad/krops#372 (\"a connected runner hides this\")"},
		},
		Run: runEgress,
	}
}

func runEgress(_ context.Context, e *Env) []Finding {
	got := e.memo.egress
	source := fmt.Sprintf("%d samples of %d probes", got.Samples, len(got.Probes))
	again := Remedy{Text: "cut the uplink and run it again", Command: "edgeprep check"}
	if !e.memo.facts.Live {
		return []Finding{deferred("egress", got.Reason)}
	}
	switch got.State {
	case EgressCut:
		return closedProbes(got.Probes, pass("egress", "every probe failed in every sample", source))
	case EgressOpen:
		return openProbes(got.Probes, again)
	}
	f := unproven("egress", got.Reason)
	f.Source, f.Remedy = source, again
	return []Finding{f}
}

// openProbes is one finding per way out. It is unproven, not failed: the node may be right, but a run with a
// network says nothing about it.
func openProbes(probes []Probe, again Remedy) []Finding {
	var out []Finding
	for _, p := range probes {
		if p.Reached == 0 {
			continue
		}
		out = append(out, Finding{
			Status: StatusUnproven, Subject: p.Target, Expected: "not reachable", Observed: p.Last,
			Source: p.How, Remedy: again, Reason: "reachable " + p.How + ": a result with a network proves nothing about the node without one",
		})
	}
	return out
}

// closedProbes lists each way out that was tried, so that the record shows what "cut" rests on.
func closedProbes(probes []Probe, all Finding) []Finding {
	out := []Finding{all}
	for _, p := range probes {
		f := pass(p.Target, p.Last, fmt.Sprintf("%s, %d tries", p.How, p.Tries))
		f.Expected = "not reachable"
		out = append(out, f)
	}
	return out
}
