package tui

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// reviewed is a plan of a draft that was saved first.
type reviewed struct {
	saved     app.Draft
	saveError error
	review    app.Review
	err       error
}

// reviewScreen is step 6: what apply would do, as a diff.
type reviewScreen struct {
	choice   choice
	open     map[string]bool // changes whose diff is shown
	review   app.Review
	err      error
	unsaved  error  // why the plan file is not written
	text     []byte // the draft that was planned
	reviewed bool
}

func (s *reviewScreen) about(m *model) about {
	return about{"Review", "What apply would do on this machine, in order: + adds, ~ changes, - removes, > starts, ! restarts, ? proves. " +
		"It is the plan of the file that was just saved, the same as the command below prints. enter shows what changes in a file, D shows " +
		"everything, c what waits for what when the node is switched on. What is risky is named and has to be allowed: a does it for good, " +
		"in the plan file; A asks for it once. A applies.", m.opts.Command + " plan"}
}

func (s *reviewScreen) ready(m *model) string { return m.needsPlan() }

// enter saves the draft and plans it, unless that was done.
func (s *reviewScreen) enter(m *model) tea.Cmd {
	if s.reviewed && s.err == nil && bytes.Equal(s.text, m.draft.file.Text) {
		return nil
	}
	return s.plan(m)
}

// plan saves and plans in one command: what is shown is the plan of what is on disk.
func (s *reviewScreen) plan(m *model) tea.Cmd {
	m.busy = "saving and planning"
	s.reviewed = false
	d, write := m.draft.file, m.draft.dirty() || !m.draft.file.Exists
	return func() tea.Msg {
		out := reviewed{saved: d}
		if write {
			out.saved, out.saveError = m.prog.Save(m.ctx, d)
		}
		out.review, out.err = m.prog.Review(m.ctx, d)
		return out
	}
}

func (s *reviewScreen) update(m *model, msg tea.Msg) tea.Cmd {
	r, ok := msg.(reviewed)
	if !ok {
		return nil
	}
	m.busy = ""
	s.review, s.err, s.unsaved, s.reviewed = r.review, r.err, r.saveError, true
	s.text = bytes.Clone(r.saved.Text)
	if s.open == nil {
		s.open = map[string]bool{}
	}
	if r.saveError == nil {
		m.onDisk(r.saved)
	}
	return nil
}

func (s *reviewScreen) ids() []string {
	var ids []string
	for _, c := range s.review.Plan.Changes {
		ids = append(ids, c.ID)
	}
	return ids
}

func (s *reviewScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	if msg.String() == "r" && m.busy == "" {
		return s.plan(m)
	}
	if msg.String() == "S" {
		return m.open(saveAs(m))
	}
	if !s.reviewed || s.err != nil {
		return nil
	}
	ids := s.ids()
	switch {
	case s.choice.move(m.keys, msg, ids):
	case is(msg, m.keys.choose) && len(ids) > 0:
		id := ids[s.choice.index(ids)]
		s.open[id] = !s.open[id]
	case msg.String() == "D":
		return m.open(&text{name: "The whole plan", lines: s.whole})
	case msg.String() == "c":
		return m.open(&text{name: "What waits for what at power-on", lines: s.chain})
	case msg.String() == "a":
		return s.allow(m)
	case msg.String() == "A":
		return s.apply(m)
	}
	return nil
}

// saveAs takes another file for the plan from here on.
func saveAs(m *model) dialog {
	return newEditor("Save as", "an absolute path", m.draft.file.Name, func(m *model, name string) (tea.Cmd, string) {
		if !strings.HasPrefix(name, "/") {
			return nil, "an absolute path, please"
		}
		if name != m.draft.file.Name {
			m.draft.file.Name, m.draft.file.Exists, m.draft.file.Read = name, false, nil
		}
		return m.save(nil), ""
	})
}

// risks are those of the plan that the plan file does not allow yet.
func (s *reviewScreen) risks(m *model) []plan.Risk {
	out := s.review.Plan.Risks()
	for _, d := range s.review.Plan.Problems {
		switch d.ID { // risks of the site that no single change carries
		case "APL-060":
			out = append(out, plan.RiskPlainHTTP)
		case "APL-061":
			out = append(out, plan.RiskUntestedDistro)
		}
	}
	return slices.DeleteFunc(out, func(r plan.Risk) bool { return slices.Contains(m.draft.site.Apply.Allow, string(r)) })
}

// allow writes a risk into the plan file, for every run from now on.
func (s *reviewScreen) allow(m *model) tea.Cmd {
	risks := s.risks(m)
	if len(risks) == 0 {
		m.notice = ln("nothing has to be allowed")
		return nil
	}
	a := &ask{name: "Allow a risk for good?", text: "It goes into [apply] allow of the plan file and holds for every run, also unattended ones.",
		options: []option{{"no", "Allow nothing", nil}}}
	for _, r := range risks {
		a.options = append(a.options, option{string(r), string(r) + ": " + meaning(r), func(m *model) tea.Cmd {
			if err := m.draft.set(append(slices.Clone(m.draft.site.Apply.Allow), string(r)), "apply", "allow"); err != nil {
				m.notice = ln(span{bad, why(err)})
				return nil
			}
			return s.plan(m)
		}})
	}
	return m.open(a)
}

func meaning(r plan.Risk) string {
	switch r {
	case plan.RiskRestart:
		return "running services are restarted"
	case plan.RiskOverwrite:
		return "what somebody else changed is overwritten"
	case plan.RiskRemove:
		return "something is removed"
	case plan.RiskPlainHTTP:
		return "images cross the network as plain http"
	}
	return "edgeprep was not tested with this distribution"
}

