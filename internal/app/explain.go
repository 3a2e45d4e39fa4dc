package app

import (
	"fmt"
	"io"
	"strings"

	"github.com/edgeprep/edgeprep/docs"
)

// ErrorStory is what is known of an error's id. "..." stands for what only the case itself tells.
type ErrorStory struct {
	ID   string `json:"id"`
	Says string `json:"says"`
	Why  string `json:"why,omitempty"`
	Fix  string `json:"fix,omitempty"`
	From string `json:"from"` // package
}

// Errors are all errors that have an id, in order.
func Errors() []ErrorStory {
	var out []ErrorStory
	for line := range strings.Lines(docs.Errors) {
		cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, "\x00"), "|")
		if len(cells) != 7 || !strings.Contains(cells[1], "-0") && !strings.ContainsAny(cells[1], "123456789") {
			continue
		}
		for i, c := range cells {
			cells[i] = strings.Trim(strings.ReplaceAll(c, "\x00", "|"), " `")
		}
		out = append(out, ErrorStory{ID: cells[1], Says: cells[2], Why: cells[3], Fix: cells[4], From: cells[5]})
	}
	return out
}

// ErrorByID finds an error.
func ErrorByID(id string) (ErrorStory, bool) {
	for _, e := range Errors() {
		if e.ID == id {
			return e, true
		}
	}
	return ErrorStory{}, false
}

// Text writes the story for people.
func (e ErrorStory) Text(w io.Writer) error {
	about := map[string]string{"CFG": "configuration and descriptors", "NOD": "the node and its archives",
		"APL": "plan, apply and rollback", "MER": "the mirror"}[e.ID[:3]]
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n\n", e.ID, about)
	part := func(label, text string) {
		for i, s := range strings.Split(text, "; ") {
			if i > 0 {
				label = ""
			}
			if s != "" {
				fmt.Fprintf(&b, "%-5s %s\n", label, s)
			}
		}
	}
	part("Says", e.Says)
	part("Why", e.Why)
	part("Fix", e.Fix)
	b.WriteString("\nThe message itself says where; with -o json it has the same fields. ... stands for what differs from case to case.\n")
	_, err := io.WriteString(w, b.String())
	return err
}
