package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// lastUses are those of the mirror that serves the cache, if one does, else those of the cache's file.
func lastUses(ctx context.Context, s *mirror.Store, admin string) []mirror.Use {
	if a, ok := runningMirror(ctx, s, admin); ok {
		if used, err := a.Uses(ctx); err == nil {
			return used
		}
	}
	return s.LastUses()
}

// runningMirror is the mirror behind an admin socket, if it serves this cache.
func runningMirror(ctx context.Context, s *mirror.Store, admin string) (*mirror.Admin, bool) {
	if admin == "" {
		return nil, false
	}
	a := mirror.AdminClient(admin)
	h, err := a.Health(ctx)
	return a, err == nil && h.Cache == s.Dir()
}

// CacheOf is the cache of the mirror behind an admin socket.
func CacheOf(ctx context.Context, admin string) (string, error) {
	h, err := mirror.AdminClient(admin).Health(ctx)
	return h.Cache, err
}

// ListCache lists the references of a cache that patterns select, or all, with their last use. A pattern that
// selects nothing is an error.
func ListCache(ctx context.Context, s *mirror.Store, patterns []string, admin string) ([]mirror.Entry, error) {
	ps, err := mirror.ParsePatterns(patterns)
	if err != nil {
		return nil, err
	}
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	list, idle := ps.Select(all)
	mirror.WithUses(list, lastUses(ctx, s, admin))
	var none diag.Report
	for _, p := range idle {
		none.Add(noSuch(s.Dir(), p.String()))
	}
	return list, none.Err()
}

func noSuch(cache, pattern string) *diag.Diagnostic {
	return &diag.Diagnostic{ID: "MER-062", Severity: diag.Error, What: fmt.Sprintf("no reference in the cache is selected by %q", pattern),
		Where: diag.Where{File: cache}, Fix: "see what is there: edgeprep mirror ls --cache " + diag.Word(cache)}
}

// PruneRequest is what is removed from a cache.
type PruneRequest struct {
	Cache     string
	Patterns  []string
	UnusedFor time.Duration
	Keep      []string // files of patterns
	Required  []preload.Ref
	Grace     time.Duration
	Apply     bool
	Admin     string    // socket of the mirror that may be running
	Stdin     io.Reader // for "-"
}

// PruneCache removes references and what none reaches, or says what would be.
func PruneCache(ctx context.Context, r PruneRequest, sink progress.Sink) (mirror.PruneReport, error) {
	o := mirror.PruneOptions{UnusedFor: r.UnusedFor, Grace: r.Grace, Apply: r.Apply, Only: len(r.Keep) > 0 || r.Required != nil}
	var err error
	if o.Match, err = mirror.ParsePatterns(r.Patterns); err != nil {
		return mirror.PruneReport{}, &diag.Refused{Err: err}
	}
	if o.Keep, err = r.kept(); err != nil {
		return mirror.PruneReport{}, &diag.Refused{Err: err}
	}
	s, err := mirror.Open(r.Cache, mirror.Options{ReadOnly: !r.Apply})
	if err != nil {
		return mirror.PruneReport{}, err
	}
	defer s.Close()
	o.Uses = lastUses(ctx, s, r.Admin)
	const step = "prune"
	sink.Emit(progress.Event{Type: progress.StepStart, Step: step, Msg: "prune " + r.Cache})
	out, err := s.Prune(ctx, o)
	end := progress.Event{Type: progress.StepEnd, Step: step, Status: "ok", Msg: "prune " + r.Cache}
	if err != nil {
		end.Status = "failed"
	}
	sink.Emit(end)
	return out, err
}

