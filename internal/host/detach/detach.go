// Package detach starts a program that does not end with the terminal it was started from: as a transient unit
// of systemd where that runs, else as a process in a session of its own.
package detach

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/edgeprep/edgeprep/internal/host/systemd"
)

// Command is what to start.
type Command struct {
	Name string   // what it is called: "edgeprep-run-20261123T031500"; a unit gets ".service" behind it
	Path string   // absolute path of the program
	Args []string // without the program
	Env  []string // "KEY=VALUE"; nothing else is handed down
	Log  string   // file of this machine that a process writes to; a unit writes to the journal
}

// Started is a program that was started.
type Started struct {
	Unit  string        // its unit; empty: a process
	PID   int           // its process; zero: a unit
	Log   string        // where what it prints can be read: a file; empty: in the journal
	ended chan struct{} // closed when the process ended
	dial  func(context.Context) (*sd.Conn, error)
}

// Start starts a command. It runs on when this process ends, whatever happens to its terminal.
func Start(ctx context.Context, c Command) (*Started, error) {
	if systemd.Running() && os.Geteuid() == 0 {
		if s, err := startUnit(ctx, c, sd.NewWithContext); err == nil {
			return s, nil
		}
	}
	return startProcess(c)
}

// startUnit makes a transient unit. It is collected when it ends, also when it failed: the journal keeps what
// it printed.
func startUnit(ctx context.Context, c Command, dial func(context.Context) (*sd.Conn, error)) (*Started, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	defer conn.Close()
	unit := c.Name + ".service"
	props := []sd.Property{
		sd.PropDescription("edgeprep, started from a terminal that may go away"),
		sd.PropExecStart(append([]string{c.Path}, c.Args...), false),
		{Name: "Type", Value: dbus.MakeVariant("exec")},
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
		{Name: "Environment", Value: dbus.MakeVariant(c.Env)},
		// a run that is told to stop finishes its step first
		{Name: "TimeoutStopUSec", Value: dbus.MakeVariant(uint64(15 * time.Minute / time.Microsecond))},
	}
	result := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, unit, "fail", props, result); err != nil {
		return nil, fmt.Errorf("start %s: %w", unit, err)
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("start %s: %w", unit, ctx.Err())
	case r := <-result:
		if r != "done" {
			return nil, fmt.Errorf("start %s: %s; see: journalctl -u %s", unit, r, unit)
		}
	}
	return &Started{Unit: unit, dial: dial}, nil
}

func startProcess(c Command) (*Started, error) {
	log, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of what is started: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.Path, c.Args...) //nolint:gosec,noctx // our own program; its life is not a context's
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = c.Env, log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	s := &Started{PID: cmd.Process.Pid, Log: c.Log, ended: make(chan struct{})}
	go func() { // ends with the command, or with this process
		defer close(s.ended)
		_ = cmd.Wait() // how it ended is in its result
	}()
	return s, nil
}

// Alive says whether it still runs.
func (s *Started) Alive(ctx context.Context) bool {
	if s.Unit == "" {
		select {
		case <-s.ended:
			return false
		default:
			return true
		}
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertyContext(ctx, s.Unit, "ActiveState")
	if err != nil {
		return false
	}
	state, _ := p.Value.Value().(string)
	return state == "active" || state == "activating" || state == "deactivating" || state == "reloading"
}

// Where says how to see what it prints.
func (s *Started) Where() string {
	if s.Unit != "" {
		return "journalctl -u " + s.Unit
	}
	return s.Log
}
