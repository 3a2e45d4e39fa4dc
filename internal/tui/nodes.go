package tui

import (
	"fmt"
	"strconv"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// nodesScreen is step 2: the nodes of the site.
type nodesScreen struct{ choice choice }

func (s *nodesScreen) about(m *model) about {
	return about{"Nodes", "Every node that pulls through the mirrors of this site, as [[node]] tables. A plan without them is about this " +
		"machine alone. The name is what the node calls itself: its host name, else its machine id, else it is found by its " +
		"address. A node with a mirror serves its own cache; one without is pointed at the others. Only this machine is " +
		"changed from here: the other nodes run edgeprep apply with the same file.", m.opts.Command + " validate"}
}

func (s *nodesScreen) ready(m *model) string { return m.needsPlan() }

func (s *nodesScreen) enter(*model) tea.Cmd { return nil }

func (s *nodesScreen) update(*model, tea.Msg) tea.Cmd { return nil }

// addID is the row below the nodes.
const addID = "+ add"

func nodeIDs(site config.Site) []string {
	var ids []string
	for _, n := range site.Nodes {
		ids = append(ids, n.Name)
	}
	return append(ids, addID)
}

func (s *nodesScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	ids := nodeIDs(m.draft.site)
	i := s.choice.index(ids)
	onNode := i < len(m.draft.site.Nodes)
	switch {
	case s.choice.move(m.keys, msg, ids):
	case msg.String() == "a", is(msg, m.keys.choose) && !onNode:
		return s.add(m)
	case onNode && (msg.String() == "e" || is(msg, m.keys.choose)):
		return m.open(editNode(i, m.draft.site.Nodes[i]))
	case onNode && msg.String() == "x":
		return m.open(removeNode(i, m.draft.site.Nodes[i]))
	}
	return nil
}

// add asks for a name and an address. The first node of a plan is this machine: the others come after it.
func (s *nodesScreen) add(m *model) tea.Cmd {
	name, address := "", ""
	if len(m.draft.site.Nodes) == 0 {
		name, address = m.survey.Facts.Hostname, ownAddress(m)
	}
	return m.open(newEditor("Name", "what the node calls itself", name, func(m *model, name string) (tea.Cmd, string) {
		if name == "" {
			return nil, "a name, please"
		}
		return m.open(newEditor("Address of "+name, "IP that other nodes reach it by", address, func(m *model, address string) (tea.Cmd, string) {
			if err := m.draft.edit(appendNode(len(m.draft.site.Nodes), name, address)); err != nil {
				return nil, why(err)
			}
			s.choice.id = addID
			listenForOthers(m)
			return nil, ""
		})), ""
	}))
}

func ownAddress(m *model) string {
	for _, a := range m.survey.Facts.Addresses {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a.String()
		}
	}
	return ""
}

func appendNode(i int, name, address string) func(*tomledit.Doc) (*tomledit.Doc, error) {
	return func(d *tomledit.Doc) (*tomledit.Doc, error) {
		d, err := d.AppendTable("node")
		if err != nil {
			return nil, err
		}
		if d, err = d.Set([]string{"node", strconv.Itoa(i), "name"}, name); err != nil || address == "" {
			return d, err
		}
		return d.Set([]string{"node", strconv.Itoa(i), "address"}, address)
	}
}

// listenForOthers takes back a loopback address that a starter wrote once there are nodes that have to reach the
// mirror, and says so.
func listenForOthers(m *model) {
	if len(m.draft.site.Nodes) < 2 || m.draft.site.Mirror.Listen != config.DefaultListen {
		return
	}
	err := m.draft.edit(func(d *tomledit.Doc) (*tomledit.Doc, error) { return d.Delete([]string{"mirror", "listen"}) })
	if err == nil {
		m.notice = ln(span{warn, "[mirror] listen was loopback and is gone: each mirror listens on its node's address"})
	}
}

