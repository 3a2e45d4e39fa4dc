package tui

import (
	"fmt"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/config"
)

// copiesScreen is step 5: copies of the cache, and what happens when a mirror is lost.
type copiesScreen struct{ choice choice }

func (s *copiesScreen) about(m *model) about {
	return about{"Replication and failover", "Where copies of the cache come from, and where containerd turns when a mirror does not answer. " +
		"Every node with a mirror serves its own cache, and apply fills it from the archives on each node: the copies are as equal as " +
		"the archives are. What an engine would add is bringing over what was pulled later; none is in this version, and the cache is " +
		"plain files that rsync or a disk can carry. The table shows in which order a node asks which mirror.", m.opts.Command + " validate"}
}

func (s *copiesScreen) ready(m *model) string { return m.needsPlan() }

func (s *copiesScreen) enter(*model) tea.Cmd { return nil }

func (s *copiesScreen) update(*model, tea.Msg) tea.Cmd { return nil }

// answer is one choice of the screen: a value of a key.
type answer struct {
	path  []string
	value string
	label string
	// unbuilt says what this version does not do; such an answer cannot be chosen.
	unbuilt string
}

func (a answer) id() string { return strings.Join(a.path, ".") + "=" + a.value }

func copiesAnswers() []answer {
	engine, failover := []string{"replication", "engine"}, []string{"failover", "mode"}
	return []answer{
		{engine, "none", "none: each mirror keeps what its own archives and pulls bring", ""},
		{engine, "syncthing", "Syncthing between the mirror nodes", "not in this version"},
		{engine, "builtin", "edgeprep's own replication", "not in this version"},
		{failover, "manual", "asks its own mirror only; an operator points it elsewhere", ""},
		{failover, "endpoints", "asks its own mirror, then the other nodes' mirrors", ""},
	}
}

// alone says why there is nothing to decide here; empty: there is.
func (s *copiesScreen) alone(m *model) string {
	site := m.draft.site
	mirrors := mirrorNodes(site)
	switch {
	case site.Mirror.Mode == string(config.ModeNone):
		return "this plan has no mirror of its own (step 4)"
	case site.Mirror.Mode == string(config.ModeWorkload) && site.Mirror.Workload.Form == config.FormDeployment:
		return "a deployment has one cache, in a volume of the cluster: its storage decides what survives (step 4)"
	case len(site.Nodes) <= 1:
		return "one node, one cache. More nodes are added in step 2"
	case len(mirrors) == 1:
		return mirrors[0].Name + " alone has a mirror. Give another node one in step 2"
	}
	return ""
}

func mirrorNodes(site config.Site) []config.Node {
	var out []config.Node
	for _, n := range site.Nodes {
		if site.HasMirror(n) {
			out = append(out, n)
		}
	}
	return out
}

func (s *copiesScreen) ids() []string {
	var ids []string
	for _, a := range copiesAnswers() {
		ids = append(ids, a.id())
	}
	return ids
}

func (s *copiesScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	if s.alone(m) != "" || s.choice.move(m.keys, msg, s.ids()) || !is(msg, m.keys.choose) {
		return nil
	}
	a := copiesAnswers()[s.choice.index(s.ids())]
	if a.unbuilt != "" {
		m.notice = ln(span{warn, a.label + ": " + a.unbuilt})
		return nil
	}
	if err := m.draft.set(a.value, a.path...); err != nil {
		m.notice = ln(span{bad, why(err)})
	}
	return nil
}

func (s *copiesScreen) view(m *model, width int) body {
	var b body
	if why := s.alone(m); why != "" {
		b.focus(para(width, 1, plain, "Nothing to decide here: "+why+".")...)
		b.blank()
		b.add(para(width, 1, plain, survival(m.draft.site, listsPeers(m)))...)
		return b
	}
	heads := map[string]string{"none": "Copies of the cache", "manual": "If a mirror is lost, containerd"}
	for i, a := range copiesAnswers() {
		if h := heads[a.value]; h != "" {
			b.add(ln(" " + h))
		}
		s.viewAnswer(&b, m, a, s.choice.on(s.ids(), i))
	}
	b.blank()
	b.add(matrix(m.draft.site, listsPeers(m), width)...)
	b.blank()
	b.add(para(width, 1, plain, survival(m.draft.site, listsPeers(m)))...)
	if w := failoverNote(m); w != "" {
		b.add(para(width, 1, warn, w)...)
	}
	return b
}

