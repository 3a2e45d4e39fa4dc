package tui

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/tomledit"
)

// mirrorScreen is step 4: how the mirror runs.
type mirrorScreen struct{ choice choice }

func (s *mirrorScreen) about(m *model) about {
	return about{"Mirror", "The mirror is a registry on the site's own nodes: containerd pulls from it, with or without a network behind it. " +
		"As a systemd service it is up before Kubernetes. As a Kubernetes workload it is one more pod: its image has to be on the " +
		"node first, and where it is a deployment its storage has to come back after the move. w says more. The lines below the " +
		"choice are its settings; enter changes the chosen one.", m.opts.Command + " init --mode " + m.draft.site.Mirror.Mode}
}

func (s *mirrorScreen) ready(m *model) string { return m.needsPlan() }

// needsPlan is why the steps after the first have to wait.
func (m *model) needsPlan() string {
	switch {
	case !m.draft.open():
		return "choose a plan file first"
	}
	return ""
}

func (s *mirrorScreen) enter(*model) tea.Cmd { return nil }

func (s *mirrorScreen) update(*model, tea.Msg) tea.Cmd { return nil }

// mode is one way to run the mirror, with what speaks for and against it.
type mode struct {
	id, label string
	pro, con  []string
}

// modes are the ways, in the terms of what a site without a network has to survive.
func modes() []mode {
	return []mode{
		{"systemd", "systemd service on the mirror nodes",
			[]string{"up before Kubernetes: no first start waits for it; no cluster storage"},
			[]string{"each cache is on its node only: lose the only one, and pulls stop"}},
		{"workload", "Kubernetes workload",
			[]string{"Kubernetes restarts it; a deployment is moved"},
			[]string{"its image must be on each node first (edgeprep preloads it)",
				"a deployment needs storage that survives shipping and a cold start"}},
		{"none", "no mirror on these nodes", nil,
			[]string{"containerd is pointed at mirrors that others run"}},
	}
}

// suggestion is the mode that fits what was found, and why.
func suggestion(s app.Survey, site config.Site) (id, because string) {
	mirrors := 0
	for _, n := range site.Nodes {
		if n.Mirror != "none" {
			mirrors++
		}
	}
	switch {
	case len(site.Nodes) > 0 && mirrors == 0:
		return "none", "no node of this plan has a mirror"
	case len(site.Nodes) <= 1:
		return "systemd", "one " + s.Node.Name + " node: a pod could not move anywhere, and the service is up before Kubernetes"
	case mirrors == 1:
		return "systemd", fmt.Sprintf("%d nodes, one with a mirror, no cluster storage to be seen; give a second node one", len(site.Nodes))
	}
	return "systemd", fmt.Sprintf("%d nodes, %d with a mirror, no cluster storage to be seen from here", len(site.Nodes), mirrors)
}

// field is a setting of the mirror.
type field struct {
	id, label, value string
	path             []string
	hint             string
	values           []string // the only ones; empty: any
}

func fields(site config.Site) []field {
	m := site.Mirror
	listen := m.Listen
	if listen == "" {
		listen = "the node's address, port 5000"
		if len(site.Nodes) <= 1 {
			listen = config.DefaultListen
		}
	}
	out := []field{
		{"listen", "Listen", listen, []string{"mirror", "listen"}, "ADDRESS:PORT", nil},
		{"cache", "Cache", m.Cache, []string{"mirror", "cache"}, "a directory", nil},
		{"upstream", "Upstream", m.Upstream, []string{"mirror", "upstream"}, "connected or never", []string{config.UpstreamConnected, config.UpstreamNever}},
	}
	switch config.MirrorMode(m.Mode) {
	case config.ModeNone:
		return []field{{"endpoints", "Mirrors", strings.Join(site.Registries.Endpoints, " "), []string{"registries", "endpoints"}, "URLs, a space between", nil}}
	case config.ModeWorkload:
		out = append(out, field{"form", "Form", m.Workload.Form, []string{"mirror", "workload", "form"}, "",
			[]string{config.FormStaticPod, config.FormDaemonSet, config.FormDeployment}})
		if m.Workload.Form == config.FormDeployment {
			return append(out[1:], field{"size", "Volume", m.Workload.Size, []string{"mirror", "workload", "size"}, `like 40GiB`, nil})
		}
	}
	return out
}

func (s *mirrorScreen) ids(m *model) []string {
	var ids []string
	for _, x := range modes() {
		ids = append(ids, x.id)
	}
	for _, f := range fields(m.draft.site) {
		ids = append(ids, f.id)
	}
	return ids
}

func (s *mirrorScreen) key(m *model, msg tea.KeyPressMsg) tea.Cmd {
	ids := s.ids(m)
	switch {
	case s.choice.move(m.keys, msg, ids):
	case msg.String() == "w":
		return m.open(&text{name: "Why a choice at all", lines: tradeoffs})
	case is(msg, m.keys.choose) || msg.String() == "e":
		return s.choose(m, s.choice.index(ids))
	}
	return nil
}

func (s *mirrorScreen) choose(m *model, i int) tea.Cmd {
	if list := modes(); i < len(list) {
		return setMode(m, list[i].id)
	}
	f := fields(m.draft.site)[i-len(modes())]
	switch {
	case f.id == "endpoints":
		return m.open(endpointsEditor(m, f.value, nil))
	case len(f.values) > 0:
		return m.open(fieldChoice(f))
	}
	return m.open(newEditor(f.label, f.hint, f.value, func(m *model, v string) (tea.Cmd, string) {
		if err := m.draft.set(v, f.path...); err != nil {
			return nil, why(err)
		}
		return nil, ""
	}))
}