func editNode(i int, n config.Node) dialog {
	at := func(field string) []string { return []string{"node", strconv.Itoa(i), field} }
	text := func(label, field, value string) func(*model) tea.Cmd {
		return func(m *model) tea.Cmd {
			return m.open(newEditor(label, "", value, func(m *model, v string) (tea.Cmd, string) {
				if err := m.draft.set(v, at(field)...); err != nil {
					return nil, why(err)
				}
				return nil, ""
			}))
		}
	}
	role := func(v string) func(*model) tea.Cmd {
		return func(m *model) tea.Cmd {
			if err := m.draft.set(v, at("mirror")...); err != nil {
				m.notice = ln(span{bad, why(err)})
			}
			return nil
		}
	}
	return &ask{name: "Node " + n.Name, text: "Its mirror is " + n.Mirror + ". A node finds itself in the plan by host name, machine id or address.",
		options: []option{
			{"name", "Change its name", text("Name", "name", n.Name)},
			{"address", "Change its address", text("Address", "address", n.Address)},
			{"primary", "Mirror: primary, the one that is asked first", role("primary")},
			{"replica", "Mirror: replica, a cache of its own", role("replica")},
			{"none", "Mirror: none, it pulls from the others", role("none")},
		}}
}

func removeNode(i int, n config.Node) dialog {
	return &ask{name: "Remove " + n.Name + " from the plan?", text: "The node itself is not touched: what was written there stays until edgeprep rollback is run on it.",
		options: []option{
			{"keep", "Keep it", nil},
			{"remove", "Remove it", func(m *model) tea.Cmd {
				if err := m.draft.edit(func(d *tomledit.Doc) (*tomledit.Doc, error) { return d.DeleteElement(i, "node") }); err != nil {
					m.notice = ln(span{bad, why(err)})
				}
				return nil
			}},
		}}
}

func (s *nodesScreen) view(m *model, width int) body {
	var b body
	site := m.draft.site
	b.add(para(width, 1, plain, "Every node that will pull through the mirror. Only this machine is changed here; the others run edgeprep apply with the same file.")...)
	b.blank()
	if len(site.Nodes) == 0 {
		b.add(para(width, 3, plain, "This machine alone: "+m.survey.Facts.Hostname)...)
		b.add(ln("   + no further node; single-node plans skip step 5"))
	} else {
		b.add(ln(span{dim, "   " + nodeRow(width, "NAME", "ADDRESS", "MIRROR", "SEEN")}))
	}
	ids := nodeIDs(site)
	for i, n := range site.Nodes {
		r := plain
		if s.choice.on(ids, i) {
			r = accent
		}
		row := ln(" ", m.look.cursor(s.choice.on(ids, i)), span{r, nodeRow(width, n.Name, n.Address, n.Mirror, seen(m, n))})
		if s.choice.on(ids, i) {
			b.focus(row)
			continue
		}
		b.add(row)
	}
	last := s.choice.on(ids, len(ids)-1)
	add := ln(" ", m.look.cursor(last), "+ add a node")
	if last {
		b.focus(add)
	} else {
		b.add(add)
	}
	b.blank()
	if w := nodeWarning(m); w != "" {
		b.add(para(width, 1, warn, "[WARN] "+w)...)
	}
	return b
}

// nodeRow lays the columns out; narrow terminals do without the last ones.
func nodeRow(width int, name, address, mirror, seen string) string {
	cols := []string{pad(name, 14), pad(address, 17), pad(mirror, 9)}
	if width < wideWidth-1 {
		return strings.TrimRight(pad(name, 12)+" "+pad(mirror, 8)+" "+pad(address, 12), " ")
	}
	return strings.TrimRight(strings.Join(cols, " ")+" "+seen, " ")
}

// seen says what this machine knows of a node.
func seen(m *model, n config.Node) string {
	if self, err := m.draft.site.Self("", m.survey.Facts); err == nil && self.Name == n.Name {
		return "this machine"
	}
	return "not asked"
}

func nodeWarning(m *model) string {
	site := m.draft.site
	if len(site.Nodes) == 0 {
		return ""
	}
	if _, err := site.Self("", m.survey.Facts); err != nil {
		return fmt.Sprintf("this machine (%s) is none of these nodes: apply would refuse", m.survey.Facts.Hostname)
	}
	for _, n := range site.Nodes {
		if n.Address == "" && len(site.Nodes) > 1 && site.HasMirror(n) {
			return n.Name + " has a mirror and no address: the other nodes cannot be pointed at it"
		}
	}
	return ""
}

func (s *nodesScreen) keys(*model) []key.Binding {
	return []key.Binding{on("a", "add"), on("e", "edit"), on("x", "remove")}
}
