package check

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Bounds of what is read of files that are not edgeprep's.
const (
	maxText  = 1 << 20
	maxFiles = 500
)

// hostChecks are those of the machine under the distribution, and of what must still hold after months off.
func hostChecks() []Check {
	return slices.Concat(clockChecks(), networkChecks(), uniqueChecks(), kernelChecks(), diskChecks(), hostOpsChecks(), certificateChecks(), clusterChecks())
}

// readText reads a small file; ok is false when it is not there or cannot be read as one.
func readText(f host.FS, file string) (content string, ok bool) {
	data, err := f.ReadFile(file, maxText)
	return string(data), err == nil
}

// glob finds the node paths that match a pattern, sorted; wildcards may be in every element. A directory that
// cannot be read matches nothing and is named in err.
func glob(f host.FS, pattern string) (out []string, err error) {
	if !strings.ContainsAny(pattern, "*?[") {
		if _, err := f.Lstat(pattern); err != nil {
			return nil, denied(err)
		}
		return []string{pattern}, nil
	}
	dirs, err := glob(f, path.Dir(pattern))
	for _, d := range dirs {
		entries, rerr := f.ReadDir(d)
		if denied(rerr) != nil {
			err = rerr
		}
		for _, x := range entries {
			name := path.Base(x.Path)
			if ok, _ := path.Match(path.Base(pattern), name); ok && len(out) < maxFiles {
				out = append(out, path.Join(d, name))
			}
		}
	}
	slices.Sort(out)
	return out, err
}

// denied keeps the errors that mean that somebody else could have looked.
func denied(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// configLine is a line of a configuration file that is neither empty nor a comment.
type configLine struct {
	file string
	n    int
	text string
}

// where is "file:line".
func (l configLine) where() string { return l.file + ":" + strconv.Itoa(l.n) }

// configLines reads files in order and gives what counts in them. Comments begin with # or ;.
func configLines(f host.FS, patterns ...string) []configLine {
	var out []configLine
	for _, p := range patterns {
		files, _ := glob(f, p) // what may not be read says nothing
		for _, file := range files {
			content, _ := readText(f, file)
			for n, t := range strings.Split(content, "\n") {
				t = strings.TrimSpace(t)
				if t != "" && !strings.HasPrefix(t, "#") && !strings.HasPrefix(t, ";") {
					out = append(out, configLine{file, n + 1, t})
				}
			}
		}
	}
	return out
}

// lastValue is the last "key = value" of some lines, in any section, whatever the case of its key.
func lastValue(all []configLine, key string) (value string, at configLine, ok bool) {
	for _, l := range all {
		k, v, found := strings.Cut(l.text, "=")
		if found && strings.EqualFold(strings.TrimSpace(k), key) {
			value, at, ok = strings.Trim(strings.TrimSpace(v), `"'`), l, true
		}
	}
	return value, at, ok
}

// unitOn says whether a unit starts at boot or runs. What cannot be asked does not.
func (e *Env) unitOn(ctx context.Context, name string) bool {
	u, err := e.Reader.Units().Unit(ctx, name)
	return err == nil && u.Exists() && u.Load != "masked" && (u.IsEnabled() || u.Running())
}

// unitsOn are those of some units that start at boot or run.
func (e *Env) unitsOn(ctx context.Context, names ...string) []string {
	var out []string
	for _, n := range names {
		if e.unitOn(ctx, n) {
			out = append(out, n)
		}
	}
	return out
}

// notLive is the one finding of a check about the running machine when this is none; nil on one.
func (e *Env) notLive(subject, what string) []Finding {
	if e.memo.facts.Live {
		return nil
	}
	return []Finding{deferred(subject, "this is a mounted image or directory: "+what+" of another machine; run edgeprep check on the node")}
}

// inContainer says whether the node is a container, which has the kernel and the clock of its host.
// systemd: docs/CONTAINER_INTERFACE.md
func (e *Env) inContainer() bool {
	_, err := e.Reader.FS().Lstat("/run/systemd/container")
	return err == nil
}
