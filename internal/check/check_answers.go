package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
)

func tagTimeCheck() Check {
	return Check{
		ID: "MIR-09", Title: "a cached tag is answered at once, whether an upstream is there or not",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"MIR-03"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "cached images take half a minute each while the uplink is half dead, and at once when it is cut or up",
			Cause:   "a pull-through registry asks its upstream about a tag before it looks into its cache; edgeprep's waits for 2 s once, then for 50 ms",
			Look:    "how long each endpoint took to walk a required image by its tag, layers by HEAD. It proves something for the state of egress that the result names",
			Fix:     "[mirror] upstream = \"never\"; with another registry its offline switch, or routes that reject instead of dropping",
			Sources: []string{"distribution: proxytagservice.go", "goharbor/harbor#23714", "docs/upstreams.md"},
		},
		Run: runTagTime,
	}
}

// tagWithin is what a walk may take: 2 s of patience with an upstream, and the rest for a slow disk.
const tagWithin = 10 * time.Second

func runTagTime(_ context.Context, e *Env) []Finding {
	if fs := e.withMirrors(); fs != nil {
		return fs
	}
	if e.opts.Deep {
		return []Finding{skip("time of a tag", "with --deep the walk reads every layer; run the check without it")}
	}
	worst := map[string]mirrorWalk{}
	for _, w := range e.memo.mirrors() {
		if old, ok := worst[w.endpoint.URL]; w.err == nil && w.result.Digest != "" && !strings.Contains(w.ref, "@") && (!ok || w.took > old.took) {
			worst[w.endpoint.URL] = w
		}
	}
	var out []Finding
	for _, m := range e.Mirrors {
		w, ok := worst[m.URL]
		switch {
		case !ok:
			out = append(out, skip(m.URL, "it answered for no required tag; MIR-03 says so"))
		case w.took > tagWithin:
			out = append(out, Finding{Status: StatusFail, Subject: m.URL + " " + w.ref, Expected: "within " + tagWithin.String(), Observed: w.took.Round(time.Second).String(), Source: "HTTP walk by tag",
				Remedy: Remedy{Text: "[mirror] upstream = \"never\" where there is no uplink; then", Command: "edgeprep apply"}})
		default:
			out = append(out, pass(m.URL, "the slowest image took "+w.took.Round(time.Millisecond).String(), "HTTP walk by tag"))
		}
	}
	return out
}

func namesCheck() Check {
	return Check{
		ID: "MIR-17", Title: "every required reference has a name that the mirror can serve",
		Severity: SeverityWarn, Scope: ScopeNode,
		Story: Story{
			Seen:    "images with very long names are not found in the mirror, although everything else is",
			Cause:   "a mirror's name for an image is registry and repository together, 255 characters at most; other mirrors also limit how deep a name may be",
			Look:    "registry and repository of every required reference",
			Fix:     "give the image a shorter name",
			Sources: []string{"distribution/reference: NameTotalLengthMax", "aceeric/ociregistry: docs/limitations.md"},
		},
		Run: runMirrorNames,
	}
}

func runMirrorNames(_ context.Context, e *Env) []Finding {
	if len(e.Mirrors) == 0 {
		return []Finding{skip("names", "no mirror is configured")}
	}
	if len(e.Required) == 0 {
		return []Finding{skip("names", "no reference is required")}
	}
	var out []Finding
	longest := 0
	for _, r := range e.Required {
		n := len(r.Host) + 1 + len(r.Repository)
		longest = max(longest, n)
		if _, err := mirror.ParseReference(r.Name); err != nil {
			out = append(out, Finding{Status: StatusWarn, Subject: r.Name, Expected: "255 characters at most for registry and repository", Observed: fmt.Sprintf("%d: the mirror does not take it", n), Source: "[images] required",
				Remedy: Remedy{Text: "give the image a shorter name, or preload it alone"}})
		}
	}
	if len(out) == 0 {
		return []Finding{pass(plural(len(e.Required), "name"), fmt.Sprintf("the longest has %d of 255 characters", longest), "[images] required")}
	}
	return out
}

func missAnswerCheck() Check {
	return Check{
		ID: "MIR-18", Title: "what a mirror lacks is answered with 404, at once",
		Severity: SeverityWarn, Scope: ScopeNode, DependsOn: []string{"MIR-03"},
		Story: Story{
			Seen:    "kubelet's event shows a DNS error of a public registry for an image that the mirror should have",
			Cause:   "containerd reports the error of the host that came furthest; a mirror that answers 500 or nothing hides that it lacks the image",
			Look:    "each endpoint: HEAD of a name that no mirror has",
			Fix:     "read the mirror's own log and misses: edgeprep mirror misses",
			Sources: []string{"containerd: core/remotes/docker/resolver.go", "rke2-docs: troubleshooting"},
		},
		Run: runMissAnswer,
	}
}

func runMissAnswer(ctx context.Context, e *Env) []Finding {
	switch {
	case len(e.Mirrors) == 0:
		return []Finding{skip("misses", "no mirror is configured")}
	case !e.memo.facts.Live && !e.MirrorsRun:
		return []Finding{deferred("misses", "this is a mounted image or directory: its mirror does not run; run edgeprep check on the node")}
	}
	nonce, err := newNonce()
	if err != nil {
		return []Finding{couldNotRun("misses", err)}
	}
	out := make([]Finding, len(e.Mirrors))
	parallel(len(out), func(i int) { out[i] = e.missed(ctx, e.Mirrors[i], "docker.io/"+mirror.ProbeRepository+"/"+nonce+":x") })
	return out
}

func (e *Env) missed(ctx context.Context, m Mirror, ref string) Finding {
	c, err := e.mirrorClient(m)
	if err != nil {
		return couldNotRun(m.URL, err)
	}
	defer c.Close()
	begin := time.Now()
	_, err = c.Resolve(ctx, ref)
	took := time.Since(begin)
	f := Finding{Status: StatusWarn, Subject: m.URL, Expected: "404 at once", Source: "HEAD " + ref,
		Remedy: Remedy{Text: "see what it says", Command: "journalctl -u edgeprep-mirror.service -n 50"}}
	switch {
	case errors.Is(err, host.ErrUnavailable):
		return skip(m.URL, "it does not answer; MIR-03 says so")
	case err == nil:
		f.Observed = "it says that it has an image which nobody has"
	case !errors.Is(err, mirror.ErrNotFound):
		f.Observed = err.Error()
	case took > tagWithin:
		f.Observed = "404 after " + took.Round(time.Second).String()
	default:
		return pass(m.URL, "404", "HEAD "+ref)
	}
	return f
}
