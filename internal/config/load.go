package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// Parse reads edgeprep.toml: strict, with defaults filled in, all problems at once. name is what messages
// call the file. A Report with errors means that the Site must not be used.
func Parse(name string, data []byte) (Site, diag.Report) {
	s := defaults()
	p := problems{file: name, src: string(data)}
	if ds := p.unreadable(toml.Unmarshal(data, &s)); ds != nil {
		return s, ds
	}
	p.pos, _ = tomledit.Positions(data)
	p.unknownKeys(data)
	p.site(&s)
	s.fill()
	return s, p.found
}

// defaults are the values that a missing key means, where that is not the zero value.
func defaults() Site {
	return Site{
		Distro:      Distro{Kind: "auto"},
		Images:      Images{Preload: true},
		Mirror:      Mirror{Mode: string(ModeSystemd), Cache: DefaultCache, Upstream: UpstreamConnected, DefaultRegistry: DefaultRegistry, Limits: Limits{MinFree: DefaultMinFree, ScrubPeriod: DefaultScrub}},
		Registries:  Registries{Write: true},
		Replication: Replication{Engine: "none"},
		Failover:    Failover{Mode: "manual"},
		Checklist:   Checklist{Profile: "stage", Out: "/var/lib/edgeprep/reports"},
	}
}

// fill sets what depends on other values.
func (s *Site) fill() {
	if w := &s.Mirror.Workload; s.Mirror.Mode == string(ModeWorkload) {
		w.Form = firstOf(w.Form, FormStaticPod)
		if w.Form == FormDeployment && w.NodePort == 0 {
			w.NodePort = DefaultNodePort
		}
	}
	for i := range s.Nodes {
		if s.Nodes[i].Mirror == "" {
			s.Nodes[i].Mirror = "replica"
			if !slices.ContainsFunc(s.Nodes, func(n Node) bool { return n.Mirror == "primary" }) {
				s.Nodes[i].Mirror = "primary"
			}
		}
	}
}

// problems collects findings about one file.
type problems struct {
	file  string
	src   string
	pos   tomledit.Index
	found diag.Report
}

// unreadable turns a decoding error into findings; nil when the file could be decoded.
func (p *problems) unreadable(err error) diag.Report {
	if err == nil {
		return nil
	}
	d := &diag.Diagnostic{ID: "CFG-001", Severity: diag.Error, What: "not readable as TOML: " + strings.TrimPrefix(err.Error(), "toml: "),
		Where: diag.Where{File: p.file}, Fix: "correct the line, then: edgeprep validate -c " + p.file}
	var de *toml.DecodeError
	if !errors.As(err, &de) {
		return diag.Report{d}
	}
	d.Where.Line, d.Where.Col = de.Position()
	d.Where.Key = strings.Join(de.Key(), ".")
	d.Where.Excerpt = p.excerpt(d.Where.Line, d.Where.Col, 1)
	if f, ok := fieldAt(reflect.TypeFor[Site](), de.Key()); ok {
		d.ID, d.What = "CFG-002", fmt.Sprintf("%s must be %s", d.Where.Key, typeName(f))
		d.Fix = "write it as " + example(d.Where.Key, f)
	}
	return diag.Report{d}
}

// unknownKeys reports every key that no field takes: a typo that falls back to a default without a word is
// the worst failure of an unattended tool.
func (p *problems) unknownKeys(data []byte) {
	var strict Site
	err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(&strict)
	var missing *toml.StrictMissingError
	if !errors.As(err, &missing) {
		return
	}
	for _, e := range missing.Errors {
		key := e.Key()
		line, col := e.Position()
		table, name := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
		known := keysAt(reflect.TypeFor[Site](), key[:len(key)-1])
		in := "at the top of the file"
		if table != "" {
			in = "in [" + table + "]"
		}
		p.found.Add(&diag.Diagnostic{ID: "CFG-003", Severity: diag.Error, What: fmt.Sprintf("unknown key %q %s", name, in),
			Where: diag.Where{File: p.file, Line: line, Col: col, Key: strings.Join(key, "."), Excerpt: p.excerpt(line, col, len(name))},
			Fix:   suggestion(name, known)})
	}
}

func suggestion(name string, known []string) string {
	fix := "known keys: " + strings.Join(known, ", ")
	if near := diag.Nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q? %s", near, fix)
	}
	return fix
}

// excerpt shows a line, the one above it, and a marker below n characters.
func (p *problems) excerpt(line, col, n int) string {
	lines := strings.Split(p.src, "\n")
	if line < 1 || line > len(lines) || col > maxExcerpt {
		return ""
	}
	var b strings.Builder
	for l := max(1, line-1); l <= line; l++ {
		fmt.Fprintf(&b, "  %4d | %s\n", l, printable(lines[l-1]))
	}
	fmt.Fprintf(&b, "       | %s%s", strings.Repeat(" ", max(0, col-1)), strings.Repeat("^", min(max(1, n), maxExcerpt)))
	return b.String()
}

// maxExcerpt is how much of a line is shown.
const maxExcerpt = 120

// printable is a line as it can be shown on a terminal: what is not text would be obeyed by it.
func printable(line string) string {
	line = strings.TrimRight(line, "\r")
	if len(line) > maxExcerpt {
		line = line[:maxExcerpt] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, line)
}

// at reports a problem with the value of key ("mirror.listen", "node[1].name").
func (p *problems) at(id, key, what, why, fix string) {
	d := &diag.Diagnostic{ID: id, Severity: diag.Error, What: what, Why: why, Fix: fix, Where: diag.Where{File: p.file, Key: key}}
	if pos, ok := p.pos.Nearest(keyPath(key)...); ok {
		d.Where.Line, d.Where.Col = pos.Line, pos.Col
		d.Where.Excerpt = p.excerpt(pos.Line, pos.Col, 1)
	}
	p.found.Add(d)
}

// keyPath splits "node[1].name" into its steps.
func keyPath(key string) []string {
	return strings.FieldsFunc(key, func(r rune) bool { return strings.ContainsRune(".[]", r) })
}
