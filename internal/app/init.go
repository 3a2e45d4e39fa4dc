package app

import (
	"context"
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
)

// InitOptions say what the file is for.
type InitOptions struct {
	Distro string // descriptor id; empty: what is detected
	Mode   string // "systemd", "workload" or "none"
}

// Init is a commented edgeprep.toml for the node. Where no distribution is found yet, as on the machine where
// images are built, the file says "auto".
func (a *App) Init(ctx context.Context, o InitOptions) (string, error) {
	if !slices.Contains([]string{string(config.ModeSystemd), string(config.ModeWorkload), string(config.ModeNone)}, o.Mode) {
		return "", &diag.Refused{Err: &diag.Diagnostic{ID: "CFG-031", Severity: diag.Error,
			What: fmt.Sprintf("mode %q cannot be written by this version", o.Mode), Fix: "one of: systemd, workload, none"}}
	}
	kind, found, err := a.initKind(ctx, o.Distro)
	if err != nil {
		return "", err
	}
	name := "site"
	if f, err := a.reader.Facts(ctx); err == nil && f.Hostname != "" {
		name = f.Hostname
	}
	mirror := fmt.Sprintf("mode     = %q            # up before Kubernetes, so that no first start waits for it\nlisten   = %q\n", o.Mode, config.DefaultListen)
	endpoints := ""
	if o.Mode == string(config.ModeNone) {
		mirror = "mode     = \"none\"               # no mirror on this site's nodes\n"
		endpoints = "endpoints = [\"http://10.0.0.11:5000\"]   # the mirrors that containerd is pointed at\n"
	}
	form := ""
	if o.Mode == string(config.ModeWorkload) {
		mirror = fmt.Sprintf("mode     = \"workload\"           # a pod; its own image is preloaded on every node that runs it\nlisten   = %q\n", config.DefaultListen)
		form = "\n[mirror.workload]\n" +
			"form = \"static-pod\"              # needs kubelet only; also daemonset, deployment: docs/workload.md\n"
	}
	return fmt.Sprintf(starter, name, kind, found, mirror, form, endpoints), nil
}

const starter = `# edgeprep.toml: what this node should be. Check it anywhere: edgeprep validate -c FILE
version = 1                        # format of this file; unknown keys are errors

[site]
name = %q

[distro]
kind = %q                     # %s

[images]
# Archives that must be on the node before its first start. Globs are fine, paths are absolute.
archives = ["/opt/edgeprep/images/*.tar*"]
# One reference a line; apply refuses and check fails when one of them is missing.
# required = "/opt/edgeprep/required.txt"

[mirror]
%supstream = "never"               # "never": only what is cached is ever served
%s
[registries]
# Registry hosts besides those of the images; "*" is always covered.
hosts = []
%s
[apply]
# Accepted without asking: restart, overwrite, remove, plain-http, untested-distro.
allow = []
`

func (a *App) initKind(ctx context.Context, want string) (kind, why string, err error) {
	set, err := a.Descriptors()
	if err != nil {
		return "", "", err
	}
	if want != "" {
		if _, ok := set.Get(want); !ok {
			return "", "", &diag.Refused{Err: &diag.Diagnostic{ID: "NOD-004", Severity: diag.Error,
				What: fmt.Sprintf("there is no distribution %q", want), Fix: "one of: " + strings.Join(set.IDs(), ", ")}}
		}
		return want, "a node of another distribution is refused", nil
	}
	n, err := distro.Detect(ctx, a.reader, set, distro.Options{})
	if err != nil {
		return distro.KindAuto, "detected on the node; naming it makes a wrong node fail fast", nil //nolint:nilerr // a starter file is also written where there is no node
	}
	return n.ID, strings.TrimSpace(n.Name+" "+n.Version) + " was found here; a node of another distribution is refused", nil
}

// writeNew writes a file that must not be there yet.
func writeNew(abs, text string) error {
	if _, err := os.Lstat(abs); !errors.Is(err, fs.ErrNotExist) {
		return &diag.Refused{Err: &diag.Diagnostic{ID: "CFG-032", Severity: diag.Error, What: "the file is there already",
			Where: diag.Where{File: abs}, Fix: "choose another --out, or move it away: mv " + diag.Word(abs) + " " + diag.Word(abs+".old")}}
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", abs, err)
	}
	w := atomicfile.Writer{}
	return w.Write(abs, []byte(text), atomicfile.Meta{Mode: 0o644, UID: -1, GID: -1})
}
