package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// allowFlag adds --allow, the permissions for disruptive changes.
func allowFlag(cmd *cobra.Command, allow *[]string) {
	cmd.Flags().StringSliceVar(allow, "allow", nil, "accept named risks: "+strings.Join(config.Risks(), ", "))
	cmd.PreRunE = func(*cobra.Command, []string) error { return risksKnown(*allow) }
	_ = cmd.RegisterFlagCompletionFunc("allow", cobra.FixedCompletions(config.Risks(), cobra.ShellCompDirectiveNoFileComp))
}

// risksKnown refuses a permission that means nothing: the run would be refused for the lack of the one that was meant.
func risksKnown(allow []string) error {
	for _, r := range allow {
		if !slices.Contains(config.Risks(), r) {
			return &usageError{fmt.Errorf("--allow %q is not one of %s", r, strings.Join(config.Risks(), ", "))}
		}
	}
	return nil
}

func newPlan(g *globals) *cobra.Command {
	var o app.ApplyOptions
	var detailed bool
	cmd := &cobra.Command{
		Use:     "plan",
		Short:   "Show what apply would do, as a diff; writes nothing",
		Example: "  edgeprep plan\n  edgeprep plan -o json\n  edgeprep plan --detailed-exitcode   # 2: there is something to do",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(ctx context.Context, a *app.App) error {
				p, err := a.Plan(ctx, o)
				if err != nil {
					return err
				}
				if err := g.showPlan(p); err != nil {
					return err
				}
				if detailed && !p.Empty() {
					return &exitError{exitChanges}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit 2 when there is something to do")
	cmd.Flags().BoolVar(&o.Verify, "verify", false, "read and hash what a plain plan only looks at by size and time")
	return cmd
}

func (g *globals) showPlan(p plan.Plan) error {
	if g.json() {
		return writeJSON(g.out, p)
	}
	return p.Text(g.out, g.colored(g.out))
}

func newApply(g *globals) *cobra.Command {
	var o app.ApplyOptions
	var dry, ifConfigured, detach, attach bool
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Converge this node to edgeprep.toml; run again to resume",
		Example: "  edgeprep apply\n  edgeprep apply --allow restart --yes\n  edgeprep apply --dry-run\n  edgeprep apply --root /mnt/image\n" +
			"  edgeprep apply --detach   # goes on when this terminal is lost\n  edgeprep apply --attach   # shows the run that goes on, or the last one",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf(cmd, "detach", "attach", "dry-run"); err != nil {
				return err
			}
			if attach {
				return g.attached(cmd.Context())
			}
			return g.change(cmd.Context(), func(ctx context.Context, a *app.App) error {
				if ifConfigured && !a.Configured() {
					fmt.Fprintf(g.err, "edgeprep: no %s, nothing to do\n", a.ConfigName())
					return g.note(ctx, a, app.Unconfigured(a.ConfigName()), nil)
				}
				if dry {
					p, err := a.Plan(ctx, o)
					if err != nil {
						return err
					}
					return g.showPlan(p)
				}
				if detach {
					return g.detached(ctx, a, o)
				}
				o.Confirm = g.confirm
				r, err := a.Apply(ctx, o)
				return g.showRun(r, g.note(ctx, a, r, err))
			})
		},
	}
	allowFlag(cmd, &o.Allow)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "the same as edgeprep plan")
	cmd.Flags().BoolVar(&ifConfigured, "if-configured", false, "without edgeprep.toml: do nothing and succeed (boot units)")
	cmd.Flags().BoolVar(&o.Verify, "verify", false, "read and hash what a plain apply only looks at by size and time")
	cmd.Flags().DurationVar(&o.WaitLock, "wait-lock", 0, "wait this long for another run to end")
	cmd.Flags().BoolVar(&detach, "detach", false, "start the run outside this terminal and return; asks nothing")
	cmd.Flags().BoolVar(&attach, "attach", false, "show the run that goes on now, or the last one of this boot, and end as it does; interrupting ends only the watching")
	return cmd
}

