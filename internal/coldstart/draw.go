package coldstart

import (
	"fmt"
	"io"
	"strings"
)

// Mermaid draws the graph for Markdown viewers: arrows go from what comes first to what waits for it.
func (g *Graph) Mermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	number := g.numbers()
	for _, s := range g.Steps {
		fmt.Fprintf(&b, "  n%d%s:::%s\n", number[s.ID], mermaidShape(s), s.Outcome)
	}
	for _, s := range g.Steps {
		for _, id := range s.Needs {
			fmt.Fprintf(&b, "  n%d --> n%d\n", number[id], number[s.ID])
		}
	}
	b.WriteString("  classDef up fill:#e6f4ea,stroke:#1e7b34\n  classDef unproven fill:#fff4d6,stroke:#9a6700,stroke-dasharray:4\n" +
		"  classDef stuck fill:#fde8e8,stroke:#b42318,stroke-width:3px\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func mermaidShape(s *Step) string {
	text := strings.NewReplacer(`"`, "'", "\n", " ", "<", "(", ">", ")").Replace(caption(s))
	switch s.Kind {
	case KindImage:
		return `[("` + text + `")]`
	case KindUnit:
		return `[["` + text + `"]]`
	case KindMirror:
		return `{{"` + text + `"}}`
	}
	return `["` + text + `"]`
}

// caption says the outcome in words too: a colour alone says nothing on paper.
func caption(s *Step) string {
	if s.Outcome == Up {
		return s.Label
	}
	return strings.ToUpper(string(s.Outcome)) + ": " + s.Label
}

// DOT draws the graph for Graphviz.
func (g *Graph) DOT(w io.Writer) error {
	var b strings.Builder
	b.WriteString("digraph coldstart {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n")
	number := g.numbers()
	for _, s := range g.Steps {
		fmt.Fprintf(&b, "  n%d [label=%s, %s];\n", number[s.ID], dotString(caption(s)), dotStyle(s))
	}
	for _, s := range g.Steps {
		for _, id := range s.Needs {
			fmt.Fprintf(&b, "  n%d -> n%d;\n", number[id], number[s.ID])
		}
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func dotString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s) + `"`
}

func dotStyle(s *Step) string {
	shape := map[Kind]string{KindUnit: "component", KindImage: "cylinder", KindPod: "box", KindVolume: "folder", KindPart: "ellipse", KindMirror: "hexagon"}[s.Kind]
	switch s.Outcome {
	case Stuck:
		return "shape=" + shape + ", color=red, penwidth=3"
	case Unproven:
		return "shape=" + shape + ", color=orange, style=dashed"
	}
	return "shape=" + shape + ", color=darkgreen"
}

func (g *Graph) numbers() map[string]int {
	out := make(map[string]int, len(g.Steps))
	for i, s := range g.Steps {
		out[s.ID] = i
	}
	return out
}
