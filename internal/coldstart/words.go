package coldstart

import "strings"

// Words tells a chain: "a waits for b -> which waits for image x -> which only the mirror has".
func Words(chain []*Step) string {
	if len(chain) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(chain[0].Label)
	for i, s := range chain[1:] {
		before := chain[i]
		switch {
		case before.Kind == KindImage && s.Kind == KindMirror:
			has := " has"
			if before.State == Unknown {
				has = " could have"
			}
			b.WriteString(", which only " + s.Label + has)
		case i == 0:
			b.WriteString(" waits for " + s.Label)
		default:
			b.WriteString(" -> which waits for " + s.Label)
		}
	}
	last := chain[len(chain)-1]
	switch {
	case circle(chain):
		b.WriteString(": a circle")
	case last.Detail != "":
		b.WriteString(": " + last.Detail)
	}
	return b.String()
}

// circle says whether a chain ends where it has been.
func circle(chain []*Step) bool {
	last := chain[len(chain)-1]
	for _, s := range chain[:len(chain)-1] {
		if s == last {
			return true
		}
	}
	return false
}
