package tui

import (
	"fmt"
	"strconv"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// checkScreen is step 8: the checklist.
type checkScreen struct {
	report *check.Report // nil: not run yet
	feed   *feed
	over   chan struct{}
	seen   int    // checks that ended so far
	last   string // the last of them
	failed bool   // show only what keeps it from PASS
	open   map[string]bool
	choice choice
}

func (s *checkScreen) about(m *model) about {
	return about{"Pre-shipment check", "What must be true of this node before the cable is pulled, checked without changing anything. A check that follows " +
		"from another one is shown under it. READY is PASS: every check ran and passed while no way out was open. What could not be run is " +
		"said, never left out.", m.opts.Command + " check --profile ship"}
}

func (s *checkScreen) ready(m *model) string { return m.needsPlan() }

func (s *checkScreen) running() bool { return s.feed != nil }

// enter runs the checklist the first time: it changes nothing.
func (s *checkScreen) enter(m *model) tea.Cmd {
	if s.report != nil || s.running() {
		return nil
	}
	return s.start(m)
}

// checked is what came of the checklist.
type checked struct {
	report check.Report
	err    error
}

func (s *checkScreen) start(m *model) tea.Cmd {
	f, over := newFeed(), make(chan struct{})
	s.feed, s.over, s.seen, s.last = f, over, 0, ""
	opts := app.CheckOptions{Profile: check.ProfileShip, Waivers: s.unsaved(m)}
	run := func() tea.Msg {
		r, err := m.prog.Check(m.ctx, opts, f)
		return checked{r, err}
	}
	return tea.Batch(run, f.listen(over))
}

// unsaved are the waivers that are in the draft and not in its file yet.
func (s *checkScreen) unsaved(m *model) []config.Waiver {
	if !m.draft.dirty() {
		return nil
	}
	return m.draft.site.Checklist.Waive
}

func (s *checkScreen) update(m *model, msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case happened:
		if msg.from != s.feed {
			return nil
		}
		for _, e := range msg.events {
			if e.Type == progress.CheckResult {
				s.seen, s.last = s.seen+1, e.Step+" "+e.Msg
			}
		}
		return s.feed.listen(s.over)
	case checked:
		close(s.over)
		s.feed = nil
		if msg.err != nil {
			return m.fail("the checklist cannot be run", msg.err)
		}
		s.report = &msg.report
		m.checked(msg.report)
	case ended:
		s.report = nil // the node is another one now
	}
	return nil
}

// checked keeps the outcome for the exit code.
func (m *model) checked(r check.Report) {
	m.outcome = nil
	if code := r.ExitCode(); code != 0 {
		m.outcome = &Failed{Exit: code}
	}
}

// rows are the results to show: those that follow from another one are told there.
func (s *checkScreen) rows() []check.Result {
	var out []check.Result
	for _, r := range s.report.Results {
		good := r.Status == check.StatusPass || r.Status == check.StatusSkip && !r.Owed() || r.Waived != nil
		if len(r.CausedBy) > 0 || s.failed && good {
			continue
		}
		out = append(out, r)
	}
	return out
}

func (s *checkScreen) ids() []string {
	var ids []string
	for _, r := range s.rows() {
		ids = append(ids, r.ID)
	}
	return ids
}

func (s *checkScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	if s.running() {
		return nil
	}
	if msg.String() == "r" || s.report == nil && is(msg, m.keys.choose) {
		return s.start(m)
	}
	if s.report == nil || s.choice.move(m.keys, msg, s.ids()) {
		return nil
	}
	switch {
	case msg.String() == "f":
		s.failed = !s.failed
	case is(msg, m.keys.choose) && len(s.ids()) > 0:
		if s.open == nil {
			s.open = map[string]bool{}
		}
		id := s.ids()[s.choice.index(s.ids())]
		s.open[id] = !s.open[id]
	case msg.String() == "W" && len(s.ids()) > 0:
		return s.waive(m, s.ids()[s.choice.index(s.ids())])
	}
	return nil
}

func (s *checkScreen) keys(*model) []key.Binding {
	if s.running() || s.report == nil {
		return []key.Binding{on("enter", "run the checklist")}
	}
	return []key.Binding{on("enter", "details"), on("r", "run again"), on("f", "only what is missing"), on("W", "waive")}
}

// waive asks who accepts a failure, why, and until when; the answer goes into edgeprep.toml.
func (s *checkScreen) waive(m *model, id string) tea.Cmd {
	c, _ := check.ByID(id)
	if c.Unwaivable {
		m.notice = ln(span{warn, id + " cannot be waived: without it the node does not work"})
		return nil
	}
	w := config.Waiver{ID: id}
	return m.open(newEditor("why "+id+" is accepted", "one sentence", "", func(m *model, text string) (tea.Cmd, string) {
		if w.Reason = text; text == "" {
			return nil, "a reason is needed"
		}
		return m.open(newEditor("who accepts it", "a person's name", "", func(m *model, text string) (tea.Cmd, string) {
			if w.Owner = text; text == "" {
				return nil, "a name is needed"
			}
			return m.open(newEditor("until", "YYYY-MM-DD, empty: no end", "", func(m *model, text string) (tea.Cmd, string) {
				w.Until = text
				if err := m.draft.edit(func(d *tomledit.Doc) (*tomledit.Doc, error) { return withWaiver(d, w) }); err != nil {
					return nil, why(err)
				}
				m.notice = ln(span{good, id + " is waived; s saves it, r runs the checklist again"})
				return nil, ""
			})), ""
		})), ""
	}))
}

