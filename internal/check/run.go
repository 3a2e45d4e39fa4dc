package check

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// Options say which checks run and how.
type Options struct {
	IDs      []string        // of checks, * stands for any letters; empty: all of the profile
	Profile  Profile         // empty: stage
	Deep     bool            // hash again what is otherwise believed by size and recorded digest
	Strict   bool            // a warning or missing proof is exit code 4
	Waivers  []config.Waiver // besides those of the site file
	Parallel int             // checks at a time; zero: 8
	Interval time.Duration   // between egress samples; zero: 5 s
	Sink     progress.Sink   // gets a CheckResult event per check; nil: none
}

// UnknownError says that there is no such check or profile.
type UnknownError struct {
	Kind    string // "check" or "profile"
	Name    string
	Nearest string
}

// Error implements error.
func (e *UnknownError) Error() string {
	msg := fmt.Sprintf("there is no %s %q", e.Kind, e.Name)
	if e.Nearest != "" {
		msg += fmt.Sprintf("; did you mean %s?", e.Nearest)
	}
	return msg + "; edgeprep check --list shows all"
}

// Run runs the checklist on a node. The error is about the request or a cancelled context; what is wrong
// with the node is in the report.
func Run(ctx context.Context, env Env, opts Options) (Report, error) {
	checks, err := selected(Catalogue(), opts)
	if err != nil {
		return Report{}, err
	}
	return run(ctx, env, opts.filled(), checks)
}

func (o Options) filled() Options {
	if o.Profile == "" {
		o.Profile = ProfileStage
	}
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	if o.Sink == nil {
		o.Sink = progress.Discard{}
	}
	return o
}

// Select picks the checks that a run with opts would run, in the catalogue's order. The error is an *UnknownError.
func Select(opts Options) ([]Check, error) { return selected(Catalogue(), opts) }

// matching are the ids that a pattern names: "IMG-01", "reg-*".
func matching(all []Check, pattern string) []string {
	var out []string
	for _, id := range ids(all) {
		if ok, err := path.Match(strings.ToUpper(pattern), id); ok && err == nil {
			out = append(out, id)
		}
	}
	return out
}

// selected picks the checks that opts ask for, in the catalogue's order.
func selected(all []Check, opts Options) ([]Check, error) {
	if opts.Profile != "" && !slices.Contains(Profiles(), opts.Profile) {
		return nil, &UnknownError{Kind: "profile", Name: string(opts.Profile), Nearest: nearestProfile(opts.Profile)}
	}
	want := map[string]bool{}
	for _, pattern := range opts.IDs {
		named := matching(all, pattern)
		if len(named) == 0 {
			id := strings.ToUpper(pattern)
			return nil, &UnknownError{Kind: "check", Name: id, Nearest: diag.Nearest(id, ids(all))}
		}
		for _, id := range named {
			want[id] = true
		}
	}
	profile := opts.filled().Profile
	var out []Check
	for _, c := range all {
		if want[c.ID] || len(want) == 0 && c.in(profile) {
			out = append(out, c)
		}
	}
	return out, nil
}

func (c Check) in(p Profile) bool { return len(c.Profiles) == 0 || slices.Contains(c.Profiles, p) }

func ids(all []Check) []string {
	out := make([]string, 0, len(all))
	for _, c := range all {
		out = append(out, c.ID)
	}
	return out
}

func nearestProfile(p Profile) string {
	names := make([]string, 0, 4)
	for _, q := range Profiles() {
		names = append(names, string(q))
	}
	return diag.Nearest(string(p), names)
}

// run is Run with the checks given.
func run(ctx context.Context, env Env, opts Options, checks []Check) (Report, error) {
	e, err := env.prepared(ctx, opts)
	if err != nil {
		return Report{}, err
	}
	r := Report{
		Schema: Schema, Started: e.Now().UTC(), Site: env.Site.Site.Name, Node: e.identity(),
		Profile: opts.Profile, Deep: opts.Deep, Strict: opts.Strict, Partial: len(opts.IDs) > 0,
	}
	watch := e.watchEgress(ctx, checks, opts.Interval)
	during, last := split(checks)
	r.Results = runAll(ctx, e, opts, during, watch.state)
	e.memo.egress = watch.finish(ctx)
	r.Results = append(r.Results, runAll(ctx, e, opts, last, func() EgressState { return e.memo.egress.State })...)
	r.Egress = e.memo.egress
	for i := range r.Results { // only the whole run tells; while it lasted one sample more was always owed
		r.Results[i].Egress = r.Egress.State
	}
	waive(r.Results, checks, slices.Concat(env.Site.Checklist.Waive, opts.Waivers), e.Now())
	fold(r.Results, checks)
	r.Images, r.Certificates, r.Clock = e.inventory(), e.certificateRecords(), e.clockRecord()
	r.Finished = e.Now().UTC()
	r.judge()
	return r, ctx.Err()
}

func split(checks []Check) (during, last []Check) {
	for _, c := range checks {
		if c.Last {
			last = append(last, c)
		} else {
			during = append(during, c)
		}
	}
	return during, last
}

// runAll runs checks in parallel and gives their results in the order of checks.
func runAll(ctx context.Context, env *Env, opts Options, checks []Check, egress func() EgressState) []Result {
	results := make([]Result, len(checks))
	var g errgroup.Group
	g.SetLimit(opts.Parallel)
	for i, c := range checks {
		g.Go(func() error {
			results[i] = runOne(ctx, env, c)
			results[i].Egress = egress()
			opts.Sink.Emit(event(results[i]))
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	return results
}

func event(r Result) progress.Event {
	e := progress.Event{Type: progress.CheckResult, Step: r.ID, Status: string(r.Status), Msg: r.Title}
	if data, err := json.Marshal(r); err == nil {
		e.Data = data
	}
	return e
}

// runOne runs one check within its time-out. One that does not return, on a hung file system say, is left
// behind: its result is an error and the run goes on.
func runOne(ctx context.Context, env *Env, c Check) Result {
	limit := c.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { done <- contained(ctx, env, c) }()
	var fs []Finding
	select {
	case fs = <-done:
	case <-ctx.Done():
		fs = grace(done, couldNotRun(c.ID, fmt.Errorf("no answer within %s: %w", limit, ctx.Err())))
	}
	return c.result(fs, time.Since(begin))
}

// grace takes findings that come right after the time-out: they say more than it does.
func grace(done <-chan []Finding, late Finding) []Finding {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case fs := <-done:
		return fs
	case <-t.C:
		return []Finding{late}
	}
}

// contained makes a panic a finding: a bug in one check must not take the others' results along.
func contained(ctx context.Context, env *Env, c Check) (fs []Finding) {
	defer func() {
		if p := recover(); p != nil {
			fs = []Finding{couldNotRun(c.ID, fmt.Errorf("bug in the check: %v\n%s", p, debug.Stack()))}
		}
	}()
	return c.Run(ctx, env)
}

// result makes a result. A check that found nothing to say did not check anything, which is no pass.
func (c Check) result(fs []Finding, took time.Duration) Result {
	if len(fs) == 0 {
		fs = []Finding{{Status: StatusError, Subject: c.ID, Reason: "bug in the check: it returned nothing"}}
	}
	if c.Severity == SeverityWarn {
		for i := range fs {
			if fs[i].Status == StatusFail {
				fs[i].Status = StatusWarn
			}
		}
	}
	return Result{
		ID: c.ID, Title: c.Title, Severity: c.Severity, Scope: c.Scope, Status: gravest(fs), Findings: fs,
		DurationMS: took.Milliseconds(),
	}
}
