package tui

import (
	"bytes"

	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// draft is edgeprep.toml while it is edited: the very bytes, comments and all, and what they say.
type draft struct {
	file  app.Draft
	begun []byte // the bytes as they were opened or saved
	doc   *tomledit.Doc
	site  config.Site
	found diag.Report
}

func newDraft(f app.Draft) draft {
	d := draft{file: f, begun: f.Text}
	d.parse()
	return d
}

func (d *draft) parse() {
	d.site, d.found = config.Parse(d.file.Name, d.file.Text)
	d.doc, _ = tomledit.Parse(d.file.Text) // what is not TOML is in found
}

// open says whether a draft is loaded.
func (d draft) open() bool { return d.doc != nil }

// dirty says whether answers would be lost.
func (d draft) dirty() bool { return !bytes.Equal(d.file.Text, d.begun) }

func (d draft) name() string { return d.site.Site.Name }

// edit changes the document. It gives back why it does not: a document that cannot be edited that way, or a value
// that the configuration refuses and that was not refused before.
func (d *draft) edit(change func(*tomledit.Doc) (*tomledit.Doc, error)) error {
	doc, err := change(d.doc)
	if err != nil {
		return err
	}
	next := *d
	next.file.Text = doc.Bytes()
	next.parse()
	if next.found.HasErrors() && !d.found.HasErrors() {
		return next.found.Err()
	}
	*d = next
	return nil
}

// set gives one key a value.
func (d *draft) set(value any, path ...string) error {
	return d.edit(func(doc *tomledit.Doc) (*tomledit.Doc, error) { return doc.Set(path, value) })
}

// why is an error in one line, for the notice.
func why(err error) string {
	if found := diag.Of(err); len(found) > 0 {
		return found[0].What
	}
	return err.Error()
}

// loaded and saved are what came of reading and writing the file.
type loaded struct {
	draft app.Draft
	err   error
}

type saved struct {
	draft app.Draft
	err   error
	then  tea.Cmd
}

func (m *model) load(name string) tea.Cmd {
	m.busy = "reading the plan file"
	return func() tea.Msg {
		d, err := m.prog.Load(m.ctx, name)
		return loaded{d, err}
	}
}

// save writes the draft and then does something else, unless it failed.
func (m *model) save(then tea.Cmd) tea.Cmd {
	if !m.draft.open() {
		return nil
	}
	d := m.draft.file
	m.busy = "saving " + d.Name
	return func() tea.Msg {
		now, err := m.prog.Save(m.ctx, d)
		return saved{now, err, then}
	}
}

func (m *model) saved(msg saved) tea.Cmd {
	m.busy = ""
	if msg.err != nil {
		return m.fail(m.draft.file.Name+" is not saved", msg.err)
	}
	m.onDisk(msg.draft)
	m.notice = ln(span{good, "saved as " + msg.draft.Name})
	return msg.then
}

// onDisk takes in what a file holds now; answers may have come in while it was written.
func (m *model) onDisk(d app.Draft) {
	text := m.draft.file.Text
	m.draft.begun, m.draft.file = d.Text, d
	m.draft.file.Text = text
}
