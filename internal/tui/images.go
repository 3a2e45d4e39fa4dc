package tui

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// covered is what came of reading the archives.
type covered struct {
	coverage app.Coverage
	err      error
}

// imagesScreen is step 3: which archives are preloaded, and whether they hold what is required.
type imagesScreen struct {
	choice   choice
	filter   string
	found    app.Coverage
	err      error
	read     bool
	patterns string // what was read for
	feed     *feed
	reading  chan struct{} // closed when the archives are read
	last     progress.Event
	pull     *pull // nil: none goes on
}

func (s *imagesScreen) about(m *model) about {
	command := m.opts.Command + " check TAR-01"
	if refs := missing(s.found); len(refs) > 0 && s.found.Pull.No == nil {
		command = fillCommand(s.found.Pull, refs)
	}
	return about{"Images", "The archives that are loaded on this node before its first start. space chooses one; an archive for another " +
		"architecture cannot be chosen. The list of required images says what has to be there with no network: the first bar shows how " +
		"much of it the chosen archives, and the cache of this node's mirror, hold. The second bar is the disk: what is used, and what the chosen archives will take. " +
		"i shows what is in an archive. What is missing is brought by another archive, or m pulls it into the mirror's cache while " +
		"there is a network: that writes the cache's folder and nothing else, and ctrl+c stops it.", command}
}

func (s *imagesScreen) ready(m *model) string { return m.needsPlan() }

// enter reads the archives unless that was done for this very plan.
func (s *imagesScreen) enter(m *model) tea.Cmd {
	if s.read && s.err == nil && s.patterns == imagesKey(m.draft.site) {
		return nil
	}
	return s.look(m)
}

// imagesKey is what of a plan says what is on board.
func imagesKey(s config.Site) string {
	return fmt.Sprintf("%+v %s %s %s %s %+v", s.Images, s.Mirror.Mode, s.Mirror.Workload.Form, s.Mirror.Cache, s.Mirror.Upstream, s.Nodes)
}

func (s *imagesScreen) look(m *model) tea.Cmd {
	m.busy = "reading the archives"
	s.patterns = imagesKey(m.draft.site)
	d, events, done := m.draft.file, newFeed(), make(chan struct{})
	s.feed, s.reading = events, done
	return tea.Batch(events.listen(done), func() tea.Msg {
		defer close(done)
		c, err := m.prog.Images(m.ctx, d, events)
		return covered{c, err}
	})
}

func (s *imagesScreen) update(m *model, msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case covered:
		m.busy = ""
		s.found, s.err, s.read = msg.coverage, msg.err, true
	case happened:
		if msg.from != s.feed || len(msg.events) == 0 {
			break
		}
		s.last = msg.events[len(msg.events)-1]
		return s.feed.listen(s.reading)
	}
	return s.updatePull(m, msg)
}

// shown are the archives that pass the filter.
func (s *imagesScreen) shown() []app.ArchiveFile {
	if s.filter == "" {
		return s.found.Archives
	}
	return slices.DeleteFunc(slices.Clone(s.found.Archives), func(f app.ArchiveFile) bool { return !strings.Contains(f.Path, s.filter) })
}

// listID is the row of the required list.
const listID = "required list"

func (s *imagesScreen) ids() []string {
	var ids []string
	for _, a := range s.shown() {
		ids = append(ids, a.Path)
	}
	return append(ids, listID)
}

func (s *imagesScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	ids := s.ids()
	i := s.choice.index(ids)
	onArchive := i < len(ids)-1
	switch {
	case s.choice.move(m.keys, msg, ids):
	case msg.String() == "r":
		return s.look(m)
	case msg.String() == "m":
		return s.askPull(m)
	case is(msg, m.keys.filter):
		return m.open(newEditor("Filter", "part of a path; empty shows all", s.filter, func(_ *model, v string) (tea.Cmd, string) {
			s.filter = v
			return nil, ""
		}))
	case onArchive && is(msg, m.keys.choose):
		s.toggle(m, s.shown()[i])
	case onArchive && msg.String() == "i":
		return m.open(contents(s.shown()[i]))
	case !onArchive && is(msg, m.keys.choose):
		return s.editList(m)
	}
	return nil
}

