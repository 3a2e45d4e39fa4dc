package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/report"
	"github.com/edgeprep/edgeprep/internal/tui"
)

func newTUI(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "tui",
		Short: "Prepare this node step by step on the terminal",
		Long: "The staging TUI: nine steps that edit edgeprep.toml and show the same plan, events and results as the\n" +
			"commands. Nothing on the node is changed before step 7.",
		Example: "  edgeprep tui\n  edgeprep tui -c /mnt/usb/edgeprep.toml\n  edgeprep tui --ascii --color never   # an old console\n  edgeprep tui --plain   # numbered questions, line by line",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.plainWanted() {
				return g.questions(cmd.Context())
			}
			if err := g.fullScreen(); err != nil {
				return err
			}
			return g.stage(cmd.Context())
		},
	}
}

// plainWanted says whether the same is asked as numbered questions, line by line.
func (g *globals) plainWanted() bool {
	term := os.Getenv("TERM")
	return g.plain || os.Getenv("ACCESSIBLE") != "" || isTerminal(g.in) && (term == "dumb" || term == "")
}

// questions is the TUI without a screen: its answers may be piped in.
func (g *globals) questions(ctx context.Context) error {
	if err := g.asks(); err != nil {
		return err
	}
	g.serving.Store(true) // a signal ends the questions; a run goes on outside
	err := tui.Plain(ctx, &program{g: g}, g.tuiOptions())
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, tui.ErrNoAnswer):
		return &usageError{err}
	}
	return shown(err)
}

// shown is the exit code of what the TUI came to; why was on the screen.
func shown(err error) error {
	var failed *tui.Failed
	if errors.As(err, &failed) {
		return &exitError{failed.Exit}
	}
	return err
}

func (g *globals) tuiOptions() tui.Options {
	return tui.Options{In: g.in, Out: g.out, Env: os.Environ(), Version: version, Command: g.typed(), Config: g.config, Look: g.look(), Typed: isTerminal(g.in)}
}

// asks says why nothing can be asked at all; nil: it can.
func (g *globals) asks() error {
	switch {
	case g.noInput:
		return &usageError{fmt.Errorf("the TUI asks, and --no-input forbids it: edgeprep init, plan and apply need no answers")}
	case g.config == "-":
		return &usageError{fmt.Errorf("the TUI edits a file; stdin cannot be one: --config FILE")}
	case g.json():
		return &usageError{fmt.Errorf("the TUI has no JSON; edgeprep plan -o json, check -o json have")}
	}
	return nil
}

// fullScreen says why the TUI cannot be shown here; nil: it can.
func (g *globals) fullScreen() error {
	if err := g.asks(); err != nil {
		return err
	}
	if !isTerminal(g.in) || !isTerminal(g.out) || !isTerminal(g.err) {
		return &usageError{fmt.Errorf("the TUI needs a terminal on stdin, stdout and stderr; edgeprep init, plan and apply do not, and edgeprep tui --plain takes answers from a pipe")}
	}
	return nil
}

// stage shows the TUI. A lost terminal ends it; so do the signals that end every command.
func (g *globals) stage(ctx context.Context) error {
	g.serving.Store(true) // a signal ends the view at once, there is no step to finish
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		select {
		case sig := <-hup:
			cancel(&interrupted{sig})
		case <-ctx.Done():
		}
	}()
	return shown(tui.Run(ctx, &program{g: g}, g.tuiOptions()))
}

// look is how the terminal may be drawn on.
func (g *globals) look() tui.Look {
	device := ""
	if g.in != nil {
		device, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", g.in.Fd()))
	}
	l := tui.LookFor(os.Environ(), device)
	l.ASCII = l.ASCII || g.ascii
	l.Mono = !g.colored(g.out)
	return l
}

// typed is the program with the flags that say which node and which file: what is shown can be typed as it stands.
func (g *globals) typed() string {
	out := []string{"edgeprep"}
	for _, f := range [][2]string{{"--root", g.root}, {"--node", g.node}, {"-c", g.config}} {
		if f[1] != "" {
			out = append(out, f[0], diag.Word(f[1]))
		}
	}
	return strings.Join(out, " ")
}

