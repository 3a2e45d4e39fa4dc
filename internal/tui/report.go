package tui

import (
	"path/filepath"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"rsc.io/qr"

	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/report"
)

// reportScreen is step 9: the paper that leaves with the box.
type reportScreen struct {
	person string
	kept   *report.Kept
	of     *check.Report // the report that was kept
}

func (s *reportScreen) about(m *model) about {
	return about{"Report", "The record of the checklist: JSON with its sha256, and made of it HTML that prints on A4, JUnit, Markdown and text. " +
		"Whoever receives the node compares it on arrival with the record. n is the name of the person who checked; Q shows the code that is on the paper too.",
		m.opts.Command + " check --profile ship --out DIR --by NAME"}
}

func (s *reportScreen) ready(m *model) string {
	if m.checklist().report == nil {
		return "run the checklist first"
	}
	return ""
}

// checklist is the screen that has the result.
func (m *model) checklist() *checkScreen {
	for _, s := range m.screens {
		if c, ok := s.(*checkScreen); ok {
			return c
		}
	}
	return &checkScreen{}
}

func (s *reportScreen) enter(m *model) tea.Cmd {
	if r := m.checklist().report; r != s.of {
		s.kept, s.of = nil, r
	}
	return nil
}

// kept is what came of writing the report.
type kept struct {
	files report.Kept
	err   error
}

func (s *reportScreen) update(m *model, msg tea.Msg) tea.Cmd {
	if k, ok := msg.(kept); ok {
		m.busy = ""
		if k.err != nil {
			return m.fail("the report is not kept", k.err)
		}
		s.kept = &k.files
		m.notice = ln(span{good, "kept"})
	}
	return nil
}

func (s *reportScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	switch {
	case s.of == nil:
	case msg.String() == "n":
		return m.open(newEditor("checked by", "a person's name, for the record", s.person, func(_ *model, text string) (tea.Cmd, string) {
			s.person, s.kept = text, nil
			return nil, ""
		}))
	case msg.String() == "Q" && s.kept != nil:
		return s.showQR(m)
	case is(msg, m.keys.choose) && s.kept == nil:
		r := *s.of
		r.Person = s.person
		m.busy = "writing the report"
		return func() tea.Msg {
			k, err := m.prog.Keep(m.ctx, r)
			return kept{k, err}
		}
	case is(msg, m.keys.choose):
		return m.leave()
	}
	return nil
}

func (s *reportScreen) keys(*model) []key.Binding {
	if s.kept == nil {
		return []key.Binding{on("enter", "keep the report"), on("n", "name")}
	}
	return []key.Binding{on("enter", "finish"), on("Q", "show QR"), on("n", "name")}
}

func (s *reportScreen) view(m *model, width int) body {
	var b body
	if s.of == nil {
		b.add(para(width, 1, plain, "There is nothing to report yet: run the checklist first.")...)
		return b
	}
	b.add(ln(verdictLine(*s.of), "   ", report.Counts(s.of.Counts)).clip(width), line{})
	name := s.person
	if name == "" {
		name = "nobody named yet (n)"
	}
	b.add(ln("   Checked by  ", span{strong, name}).clip(width), line{})
	if s.kept == nil {
		b.add(para(width, 3, plain, "enter keeps the record as JSON, and HTML, JUnit, Markdown and text beside it, in "+
			orDefault(m.draft.site.Checklist.Out)+".")...)
		return b
	}
	for i, f := range s.kept.Files {
		if i == 0 {
			b.add(ln("   In ", filepath.Dir(f)).clip(width))
		}
		b.add(ln("     ", filepath.Base(f)).clip(width))
	}
	b.add(line{})
	b.add(labelled(width, "   sha256", 12, plain, grouped(s.kept.SHA256))...)
	b.add(line{})
	b.add(para(width, 3, plain, "Give this to whoever receives the node. At the site:")...)
	b.add(para(width, 5, strong, m.opts.Command+" check --profile arrival --against "+filepath.Base(s.kept.Record))...)
	return b
}

func orDefault(dir string) string {
	if dir == "" {
		return "/var/lib/edgeprep/reports"
	}
	return dir
}

// grouped is a digest in groups of four, to be compared by eye.
func grouped(hex string) string {
	var out []string
	for len(hex) > 4 {
		out, hex = append(out, hex[:4]), hex[4:]
	}
	return strings.Join(append(out, hex), " ")
}

// showQR shows the code that is on the paper. Half blocks need Unicode and the room; elsewhere the digest is to
// be compared by eye.
func (s *reportScreen) showQR(m *model) tea.Cmd {
	name := report.Ticket(*s.of, s.kept.SHA256)
	code, err := qr.Encode(name, qr.M)
	if err != nil {
		return m.fail("there is no code", err)
	}
	rows := halfBlocks(code)
	if m.look.ASCII || m.width < len([]rune(rows[0]))+4 || m.height < len(rows)+7 {
		m.notice = ln(span{warn, "no room or no characters for the code here: " + name})
		return nil
	}
	return m.open(&text{name: name, lines: func(*model, int) []line {
		var out []line
		for _, r := range rows {
			out = append(out, ln("  ", r))
		}
		return out
	}})
}

// halfBlocks draws a code two rows of modules to a line, with the margin that readers need.
func halfBlocks(code *qr.Code) []string {
	const margin = 1
	var out []string
	for y := -margin; y < code.Size+margin; y += 2 {
		var b strings.Builder
		for x := -margin; x < code.Size+margin; x++ {
			up, down := code.Black(x, y), code.Black(x, y+1)
			switch { // light on dark terminals: what is white in the code is drawn
			case up && down:
				b.WriteRune(' ')
			case up:
				b.WriteRune('▄')
			case down:
				b.WriteRune('▀')
			default:
				b.WriteRune('█')
			}
		}
		out = append(out, b.String())
	}
	return out
}