func (s *imagesScreen) editList(m *model) tea.Cmd {
	return m.open(newEditor("Required list", "a file with one reference a line", m.draft.site.Images.Required, func(m *model, v string) (tea.Cmd, string) {
		if err := m.draft.set(v, "images", "required"); err != nil {
			return nil, why(err)
		}
		return s.look(m), ""
	}))
}

// toggle puts an archive into the plan or takes it out. A pattern stays as long as all that it matches is chosen;
// else what it matches is named.
func (s *imagesScreen) toggle(m *model, f app.ArchiveFile) {
	if f.Problem != "" && !f.Chosen {
		m.notice = ln(span{bad, path.Base(f.Path) + " cannot be chosen: " + f.Problem})
		return
	}
	files := slices.Clone(s.found.Archives)
	i := slices.IndexFunc(files, func(x app.ArchiveFile) bool { return x.Path == f.Path })
	files[i].Chosen = !f.Chosen
	if err := m.draft.set(patternsFor(m.draft.site.Images.Archives, files), "images", "archives"); err != nil {
		m.notice = ln(span{bad, why(err)})
		return
	}
	s.found.Archives = files
	s.patterns = imagesKey(m.draft.site)
}

// patternsFor is the shortest change of the patterns that names the chosen files and no other.
func patternsFor(old []string, files []app.ArchiveFile) []string {
	out := []string{}
	named := map[string]bool{}
	for _, p := range old {
		var matched []app.ArchiveFile
		all := true
		for _, f := range files {
			if ok, _ := path.Match(p, f.Path); ok || p == f.Path {
				matched, all = append(matched, f), all && f.Chosen
			}
		}
		if all {
			out = append(out, p)
		}
		for _, f := range matched {
			if f.Chosen && !named[f.Path] && !all {
				out = append(out, f.Path)
			}
			named[f.Path] = named[f.Path] || f.Chosen
		}
	}
	for _, f := range files {
		if f.Chosen && !named[f.Path] {
			out = append(out, f.Path)
		}
	}
	return out
}

// contents lists what is in an archive.
func contents(f app.ArchiveFile) dialog {
	return &text{name: path.Base(f.Path), lines: func(_ *model, width int) []line {
		out := para(width, 1, plain, fmt.Sprintf("%s, %s, %d references", f.Path, progress.Bytes(f.Size), len(f.Names)))
		if f.Problem != "" {
			out = append(out, para(width, 1, bad, f.Problem)...)
		}
		out = append(out, line{})
		for _, n := range f.Names {
			out = append(out, para(width, 3, plain, n)...)
		}
		return out
	}}
}

func (s *imagesScreen) view(m *model, width int) body {
	var b body
	switch {
	case !s.read:
		b.add(ln(" Reading the archives of the plan."))
		if p := s.last; p.Total > 0 {
			b.add(ln(" ", m.look.gauge(min(40, width-20), p.Total, p.Done), " ", progress.Bytes(p.Done), " of ", progress.Bytes(p.Total)))
		}
		return b
	case s.err != nil:
		b.add(ln(span{bad, " The archives cannot be read"}))
		b.add(errorLines(width, s.err)...)
		return b
	}
	b.add(ln(" Archives to load before the first start"))
	s.viewArchives(&b, m, width)
	b.blank()
	s.viewCoverage(&b, m, width)
	if s.pull != nil {
		s.viewPull(&b, m, width)
	}
	s.viewDisk(&b, m, width)
	return b
}

func (s *imagesScreen) viewArchives(b *body, m *model, width int) {
	ids, list := s.ids(), s.shown()
	for _, p := range s.found.Patterns {
		b.add(para(width, 3, warn, "[WARN] no archive at "+p)...)
	}
	if len(list) == 0 {
		b.add(para(width, 3, plain, "none found; copy archives to "+app.DefaultArchives+" and press r")...)
	}
	for i, f := range list {
		row := archiveRow(m.look, width, f)
		r := plain
		switch {
		case f.Problem != "":
			r = warn
		case s.choice.on(ids, i):
			r = accent
		}
		shown := ln(" ", m.look.cursor(s.choice.on(ids, i)), span{r, row})
		if s.choice.on(ids, i) {
			b.focus(shown)
			continue
		}
		b.add(shown)
	}
}

