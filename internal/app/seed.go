package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/atomicfile"
	"github.com/edgeprep/edgeprep/internal/config"
	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/seed"
)

// SeedOptions say which seeds are written and what is in them.
type SeedOptions struct {
	Out         string // a directory for each node is made in it
	All         bool   // every [[node]], also when one is named
	Bootcmd     bool   // the image does not carry the boot units
	Revision    int
	WithSecrets bool
	Network     string // file that becomes network-config; empty: none
}

// Seed is what was written.
type Seed struct {
	Nodes []string `json:"nodes"`
	Dirs  []string `json:"dirs"`
	// Missing are files that edgeprep.toml names and that the seeds do not carry, with the reason.
	Missing []string `json:"missing,omitempty"`
}

// Seed writes a NoCloud seed for each node of the site. It reads this machine and no node.
func (a *App) Seed(o SeedOptions) (Seed, error) {
	site, err := a.Site()
	if err != nil {
		return Seed{}, err
	}
	data, err := a.readConfig()
	if err != nil {
		return Seed{}, fmt.Errorf("read %s: %w", a.ConfigName(), err)
	}
	in := seed.Input{Site: site.Site.Name, Revision: o.Revision, Config: data}
	var out Seed
	if in.Files, out.Missing, err = a.seedFiles(site, o.WithSecrets); err != nil {
		return out, err
	}
	if o.Network != "" {
		if in.Network, err = readHere(o.Network); err != nil {
			return out, fmt.Errorf("read --network-config %s: %w", o.Network, err)
		}
	}
	if o.Bootcmd {
		if in.Install, err = seedInstall(site); err != nil {
			return out, err
		}
	}
	if out.Nodes, err = a.seedNodes(site, o.All); err != nil {
		return out, err
	}
	for _, n := range out.Nodes {
		in.Node = n
		files, err := seed.Render(in)
		if err != nil {
			return out, &InvalidConfig{diag.Of(err)}
		}
		dir := filepath.Join(o.Out, n)
		if err := writeSeed(dir, files); err != nil {
			return out, err
		}
		out.Dirs = append(out.Dirs, dir)
	}
	return out, nil
}

// seedNodes are the nodes that get a seed.
func (a *App) seedNodes(s config.Site, all bool) ([]string, error) {
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	switch {
	case a.opts.Node == "" && len(names) == 0:
		return nil, &diag.Refused{Err: &diag.Diagnostic{ID: "CFG-041", Severity: diag.Error, What: "it is not said which node the seed is for",
			Where: diag.Where{File: a.ConfigName()}, Why: "the file has no [[node]]", Fix: "edgeprep seed --node edge-1 --out DIR"}}
	case a.opts.Node == "" || all:
		return names, nil
	case len(names) > 0 && !slices.Contains(names, a.opts.Node):
		return nil, &diag.Refused{Err: &diag.Diagnostic{ID: "CFG-041", Severity: diag.Error, What: fmt.Sprintf("no [[node]] is called %q", a.opts.Node),
			Where: diag.Where{File: a.ConfigName()}, Fix: "use one of: " + strings.Join(names, ", ")}}
	}
	return []string{a.opts.Node}, nil
}

// seedInstall are the arguments of unit install in bootcmd. It runs before write_files, so it cannot read
// edgeprep.toml, and the distribution must be named.
func seedInstall(s config.Site) ([]string, error) {
	if s.Distro.Kind == "" || s.Distro.Kind == distro.KindAuto {
		return nil, &diag.Refused{Err: &diag.Diagnostic{ID: "CFG-042", Severity: diag.Error, What: "the boot units cannot be installed by the seed",
			Where: diag.Where{Key: "distro.kind"}, Why: "cloud-init runs bootcmd before it writes edgeprep.toml, so the distribution must be named",
			Fix: `set [distro] kind, or put the units into the image: edgeprep unit install --root DIR`}}
	}
	return []string{"--for", s.Distro.Kind, "--start"}, nil
}

// maxSeedFile is more than any list, descriptor or certificate has; cloud-init keeps user-data in memory.
const maxSeedFile = 1 << 20

// seedFiles are the files of this machine that go along: descriptors of the site's own and what edgeprep.toml
// names. Secrets only when they are asked for: a seed lies on a medium that goes through many hands.
func (a *App) seedFiles(s config.Site, secrets bool) (files []seed.File, missing []string, err error) {
	descriptors, err := filepath.Glob(seed.DistrosDir + "/*.toml")
	if err != nil {
		return nil, nil, fmt.Errorf("find descriptors: %w", err)
	}
	var named []seed.Named
	for _, d := range descriptors {
		named = append(named, seed.Named{Key: "descriptor", Path: d})
	}
	for _, n := range append(named, seed.NamedFiles(s)...) {
		if n.Secret && !secrets {
			missing = append(missing, fmt.Sprintf("%s (%s): a secret; bring it to the node otherwise, or --with-secrets", n.Path, n.Key))
			continue
		}
		fi, err := os.Stat(n.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, fmt.Sprintf("%s (%s): not on this machine", n.Path, n.Key))
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("look at %s: %w", n.Path, err)
		case !fi.Mode().IsRegular() || fi.Size() > maxSeedFile:
			missing = append(missing, fmt.Sprintf("%s (%s): no file of at most 1 MiB", n.Path, n.Key))
			continue
		}
		data, err := os.ReadFile(n.Path)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", n.Path, err)
		}
		files = append(files, seed.File{Path: n.Path, Content: data, Secret: n.Secret})
	}
	return files, missing, nil
}

func writeSeed(dir string, files []seed.File) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return fmt.Errorf("make the seed's directory: %w", err)
	}
	w := atomicfile.Writer{}
	for _, f := range files {
		mode := fs.FileMode(0o644)
		if f.Secret {
			mode = 0o600
		}
		if err := w.Write(filepath.Join(abs, f.Path), f.Content, atomicfile.Meta{Mode: mode, UID: -1, GID: -1}); err != nil {
			return err
		}
	}
	return nil
}
