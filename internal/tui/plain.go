package tui

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/app"
	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/report"
)

// ErrNoAnswer is wrapped when the input ended before a question was answered. What was answered before is saved
// only where Plain said so.
var ErrNoAnswer = errors.New("no answer: the input ended")

// Plain asks the same as the screens in numbered questions, one line each, and prints line after line: for screen
// readers, terminals that cannot be drawn on, and answers that are piped in.
func Plain(ctx context.Context, p Program, o Options) error {
	q := &questions{ctx: ctx, prog: p, opts: o, in: bufio.NewReader(o.In), out: o.Out, typed: o.Typed}
	for _, ask := range []func() error{q.detect, q.site, q.images, q.mirror, q.missing, q.review, q.apply, q.check, q.report} {
		if err := ask(); err != nil {
			if errors.Is(err, errDone) {
				return q.outcome
			}
			return err
		}
	}
	return q.outcome
}

// errDone ends the questions early because the person wants it so.
var errDone = errors.New("done")

// questions is one pass through the steps. It has the one reader of the input.
type questions struct {
	ctx     context.Context //nolint:containedctx // of one pass
	prog    Program
	opts    Options
	in      *bufio.Reader
	out     io.Writer
	typed   bool // the input is a terminal, which shows what is typed
	n       int
	survey  app.Survey
	draft   draft
	plan    plan.Plan
	result  check.Report
	outcome error
}

func (q *questions) say(format string, args ...any) { fmt.Fprintf(q.out, format+"\n", args...) }

// ask puts a question until the answer is taken. An empty answer is the one in brackets.
func (q *questions) ask(text, def string, take func(answer string) error) error {
	q.n++
	for {
		fmt.Fprintf(q.out, "%d. %s [%s]: ", q.n, text, def)
		answer, err := q.in.ReadString('\n')
		if !q.typed { // nobody pressed enter: the line ends here
			q.say("")
		}
		if err != nil && strings.TrimSpace(answer) == "" {
			return fmt.Errorf("question %d, %s: %w", q.n, text, ErrNoAnswer)
		}
		if answer = strings.TrimSpace(answer); answer == "" {
			answer = def
		}
		err = take(answer)
		if err == nil || errors.Is(err, errDone) || errors.Is(err, ErrNoAnswer) || q.ctx.Err() != nil {
			return err
		}
		q.say("   Not taken: %s", why(err))
	}
}

// choose asks for the number of an option.
func (q *questions) choose(text string, options []string, def int, take func(i int) error) error {
	q.say("")
	for i, o := range options {
		q.say("   %d) %s", i+1, o)
	}
	return q.ask(text, strconv.Itoa(def+1), func(answer string) error {
		i, err := strconv.Atoi(answer)
		if err != nil || i < 1 || i > len(options) {
			return fmt.Errorf("answer with a number from 1 to %d", len(options))
		}
		return take(i - 1)
	})
}

func (q *questions) detect() (err error) {
	q.say("edgeprep %s, step by step. Nothing on this node is changed before you say so.", q.opts.Version)
	if q.survey, err = q.prog.Survey(q.ctx); err != nil {
		return err
	}
	q.say("\nStep 1 of 9, detect.")
	n := q.survey.Node
	if q.survey.Problem != nil {
		q.say("The distribution is not known: %s", why(q.survey.Problem))
	} else {
		q.say("%s", strings.Join(strings.Fields(fmt.Sprintf("This is %s %s %s, role %s, on %s.", q.survey.Facts.Hostname, n.Name, n.Version, n.Role, n.Platform)), " "))
	}
	return q.ask("Plan file", q.survey.Config, func(name string) error {
		d, err := q.prog.Load(q.ctx, name)
		if err != nil {
			return err
		}
		q.draft = newDraft(d)
		if q.draft.doc == nil {
			return q.draft.found.Err()
		}
		return nil
	})
}

// setting asks for one key of the plan file.
func (q *questions) setting(text, def string, path ...string) error {
	return q.ask(text, def, func(answer string) error {
		if answer == def {
			return nil
		}
		return q.draft.set(answer, path...)
	})
}

func (q *questions) site() error {
	q.say("\nStep 2 of 9, nodes.")
	if n := len(q.draft.site.Nodes); n > 0 {
		q.say("The plan names %d nodes; [[node]] tables are edited in %s.", n, q.draft.file.Name)
	}
	return q.setting("Name of the site", q.draft.name(), "site", "name")
}

func (q *questions) images() error {
	q.say("\nStep 3 of 9, images.")
	now := q.draft.site.Images.Archives
	err := q.ask("Archives on the node, globs separated by blanks", strings.Join(now, " "), func(answer string) error {
		list := strings.Fields(answer)
		if slices.Equal(list, now) {
			return nil
		}
		return q.draft.set(list, "images", "archives")
	})
	if err != nil {
		return err
	}
	return q.setting("File that lists the required references, one a line; empty: none", q.draft.site.Images.Required, "images", "required")
}

