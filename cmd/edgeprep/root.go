package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// globals are the flags that every command takes.
type globals struct {
	streams
	config  string
	output  string
	root    string
	node    string
	events  string
	noInput bool
	yes     bool
	color   string
	ascii   bool
	plain   bool
	quiet   bool
	verbose int
	timeout time.Duration
	serving atomic.Bool // a server runs: a signal is its ordinary end
}

func newRoot(g *globals) *cobra.Command {
	s := g.streams
	root := &cobra.Command{
		Use:   "edgeprep",
		Short: "Prepare Kubernetes nodes for sites without a network",
		Long: "edgeprep prepares a Kubernetes node for a site without a network: it preloads images, installs a\n" +
			"registry mirror, points containerd at it, and proves that the node starts with the cable out.\n\n" +
			"Exit codes: 0 done or nothing to do, 1 a step failed, 2 changes pending (plan --detailed-exitcode),\n" +
			"3 a check failed, 4 warnings with --strict, 64 usage, 65 config invalid, 69 refused before touching\n" +
			"anything, 70 bug, 75 another run holds the lock, 77 needs root, 129/130/143 interrupted.",
		Example:           "  edgeprep                 # on a terminal: the staging TUI\n  edgeprep demo            # the whole job on a throw-away node\n  edgeprep detect          # what is this node\n  edgeprep plan            # what apply would do\n  edgeprep apply",
		SilenceUsage:      true,
		SilenceErrors:     true,
		Args:              cobra.NoArgs,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		PersistentPreRunE: func(*cobra.Command, []string) error { return g.check() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.fullScreen() == nil {
				if g.plainWanted() {
					return g.questions(cmd.Context())
				}
				return g.stage(cmd.Context())
			}
			fmt.Fprint(s.err, cmd.UsageString())
			return &exitError{exitUsage}
		},
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	g.flags(root)
	root.AddCommand(newDemo(g), newDetect(g), newDistro(g), newInit(g), newValidate(g), newPlan(g), newApply(g), newRollback(g),
		newStatus(g), newCheck(g), newReport(g), newExplain(g), newMirror(g), newUnit(g), newSeed(g), newSupportBundle(g), newTUI(g), newVersion(g))
	asUsage(root)
	return root
}

func (g *globals) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&g.config, "config", "c", "", "edgeprep.toml; - is stdin (default $EDGEPREP_CONFIG, else /etc/edgeprep/edgeprep.toml)")
	f.StringVarP(&g.output, "output", "o", "text", "format of the answer on stdout: text or json")
	f.StringVar(&g.root, "root", "", "work on a mounted image or directory instead of the running node")
	f.StringVar(&g.node, "node", "", "which [[node]] this machine is (default: found by hostname, machine id, address)")
	f.StringVar(&g.events, "events", "", "write events as JSON Lines to a file, or to a file descriptor by fd:N")
	f.BoolVar(&g.noInput, "no-input", false, "never ask; a question that would have to be asked is an error")
	f.BoolVarP(&g.yes, "yes", "y", false, "do not ask before ordinary changes; risky ones still need --allow")
	f.StringVar(&g.color, "color", "auto", "colour: auto, always or never")
	f.BoolVar(&g.ascii, "ascii", false, "plain ASCII only")
	f.BoolVar(&g.plain, "plain", false, "no redrawing; questions are read from stdin (also: ACCESSIBLE=1)")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "only what failed")
	f.CountVarP(&g.verbose, "verbose", "v", "more detail")
	f.DurationVar(&g.timeout, "timeout", 0, "give up after this time (default: none)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("node", g.completeNodes)
}

func (g *globals) check() error {
	for _, f := range []struct {
		name, v string
		allowed []string
	}{{"output", g.output, []string{"text", "json"}}, {"color", g.color, []string{"auto", "always", "never"}}} {
		if !slices.Contains(f.allowed, f.v) {
			return &usageError{fmt.Errorf("--%s %q is not one of %s", f.name, f.v, strings.Join(f.allowed, ", "))}
		}
	}
	return nil
}

// asUsage makes wrong flags and arguments of every command usage errors: cobra's own are plain.
func asUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	args := cmd.Args
	if args == nil {
		args = cobra.ArbitraryArgs
		if cmd.HasSubCommands() {
			args = cobra.NoArgs
		}
	}
	cmd.Args = func(c *cobra.Command, a []string) error {
		if err := args(c, a); err != nil {
			return &usageError{err}
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		asUsage(sub)
	}
}

// group makes a command that only holds others.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return &usageError{fmt.Errorf("%s needs a sub-command", c.CommandPath())}
	}
	cmd.AddCommand(subs...)
	return cmd
}

func (g *globals) json() bool { return g.output == "json" }

// interactive says whether a question may be asked: both ends must be a terminal.
func (g *globals) interactive() bool {
	return !g.noInput && isTerminal(g.in) && isTerminal(g.err)
}

func isTerminal(s any) bool {
	f, ok := s.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colored says whether text on w may carry colour.
func (g *globals) colored(w io.Writer) bool {
	switch g.color {
	case "always":
		return true
	case "never":
		return false
	}
	t := os.Getenv("TERM")
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && t != "" && t != "dumb" && !strings.HasPrefix(t, "vt")
}

// sinks are where events go: stderr for people, and --events.
func (g *globals) sinks() (list []progress.Sink, closeAll func() error, err error) {
	live := !g.plain && os.Getenv("ACCESSIBLE") == "" && isTerminal(g.err) && os.Getenv("TERM") != "dumb"
	width := 80
	if f, ok := g.err.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	list = []progress.Sink{progress.NewText(g.err, progress.TextOptions{Live: live, Width: width, Quiet: g.quiet, Verbose: g.verbose > 0})}
	if g.events == "" {
		return list, func() error { return nil }, nil
	}
	f, err := openEvents(g.events)
	if err != nil {
		return nil, nil, err
	}
	lines := progress.NewJSONLines(f)
	return append(list, lines), func() error {
		if err := lines.Err(); err != nil {
			return fmt.Errorf("write --events %s: %w", g.events, err)
		}
		return f.Close()
	}, nil
}

func openEvents(to string) (*os.File, error) {
	if n, ok := strings.CutPrefix(to, "fd:"); ok {
		var fd uintptr
		if _, err := fmt.Sscanf(n, "%d", &fd); err != nil {
			return nil, &usageError{fmt.Errorf("--events %s: write fd:N with a number", to)}
		}
		return os.NewFile(fd, to), nil
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open --events: %w", err)
	}
	return f, nil
}

// open makes the program for one command.
func (g *globals) open(sinks ...progress.Sink) (*app.App, error) {
	return app.Open(app.Options{Root: g.root, Config: g.config, Stdin: g.in, Node: g.node, Version: version, Sinks: sinks})
}
