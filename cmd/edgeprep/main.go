// Command edgeprep prepares Kubernetes nodes for sites without a network: it preloads images, installs a
// registry mirror, points containerd at it, and proves that the node starts with the cable out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// streams are the standard streams of one run.
type streams struct {
	in  *os.File
	out io.Writer
	err io.Writer
}

// run is main without the process: it returns the exit code. A panic is a bug and says so (70); left alone
// it would exit 2, which means "changes pending".
func run(args []string, s streams) (code int) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(s.err, "edgeprep: this is a bug: %v\n%s", r, debug.Stack())
			code = exitBug
		}
	}()
	g := &globals{streams: s}
	ctx, stop := interruptible(s.err, &g.serving)
	defer stop()
	root := newRoot(g)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return conclude(cmd, g, signalled(ctx, err))
}

// interruptible gives a context that the first SIGINT or SIGTERM ends: the current step is finished, then
// the run stops. A second one stops at once, which is safe at any instant.
func interruptible(stderr io.Writer, serving *atomic.Bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case sig := <-ch:
				if n > 0 {
					os.Exit(signalCode(sig))
				}
				if !serving.Load() {
					fmt.Fprintln(stderr, "edgeprep: stopping after this step; again: stop now (run the same command to resume)")
				}
				cancel(&interrupted{sig})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() { signal.Stop(ch); close(done); cancel(nil) }
}

type interrupted struct{ sig os.Signal }

func (i *interrupted) Error() string { return "stopped by " + i.sig.String() }

// signalled replaces a cancellation error by the signal that caused it.
func signalled(ctx context.Context, err error) error {
	var by *interrupted
	if err != nil && errors.As(context.Cause(ctx), &by) {
		return fmt.Errorf("%w: %w", by, err)
	}
	return err
}

func signalCode(sig os.Signal) int {
	switch sig {
	case syscall.SIGTERM:
		return exitTerm
	case syscall.SIGHUP:
		return exitHup
	}
	return exitInt
}
