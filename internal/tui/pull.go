package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// pull brings what is missing into the mirror's cache. It runs in this terminal, unlike apply: it writes nothing but
// the cache, no run and no unit, and one that was cut off is gone on with by the next.
type pull struct {
	count   int
	into    string
	feed    *feed
	done    chan struct{} // closed when it is over
	stop    context.CancelFunc
	stopped bool // by a person
	leaving bool // the TUI is left when it is over
	began   time.Time
	last    progress.Event
}

// pulled is what it came to.
type pulled struct {
	from   *pull
	report mirror.FillReport
	err    error
}

// pullTick is a second of a pull that went by.
type pullTick struct{ of *pull }

// missing are the required references that neither a chosen archive nor the mirror's cache has.
func missing(c app.Coverage) []string {
	have := cachedOnly(c)
	for _, f := range c.Archives {
		for _, n := range f.Names {
			have[n] = have[n] || f.Chosen
		}
	}
	var out []string
	for _, r := range c.Refs {
		if !have[r] {
			out = append(out, r)
		}
	}
	return out
}

// cachedOnly are the references that only the mirror's cache has.
func cachedOnly(c app.Coverage) map[string]bool {
	only := map[string]bool{}
	for _, r := range c.Cached {
		only[r] = true
	}
	for _, f := range c.Archives {
		for _, n := range f.Names {
			if f.Chosen {
				delete(only, n)
			}
		}
	}
	return only
}

// fillCommand does the same without the TUI. Beyond a few references it names the list, of which nothing is pulled
// that the cache has.
func fillCommand(p app.Pull, refs []string) string {
	const few = 4
	words := []string{"edgeprep"}
	for _, a := range p.Args {
		words = append(words, diag.Word(a))
	}
	if len(refs) > few {
		return strings.Join(append(words, "--required", diag.Word(p.List)), " ")
	}
	return strings.Join(append(words, refs...), " ")
}

// askPull says what would be pulled and what it writes.
func (s *imagesScreen) askPull(m *model) tea.Cmd {
	refs, p := missing(s.found), s.found.Pull
	switch {
	case s.pull != nil:
		m.notice = ln(span{warn, "a pull goes on; ctrl+c stops it"})
		return nil
	case !s.read || s.err != nil:
		m.notice = ln(span{warn, "the archives have to be read first"})
		return nil
	case len(refs) == 0:
		m.notice = ln(span{good, "nothing is missing"})
		return nil
	case screenOf[*applyScreen](m).goesOn():
		m.notice = ln(span{warn, "a run changes this node; wait for it: step 7"})
		return nil
	case p.No != nil:
		return m.fail("nothing can be pulled here", p.No)
	}
	same := "The same without this screen: "
	if m.draft.dirty() || !m.draft.file.Exists {
		same = "The same without this screen, once the plan is saved (s): "
	}
	return m.open(&ask{name: "Pull " + count(len(refs), "missing image") + "?",
		text: "This writes the mirror's cache, now, before step 7: " + p.Cache + ". Nothing else on the node is changed. It runs in this terminal: closing it stops the pull, " +
			"what came in is kept, and m goes on from there.\n" + same + fillCommand(p, refs),
		options: []option{
			{"not", "Not now", nil},
			{"pull", "Pull them into " + p.Cache, func(m *model) tea.Cmd { return s.begin(m, refs) }},
		}})
}

// begin pulls references.
func (s *imagesScreen) begin(m *model, refs []string) tea.Cmd {
	ctx, stop := context.WithCancel(m.ctx)
	p := &pull{count: len(refs), into: s.found.Pull.Cache, feed: newFeed(), done: make(chan struct{}), stop: stop, began: m.now()}
	s.pull = p
	d := m.draft.file
	return tea.Batch(p.feed.listen(p.done), p.second(m), func() tea.Msg {
		defer close(p.done)
		defer stop()
		r, err := m.prog.Pull(ctx, d, refs, p.feed)
		return pulled{p, r, err}
	})
}

// second is the next tick: a registry that stalls brings no events.
func (p *pull) second(m *model) tea.Cmd {
	if m.opts.Now != nil {
		return nil
	}
	return tea.Tick(time.Second, func(time.Time) tea.Msg { return pullTick{p} })
}

// updatePull takes what a pull gives.
func (s *imagesScreen) updatePull(m *model, msg tea.Msg) tea.Cmd {
	p := s.pull
	if p == nil {
		return nil
	}
	switch msg := msg.(type) {
	case happened:
		if msg.from != p.feed {
			return nil
		}
		for _, e := range msg.events {
			if e.Type == progress.StepProgress {
				p.last = e
			}
		}
		return p.feed.listen(p.done)
	case pullTick:
		if msg.of == p {
			return p.second(m)
		}
	case pulled:
		if msg.from == p {
			return s.over(m, msg)
		}
	}
	return nil
}

// over reads again what is on board, and says what the pull came to.
func (s *imagesScreen) over(m *model, msg pulled) tea.Cmd {
	p := s.pull
	s.pull = nil
	var say tea.Cmd
	switch {
	case p.leaving:
		return m.leave()
	case msg.err == nil:
		m.notice = ln(span{good, fmt.Sprintf("pulled %s, %s", count(p.count, "image"), progress.Bytes(msg.report.Bytes))})
	case p.stopped && errors.Is(msg.err, context.Canceled):
		m.notice = ln(span{warn, "stopped; what came in is kept, and m goes on from there"})
	default:
		say = m.fail("not everything was pulled; what came in is kept", msg.err)
	}
	return tea.Batch(say, s.look(m))
}

// interrupt implements interrupter: ctrl+c stops the pull.
func (s *imagesScreen) interrupt(m *model) tea.Cmd {
	if s.pull == nil {
		return m.leave()
	}
	s.pull.stopped = true
	s.pull.stop()
	m.notice = ln(span{warn, "stopping the pull"})
	return nil
}

// leavePull asks before leaving ends a pull.
func (s *imagesScreen) leavePull(m *model) tea.Cmd {
	return m.open(&ask{name: "Quit while images are pulled?",
		text: "The pull ends with this terminal. What came in is kept, and the next pull goes on from there.",
		options: []option{
			{"back", "Let it go on", nil},
			{"stop", "Stop it and quit", func(m *model) tea.Cmd {
				if s.pull == nil { // over meanwhile
					return m.leave()
				}
				s.pull.leaving = true
				s.pull.stop()
				return nil
			}},
		}})
}

// viewPull shows a pull that goes on.
func (s *imagesScreen) viewPull(b *body, m *model, width int) {
	p := s.pull
	head := ln(" ", span{accent, "PULLING " + count(p.count, "image") + " into " + p.into}).clip(width)
	now := ln("   asking the registries, ", clock(m.now().Sub(p.began)))
	if p.last.Total > 0 {
		now = ln("   ", m.look.bar(int(p.last.Done*100/p.last.Total), barWidth(width)), progress.Amount(p.last.Done, p.last.Total, m.now().Sub(p.began))).clip(width)
	}
	rows := append([]line{head, now}, para(width, 3, dim, "Closing this terminal or ctrl+c stops it; what came in is kept.")...)
	b.focus(rows...)
}

// screenOf is the screen of a type.
func screenOf[T screen](m *model) (found T) {
	for _, s := range m.screens {
		if x, ok := s.(T); ok {
			return x
		}
	}
	return found
}
