package tui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/coldstart"
)

func startCounts(g *coldstart.Graph) (up, unproven, stuck int) {
	for _, s := range g.Steps {
		switch s.Outcome {
		case coldstart.Up:
			up++
		case coldstart.Unproven:
			unproven++
		default:
			stuck++
		}
	}
	return up, unproven, stuck
}

// chain draws what waits for what at power-on, from top to bottom: a step stands below all that it waits for.
func (s *reviewScreen) chain(m *model, width int) []line {
	g := s.review.Start
	if g == nil {
		return para(width, 1, warn, "It cannot be laid out: "+s.review.NoStart)
	}
	known := map[string]*coldstart.Step{}
	for _, x := range g.Steps {
		known[x.ID] = x
	}
	depth := depths(g, known)
	steps := slices.Clone(g.Steps)
	slices.SortStableFunc(steps, func(a, b *coldstart.Step) int { return depth[a.ID] - depth[b.ID] })
	out := []line{ln(" power on")}
	for i, step := range steps {
		if i == 0 || depth[step.ID] != depth[steps[i-1].ID] {
			out = append(out, ln(" "+m.look.pick("│", "|")), ln(" "+m.look.pick("▼", "v")))
		}
		out = append(out, stepLines(width, known, step)...)
	}
	return append(out, line{}, ln(span{dim, " edgeprep check --graph mermaid draws the same"}))
}

func stepLines(width int, known map[string]*coldstart.Step, s *coldstart.Step) []line {
	r := map[coldstart.Outcome]role{coldstart.Up: good, coldstart.Unproven: warn}[s.Outcome]
	if r == plain {
		r = bad
	}
	out := []line{ln(" ", span{r, pad(strings.ToUpper(string(s.Outcome)), 9)}, s.Label)}
	if s.Outcome != coldstart.Up && s.Detail != "" {
		out = append(out, para(width, 10, dim, s.Detail)...)
	}
	var after []string
	for _, id := range s.Needs {
		if n := known[id]; n != nil {
			after = append(after, n.Label)
		}
	}
	const few = 3
	if len(after) > few {
		after = append(after[:few:few], fmt.Sprintf("%d more", len(after)-few))
	}
	if len(after) > 0 {
		out = append(out, para(width, 10, dim, "after "+strings.Join(after, ", "))...)
	}
	return out
}

// depths is how many steps at least come before each; what waits in a circle is counted once.
func depths(g *coldstart.Graph, known map[string]*coldstart.Step) map[string]int {
	depth := map[string]int{}
	var visit func(s *coldstart.Step, path []string) int
	visit = func(s *coldstart.Step, path []string) int {
		if d, ok := depth[s.ID]; ok {
			return d
		}
		if slices.Contains(path, s.ID) {
			return 0
		}
		d := 0
		for _, id := range s.Needs {
			if n := known[id]; n != nil {
				d = max(d, visit(n, append(path, s.ID))+1)
			}
		}
		depth[s.ID] = d
		return d
	}
	for _, s := range g.Steps {
		visit(s, nil)
	}
	return depth
}