// program is edgeprep as the TUI sees it.
type program struct {
	g    *globals
	mu   sync.Mutex
	read []preload.Archive // archives that were read already
}

// on opens the program for one call.
func (p *program) on(file string, draft []byte, events progress.Sink, f func(*app.App) error) error {
	o := app.Options{Root: p.g.root, Config: p.g.config, Node: p.g.node, Version: version, Draft: draft}
	if file != "" {
		o.Config = file
	}
	if events != nil {
		o.Sinks = []progress.Sink{events}
	}
	a, err := app.Open(o)
	if err != nil {
		return err
	}
	defer a.Close()
	return f(a)
}

// Survey implements tui.Program.
func (p *program) Survey(ctx context.Context) (s app.Survey, err error) {
	err = p.on("", nil, nil, func(a *app.App) error { s, err = a.Survey(ctx); return err })
	return s, err
}

// Load implements tui.Program.
func (p *program) Load(ctx context.Context, name string) (d app.Draft, err error) {
	err = p.on(p.named(name), nil, nil, func(a *app.App) error { d, err = a.Draft(ctx); return err })
	return d, err
}

// Save implements tui.Program.
func (p *program) Save(_ context.Context, d app.Draft) (now app.Draft, err error) {
	err = p.on(p.named(d.Name), nil, nil, func(a *app.App) error { now, err = a.Save(d); return err })
	return now, err
}

// Images implements tui.Program.
func (p *program) Images(ctx context.Context, d app.Draft, events progress.Sink) (c app.Coverage, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err = p.on(p.named(d.Name), d.Text, events, func(a *app.App) error { c, err = a.Coverage(ctx, p.read); return err })
	p.read = append(p.read, c.Read...)
	return c, err
}

// Pull implements tui.Program.
func (p *program) Pull(ctx context.Context, d app.Draft, refs []string, events progress.Sink) (r mirror.FillReport, err error) {
	err = p.on(p.named(d.Name), d.Text, events, func(a *app.App) error { r, err = a.PullMissing(ctx, refs); return err })
	return r, err
}

// Review implements tui.Program.
func (p *program) Review(ctx context.Context, d app.Draft) (r app.Review, err error) {
	err = p.on(p.named(d.Name), d.Text, nil, func(a *app.App) error { r, err = a.Review(ctx); return err })
	return r, err
}

// Check implements tui.Program.
func (p *program) Check(ctx context.Context, o app.CheckOptions, events progress.Sink) (r check.Report, err error) {
	err = p.on("", nil, events, func(a *app.App) error { r, err = a.Check(ctx, o); return err })
	return r, err
}

// Run implements tui.Runner.
func (p *program) Run(ctx context.Context, t app.Task, events progress.Sink) (r apply.Result, err error) {
	err = p.on("", nil, nil, func(a *app.App) error { r, err = a.RunTask(ctx, t, events); return err })
	return r, err
}

// Undoing implements tui.Runner.
func (p *program) Undoing(ctx context.Context, run string) (u plan.Plan, err error) {
	err = p.on("", nil, nil, func(a *app.App) error {
		u, err = a.RollbackPlan(ctx, app.RollbackOptions{Run: run})
		return err
	})
	return u, err
}

// Stop implements tui.Runner.
func (p *program) Stop(ctx context.Context) (ok bool, err error) {
	err = p.on("", nil, nil, func(a *app.App) error { ok, err = a.StopRun(ctx); return err })
	return ok, err
}

// Keep implements tui.Runner.
func (p *program) Keep(_ context.Context, r check.Report) (k report.Kept, err error) {
	err = p.on("", nil, nil, func(a *app.App) error {
		site, err := a.Site()
		if err != nil {
			return err
		}
		k, err = report.Keep(filepath.Join(p.g.root, site.Checklist.Out), r, nil)
		return err
	})
	return k, err
}

// named is the file to open by name; empty where it is the one that commands read anyway: under --root that is a
// file of the node, while a name means one of this machine.
func (p *program) named(name string) string {
	a, err := app.Open(app.Options{Root: p.g.root, Config: p.g.config})
	if err != nil || name != a.ConfigName() {
		return name
	}
	a.Close()
	return ""
}
