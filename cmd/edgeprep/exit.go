package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
)

// The exit codes; edgeprep --help lists them.
const (
	exitFailed    = 1
	exitChanges   = 2
	exitCheck     = 3
	exitUnproven  = 4
	exitUsage     = 64
	exitConfig    = 65
	exitRefused   = 69
	exitBug       = 70
	exitLocked    = 75
	exitNeedsRoot = 77
	exitHup       = 129
	exitInt       = 130
	exitTerm      = 143
)

// exitError carries a code whose reason is already on stdout: a verdict, pending changes.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// exitCode maps an error to the process's exit code, in one place.
func exitCode(err error) int {
	var (
		exit    *exitError
		usage   *usageError
		refused *diag.Refused
		locked  *host.LockedError
		invalid *app.InvalidConfig
		by      *interrupted
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &by):
		return signalCode(by.sig)
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &locked):
		return exitLocked
	case errors.Is(err, apply.ErrNeedsRoot):
		return exitNeedsRoot
	case errors.As(err, &invalid):
		return exitConfig
	case errors.As(err, &refused):
		return exitRefused
	}
	return exitFailed
}

// conclude prints an error once, as text on stderr or as the one JSON document on stdout, and gives the code.
func conclude(cmd *cobra.Command, g *globals, err error) int {
	s := g.streams
	code := exitCode(err)
	var exit *exitError
	if err == nil || errors.As(err, &exit) {
		return code
	}
	found := g.typable(diag.Of(err))
	if jsonWanted(cmd) {
		if len(found) == 0 {
			found = diag.Report{{Severity: diag.Error, What: err.Error()}}
		}
		_ = json.NewEncoder(s.out).Encode(map[string]any{"error": found, "exit": code})
		return code
	}
	for _, d := range found {
		fmt.Fprintln(s.err, d.Text())
	}
	if len(found) == 0 {
		fmt.Fprintln(s.err, "edgeprep: "+err.Error())
	}
	if hint := hint(code, cmd, found); hint != "" {
		fmt.Fprintln(s.err, hint)
	}
	return code
}

// ofANode are the commands that work on the node and the file that --root, --node and -c say.
var ofANode = regexp.MustCompile(`\bedgeprep (plan|apply|rollback|check|status|detect|validate|unit)\b`)

// typable lets a fix name the node and the file that this command was about: typed as it stands, it would else change
// the node that it is typed on.
func (g *globals) typable(found diag.Report) diag.Report {
	out := make(diag.Report, 0, len(found))
	for _, d := range found {
		c := *d
		if !strings.Contains(c.Fix, " --root ") && !strings.Contains(c.Fix, " -c ") {
			c.Fix = ofANode.ReplaceAllString(c.Fix, strings.ReplaceAll(g.typed(), "$", "$$")+" $1")
		}
		out = append(out, &c)
	}
	return out
}

func hint(code int, cmd *cobra.Command, found diag.Report) string {
	switch code {
	case exitUsage:
		return fmt.Sprintf("try: %s --help", strings.TrimSpace(cmd.CommandPath()))
	case exitNeedsRoot:
		return "fix: run it as root: sudo " + cmd.CommandPath()
	case exitConfig, exitRefused:
		return fmt.Sprintf("%d problem(s); nothing on the node was changed (exit %d)", max(1, len(found)), code)
	}
	return ""
}

func jsonWanted(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	f := cmd.Flags().Lookup("output")
	return f != nil && f.Value.String() == "json"
}
