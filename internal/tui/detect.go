package tui

import (
	"fmt"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// surveyed is what came of looking at the machine.
type surveyed struct {
	survey app.Survey
	err    error
}

// detectScreen is step 1: what this machine is, and what to do with it.
type detectScreen struct {
	choice choice
}

func (s *detectScreen) about(m *model) about {
	return about{"This machine", "What edgeprep found out about this machine by reading files, units and sockets. Nothing is changed by looking, " +
		"and nothing on the node is changed before step 7. The answers of the next steps go into the plan file, " +
		"edgeprep.toml, which every command reads. d shows where each fact comes from.", m.opts.Command + " detect"}
}

func (s *detectScreen) ready(*model) string { return "" }

func (s *detectScreen) enter(m *model) tea.Cmd {
	if m.seen {
		return nil
	}
	return s.look(m)
}

func (s *detectScreen) look(m *model) tea.Cmd {
	m.busy = "looking at this machine"
	return func() tea.Msg {
		found, err := m.prog.Survey(m.ctx)
		return surveyed{found, err}
	}
}

func (s *detectScreen) update(m *model, msg tea.Msg) tea.Cmd {
	if l, ok := msg.(loaded); ok && l.err == nil && m.draft.open() && m.draft.file.Name == l.draft.Name {
		if m.at == 0 {
			return m.goTo(1)
		}
	}
	return nil
}

// choices are what can be done on this machine, the usual one first.
func (s *detectScreen) choices(m *model) []option {
	open := func(name string) func(*model) tea.Cmd {
		return func(m *model) tea.Cmd { return m.load(name) }
	}
	var out []option
	switch {
	case m.draft.open():
		out = append(out, option{"go on", "Go on with " + m.draft.file.Name, func(m *model) tea.Cmd { return m.goTo(1) }})
	case m.survey.Configured:
		out = append(out, option{"continue", "Continue: " + m.survey.Config, open("")})
	case m.survey.Node.Started:
		out = append(out, option{"new", "New plan; this node has already run", open("")})
	default:
		out = append(out, option{"new", "New plan for this site", open("")})
	}
	return append(out, option{"other", "Open another plan file...", func(m *model) tea.Cmd {
		return m.open(newEditor("Plan file", "an absolute path", m.survey.Config, func(m *model, name string) (tea.Cmd, string) {
			if !strings.HasPrefix(name, "/") {
				return nil, "an absolute path, please"
			}
			return m.load(name), ""
		}))
	}})
}

func optionIDs(list []option) []string {
	var ids []string
	for _, o := range list {
		ids = append(ids, o.id)
	}
	return ids
}

func (s *detectScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	switch {
	case m.busy != "":
		return nil
	case msg.String() == "r":
		return s.look(m)
	case !m.seen:
		return nil
	case msg.String() == "d":
		return m.open(&text{name: "What was looked at", lines: evidence})
	}
	list := s.choices(m)
	if s.choice.move(m.keys, msg, optionIDs(list)) || !is(msg, m.keys.choose) {
		return nil
	}
	return list[s.choice.index(optionIDs(list))].do(m)
}

func (s *detectScreen) view(m *model, width int) body {
	var b body
	if !m.seen {
		b.add(ln(" Looking at this machine. Nothing is changed."))
		return b
	}
	b.add(ln(" Looked at this machine. Nothing has been changed."))
	b.blank()
	for _, f := range facts(m.survey) {
		b.add(f.lines(width)...)
	}
	b.blank()
	b.add(ln(" What do you want to do?"))
	list := s.choices(m)
	for i, o := range list {
		if s.choice.on(optionIDs(list), i) {
			b.focus(ln(" ", m.look.cursor(true), span{accent, o.label}))
			continue
		}
		b.add(ln(" ", m.look.cursor(false), o.label))
	}
	return b
}

// fact is one thing that was found: what it is, its value, and where it comes from or what it means.
type fact struct {
	label, value, note string
	role               role
}

// lines shows a fact on one row where it fits. Where it does not, the note goes below when it asks for something,
// else away.
func (f fact) lines(width int) []line {
	const label, value = 17, 26
	row := ln(pad("   "+f.label, label), span{f.role, pad(f.value, value)}, span{dim, f.note})
	if len(f.value) < value && row.width() <= width {
		return []line{row}
	}
	rows := labelled(width, "   "+f.label, label, f.role, f.value)
	if f.note != "" && f.role != plain {
		rows = append(rows, para(width, 5, dim, f.note)...)
	}
	return rows
}

func facts(s app.Survey) []fact {
	out := distribution(s)
	switch {
	case s.Images < 0:
		out = append(out, fact{"Images", "not known", s.NoImages, plain})
	default:
		out = append(out, fact{"Images", fmt.Sprintf("%d in containerd", s.Images), "namespace " + s.Node.Runtime.Endpoint.Namespace, plain})
	}
	out = append(out, fact{"Disk", progress.Bytes(s.Disk.Free) + " free", s.DataDir, plain})
	if !s.Facts.Root {
		out = append(out, fact{"Rights", "not root [WARN]", "apply needs: sudo edgeprep", warn})
	}
	return append(out, lastRun(s))
}

func distribution(s app.Survey) []fact {
	if s.Problem != nil {
		return []fact{{"Distribution", "not known [WARN]", why(s.Problem), warn}}
	}
	n := s.Node
	state := "installed, never started"
	if n.Started {
		state = "has run before"
	}
	if n.Untested != "" {
		state = "untested: " + n.Untested
	}
	out := []fact{{"Distribution", strings.TrimSpace(n.Name + " " + n.Version), string(n.Role) + ", " + state, plain}}
	switch {
	case n.Runtime.External != "":
		out = append(out, fact{"Runtime", n.Runtime.External, "not the distribution's own", plain})
	default:
		out = append(out, fact{"Runtime", strings.TrimSpace("containerd " + n.Runtime.Version), n.Runtime.Endpoint.Socket, plain})
	}
	return append(out, fact{"Registries", n.Registries.Format, registriesPath(n), plain})
}

func registriesPath(n distro.Node) string {
	if n.Registries.File != "" {
		return n.Registries.File
	}
	return n.Registries.CertsD
}

func lastRun(s app.Survey) fact {
	f := fact{"Earlier run", "none", "", plain}
	if s.LastRun != "" {
		f.value = s.LastRun
	}
	if r := s.LastResult; r != nil && r.Outcome != "" {
		f.note = "the last one: " + string(r.Outcome)
	}
	return f
}

// evidence says where each fact comes from.
func evidence(m *model, width int) []line {
	var out []line
	if err := m.survey.Problem; err != nil {
		out = append(out, errorLines(width, err)...)
		out = append(out, line{})
	}
	for _, e := range m.survey.Node.Evidence {
		out = append(out, labelled(width, " "+e.Fact, 18, plain, e.Value)...)
		out = append(out, para(width, 18, dim, "from "+e.Source)...)
	}
	for _, n := range m.survey.Node.Notes {
		out = append(out, line{})
		out = append(out, para(width, 1, warn, "Note: "+n)...)
	}
	return out
}

func (s *detectScreen) keys(m *model) []key.Binding {
	return []key.Binding{on("up/down", "move"), on("enter", "choose"), on("d", "details"), on("r", "look again")}
}
