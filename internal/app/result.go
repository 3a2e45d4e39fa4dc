package app

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/report"
)

// Unconfigured is the report of a run that had no configuration to apply.
func Unconfigured(config string) apply.Report {
	return apply.Report{Verb: "apply", Outcome: apply.OutcomeNothing, Summary: "There is no " + config + "."}
}

// NoteRun keeps the outcome of a run: /run/edgeprep/result.json. A run that found another one at work leaves
// that one's result alone.
func (a *App) NoteRun(ctx context.Context, r apply.Report, exit int, err error) error {
	var locked *host.LockedError
	if errors.As(err, &locked) {
		return nil
	}
	if r.Verb == "" {
		r.Verb = "apply"
	}
	if r.Outcome == "" {
		r.Outcome = apply.OutcomeFailed
		var refused *diag.Refused
		var invalid *InvalidConfig
		if errors.As(err, &refused) || errors.As(err, &invalid) {
			r.Outcome = apply.OutcomeRefused
		}
	}
	a.run.end(apply.Result{Report: r, Exit: exit, Errors: findings(err)})
	if !live(a.opts.Root) {
		return nil
	}
	return apply.NoteRun(ctx, a.host, r, exit, findings(err))
}

// findings are what an error says, in the form in which results hold it.
func findings(err error) diag.Report {
	found := diag.Of(err)
	if err != nil && len(found) == 0 {
		return diag.Report{{Severity: diag.Error, What: err.Error()}}
	}
	return found
}

// checkPause is how long a check that waits lets pass before it looks again; it doubles up to checkPauseMax.
const (
	checkPause    = 2 * time.Second
	checkPauseMax = 30 * time.Second
)

// CheckUntil runs the checklist until nothing fails, but no longer than within: at a start the distribution is
// still bringing up its runtime and its images.
func (a *App) CheckUntil(ctx context.Context, o CheckOptions, within time.Duration) (check.Report, error) {
	begin, pause := time.Now(), checkPause
	for {
		r, err := a.Check(ctx, o)
		if err != nil || r.ExitCode() == 0 || time.Since(begin)+pause > within {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, checkPauseMax)
	}
}

// NoteCheck adds the verdict to the result of the last run; with keep the whole report is kept too, and its
// path is given.
func (a *App) NoteCheck(ctx context.Context, r check.Report, keep bool) (file string, err error) {
	if keep {
		if file, err = a.keepReport(ctx, r); err != nil {
			return "", err
		}
	}
	if r.Partial || !live(a.opts.Root) {
		return file, nil
	}
	c := apply.CheckResult{Time: r.Finished, Profile: string(r.Profile), Verdict: string(r.Verdict), Exit: r.ExitCode(), Report: file}
	for _, m := range r.Missing {
		c.Missing = append(c.Missing, strings.Join(append(slices.Clone(m.IDs), m.Text), " "))
	}
	return file, apply.NoteCheck(ctx, a.host, c)
}

func (a *App) keepReport(ctx context.Context, r check.Report) (string, error) {
	site, err := a.Site()
	if err != nil {
		return "", err
	}
	var data bytes.Buffer
	if err := report.JSON(&data, r); err != nil {
		return "", err
	}
	return apply.KeepReport(ctx, a.host, site.Checklist.Out, string(r.Profile), data.Bytes())
}
