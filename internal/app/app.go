// Package app composes the program: load edgeprep.toml, detect the node, say what is wanted, plan, apply,
// check. It is the one place where these steps meet; commands, TUI and demo call it and nothing below it.
package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/edgeprep/edgeprep/distros"
	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/host/cri"
	"github.com/edgeprep/edgeprep/internal/host/ctr"
	"github.com/edgeprep/edgeprep/internal/host/local"
	"github.com/edgeprep/edgeprep/internal/host/systemd"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// Options say which node, which configuration, and who listens.
type Options struct {
	Root    string    // directory of a mounted image; empty: the running node
	Config  string    // file on this machine, "-" is Stdin; empty: $EDGEPREP_CONFIG, else the default path on the node
	Stdin   io.Reader // for "-"
	Draft   []byte    // the configuration itself, instead of what its file holds; nil: the file
	Node    string    // which [[node]] this is; empty: found
	Version string    // edgeprep's own, for reports
	Binary  string    // the program that is installed on the node; empty: this one
	Sinks   []progress.Sink
	Hook    atomicfile.Hook // called around each durable step, for fault injection; may be nil
}

// App is the program, opened on one node.
type App struct {
	opts   Options
	host   *local.Host
	reader host.Reader
	open   *connections
	self   selfMade
	run    liveRun
}

// connections are the clients to close at the end, by socket.
type connections struct{ runtimes map[string]*ctr.Runtime }

// Open makes the program. It looks at nothing yet but the root directory.
func Open(o Options) (*App, error) {
	c := &connections{runtimes: map[string]*ctr.Runtime{}}
	h, err := local.New(local.Options{Root: o.Root, Hook: o.Hook, Units: unitsFor(o.Root), Runtime: c.runtime, CRI: criFor(o.Root)})
	if err != nil {
		return nil, fmt.Errorf("open the node: %w", err)
	}
	return &App{opts: o, host: h, reader: local.ReadOnly(h), open: c}, nil
}

// Close ends connections.
func (a *App) Close() {
	for _, r := range a.open.runtimes {
		_ = r.Close()
	}
	if a.self.dir != "" {
		_ = os.RemoveAll(a.self.dir) // a temporary directory
	}
}

func live(root string) bool { return root == "" || root == "/" }

func unitsFor(root string) func(host.FS, host.FileWriter) local.Units { // composition: the host's parts
	if live(root) {
		return func(f host.FS, w host.FileWriter) local.Units { return systemd.Units(f, w) } // composition: as above
	}
	return func(f host.FS, w host.FileWriter) local.Units { return systemd.Offline(f, w) } // composition: as above
}

func (c *connections) runtime(ep host.Endpoint) host.RuntimeControl { // composition: the host's parts
	r, ok := c.runtimes[ep.Socket]
	if !ok {
		r = ctr.New(ep, ctr.Options{})
		c.runtimes[ep.Socket] = r
	}
	return r
}

// criFor gives no CRI for a mounted image: a socket of the machine that builds it would answer for the wrong
// node.
func criFor(root string) func(host.Endpoint) host.CRI {
	if !live(root) {
		return nil
	}
	return func(ep host.Endpoint) host.CRI { return cri.New(ep) }
}

// InvalidConfig is an edgeprep.toml or descriptor with errors (exit 65).
type InvalidConfig struct{ Found diag.Report }

func (e *InvalidConfig) Error() string { return e.Found.Error() }

// Unwrap gives the findings.
func (e *InvalidConfig) Unwrap() error { return e.Found }

// ConfigName is the configuration file as messages call it.
func (a *App) ConfigName() string {
	switch {
	case a.opts.Config == "-":
		return "stdin"
	case a.opts.Config != "":
		return a.opts.Config
	case os.Getenv("EDGEPREP_CONFIG") != "":
		return os.Getenv("EDGEPREP_CONFIG")
	}
	return config.DefaultPath
}

// Configured says whether there is a configuration.
func (a *App) Configured() bool {
	_, err := a.readConfig()
	return !errors.Is(err, fs.ErrNotExist)
}

// readConfig reads the file that was named on this machine, or the default one on the node.
func (a *App) readConfig() ([]byte, error) {
	name := a.ConfigName()
	switch {
	case a.opts.Draft != nil:
		return bytes.Clone(a.opts.Draft), nil
	case name == "stdin" && a.opts.Config == "-":
		return io.ReadAll(io.LimitReader(a.opts.Stdin, maxConfig))
	case a.opts.Config != "" || os.Getenv("EDGEPREP_CONFIG") != "":
		return readHere(name)
	}
	return a.reader.FS().ReadFile(name, maxConfig)
}

// maxConfig is more than any edgeprep.toml has.
const maxConfig = 16 << 20

// readHere reads a configuration of this machine: a pipe (<(...)) too, but no device, and never without an end.
func readHere(name string) ([]byte, error) {
	fi, err := os.Stat(name)
	if err == nil && fi.Mode()&os.ModeDevice != 0 {
		return nil, errors.New("a device, not a file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		return nil, errors.New("larger than 16 MiB")
	}
	return data, err
}

// Site reads and validates edgeprep.toml.
func (a *App) Site() (config.Site, error) {
	data, err := a.readConfig()
	if err != nil {
		return config.Site{}, &InvalidConfig{diag.Report{{ID: "CFG-005", Severity: diag.Error, What: "the configuration cannot be read: " + cause(err),
			Where: diag.Where{File: a.ConfigName()}, Fix: "edgeprep init --out " + config.DefaultPath}}}
	}
	site, found := config.Parse(a.ConfigName(), data)
	if found.HasErrors() {
		return config.Site{}, &InvalidConfig{found}
	}
	return site, nil
}

// cause is an error without the path that the message names anyway.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// Descriptors are the built-in distributions and the node's own.
func (a *App) Descriptors() (distro.Descriptors, error) {
	set, err := distro.Load(distros.FS, a.reader.FS())
	if found := diag.Of(err); found.HasErrors() {
		return nil, &InvalidConfig{found}
	}
	return set, err
}

// DescriptorSource is a descriptor's file: the node's own, else the built-in one.
func (a *App) DescriptorSource(id string) []byte {
	if b, err := a.reader.FS().ReadFile("/etc/edgeprep/distros/"+id+".toml", 0); err == nil {
		return b
	}
	b, _ := fs.ReadFile(distros.FS, id+".toml")
	return b
}

// DistroIDs are the built-in distributions.
func DistroIDs() []string {
	var ids []string
	files, _ := fs.Glob(distros.FS, "*.toml")
	for _, f := range files {
		ids = append(ids, f[:len(f)-len(".toml")])
	}
	return ids
}

// Detect says what the node is. Without a configuration nothing but the node itself counts.
func (a *App) Detect(ctx context.Context) (distro.Node, error) {
	if !a.Configured() {
		return a.detect(ctx, config.Distro{})
	}
	site, err := a.Site()
	if err != nil {
		return distro.Node{}, err
	}
	return a.detect(ctx, site.Distro)
}

func (a *App) detect(ctx context.Context, d config.Distro) (distro.Node, error) {
	set, err := a.Descriptors()
	if err != nil {
		return distro.Node{}, err
	}
	return distro.Detect(ctx, a.reader, set, distro.Options{Kind: d.Kind, DataDir: d.DataDir, Version: d.Version})
}

// binary is the program that is put on the node.
func (a *App) binary() (string, error) {
	if a.opts.Binary != "" {
		return filepath.Abs(a.opts.Binary)
	}
	return ownProgram()
}

func ownProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own program: %w", err)
	}
	return filepath.EvalSymlinks(self)
}