// confirm shows the plan and asks. Without a terminal ordinary changes need no answer: apply must work from
// cloud-init, and what is risky was refused before.
func (g *globals) confirm(p plan.Plan) error {
	if g.yes || !g.interactive() || p.Empty() {
		return nil
	}
	if err := p.Text(g.err, g.colored(g.err)); err != nil {
		return err
	}
	fmt.Fprintf(g.err, "Apply these %d changes? [y/N] ", len(p.Changes))
	var answer string
	if _, err := fmt.Fscanln(g.in, &answer); err != nil || !strings.HasPrefix(strings.ToLower(answer), "y") {
		return &usageError{fmt.Errorf("not confirmed; nothing was changed (answer y, or pass --yes)")}
	}
	return nil
}

// note leaves the outcome of a run for cloud-init and monitoring, and gives its error back. That it cannot be
// left is not worth failing a run for.
func (g *globals) note(ctx context.Context, a *app.App, r apply.Report, err error) error {
	if nerr := a.NoteRun(ctx, r, exitCode(signalled(ctx, err)), err); nerr != nil {
		fmt.Fprintln(g.err, "edgeprep: the result is not kept: "+nerr.Error())
	}
	return err
}

func (g *globals) showRun(r apply.Report, err error) error {
	if err != nil && r.Run == "" {
		return err
	}
	if g.json() {
		if werr := writeJSON(g.out, r); werr != nil {
			return werr
		}
		if err != nil {
			return &exitError{exitCode(err)}
		}
		return nil
	}
	if g.quiet && err == nil {
		return nil
	}
	if werr := app.Brief(g.err, r); !errors.Is(werr, syscall.EPIPE) {
		err = errors.Join(err, werr)
	}
	return err
}

func newRollback(g *globals) *cobra.Command {
	var o app.RollbackOptions
	var dry bool
	cmd := &cobra.Command{
		Use:   "rollback [RUN]",
		Short: "Put back what one run changed, byte for byte (default: all runs)",
		Example: "  edgeprep rollback --dry-run\n  edgeprep rollback\n" +
			"  edgeprep rollback 0003-20260102T030405Z   # one run; edgeprep status -o json names them",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Run = args[0]
			}
			return g.change(cmd.Context(), func(ctx context.Context, a *app.App) error {
				if dry {
					p, err := a.RollbackPlan(ctx, o)
					if err != nil {
						return err
					}
					return g.showPlan(p)
				}
				o.Confirm = g.confirm
				r, err := a.Rollback(ctx, o)
				return g.showRun(r, g.note(ctx, a, r, err))
			})
		},
		ValidArgsFunction: g.completeRuns,
	}
	allowFlag(cmd, &o.Allow)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be put back")
	cmd.Flags().DurationVar(&o.WaitLock, "wait-lock", 0, "wait this long for another run to end")
	return cmd
}

func (g *globals) completeRuns(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, err := g.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.Runs(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
}

func newStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show the last run, what drifted since, what is pending, and the mirror",
		Example: "  edgeprep status\n  edgeprep status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), func(ctx context.Context, a *app.App) error {
				s, err := a.Status(ctx)
				if err != nil {
					return err
				}
				if g.json() {
					return writeJSON(g.out, s)
				}
				return s.Text(g.out)
			})
		},
	}
}

// change is with for a run that changes the node: whoever read what it says may leave (apply | head) without ending it
// in the middle.
func (g *globals) change(ctx context.Context, f func(context.Context, *app.App) error) error {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGPIPE) // not Ignore, which programs that are started would inherit
	defer signal.Stop(ch)
	return g.with(ctx, f)
}

// with opens the program with its event sinks and bounds the work by --timeout.
func (g *globals) with(ctx context.Context, f func(context.Context, *app.App) error) (err error) {
	sinks, closeAll, err := g.sinks()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := closeAll(); err == nil {
			err = cerr
		}
	}()
	if g.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, g.timeout, fmt.Errorf("--timeout %s is over", g.timeout))
		defer cancel()
	}
	a, err := g.open(sinks...)
	if err != nil {
		return err
	}
	defer a.Close()
	return f(ctx, a)
}
