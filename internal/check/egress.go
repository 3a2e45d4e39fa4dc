package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// EgressState says whether the node could reach the networks it must do without.
type EgressState string

// The states.
const (
	EgressCut      EgressState = "cut"      // every probe failed, all the time
	EgressOpen     EgressState = "open"     // a probe got through
	EgressUnproven EgressState = "unproven" // not watched, or what was seen proves nothing
)

// Egress is what was seen of the way out while the checks ran.
type Egress struct {
	State   EgressState `json:"state"`            // over the whole run
	Reason  string      `json:"reason,omitempty"` // why it is not "cut"
	Samples int         `json:"samples"`          // how often every probe was tried
	Probes  []Probe     `json:"probes,omitempty"` // every way out that was tried
}

// Probe is one address that must not be reachable, and what came of trying.
type Probe struct {
	Target  string `json:"target"`         // host:port
	How     string `json:"how"`            // "by name", "at 192.0.2.1 (recorded)", "through proxy 192.0.2.9:3128 (…)"
	Tries   int    `json:"tries"`          // connects that were tried
	Reached int    `json:"reached"`        // of them: somebody answered
	Last    string `json:"last,omitempty"` // the last error, or what answered
}

// probeTimeout bounds a name look-up and, again, a connect.
const probeTimeout = 2 * time.Second

// watcher samples egress before, during and after a run.
type watcher struct {
	net    Network
	routes func() (string, error)

	mu      sync.Mutex
	probes  []*Probe
	targets []target
	owed    []string // reasons for which "cut" cannot be said, whatever the probes give
	before  string   // routes and links at the start
	changed bool
	samples int

	stop context.CancelFunc
	done chan struct{}
}

// watchEgress takes the first sample and starts the periodic ones. It watches only when PRC-03 is asked for
// and only a running node: a mounted image has no network of its own.
func (e *Env) watchEgress(ctx context.Context, checks []Check, every time.Duration) *watcher {
	w := &watcher{net: e.Net, routes: func() (string, error) { return routeState(e.Reader.FS()) }}
	switch {
	case byID(checks, egressID).ID == "":
		w.owed = []string{egressID + " was not asked for, so nothing was probed"}
		return w
	case !e.memo.facts.Live:
		w.owed = []string{"this is not a running node: a mounted image or directory has no network of its own"}
		return w
	}
	w.targets, w.owed = e.egressTargets(ctx)
	for _, t := range w.targets {
		w.probes = append(w.probes, &Probe{Target: t.name, How: t.how})
	}
	var err error
	if w.before, err = w.routes(); err != nil {
		w.owed = append(w.owed, "routes and links cannot be read: "+err.Error())
	}
	w.sample(ctx)
	w.loop(ctx, every)
	return w
}

func (w *watcher) loop(ctx context.Context, every time.Duration) {
	ctx, w.stop = context.WithCancel(ctx)
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				w.sample(ctx)
			}
		}
	}()
}

// finish takes the last sample and gives the whole picture.
func (w *watcher) finish(ctx context.Context) Egress {
	if w.stop != nil {
		w.stop()
		<-w.done
		w.sample(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := Egress{Samples: w.samples}
	out.State, out.Reason = w.judge()
	for _, p := range w.probes {
		out.Probes = append(out.Probes, *p)
	}
	return out
}

// state is the state as far as it is known now.
func (w *watcher) state() EgressState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, _ := w.judge()
	return s
}

func (w *watcher) judge() (EgressState, string) {
	if open := w.reached(); len(open) > 0 {
		return EgressOpen, "reachable: " + strings.Join(open, ", ")
	}
	owed := w.owed
	if w.changed {
		owed = append(slices.Clip(owed), "a route or link changed while the checks ran")
	}
	if len(owed) > 0 {
		return EgressUnproven, strings.Join(owed, "; ")
	}
	if w.samples < 2 {
		return EgressUnproven, "egress was sampled only once so far"
	}
	return EgressCut, ""
}

func (w *watcher) reached() []string {
	var open []string
	for _, p := range w.probes {
		if p.Reached > 0 {
			open = append(open, fmt.Sprintf("%s %s", p.Target, p.How))
		}
	}
	return open
}

// sample tries every target once. One cut short by the end of the run counts nothing.
func (w *watcher) sample(ctx context.Context) {
	type outcome struct {
		reached bool
		last    string
	}
	got := make([]outcome, len(w.targets))
	var g errgroup.Group
	g.SetLimit(64)
	for i, t := range w.targets {
		g.Go(func() error {
			got[i].reached, got[i].last = t.try(ctx, w.net)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	now, err := w.routes()
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples++
	w.changed = w.changed || err != nil || now != w.before
	for i, o := range got {
		p := w.probes[i]
		p.Tries++
		if o.reached {
			p.Reached++
		}
		if o.reached || p.Reached == 0 {
			p.Last = o.last
		}
	}
}
