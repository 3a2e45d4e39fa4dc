package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/edgeprep/edgeprep/internal/apply"
	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/coldstart"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
)

// Survey is what can be said of a machine before anything is decided about it.
type Survey struct {
	Facts      host.Facts
	Node       distro.Node // empty where Problem says why
	Problem    error       // why the distribution is not known
	Config     string      // the plan file that commands read
	Configured bool        // it is there
	DataDir    string      // where images will be: its file system counts
	Disk       host.Space
	Images     int    // in containerd; -1: not known, with the reason in NoImages
	NoImages   string // "containerd does not run"
	LastRun    string // id of the last run on this node; empty: none
	LastResult *apply.Result
	Running    bool // a run changes the node right now
}

// Survey looks at the machine. What cannot be known is said, not an error.
func (a *App) Survey(ctx context.Context) (Survey, error) {
	facts, err := a.reader.Facts(ctx)
	if err != nil {
		return Survey{}, fmt.Errorf("identify the node: %w", err)
	}
	s := Survey{Facts: facts, Config: a.ConfigName(), Configured: a.Configured(), DataDir: "/var", Images: -1}
	s.Node, s.Problem = a.detect(ctx, config.Distro{})
	if s.Problem == nil && s.Node.DataDir != "" {
		s.DataDir = s.Node.DataDir
	}
	if s.Disk, err = a.reader.FS().Space(s.DataDir); err != nil {
		return Survey{}, fmt.Errorf("measure the room at %s: %w", s.DataDir, err)
	}
	a.countImages(ctx, &s)
	if runs := a.Runs(ctx); len(runs) > 0 {
		s.LastRun = runs[0]
	}
	if r, err := apply.ReadResult(a.reader.FS()); err == nil {
		s.LastResult = &r
	}
	_, s.Running, _ = a.host.LockHolder(apply.LockPath) // unreadable: nobody is known to be at work
	return s, ctx.Err()
}

func (a *App) countImages(ctx context.Context, s *Survey) {
	if s.Problem != nil || s.Node.Runtime.Endpoint.Socket == "" {
		s.NoImages = "no containerd is known here"
		return
	}
	list, err := a.reader.Runtime(s.Node.Runtime.Endpoint).Images(ctx)
	if err != nil {
		s.NoImages = "containerd does not answer"
		return
	}
	s.Images = len(list)
}

// Draft is the text of an edgeprep.toml that somebody edits.
type Draft struct {
	Name   string // the file
	Text   []byte
	Exists bool   // the file is there
	Read   []byte // its content when it was read: what is saved over
}

// Draft opens the configuration for editing; where there is none, a starter for this node.
func (a *App) Draft(ctx context.Context) (Draft, error) {
	d := Draft{Name: a.ConfigName()}
	data, err := a.readConfig()
	switch {
	case err == nil:
		d.Text, d.Read, d.Exists = data, bytes.Clone(data), true
		return d, nil
	case !errors.Is(err, fs.ErrNotExist):
		return d, &InvalidConfig{diag.Report{{ID: "CFG-005", Severity: diag.Error, What: "the configuration cannot be read: " + cause(err),
			Where: diag.Where{File: d.Name}, Fix: "ls -l " + diag.Word(d.Name)}}}
	}
	text, err := a.Init(ctx, InitOptions{Mode: string(config.ModeSystemd)})
	d.Text = []byte(text)
	return d, err
}

// Save writes a draft to its file. What somebody else wrote there since it was read is not overwritten.
func (a *App) Save(d Draft) (Draft, error) {
	data, err := a.readConfig()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("read %s before writing it: %w", d.Name, err)
	}
	if exists := err == nil; exists != d.Exists || !bytes.Equal(data, d.Read) {
		return d, &diag.Refused{Err: &diag.Diagnostic{ID: "CFG-047", Severity: diag.Error, What: "the file was changed since it was opened",
			Where: diag.Where{File: d.Name}, Why: "saving would undo what somebody else wrote there", Fix: "edgeprep tui again, or save under another name"}}
	}
	at, err := a.configPath()
	if err != nil {
		return d, err
	}
	meta := atomicfile.Meta{Mode: 0o644, UID: -1, GID: -1}
	if fi, err := os.Stat(at); err == nil {
		meta.Mode = fi.Mode().Perm()
	} else if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return d, fmt.Errorf("save %s: %w", d.Name, err)
	}
	w := atomicfile.Writer{}
	if err := w.Write(at, d.Text, meta); err != nil {
		return d, fmt.Errorf("save %s: %w", d.Name, err)
	}
	d.Exists, d.Read = true, bytes.Clone(d.Text)
	return d, nil
}

// configPath is the configuration file as a path of this machine.
func (a *App) configPath() (string, error) {
	if a.opts.Config != "" || os.Getenv("EDGEPREP_CONFIG") != "" {
		return filepath.Abs(a.ConfigName())
	}
	return a.pathHere(a.ConfigName())
}

// Review is a plan, and what waits for what at power-on.
type Review struct {
	Plan  plan.Plan
	Start *coldstart.Graph // nil where NoStart says why
	// NoStart says why the start is not drawn.
	NoStart string
}

// Review plans and lays out the cold start. It changes nothing.
func (a *App) Review(ctx context.Context) (Review, error) {
	p, err := a.Plan(ctx, ApplyOptions{})
	if err != nil {
		return Review{}, err
	}
	r := Review{Plan: p}
	if r.Start, err = a.ColdStart(ctx); err != nil {
		r.NoStart = err.Error()
	}
	return r, nil
}
