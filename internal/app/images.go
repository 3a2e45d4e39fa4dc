package app

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// images finds the archives and references of the site.
func (a *App) images(ctx context.Context, d *Desired, how reading) error {
	var gone []preload.Archive
	var err error
	d.Paths, gone, err = a.archives(d.Site.Images.Archives, d.Ledger)
	if err != nil && !how.lenient {
		return err
	}
	var known preload.Known = ledgerKnown{d.Ledger}
	if how.verify {
		known = nil
	}
	if how.lenient {
		d.Archives = a.whole(ctx, d.Paths, known)
	} else if d.Archives, err = preload.InspectAll(ctx, a.reader.FS(), d.Paths, known, a.sink()); err != nil {
		return &diag.Refused{Err: err}
	}
	if err := d.remember(a.reader.FS()); err != nil {
		return err
	}
	d.Archives = append(d.Archives, gone...)
	if d.Site.Images.Required != "" {
		if d.Required, err = preload.ReadRequired(a.reader.FS(), d.Site.Images.Required); err != nil {
			return &diag.Refused{Err: err}
		}
	}
	return nil
}

// whole are the archives that can be read to their end; what is wrong with the others is a check's business.
func (a *App) whole(ctx context.Context, paths []string, known preload.Known) []preload.Archive {
	var out []preload.Archive
	for _, p := range paths {
		if x, err := preload.Inspect(ctx, a.reader.FS(), p, known, nil); err == nil {
			out = append(out, x)
		}
	}
	return out
}

func (a *App) sink() progress.Sink {
	return progress.NewStream("", "", nil, append(slices.Clone(a.opts.Sinks), &a.run)...)
}

// runSink is sink with the run's own log.
func (a *App) runSink() progress.Sink {
	return progress.NewStream("", "", nil, append(slices.Clone(a.opts.Sinks), progress.Func(a.emitRun), &runLog{root: a.rootHere()})...)
}

// ledgerKnown spares reading archives that are as they were inspected.
type ledgerKnown struct{ l plan.Ledger }

// Known implements preload.Known.
func (k ledgerKnown) Known(p string, fi host.FileInfo) (preload.Archive, bool) {
	s, ok := k.l.Sources[p]
	if !ok || !s.Is(fi) {
		return preload.Archive{}, false
	}
	var found preload.Archive
	if err := json.Unmarshal(s.Data, &found); err != nil || found.SHA256 == "" {
		return preload.Archive{}, false
	}
	return found.At(fi), true
}

// remember makes the ledger's record of the archives; what was consumed before stays known.
func (d *Desired) remember(f host.FS) error {
	d.Sources = map[string]plan.Source{}
	for p, s := range d.Ledger.Sources {
		if s.Consumed != "" {
			d.Sources[p] = s
		}
	}
	for _, x := range d.Archives {
		if err := d.rememberArchive(f, x); err != nil {
			return err
		}
	}
	return nil
}

func (d *Desired) rememberArchive(f host.FS, x preload.Archive) error {
	fi, err := preload.Describe(f, x.Path)
	if err != nil {
		return fmt.Errorf("look at %s: %w", x.Path, err)
	}
	data, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("remember %s: %w", x.Path, err)
	}
	d.Sources[x.Path] = plan.SourceOf(fi, data)
	return nil
}

// archives resolves the patterns of [images] archives on the node. An archive that edgeprep itself consumed
// is known from the ledger.
func (a *App) archives(patterns []string, l plan.Ledger) (paths []string, gone []preload.Archive, err error) {
	var missing diag.Report
	for i, p := range patterns {
		found, err := glob(a.reader.FS(), p)
		if err != nil {
			return nil, nil, err
		}
		consumed := consumedBy(l, p, found)
		if len(found)+len(consumed) == 0 {
			missing.Add(&diag.Diagnostic{ID: "NOD-100", Severity: diag.Error, What: "no archive at " + p,
				Where: diag.Where{File: a.ConfigName(), Key: fmt.Sprintf("images.archives[%d]", i)},
				Why:   "its images would be missing on the node without a word", Fix: "put it there, or remove the entry: ls -l " + diag.Word(p)})
		}
		for _, f := range found {
			if strings.ContainsFunc(f, unicode.IsControl) {
				missing.Add(&diag.Diagnostic{ID: "NOD-120", Severity: diag.Error, What: fmt.Sprintf("the archive name %q holds a control character", f),
					Why: "it would reach terminals and logs as it is", Fix: "rename the file"})
			}
		}
		paths, gone = append(paths, found...), append(gone, consumed...)
	}
	if len(missing) > 0 {
		return nil, nil, &diag.Refused{Err: missing}
	}
	return paths, gone, nil
}

func consumedBy(l plan.Ledger, pattern string, found []string) []preload.Archive {
	var out []preload.Archive
	for p, s := range l.Sources {
		var x preload.Archive
		if ok, _ := path.Match(pattern, p); ok && s.Consumed != "" && !slices.Contains(found, p) && json.Unmarshal(s.Data, &x) == nil {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b preload.Archive) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// glob finds the node paths that match a pattern, sorted. A path without wildcards that is missing matches
// nothing.
func glob(f host.FS, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?[") {
		if _, err := f.Stat(pattern); err != nil {
			return nil, nil //nolint:nilerr // the caller reports what matched nothing
		}
		return []string{pattern}, nil
	}
	dirs, err := glob(f, path.Dir(pattern))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range dirs {
		entries, err := f.ReadDir(d)
		if err != nil {
			continue // not a directory: nothing below it matches
		}
		for _, e := range entries {
			name := path.Base(e.Path)
			ok, err := path.Match(path.Base(pattern), name)
			if err != nil {
				return nil, fmt.Errorf("[images] archives %q is not a pattern: %w", pattern, err)
			}
			if ok && (!strings.HasPrefix(name, ".") || strings.HasPrefix(path.Base(pattern), ".")) {
				out = append(out, path.Join(d, name))
			}
		}
	}
	return out, nil
}