func (q *questions) mirror() error {
	q.say("\nStep 4 of 9, mirror.")
	all := modes()
	suggested, because := suggestion(q.survey, q.draft.site)
	q.say("Suggested: %s, since %s.", suggested, because)
	var labels []string
	now := 0
	for i, m := range all {
		text := m.label
		if len(m.pro) > 0 {
			text += "; for it: " + strings.Join(m.pro, "; ")
		}
		labels = append(labels, text+"; against it: "+strings.Join(m.con, "; "))
		if m.id == q.draft.site.Mirror.Mode {
			now = i
		}
	}
	err := q.choose("How the mirror runs", labels, now, func(i int) error {
		if i == now {
			return nil
		}
		return q.draft.set(all[i].id, "mirror", "mode")
	})
	if err != nil || q.draft.site.Mirror.Mode == string(config.ModeNone) {
		return err
	}
	if err := q.setting("Address that the mirror listens on", q.draft.site.Mirror.Listen, "mirror", "listen"); err != nil {
		return err
	}
	ways := []string{"never", "connected"}
	now = max(0, slices.Index(ways, q.draft.site.Mirror.Upstream))
	return q.choose("Upstream registries", []string{"never asked: only what is on board is served", "asked for what is not on board"}, now, func(i int) error {
		if i == now {
			return nil
		}
		return q.draft.set(ways[i], "mirror", "upstream")
	})
}

// review saves the answers and prints the plan that apply would carry out, as edgeprep plan does.
func (q *questions) review() error {
	q.say("\nStep 5 of 9, copies: replication %s, failover %s.", q.draft.site.Replication.Engine, q.draft.site.Failover.Mode)
	q.say("\nStep 6 of 9, review.")
	if q.draft.dirty() || !q.draft.file.Exists {
		now, err := q.prog.Save(q.ctx, q.draft.file)
		if err != nil {
			return err
		}
		q.draft = newDraft(now)
		q.say("The answers are in %s.", now.Name)
	}
	r, err := q.prog.Review(q.ctx, q.draft.file)
	if err != nil {
		return err
	}
	q.plan = r.Plan
	return r.Plan.Text(q.out, false)
}

func (q *questions) apply() error {
	q.say("\nStep 7 of 9, apply. The same without questions: %s apply --detach", q.opts.Command)
	switch {
	case len(q.plan.Problems) > 0:
		return q.plan.Refusals(q.plan.Risks())
	case q.plan.Empty():
		q.say("There is nothing to do: this node is what the plan says.")
		return nil
	case q.survey.Facts.Live && !q.survey.Facts.Root:
		q.say("Only root may change this node: sudo %s apply -c %s", q.opts.Command, q.draft.file.Name)
		return errDone
	}
	var open []string
	for _, r := range q.plan.Risks() {
		if !slices.Contains(q.draft.site.Apply.Allow, string(r)) {
			open = append(open, string(r))
		}
	}
	word := "apply"
	if len(open) > 0 {
		word = strings.Join(open, ",")
		q.say("The plan has risks that it does not accept by itself: %s.", word)
	}
	return q.ask("Type "+word+" to carry it out, or stop to leave the node as it is", "stop", func(answer string) error {
		switch strings.ReplaceAll(answer, " ", "") {
		case "stop":
			return errDone
		case word:
			return q.carryOut(app.Task{Allow: open})
		}
		return fmt.Errorf("answer %s or stop", word)
	})
}

// carryOut runs the task outside the terminal and prints its steps. A failure is told with what to do; the questions
// end with it, since a retry is the same command again.
func (q *questions) carryOut(t app.Task) error {
	r, err := q.prog.Run(q.ctx, t, progress.NewText(q.out, progress.TextOptions{}))
	if err != nil {
		q.tell(diag.Of(err), err)
		q.outcome = &Failed{Exit: 1}
		return errDone
	}
	q.say("%s", r.Summary)
	if r.Exit == 0 {
		return nil
	}
	q.tell(r.Errors, nil)
	q.say("Try again with the same command; put it back with: %s rollback %s", q.opts.Command, r.Run)
	q.outcome = &Failed{Exit: r.Exit}
	return errDone
}

func (q *questions) tell(found diag.Report, err error) {
	for _, d := range found {
		q.say("%s", d.Text())
	}
	if len(found) == 0 && err != nil {
		q.say("%s", err)
	}
}

func (q *questions) check() (err error) {
	q.say("\nStep 8 of 9, pre-shipment check. It changes nothing.")
	if q.result, err = q.prog.Check(q.ctx, app.CheckOptions{Profile: check.ProfileShip}, progress.Discard{}); err != nil {
		return err
	}
	if code := q.result.ExitCode(); code != 0 {
		q.outcome = &Failed{Exit: code}
	}
	return report.Text(q.out, q.result, report.Options{})
}

func (q *questions) report() error {
	q.say("\nStep 9 of 9, report.")
	return q.ask("Name of the person who checked; - keeps no report", "-", func(name string) error {
		if name == "-" {
			return nil
		}
		r := q.result
		r.Person = name
		k, err := q.prog.Keep(q.ctx, r)
		if err != nil {
			return err
		}
		for _, f := range k.Files {
			q.say("%s", f)
		}
		q.say("sha256 %s", k.SHA256)
		return nil
	})
}