func (s *copiesScreen) viewAnswer(b *body, m *model, a answer, on bool) {
	now, _ := currentValue(m.draft.site, a.path)
	mark, label, r := m.look.radio(now == a.value), a.label, plain
	if a.unbuilt != "" {
		mark, label, r = " - ", a.label+"  ("+a.unbuilt+")", dim
	}
	if on {
		r = accent
	}
	row := ln(" ", m.look.cursor(on), mark, " ", span{r, label})
	if on {
		b.focus(row)
		return
	}
	b.add(row)
}

func currentValue(site config.Site, path []string) (string, bool) {
	switch strings.Join(path, ".") {
	case "replication.engine":
		return site.Replication.Engine, true
	case "failover.mode":
		return site.Failover.Mode, true
	}
	return "", false
}

// matrix shows in which order each node asks which mirror.
func matrix(site config.Site, peers bool, width int) []line {
	mirrors := mirrorNodes(site)
	const cell = 12
	fits := max(1, (width-15)/cell)
	head := "   " + pad("asks", 12)
	for _, n := range mirrors[:min(fits, len(mirrors))] {
		head += pad(n.Name, cell-1) + " "
	}
	out := []line{ln(span{dim, head})}
	for _, n := range site.Nodes {
		asked := site.Endpoints(n, peers)
		row := "   " + pad(n.Name, 12)
		for _, x := range mirrors[:min(fits, len(mirrors))] {
			row += pad(order(asked, site.Endpoints(x, false)), cell)
		}
		out = append(out, ln(row))
	}
	if len(mirrors) > fits {
		out = append(out, ln(span{dim, fmt.Sprintf("   and %d more mirrors", len(mirrors)-fits)}))
	}
	return out
}

// order is the place of a mirror's own address among those that a node asks.
func order(asked, own []string) string {
	for i, e := range asked {
		if len(own) > 0 && e == own[0] {
			return []string{"1st", "2nd", "3rd"}[min(i, 2)]
		}
	}
	return "."
}

// survival is what the choices come to.
func survival(site config.Site, peers bool) string {
	n := len(mirrorNodes(site))
	switch {
	case site.Mirror.Mode == string(config.ModeNone):
		return "What is lost with a mirror is up to those who run it."
	case len(site.Nodes) <= 1:
		return "The site survives a power cut and a move. It does not survive the loss of this node's disk: the archives and the cache are on it."
	case n <= 1:
		return "The site does not survive the loss of the one node with a mirror: images that are not on a node yet cannot be pulled until comms return."
	case peers:
		return fmt.Sprintf("The site survives the loss of any %d of its %d mirrors: a node then asks the next one. It does not survive an image that only the lost cache had.", n-1, n)
	}
	return "A node whose own mirror is lost pulls nothing new until an operator points it at another one. The other nodes are not concerned."
}

// listsPeers says whether nodes like this one are given more than one mirror.
func listsPeers(m *model) bool {
	return m.draft.site.Failover.Mode == "endpoints" && (m.survey.Problem != nil || m.survey.Node.Registries.Format == "certs.d")
}

// failoverNote says where the other mirrors cannot be listed.
func failoverNote(m *model) string {
	switch {
	case m.draft.site.Failover.Mode != "endpoints":
		return ""
	case !listsPeers(m):
		return "[WARN] " + m.survey.Node.Name + " cannot be given a time-out for a lost mirror: there edgeprep lists the node's own mirror only"
	}
	return "It needs containerd 2.0.7, 2.1 or newer: on an older one edgeprep lists the node's own mirror only."
}

func (s *copiesScreen) keys(*model) []key.Binding {
	return []key.Binding{on("up/down", "move"), on("space", "choose")}
}
