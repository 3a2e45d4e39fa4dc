package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"edgeprep": func() { os.Exit(run(os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})) },
		"mkimages": func() { mustMain(mkimages(os.Args[1:])) },
	})
}

func mustMain(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// mkimages writes the standard image set: mkimages FILE [PLATFORM].
func mkimages(args []string) error {
	o := imagetest.Options{Pause: "docker.io/rancher/mirrored-pause:3.10.2", Platforms: []string{"linux/" + runtime.GOARCH}}
	if len(args) > 1 {
		o.Platforms = []string{args[1]}
	}
	set, err := imagetest.Standard(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(args[0]), 0o755); err != nil {
		return err
	}
	return set.WriteArchive(args[0], imagetest.Form{Layout: imagetest.Combined})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	static := staticProgram(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("EDGEPREP_UPDATE") == "1",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("STATIC", static)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "locked": locked, "same": same, "flip": flip, "cut": cut, "mklink": link, "subst": subst,
			"validates": validates, "served": served,
		},
	})
}

// staticProgram is edgeprep as it is shipped: this test binary is linked with libc, and no mirror's image can be
// made of it.
func staticProgram(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "edgeprep")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return out
}

// exits CODE PROGRAM ARGS...: the program must end with this very code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit %d, not %s", code, args[0])
	}
}

// locked FILE PROGRAM ARGS...: runs it while this process holds the lock on FILE; it must exit 75.
func locked(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	ts.Check(err)
	defer f.Close()
	_, err = f.WriteString("pid 1 edgeprep apply since yesterday")
	ts.Check(err)
	ts.Check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	exits(ts, false, append([]string{"75"}, args[1:]...))
}

// same DIR FILE: the listing of DIR (types, modes, links, contents) is what FILE holds, or FILE is written.
func same(ts *testscript.TestScript, neg bool, args []string) {
	out, err := exec.Command("sh", "-c", "cd "+ts.MkAbs(args[0])+
		` && find . -path ./var/lib/edgeprep -prune -o -path ./var/log/edgeprep -prune -o -path ./run -prune -o -printf '%y %m %p %l\n' | LC_ALL=C sort`+
		` && find . -path ./var/lib/edgeprep -prune -o -path ./var/log/edgeprep -prune -o -path ./run -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum`).Output()
	ts.Check(err)
	file := ts.MkAbs(args[1])
	if old, err := os.ReadFile(file); err == nil {
		if equal := string(old) == string(out); equal == neg {
			ts.Fatalf("%s: same is %v\n--- before\n%s--- now\n%s", args[0], equal, old, out)
		}
		return
	}
	ts.Check(os.WriteFile(file, out, 0o644))
}

// served CACHE VAR: a mirror of this process serves it until the script ends; its URL is in the variable.
func served(ts *testscript.TestScript, _ bool, args []string) {
	s, err := mirror.Listen(context.Background(), mirror.Config{Cache: ts.MkAbs(args[0]), Listen: "127.0.0.1:0"})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
	ts.Setenv(args[1], s.URL())
}

// flip FILE OFFSET: flips a bit there; an offset below 0 counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// cut FILE PERCENT: keeps the first part of a file.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	fi, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	percent, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), fi.Size()*percent/100))
}

// link FILE TARGET makes a symlink with its missing directories.
func link(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
	ts.Check(os.Symlink(args[1], ts.MkAbs(args[0])))
}

// subst FILE OLD NEW replaces text in a file.
func subst(ts *testscript.TestScript, _ bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	if !strings.Contains(string(data), args[1]) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(string(data), args[1], args[2], 1)), 0o644))
}

// TestEveryCommandIsDocumented: help without an example helps nobody.
func TestEveryCommandIsDocumented(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || (c.Example == "" && c.Name() != "help" && c.Parent() != nil) {
			t.Errorf("%s: no short help or no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" && sub.Name() != "help" {
				walk(sub)
			}
		}
	}
	walk(newRoot(&globals{streams: streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}}))
}

// TestEveryCommandHasAScript: a command that no script runs is not tested.
func TestEveryCommandHasAScript(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.HasSubCommands() && c.Name() != "help" && !strings.Contains(all.String(), c.CommandPath()) {
			t.Errorf("no script runs %q", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&globals{streams: streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}}))
}