// apply goes on to step 7 and starts the run there, which asks for every risk by its name.
func (s *reviewScreen) apply(m *model) tea.Cmd {
	if len(s.review.Plan.Problems) > 0 {
		m.notice = ln(span{bad, "apply would refuse: see the problems above; a allows what may be allowed"})
		return nil
	}
	for _, x := range m.screens {
		if a, ok := x.(*applyScreen); ok {
			return a.start(m)
		}
	}
	return nil
}

func (s *reviewScreen) view(m *model, width int) body {
	var b body
	switch {
	case !s.reviewed:
		b.add(ln(" Saving the plan file and working out what apply would do. Nothing else is written."))
		return b
	case s.err != nil:
		b.add(ln(span{bad, " There is no plan yet"}))
		b.blank()
		b.add(errorLines(width, s.err)...)
		s.viewSaved(&b, m, width)
		return b
	}
	p := s.review.Plan
	b.add(para(width, 1, strong, p.Summary())...)
	if w := s.startWord(); w.text != "" {
		b.add(ln(" At power-on: ", w, span{dim, "  c shows it"}))
	}
	for _, d := range p.Problems {
		b.add(findingLines(width, d)...)
	}
	ids := s.ids()
	for i, c := range p.Changes {
		s.viewChange(&b, m, width, c, s.choice.on(ids, i))
	}
	for _, x := range p.Pending {
		b.add(para(width, 3, plain, ". "+x.What+": "+x.Why)...)
	}
	s.viewSaved(&b, m, width)
	return b
}

func (s *reviewScreen) viewSaved(b *body, m *model, width int) {
	b.blank()
	switch {
	case s.unsaved != nil:
		b.add(para(width, 1, warn, "[WARN] not saved: "+why(s.unsaved)+"; S saves under another name")...)
	case m.draft.file.Exists:
		b.add(para(width, 1, plain, "Saved as "+m.draft.file.Name+" (the boot unit reads it too)")...)
	}
	if risks := s.risks(m); len(risks) > 0 {
		b.add(para(width, 1, warn, "[WARN] has to be allowed: "+joinRisks(risks))...)
	}
}

func joinRisks(risks []plan.Risk) string {
	var out []string
	for _, r := range risks {
		out = append(out, string(r)+" ("+meaning(r)+")")
	}
	return strings.Join(out, ", ")
}

func (s *reviewScreen) viewChange(b *body, m *model, width int, c plan.Change, on bool) {
	r := signRole(c.Sign())
	row := ln(" ", m.look.cursor(on), span{r, c.Sign()}, " ", pad(string(c.Kind), 9), " ")
	if on {
		row = ln(row, span{accent, c.Summary})
	} else {
		row = ln(row, c.Summary)
	}
	if d := c.Detail(); d != "" && row.width()+len(d)+2 <= width {
		row = ln(row, span{dim, "  " + d})
	}
	rows := []line{row}
	for _, risk := range c.Risks {
		rows = append(rows, ln("       ", span{warn, "[WARN] needs " + string(risk)}, ": ", c.Reason))
	}
	if s.open[c.ID] {
		rows = append(rows, changeDetail(width, c)...)
	}
	if on {
		b.focus(rows...)
		return
	}
	b.add(rows...)
}

func signRole(sign string) role {
	switch sign {
	case "+", ">":
		return good
	case "-":
		return bad
	case "?":
		return accent
	}
	return warn
}

// changeDetail is what opens below a change.
func changeDetail(width int, c plan.Change) []line {
	var out []line
	if c.Path != "" && c.Path != c.Summary {
		out = append(out, para(width, 7, dim, c.Path)...)
	}
	if c.Reason != "" {
		out = append(out, para(width, 7, dim, c.Reason)...)
	}
	if d := c.Detail(); d != "" {
		out = append(out, para(width, 7, dim, d)...)
	}
	if c.Kind == resource.KindUnit {
		return out
	}
	return append(out, diffLines(c.Diff)...)
}

func diffLines(diff string) []line {
	var out []line
	for _, l := range strings.Split(strings.TrimSuffix(diff, "\n"), "\n") {
		r := plain
		switch {
		case l == "" || strings.HasPrefix(l, "--- ") || strings.HasPrefix(l, "+++ "):
			continue
		case l[0] == '+':
			r = good
		case l[0] == '-':
			r = bad
		case l[0] == '@':
			r = dim
		}
		out = append(out, ln("       ", span{r, l}))
	}
	return out
}

// whole is the plan as the command prints it.
func (s *reviewScreen) whole(_ *model, width int) []line {
	var buf bytes.Buffer
	if err := s.review.Plan.Text(&buf, false); err != nil {
		return errorLines(width, err)
	}
	var out []line
	for _, l := range strings.Split(strings.TrimRight(buf.String(), "\n"), "\n") {
		out = append(out, ln(" "+l))
	}
	return out
}

func (s *reviewScreen) keys(*model) []key.Binding {
	return []key.Binding{on("enter", "open"), on("A", "apply"), on("D", "full diff"), on("c", "cold start"), on("a", "allow"), on("S", "save as")}
}

// startWord is the outcome of the cold start in a word.
func (s *reviewScreen) startWord() span {
	if s.review.Start == nil {
		return span{}
	}
	up, unproven, stuck := startCounts(s.review.Start)
	switch {
	case stuck > 0:
		return span{bad, fmt.Sprintf("STUCK, %d of %d steps never come up", stuck, up+unproven+stuck)}
	case unproven > 0:
		return span{warn, fmt.Sprintf("UNPROVEN, %d of %d steps depend on what is not known", unproven, up+unproven)}
	}
	return span{good, fmt.Sprintf("all %d steps come up", up)}
}
