package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// detached starts an apply that outlives this terminal.
func (g *globals) detached(ctx context.Context, a *app.App, o app.ApplyOptions) error {
	d, err := a.DetachApply(ctx, o)
	if err != nil {
		return err
	}
	if g.json() {
		return writeJSON(g.out, d)
	}
	fmt.Fprintf(g.err, "edgeprep: the run goes on without this terminal; it prints to: %s\n", d.Where)
	fmt.Fprintln(g.err, "follow it: edgeprep apply --attach"+g.rootFlag())
	return nil
}

// oneOf refuses flags that exclude each other.
func oneOf(cmd *cobra.Command, names ...string) error {
	var set []string
	for _, n := range names {
		if cmd.Flags().Changed(n) {
			set = append(set, "--"+n)
		}
	}
	if len(set) > 1 {
		return &usageError{fmt.Errorf("%s cannot be given together", strings.Join(set, " and "))}
	}
	return nil
}

func (g *globals) rootFlag() string {
	if g.root == "" {
		return ""
	}
	return " --root " + g.root
}

// attached shows a run until it ends, and ends as it did. Signals end only the watching.
func (g *globals) attached(ctx context.Context) error {
	g.serving.Store(true) // a signal ends the watching, not a step
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case s := <-hup:
			cancel(&interrupted{s})
		case <-ctx.Done():
		}
	}()
	sinks, closeAll, err := g.sinks()
	if err != nil {
		return err
	}
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.Close()
	r, err := a.Attach(ctx, progress.Func(func(e progress.Event) {
		for _, s := range sinks {
			s.Emit(e)
		}
	}))
	if err = errors.Join(signalled(ctx, err), closeAll()); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(g.err, "edgeprep: the run goes on; see it again: edgeprep apply --attach"+g.rootFlag())
		}
		return err
	}
	return g.showAttached(r)
}

// showAttached prints the result as the command that ran would have.
func (g *globals) showAttached(r apply.Result) error {
	if g.json() {
		if err := writeJSON(g.out, r); err != nil {
			return err
		}
	} else {
		for _, d := range r.Errors {
			fmt.Fprintln(g.err, d.Text())
		}
		if r.Exit == 0 && !g.quiet || r.Run != "" {
			if err := app.Brief(g.err, r.Report); err != nil {
				return err
			}
		}
	}
	if r.Exit != 0 {
		return &exitError{r.Exit}
	}
	return nil
}