func archiveRow(l Look, width int, f app.ArchiveFile) string {
	mark := l.box(f.Chosen)
	if f.Problem != "" && !f.Chosen {
		mark = "[!]"
	}
	name := width - 45
	if width < wideWidth-1 {
		name = width - 8
	}
	row := mark + " " + pad(path.Base(f.Path), name)
	if width < wideWidth-1 {
		return row
	}
	if f.Problem != "" {
		return row + " " + f.Problem
	}
	return row + fmt.Sprintf(" %9s %10s", count(len(f.Names), "image"), progress.Bytes(f.Size))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// viewCoverage is the first bar: what of the list the chosen archives hold.
func (s *imagesScreen) viewCoverage(b *body, m *model, width int) {
	ids := s.ids()
	on := s.choice.on(ids, len(ids)-1)
	head := "Required list: " + s.found.Required
	if s.found.Required == "" {
		head = "Required list: none; every image of the archives counts (enter to name one)"
	}
	row := ln(" ", m.look.cursor(on), head)
	if on {
		row = ln(" ", m.look.cursor(on), span{accent, head})
	}
	rows := []line{row}
	if s.found.NoList != nil {
		rows = append(rows, para(width, 3, warn, "[WARN] "+why(s.found.NoList))...)
	}
	missing := missing(s.found)
	if n := len(s.found.Refs); n > 0 {
		word := span{good, "all covered"}
		if len(missing) > 0 {
			word = span{bad, fmt.Sprintf("%d MISSING", len(missing))}
		}
		rows = append(rows, ln("   ", m.look.gauge(min(30, width-34), int64(n), int64(n-len(missing))), fmt.Sprintf(" %d of %d  ", n-len(missing), n), word))
	}
	const few = 3
	for _, r := range missing[:min(few, len(missing))] {
		rows = append(rows, para(width, 5, plain, r)...)
	}
	if n := len(missing) - few; n > 0 {
		rows = append(rows, ln("     ", span{dim, fmt.Sprintf("and %d more", n)}))
	}
	if n := len(cachedOnly(s.found)); n > 0 {
		rows = append(rows, para(width, 3, plain, count(n, "reference")+" only in the mirror's cache, "+s.found.Pull.Cache)...)
	}
	switch {
	case len(missing) == 0 || s.pull != nil:
	case s.found.Pull.No != nil:
		rows = append(rows, para(width, 5, dim, "bring another archive; why it cannot be pulled now: m")...)
	default:
		rows = append(rows, para(width, 5, dim, "bring another archive, or pull it while there is a network: m")...)
	}
	if on {
		b.focus(rows...)
		return
	}
	b.add(rows...)
}

// viewDisk is the second bar: what is used, what comes, what stays free.
func (s *imagesScreen) viewDisk(b *body, m *model, width int) {
	var need int64
	images := map[string]bool{}
	for _, f := range s.found.Archives {
		if f.Chosen {
			need += f.Need
			for _, n := range f.Names {
				images[n] = true
			}
		}
	}
	d := s.found.Disk
	used := d.Total - d.Free
	b.add(ln(fmt.Sprintf(" Selected: %s; they take about %s of %s", count(len(images), "image"), progress.Bytes(need), s.found.DiskAt)))
	b.add(ln("   ", m.look.gauge(min(30, width-34), d.Total, used, need), " ", progress.Bytes(d.Free-need), " stays free"))
	if need > d.Free {
		b.add(para(width, 3, bad, "[FAIL] that is more than the "+progress.Bytes(d.Free)+" that are free")...)
	}
}

func (s *imagesScreen) keys(*model) []key.Binding {
	out := []key.Binding{on("space", "choose"), on("i", "inspect"), on("/", "filter"), on("r", "read again")}
	switch {
	case s.pull != nil:
		return append([]key.Binding{on("ctrl+c", "stop the pull")}, out...)
	case len(missing(s.found)) > 0:
		return append([]key.Binding{on("m", "pull missing")}, out...)
	}
	return out
}
