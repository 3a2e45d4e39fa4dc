// Package tui is the staging TUI: an editor for edgeprep.toml and a viewer of the same plan, events and results
// as the commands. It is one bubbletea model with one screen to a step and a stack of dialogs; it does no I/O
// itself: whatever reads or writes goes through Program, from a command, never from Update.
package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/report"
)

// Program is edgeprep as the TUI sees it. Every method may take long and is called outside Update; one that is
// given a context ends when the context does.
type Program interface {
	// Survey looks at this machine and changes nothing.
	Survey(ctx context.Context) (app.Survey, error)
	// Load reads edgeprep.toml; where there is none, a starter for this machine. An empty name is the file that
	// the commands would read.
	Load(ctx context.Context, name string) (app.Draft, error)
	// Save writes a draft to its file and gives it back as it is on disk now.
	Save(ctx context.Context, d app.Draft) (app.Draft, error)
	// Images reads the archives and the list of a draft.
	Images(ctx context.Context, d app.Draft, events progress.Sink) (app.Coverage, error)
	// Pull brings references into the cache of this node's mirror, as a draft has it, and writes nothing else. What
	// came in is kept when the context ends it.
	Pull(ctx context.Context, d app.Draft, refs []string, events progress.Sink) (mirror.FillReport, error)
	// Review plans a draft and lays out what waits for what at power-on.
	Review(ctx context.Context, d app.Draft) (app.Review, error)
	// Check runs the checklist.
	Check(ctx context.Context, o app.CheckOptions, events progress.Sink) (check.Report, error)
	Runner
}

// Runner carries out what was planned, outside the terminal, and keeps what came of it.
type Runner interface {
	// Run starts a task outside the terminal and gives the sink its events until it ends. When the context ends
	// only the watching does.
	Run(ctx context.Context, t app.Task, events progress.Sink) (apply.Result, error)
	// Undoing plans what undoing a run would put back.
	Undoing(ctx context.Context, run string) (plan.Plan, error)
	// Stop tells the run that goes on to end after its step; false: none goes on.
	Stop(ctx context.Context) (bool, error)
	// Keep writes the record of a checklist and its other forms where [checklist] out says.
	Keep(ctx context.Context, r check.Report) (report.Kept, error)
}

// Options say how and where the TUI is shown.
type Options struct {
	In      io.Reader
	Out     io.Writer
	Env     []string
	Version string
	Command string // the program with the flags that it was given: commands are shown with it
	Config  string // the file that is edited; empty: the default one
	Look    Look
	Typed   bool             // In is a terminal, which shows what is typed
	Now     func() time.Time // nil: time.Now, with a tick every second while a run goes on
}

// Run shows the TUI until it is left. What the last view of a run came to is its error.
func Run(ctx context.Context, p Program, o Options) error {
	m := newModel(ctx, p, o)
	profile := colorprofile.ANSI
	if o.Look.Mono {
		profile = colorprofile.ASCII
	}
	if f, ok := o.Out.(file); ok && o.Look.Old {
		o.Out = quiet{f}
	}
	final, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithEnvironment(o.Env),
		tea.WithColorProfile(profile), tea.WithFPS(o.Look.fps()), tea.WithoutSignalHandler()).Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, tea.ErrInterrupted) {
		return fmt.Errorf("show the terminal interface: %w", err)
	}
	if m, ok := final.(*model); ok {
		return m.outcome
	}
	return nil
}