// withWaiver adds a waiver at the end of the document, where tables may always begin.
func withWaiver(d *tomledit.Doc, w config.Waiver) (*tomledit.Doc, error) {
	var b strings.Builder
	b.Write(d.Bytes())
	if text := b.String(); text != "" && !strings.HasSuffix(text, "\n") {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n[[checklist.waive]]\nid = %s\nreason = %s\nowner = %s\n", strconv.Quote(w.ID), strconv.Quote(w.Reason), strconv.Quote(w.Owner))
	if w.Until != "" {
		fmt.Fprintf(&b, "until = %s\n", strconv.Quote(w.Until))
	}
	return tomledit.Parse([]byte(b.String()))
}

func (s *checkScreen) view(m *model, width int) body {
	var b body
	switch {
	case s.running():
		b.add(ln(span{strong, fmt.Sprintf(" %d of %d checks", s.seen, len(check.Catalogue()))}), line{}, ln("   ", s.last).clip(width))
		return b
	case s.report == nil:
		b.add(para(width, 1, plain, "The checklist has not been run since the node was changed. enter runs it; it changes nothing.")...)
		return b
	}
	r := *s.report
	if m.compact() {
		b.add(verdictLine(r))
	} else {
		b.add(verdictLines(width, r)...) // above the list, which is longer than most terminals
	}
	b.add(s.counts(r), line{})
	ids := s.ids()
	for i, x := range s.rows() {
		rows := s.result(m, width, x, s.choice.on(ids, i))
		if s.choice.on(ids, i) {
			b.focus(rows...)
			continue
		}
		b.add(rows...)
	}
	if len(ids) == 0 {
		b.add(ln("   nothing is missing"))
	}
	return b
}

func (s *checkScreen) counts(r check.Report) line {
	c := r.Counts
	out := ln(" ", span{good, fmt.Sprintf("%d pass", c.Pass)})
	for _, x := range []struct {
		n    int
		word string
		role role
	}{{c.Warn, "warn", warn}, {c.Fail, "FAIL", bad}, {c.Error, "ERROR", bad}, {c.Unproven, "unproven", warn}, {c.Skip, "not run", dim}, {c.Waived, "waived", warn}} {
		if x.n > 0 {
			out = ln(out, "  ", span{x.role, fmt.Sprintf("%d %s", x.n, x.word)})
		}
	}
	return ln(out, "   ", span{dim, "egress " + string(r.Egress.State)})
}

// result is one check, with its findings when it is open.
func (s *checkScreen) result(m *model, width int, r check.Result, here bool) []line {
	word, role := statusWord(r)
	name := plain
	if here {
		name = accent
	}
	out := []line{ln(" ", m.look.cursor(here), span{role, pad(word, 8)}, " ", span{name, pad(r.ID, 8)}, " ", r.Title).clip(width)}
	if !s.open[r.ID] {
		return out
	}
	if w := r.Waived; w != nil {
		out = append(out, labelled(width, "             waived", 23, warn, w.Reason+" ("+strings.TrimSpace(w.Owner+" "+w.Until)+")")...)
	}
	for _, f := range r.Findings {
		out = append(out, findingRows(width, f)...)
	}
	for _, x := range s.report.Results {
		if len(x.CausedBy) > 0 && x.CausedBy[0] == r.ID {
			out = append(out, ln("             leads to  ", span{warn, x.ID}, " "+x.Title).clip(width))
		}
	}
	return out
}

func findingRows(width int, f check.Finding) []line {
	const at = 13
	var out []line
	row := func(label string, r role, text string) {
		if text != "" {
			out = append(out, labelled(width, strings.Repeat(" ", min(at, width/6))+label, min(at, width/6)+10, r, text)...)
		}
	}
	row("", strong, strings.TrimSpace(f.Subject+"  "+string(f.Status)))
	row("expected", plain, f.Expected)
	row("found", plain, f.Observed)
	row("because", plain, f.Reason)
	row("source", dim, f.Source)
	if f.Status != check.StatusPass {
		row("fix", good, f.Remedy.String())
	}
	return out
}

func statusWord(r check.Result) (string, role) {
	if r.Waived != nil {
		return "WAIVED", warn
	}
	switch r.Status {
	case check.StatusPass:
		return "PASS", good
	case check.StatusFail:
		return "FAIL", bad
	case check.StatusError:
		return "ERROR", bad
	case check.StatusWarn:
		return "WARN", warn
	case check.StatusUnproven:
		return "UNPROVEN", warn
	}
	if r.Owed() {
		return "not run", warn
	}
	return "n/a", dim
}

// verdictLines are the verdict in words, and what would make it READY.
func verdictLines(width int, r check.Report) []line {
	out := []line{verdictLine(r)}
	for i, x := range r.Missing {
		if i == 3 {
			out = append(out, ln(fmt.Sprintf("   ... and %d more", len(r.Missing)-i)))
			break
		}
		out = append(out, para(width, 3, plain, strings.TrimSpace(strings.Join(x.IDs, ", ")+" "+x.Text))...)
	}
	return out
}

func verdictLine(r check.Report) line {
	switch r.Verdict {
	case check.VerdictPass:
		return ln(" ", span{good, "READY TO SHIP"}, "  PASS")
	case check.VerdictUnproven:
		return ln(" ", span{warn, "NOT PROVEN YET"}, "  PASS-UNPROVEN: nothing failed, a proof is missing")
	}
	return ln(" ", span{bad, "NOT READY TO SHIP"}, "  FAIL")
}