// kept are the patterns of the keep lists. An empty list keeps nothing, which nobody means.
func (r PruneRequest) kept() (mirror.Patterns, error) {
	var out mirror.Patterns
	for _, file := range r.Keep {
		names, err := readNames(file, r.Stdin)
		if err != nil {
			return nil, err
		}
		ps, err := mirror.ParsePatterns(names)
		if err != nil {
			return nil, &diag.Diagnostic{ID: "MER-063", Severity: diag.Error, What: "the list has a line that is no reference or pattern: " + err.Error(),
				Where: diag.Where{File: file}, Fix: "write one a line, like registry.example.com/team/**; # starts a comment"}
		}
		if len(ps) == 0 {
			return nil, &diag.Diagnostic{ID: "MER-064", Severity: diag.Error, What: "the keep list is empty", Where: diag.Where{File: file},
				Why: "everything would be removed", Fix: "name what must stay, one reference or pattern a line"}
		}
		out = append(out, ps...)
	}
	for _, ref := range r.Required {
		p, err := mirror.ParsePattern(ref.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// RequiredReferences are what the site's [images] required lists.
func (a *App) RequiredReferences() ([]preload.Ref, error) {
	site, err := a.Site()
	if err != nil {
		return nil, err
	}
	if site.Images.Required == "" {
		return nil, &diag.Refused{Err: diag.Report{{ID: "MER-065", Severity: diag.Error, What: "the site lists no required images",
			Where: diag.Where{File: a.ConfigName(), Key: "images.required"}, Fix: "set [images] required, or name a list with --keep"}}}
	}
	refs, err := preload.ReadRequired(a.reader.FS(), site.Images.Required)
	if err == nil && len(refs) == 0 {
		err = &diag.Refused{Err: diag.Report{{ID: "MER-064", Severity: diag.Error, What: "the keep list is empty",
			Where: diag.Where{File: site.Images.Required}, Why: "everything would be removed", Fix: "name what must stay, one reference or pattern a line"}}}
	}
	return refs, err
}

// maxNames bounds a list of references.
const maxNames = 64 << 20

// readNames reads a list of references or patterns: one a line, "#" starts a comment; or what
// "edgeprep mirror ls -o json" prints. "-" is stdin.
func readNames(file string, stdin io.Reader) ([]string, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read the list: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxNames))
	if err != nil {
		return nil, fmt.Errorf("read the list %s: %w", file, err)
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '[' {
		return namesOfJSON(file, t)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

func namesOfJSON(file string, b []byte) ([]string, error) {
	var list []struct {
		Reference string `json:"reference"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read the list %s: %w", file, err)
	}
	var out []string
	for _, e := range list {
		if e.Reference == "" {
			return nil, fmt.Errorf("read the list %s: %w", file, errors.New("an entry has no reference"))
		}
		out = append(out, e.Reference)
	}
	return out, nil
}

// MissedReference is something that nodes asked for and the cache had not.
type MissedReference struct {
	mirror.Miss
	Image   string `json:"image,omitempty"`   // the reference, when it is one
	Present bool   `json:"present,omitempty"` // it is in the cache meanwhile
}

// CacheMisses are the misses of the mirror that serves the cache, if one does, else those of the cache's file;
// the last one first, none from before since.
func CacheMisses(ctx context.Context, cache, admin string, since time.Time) ([]MissedReference, error) {
	// A mirror whose cache is not there yet serves all the same, and remembers.
	s, err := mirror.Open(cache, mirror.Options{ReadOnly: true, Lazy: true})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var misses []mirror.Miss
	if a, ok := runningMirror(ctx, s, admin); ok {
		misses, err = a.Misses(ctx, "")
	} else if err = mirror.CheckCache(cache); err == nil {
		misses = s.SavedMisses()
	}
	if err != nil {
		return nil, err
	}
	out := []MissedReference{}
	for _, m := range misses {
		if m.Last.Before(since) || m.Probe() {
			continue
		}
		r := MissedReference{Miss: m}
		if ref, ok := m.Image(); ok {
			r.Image = ref.String()
			if r.Present, err = s.Has(ctx, r.Image); err != nil {
				return nil, err
			}
		}
		out = append(out, r)
	}
	return out, nil
}