// setMode changes the mode. Without a mirror of its own a site has to say whose it uses.
func setMode(m *model, id string) tea.Cmd {
	change := func() error { return m.draft.set(id, "mirror", "mode") }
	if id == string(config.ModeNone) && len(m.draft.site.Registries.Endpoints) == 0 {
		return m.open(endpointsEditor(m, "http://", func(d *tomledit.Doc) (*tomledit.Doc, error) { return d.Set([]string{"mirror", "mode"}, id) }))
	}
	if err := change(); err != nil {
		m.notice = ln(span{bad, why(err)})
	}
	return nil
}

// endpointsEditor takes the mirrors of others; also is set together with them.
func endpointsEditor(_ *model, value string, also func(*tomledit.Doc) (*tomledit.Doc, error)) dialog {
	return newEditor("Mirrors", "URLs, a space between", value, func(m *model, v string) (tea.Cmd, string) {
		err := m.draft.edit(func(d *tomledit.Doc) (*tomledit.Doc, error) {
			next, err := d.Set([]string{"registries", "endpoints"}, strings.Fields(v))
			if err != nil || also == nil {
				return next, err
			}
			return also(next)
		})
		if err != nil {
			return nil, why(err)
		}
		return nil, ""
	})
}

func fieldChoice(f field) dialog {
	a := &ask{name: f.label, choice: choice{f.value}, text: map[string]string{
		"upstream": "connected: what is missing is pulled from the registries and kept, as long as there is a network. never: only what is cached is ever served.",
		"form":     "static-pod needs kubelet only. daemonset runs on every node, once the API is there. deployment is one pod with a volume of the cluster.",
	}[f.id]}
	for _, v := range f.values {
		a.options = append(a.options, option{v, v, func(m *model) tea.Cmd {
			if err := m.draft.set(v, f.path...); err != nil {
				m.notice = ln(span{bad, why(err)})
			}
			return nil
		}})
	}
	return a
}

func (s *mirrorScreen) view(m *model, width int) body {
	var b body
	ids := s.ids(m)
	suggested, because := suggestion(m.survey, m.draft.site)
	b.add(ln(" How should the mirror run?"))
	for i, x := range modes() {
		s.viewMode(&b, m, width, x, s.choice.on(ids, i), x.id == suggested)
	}
	b.blank()
	b.add(para(width, 1, plain, "Here: "+because+" "+m.look.arrow()+" "+suggested+" suggested.")...)
	if w := warnings(m.draft.site); w != "" {
		b.add(para(width, 1, warn, "[WARN] "+w)...)
	}
	for i, f := range fields(m.draft.site) {
		row := ln(" ", m.look.cursor(s.choice.on(ids, len(modes())+i)), pad(f.label, 10), span{accent, f.value})
		if s.choice.on(ids, len(modes())+i) {
			b.focus(row)
			continue
		}
		b.add(row)
	}
	return b
}

func (s *mirrorScreen) viewMode(b *body, m *model, width int, x mode, chosen, suggested bool) {
	label := x.label
	if suggested {
		label += "  (suggested)"
	}
	r := plain
	if chosen {
		r = accent
	}
	rows := []line{ln(" ", m.look.cursor(chosen), m.look.radio(m.draft.site.Mirror.Mode == x.id), " ", span{r, label})}
	for _, p := range x.pro {
		rows = append(rows, labelled(width, "       +", 9, plain, p)...)
	}
	for _, c := range x.con {
		rows = append(rows, labelled(width, "       -", 9, plain, c)...)
	}
	if chosen {
		b.focus(rows...)
		return
	}
	b.add(rows...)
}

// warnings is what the choice means for this plan and is easily overlooked.
func warnings(site config.Site) string {
	host, _, err := net.SplitHostPort(site.Mirror.Listen)
	addr, aerr := netip.ParseAddr(host)
	if err == nil && aerr == nil && addr.IsLoopback() && len(site.Nodes) > 1 {
		return "listen is loopback: the other nodes cannot pull from this mirror"
	}
	mirrors := 0
	for _, n := range site.Nodes {
		if site.HasMirror(n) {
			mirrors++
		}
	}
	if mirrors == 1 && len(site.Nodes) > 1 && site.Mirror.Mode == string(config.ModeSystemd) {
		return fmt.Sprintf("one mirror for %d nodes: when its node is lost, none of them can pull", len(site.Nodes))
	}
	return ""
}

// tradeoffs is the reason for the choice, at length.
func tradeoffs(m *model, width int) []line {
	var out []line
	add := func(head, body string) {
		out = append(out, ln(" ", span{strong, head}))
		out = append(out, para(width, 3, plain, body)...)
		out = append(out, line{})
	}
	add("As a Kubernetes workload", "the cluster's storage has to come back with the cache intact when the nodes are shut down, moved and "+
		"started at the edge. And the mirror's own image has to be in containerd before the cluster starts: containerd asks the mirror for "+
		"images, the mirror's pod cannot start without its image, and nothing starts at all. edgeprep breaks that circle by preloading the "+
		"image on every node that runs the pod; check COLD-* proves it.")
	add("As a systemd service", "it comes up with the machine, before Kubernetes, so that there is no circle. But a cache on one node is "+
		"one copy: when that node is lost, the others cannot pull until comms return. Give several nodes a mirror (step 2); each serves "+
		"its own cache, and containerd can be pointed at another one.")
	_, because := suggestion(m.survey, m.draft.site)
	add("Here", because+".")
	return out
}

func (s *mirrorScreen) keys(*model) []key.Binding {
	return []key.Binding{on("up/down", "move"), on("enter", "choose, edit"), on("w", "why?")}
}
