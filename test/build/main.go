// Command build builds the real programs that tests run into the user's cache directory and prints where they
// are:
//
//	go run ./test/build -what containerd-2.4,containerd-1.7
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/edgeprep/edgeprep/test/binaries"
)

func main() {
	what := flag.String("what", "containerd-2.4,containerd-1.7", "targets, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := build(ctx, strings.Split(*what, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, names []string) error {
	root, err := binaries.Root()
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := binaries.Lookup(name)
		if err != nil {
			return err
		}
		dir, err := t.Build(ctx, root, os.Stderr)
		if err != nil {
			return err
		}
		fmt.Println(dir)
	}
	return nil
}
