package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload"
	"github.com/edgeprep/edgeprep/internal/registries"
)

func rewriteCheck() Check {
	return Check{
		ID: "REG-15", Title: "the mirrors have what rewritten names lead to",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-06", "MIR-03"},
		Story: Story{
			Seen:    "404 for a path that looks doubled, or that was not rewritten",
			Cause:   "a rewrite of registries.yaml is a regular expression without anchors, goes over the repository alone, and holds for every endpoint of its entry, also for the mirror that edgeprep put first",
			Look:    "each rule, and for each required reference that one changes what the mirror answers for the new name",
			Fix:     "remove the rules: the mirror knows the registry from ?ns= and needs none",
			Sources: []string{"k3s: pkg/agent/containerd/config.go", "rke2-docs: private_registry.md"},
		},
		Run: runRewrites,
	}
}

func runRewrites(ctx context.Context, e *Env) []Finding {
	eff, bad := e.withRegistries()
	if bad != nil {
		return bad
	}
	var out []Finding
	if eff.Written != nil {
		for _, m := range eff.Written.Mirrors {
			if len(m.Rewrites) > 0 {
				out = append(out, e.rewrites(ctx, eff.Written, m)...)
			}
		}
	}
	if len(out) == 0 {
		return []Finding{skip("rewrites", "no registries file has a rule")}
	}
	return out
}

// rewrites judges the rules of one entry.
func (e *Env) rewrites(ctx context.Context, w *registries.Written, m registries.WrittenMirror) []Finding {
	source := at(w.File, m.Line)
	var out []Finding
	rules := map[*regexp.Regexp]string{}
	for _, pattern := range slices.Sorted(maps.Keys(m.Rewrites)) {
		re, err := regexp.Compile(pattern)
		f := pass(m.Registry+" "+pattern, "rewritten to "+m.Rewrites[pattern], source)
		switch {
		case err != nil:
			f.Status, f.Expected, f.Observed = StatusFail, "a regular expression", err.Error()
			f.Remedy = Remedy{Text: "correct or remove the rule in " + w.File}
		case !strings.HasPrefix(pattern, "^"):
			f.Status, f.Expected, f.Observed = StatusWarn, "^ at its beginning", "it also changes names in their middle"
			f.Remedy = Remedy{Text: "anchor the rule in " + w.File}
		}
		if err == nil {
			rules[re] = m.Rewrites[pattern]
		}
		out = append(out, f)
	}
	return append(out, e.rewritten(ctx, m, rules, source)...)
}

// rewritten asks the mirrors for the new names of the required references.
func (e *Env) rewritten(ctx context.Context, m registries.WrittenMirror, rules map[*regexp.Regexp]string, source string) []Finding {
	var out []Finding
	for _, r := range e.Required {
		if r.Host != m.Registry && m.Registry != "*" {
			continue
		}
		name := rewriteName(r, rules)
		if name == "" {
			continue
		}
		for _, p := range e.answering() {
			if slices.ContainsFunc(m.Hosts, func(h registries.HostEntry) bool { return h.Same(p.entry.Endpoint) }) {
				out = append(out, e.askRewritten(ctx, p.Mirror, r, name, source))
			}
		}
	}
	return out
}

// rewriteName is the full name after the rules; empty: none changes it.
func rewriteName(r preload.Ref, rules map[*regexp.Regexp]string) string {
	for re, to := range rules {
		if n := re.ReplaceAllString(r.Repository, to); n != r.Repository {
			return r.Host + "/" + n + strings.TrimPrefix(r.Name, r.Host+"/"+r.Repository)
		}
	}
	return ""
}

func (e *Env) askRewritten(ctx context.Context, m Mirror, r preload.Ref, name, source string) Finding {
	f := Finding{Subject: r.Name, Expected: "the mirror has " + name, Source: source + "; HEAD at " + m.URL}
	c, err := e.mirrorClient(m)
	if err != nil {
		return couldNotRun(r.Name, err)
	}
	defer c.Close()
	d, err := c.Resolve(ctx, name)
	switch {
	case err == nil:
		f.Status, f.Observed = StatusPass, fmt.Sprintf("it has: %s", d.Digest)
	case errors.Is(err, mirror.ErrNotFound):
		f.Status, f.Observed = StatusFail, "it has not; the runtime asks for this name and never for "+r.Name
		f.Remedy = Remedy{Text: "remove the rewrite from " + strings.TrimSpace(source) + " and restart " + e.Node.Name + ": the mirror needs none"}
	default:
		f.Status, f.Reason = StatusUnproven, err.Error()
	}
	return f
}

// answering are the mirrors that speak HTTP as configured; empty when they cannot be asked from here.
func (e *Env) answering() []probed {
	if e.withProbes() != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.memo.endpoints()), func(p probed) bool { return p.failure != answered })
}
