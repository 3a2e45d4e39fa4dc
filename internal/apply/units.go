package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// unitSteps leads a unit through the steps of a plan.
func (s *session) unitSteps(name string, steps []plan.Action) error {
	ctl := s.e.Host.UnitControl()
	for _, a := range steps {
		if err := s.reloadUnits(); err != nil {
			return err
		}
		var err error
		switch a {
		case plan.ActionReload:
			err = ctl.Reload(s.ctx)
		case plan.ActionEnable:
			err = ctl.Enable(s.ctx, name)
			s.reload = s.facts.Live
		case plan.ActionDisable:
			err = ctl.Disable(s.ctx, name)
			s.reload = s.facts.Live
		case plan.ActionStart:
			err = ctl.Start(s.ctx, name)
		case plan.ActionStop:
			err = ctl.Stop(s.ctx, name)
		case plan.ActionRestart:
			err = ctl.Restart(s.ctx, name)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", a, name, err)
		}
	}
	return nil
}

// QueueStart asks systemd to start a unit and does not wait for it: during a boot the unit may wait for the
// caller.
func QueueStart(ctx context.Context, h host.Host, unit string) error {
	return h.UnitControl().Queue(ctx, unit)
}

// reloadUnits makes systemd read changed unit files, where one runs.
func (s *session) reloadUnits() error {
	if !s.reload {
		return nil
	}
	err := s.e.Host.UnitControl().Reload(s.durable())
	if err != nil && !errors.Is(err, host.ErrUnavailable) {
		return fmt.Errorf("systemctl daemon-reload: %w", err)
	}
	s.reload = false
	return nil
}

// unitDir is where an administrator's units and the links of enabled ones are (systemd.unit(5)).
const unitDir = "/etc/systemd/system"

// linkDirs are the directories that hold links of enabled units.
func (s *session) linkDirs() ([]string, error) {
	list, err := s.fs.ReadDir(unitDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, fi := range list {
		if fi.Type == host.TypeDir && (strings.HasSuffix(fi.Path, ".wants") || strings.HasSuffix(fi.Path, ".requires")) {
			out = append(out, fi.Path)
		}
	}
	return out, nil
}

// accountTargets are the files in which systemd-sysusers and useradd write (systemd: src/sysusers/sysusers.c;
// shadow: lib/commonio.c makes the copies with "-").
func accountTargets() []plan.Target {
	var out []plan.Target
	for _, f := range []string{"passwd", "group", "shadow", "gshadow", "subuid", "subgid"} {
		out = append(out, plan.Target{Path: "/etc/" + f}, plan.Target{Path: "/etc/" + f + "-"})
	}
	return append(out, plan.Target{Path: "/etc/.pwd.lock"})
}

// prove tries a gate until it answers or its time is up.
func (st *step) prove() error {
	g := *st.c.Resource.Gate
	err := st.s.prove(g)
	if err == nil {
		return nil
	}
	d := &diag.Diagnostic{ID: "APL-012", Severity: diag.Error, What: "no answer: " + err.Error(), Where: diag.Where{Key: st.c.Path},
		Why: "what comes after it would make the node depend on it, so it was not done", Fix: "systemctl status " + st.s.unitsBefore(st.c)}
	return fmt.Errorf("%w", d)
}

// unitsBefore are the units that the gate waited for, to name them in a fix.
func (s *session) unitsBefore(c plan.Change) string {
	var out []string
	for _, id := range c.Resource.After {
		if u, ok := strings.CutPrefix(id, string(resource.KindUnit)+":"); ok {
			out = append(out, u)
		}
	}
	if len(out) == 0 {
		return "--failed"
	}
	return strings.Join(out, " ")
}
