package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// unit compares a unit with its wish and derives restarts from what changed before it.
func (b *builder) unit(id string, u resource.Unit) (*Change, error) {
	got, err := b.r.Units().Unit(b.ctx, u.Name)
	if errors.Is(err, host.ErrUnavailable) {
		b.pendingUnit(id, u, "systemd does not run here")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if got.Load == "masked" && !u.Foreign {
		b.problem(&diag.Diagnostic{ID: "APL-005", What: "the unit is masked", Where: diag.Where{Unit: u.Name}, Fix: "systemctl unmask " + u.Name})
		return nil, nil
	}
	causes := b.causes(u)
	c := &Change{Kind: resource.KindUnit, Path: u.Name, Summary: u.Name, Before: UnitStateOf(got)}
	if u.Foreign {
		b.foreignUnit(c, got, causes)
	} else {
		b.ownUnit(id, c, u, got, causes)
	}
	if len(c.Steps) == 0 {
		return nil, nil
	}
	c.Action = c.Steps[len(c.Steps)-1]
	c.After = afterSteps(*c.Before.Unit, c.Steps)
	return c, nil
}

// causes are the changes of this plan and the debts of earlier ones that a unit takes in by a restart.
func (b *builder) causes(u resource.Unit) []string {
	out := slices.Clone(b.ledger.debt(u.Name, b.facts.BootID))
	add := func(id string) {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	for _, id := range u.RestartOn {
		if b.changed[id] {
			add(id)
		}
	}
	for id, rec := range b.ledger.Records {
		if b.changed[id] && slices.Contains(rec.Restarts, u.Name) {
			add(id)
		}
	}
	slices.Sort(out)
	return out
}

func (b *builder) foreignUnit(c *Change, got host.Unit, causes []string) {
	switch {
	case len(causes) > 0 && got.Active == "" && !b.facts.Live:
		b.later(resource.ID(resource.KindUnit, c.Path), "restart "+c.Path, "it takes "+strings.Join(causes, ", ")+" in at its next start")
	case len(causes) > 0 && got.Running():
		c.Steps = []Action{ActionRestart}
		c.Risks = []Risk{RiskRestart}
		c.Reason = "to take in " + strings.Join(causes, ", ")
	case got.NeedsReload:
		c.Steps = []Action{ActionReload}
		c.Reason = "its files changed since systemd read them"
	}
}

func (b *builder) ownUnit(id string, c *Change, u resource.Unit, got host.Unit, causes []string) {
	if got.NeedsReload {
		c.Steps = append(c.Steps, ActionReload)
	}
	if u.Enabled && !got.IsEnabled() {
		c.Steps = append(c.Steps, ActionEnable)
	}
	switch {
	case !u.Active:
	case !b.facts.Live:
		if got.Active == "" {
			b.pendingUnit(id, resource.Unit{Name: u.Name, Active: true}, "the node does not run; it starts at boot")
		}
	case !got.Running():
		c.Steps = append(c.Steps, ActionStart)
	case len(causes) > 0:
		c.Steps = append(c.Steps, ActionRestart)
		c.Reason = "to take in " + strings.Join(causes, ", ")
	}
}

func (b *builder) pendingUnit(id string, u resource.Unit, why string) {
	var what []string
	if u.Enabled {
		what = append(what, "enable")
	}
	if u.Active {
		what = append(what, "start")
	}
	if len(what) > 0 {
		b.later(id, strings.Join(what, " and ")+" "+u.Name, why)
	}
}

// afterSteps is the state that a unit has when its steps succeeded.
func afterSteps(u UnitState, steps []Action) *State {
	for _, s := range steps {
		switch s {
		case ActionEnable:
			u.Enabled = "enabled"
		case ActionDisable:
			u.Enabled = "disabled"
		case ActionStart, ActionRestart:
			u.Active = "active"
		case ActionStop:
			u.Active = "inactive"
		}
	}
	u.Load = ""
	return &State{Unit: &u}
}

// retire stops and disables a unit of ours that nobody wants any more; its file is a record of its own.
func (b *builder) retire(rec Record) (*Change, error) {
	got, err := b.r.Units().Unit(b.ctx, rec.Path)
	if errors.Is(err, host.ErrUnavailable) {
		got, err = host.Unit{Name: rec.Path}, nil
	}
	if err != nil {
		return nil, err
	}
	id := resource.ID(resource.KindUnit, rec.Path)
	steps := Steps(*UnitStateOf(got).Unit, rec.Previous)
	if len(steps) == 0 {
		return b.forget(id)
	}
	c := &Change{Kind: resource.KindUnit, Path: rec.Path, Summary: rec.Path, Before: UnitStateOf(got), Reason: "no longer wanted", Steps: steps}
	c.Action, c.After = steps[len(steps)-1], afterSteps(*c.Before.Unit, steps)
	return c, nil
}

// Steps lead a unit from a state to another one; nil as goal is a unit that is neither enabled nor running.
func Steps(from UnitState, goal *State) []Action {
	to := UnitState{}
	if goal != nil && goal.Unit != nil {
		to = *goal.Unit
	}
	var out []Action
	if from.Running() && !to.Running() {
		out = append(out, ActionStop)
	}
	if from.IsEnabled() && !to.IsEnabled() {
		out = append(out, ActionDisable)
	}
	if !from.IsEnabled() && to.IsEnabled() {
		out = append(out, ActionEnable)
	}
	if !from.Running() && to.Running() {
		out = append(out, ActionStart)
	}
	return out
}

// gate is proven when something before it changed or something after it is about to.
func (b *builder) gate(id string, g resource.Gate) (*Change, error) {
	if !b.facts.Live {
		return nil, nil
	}
	c := &Change{Kind: resource.KindGate, Action: ActionProve}
	switch {
	case g.HTTP != nil:
		c.Path, c.Summary = g.HTTP.URL, fmt.Sprintf("%s answers for %s", g.HTTP.URL, count(len(g.HTTP.Names), "reference"))
	case g.CRI != nil:
		c.Path, c.Summary = g.CRI.Endpoint.Socket, "CRI answers at "+g.CRI.Endpoint.Socket
		if len(g.CRI.Images) > 0 || g.CRI.Sandbox {
			c.Summary = "CRI at " + g.CRI.Endpoint.Socket + " has what the mirror starts from"
		}
		_, err := b.r.CRI(g.CRI.Endpoint).Version(b.ctx)
		if errors.Is(err, host.ErrUnavailable) && !b.starting() {
			b.later(id, "prove that CRI answers", "nothing answers at "+g.CRI.Endpoint.Socket+", and apply does not start it")
			return nil, nil
		}
	default:
		return nil, fmt.Errorf("%w: %s has no content", ErrGraph, id)
	}
	return c, nil
}

// starting says whether a unit is started or restarted by the plan so far.
func (b *builder) starting() bool {
	return slices.ContainsFunc(b.plan.Changes, func(c Change) bool { return c.Action == ActionStart || c.Action == ActionRestart })
}
