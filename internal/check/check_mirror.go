package check

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/mirror"
)

func mirrorChecks() []Check {
	return []Check{mirrorWalkCheck(), mirrorBytesCheck(), effectiveCheck()}
}

func mirrorWalkCheck() Check {
	return Check{
		ID: "MIR-03", Title: "every configured mirror serves every required reference, complete for this platform",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-11", "REG-13", "REG-19", "REG-21"}, Unwaivable: true, Timeout: deepTimeout,
		Story: Story{
			Seen:    "some tags give 404 on site, others are fine",
			Cause:   "an index without the manifest of this platform, a manifest without its blobs, a cache filled for another architecture, a mirror that is not there",
			Look:    "each endpoint that containerd is pointed at, over HTTP with ?ns= as containerd asks: index, the platform's manifest, config, layers",
			Fix:     "load the archives into the mirror's cache (edgeprep apply, or edgeprep mirror load) before egress is cut",
			Sources: []string{"aceeric/ociregistry: docs/configuring-the-server.md, cache.go"},
		},
		Run: runMirrorWalk,
	}
}

func mirrorBytesCheck() Check {
	return Check{
		ID: "MIR-04", Title: "what the mirrors serve has the size and digest that its manifests say",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"MIR-03"}, Timeout: deepTimeout,
		Story: Story{
			Seen:    "\"unexpected commit digest\" or end of file on one layer, every time; containerd does not try the next host",
			Cause:   "a full disk or a power cut left a short or wrong file under the right name, and the mirror serves it",
			Look:    "the same walk: manifests and configs are hashed, layers compared in size; --deep reads and hashes the layers too",
			Fix:     "remove the blob from the cache and load it again: edgeprep mirror verify, edgeprep mirror load",
			Sources: []string{"aceeric/imgpull: internal/methods/methods.go", "aceeric/ociregistry: impl/serialize/serialize.go"},
		},
		Run: runMirrorBytes,
	}
}

// mirrorWalk is one reference on one endpoint.
type mirrorWalk struct {
	endpoint Mirror
	ref      string
	result   mirror.WalkResult
	took     time.Duration
	err      error // the endpoint cannot be asked
}

// walkMirrors walks every required reference on every endpoint. An endpoint that does not answer is asked
// once.
func walkMirrors(ctx context.Context, e *Env) []mirrorWalk {
	all := make([][]mirrorWalk, len(e.Mirrors))
	parallel(len(all), func(i int) { all[i] = e.walkMirror(ctx, e.Mirrors[i]) })
	return slices.Concat(all...)
}

func (e *Env) walkMirror(ctx context.Context, m Mirror) []mirrorWalk {
	c, err := e.mirrorClient(m)
	if err != nil {
		return []mirrorWalk{{endpoint: m, err: err}}
	}
	defer c.Close()
	var out []mirrorWalk
	for _, r := range e.Required {
		w := mirrorWalk{endpoint: m, ref: r.Name}
		begin := time.Now()
		w.result, w.err = c.Walk(ctx, r.Name, e.Platform, e.opts.Deep)
		w.took = time.Since(begin)
		out = append(out, w)
		if w.err != nil {
			break
		}
	}
	return out
}

func (e *Env) mirrorClient(m Mirror) (*mirror.Client, error) {
	o := mirror.ClientOptions{UserAgent: "edgeprep-check"}
	for name, to := range map[string]*[]byte{m.CA: &o.CA, m.ClientCert: &o.ClientCert, m.ClientKey: &o.ClientKey} {
		if name == "" {
			continue
		}
		var err error
		if *to, err = e.Reader.FS().ReadFile(name, 1<<20); err != nil {
			return nil, fmt.Errorf("TLS file of endpoint %s: %w", m.URL, err)
		}
	}
	return mirror.NewClient(m.URL, o)
}

// withMirrors is nil when the endpoints can be walked, else the one finding that says why not.
func (e *Env) withMirrors() []Finding {
	switch {
	case len(e.Mirrors) == 0:
		return []Finding{skip("mirror endpoints", "no mirror is configured")}
	case len(e.Required) == 0:
		return []Finding{nothingRequired()}
	case !e.memo.facts.Live && !e.MirrorsRun:
		return []Finding{deferred("mirror endpoints", "this is a mounted image or directory: its mirror does not run; run edgeprep check on the node")}
	}
	return nil
}

func runMirrorWalk(_ context.Context, e *Env) []Finding {
	if fs := e.withMirrors(); fs != nil {
		return fs
	}
	var out []Finding
	for _, w := range e.memo.mirrors() {
		out = append(out, w.complete())
	}
	return out
}

// complete judges presence; wrong bytes are the other check's.
func (w mirrorWalk) complete() Finding {
	source := "HTTP walk of " + w.endpoint.URL + " with ?ns="
	if w.err != nil {
		return Finding{Status: StatusFail, Subject: w.endpoint.URL, Expected: "a mirror that answers", Observed: w.err.Error(), Source: source, Remedy: w.endpoint.remedy()}
	}
	missing := problems(w.result, func(k mirror.ProblemKind) bool { return k != mirror.ProblemCorrupt })
	if len(missing) > 0 {
		return Finding{Status: StatusFail, Subject: w.endpoint.URL + " " + w.ref, Expected: "complete for " + w.result.Platform,
			Observed: strings.Join(missing, "; "), Source: source,
			Remedy: Remedy{Text: "fill its cache", Command: "edgeprep mirror load ARCHIVE"}}
	}
	return pass(w.endpoint.URL+" "+w.ref, fmt.Sprintf("%d blobs, %s; %s", w.result.Contents, bytesText(w.result.Bytes), w.result.Digest), source)
}

func (m Mirror) remedy() Remedy {
	if m.Admin == "" {
		return Remedy{Text: "start the mirror on its node, or take it out of [registries] endpoints"}
	}
	return Remedy{Text: "see why", Command: "systemctl status edgeprep-mirror.service"}
}

func problems(r mirror.WalkResult, want func(mirror.ProblemKind) bool) []string {
	var out []string
	for _, p := range r.Problems {
		if want(p.Kind) {
			out = append(out, p.Detail)
		}
	}
	return out
}

func runMirrorBytes(_ context.Context, e *Env) []Finding {
	if fs := e.withMirrors(); fs != nil {
		return fs
	}
	var out []Finding
	sums := map[string]*Finding{}
	for _, w := range e.memo.mirrors() {
		bad := problems(w.result, func(k mirror.ProblemKind) bool { return k == mirror.ProblemCorrupt })
		switch {
		case w.err != nil:
			out = append(out, unproven(w.endpoint.URL, "the endpoint does not answer"))
		case len(bad) > 0:
			out = append(out, Finding{Status: StatusFail, Subject: w.endpoint.URL + " " + w.ref, Expected: "the bytes that the manifests name",
				Observed: strings.Join(bad, "; "), Source: "HTTP walk", Remedy: Remedy{Text: "remove the blob and load it again", Command: "edgeprep mirror verify"}})
		case sums[w.endpoint.URL] == nil:
			sums[w.endpoint.URL] = &Finding{}
		}
	}
	for _, m := range e.Mirrors {
		if sums[m.URL] != nil && !slices.ContainsFunc(out, func(f Finding) bool { return strings.HasPrefix(f.Subject, m.URL) }) {
			out = append(out, pass(m.URL, e.bytesProof(), "HTTP walk"))
		}
	}
	return out
}

func (e *Env) bytesProof() string {
	if e.opts.Deep {
		return "every byte hashed"
	}
	return "manifests and configs hashed, layers compared in size"
}

func effectiveCheck() Check {
	return Check{
		ID: "REG-16", Title: "the mirror configuration is in effect: a pull over CRI arrives at the mirror",
		Severity: SeverityFail, Scope: ScopeNode, DependsOn: []string{"REG-01", "REG-02", "REG-04", "REG-05", "MIR-03"},
		Unwaivable: true, Timeout: 5 * DefaultTimeout,
		Story: Story{
			Seen:  "the file is right and the behaviour is old; or a manual fix disappears after a restart",
			Cause: "k3s and RKE2 read registries.yaml at start only and make certs.d anew; containerd reads config.toml at start only; a wrong directory, table or key is ignored without a word",
			Look: "for docker.io and every required registry: a CRI pull of HOST/edgeprep-probe/NONCE:x, a name that no mirror has. " +
				"The mirror's own record of the miss, with that ns, is the proof; nothing is stored",
			Fix:     "let edgeprep restart what must take the change in: edgeprep apply --allow restart",
			Sources: []string{"k3s: pkg/agent/containerd/config.go", "containerd: docs/hosts.md", "rke2-docs"},
		},
		Run: runEffective,
	}
}

func runEffective(ctx context.Context, e *Env) []Finding {
	own := slices.DeleteFunc(slices.Clone(e.Mirrors), func(m Mirror) bool { return m.Admin == "" })
	if len(e.Mirrors) == 0 {
		return []Finding{skip("mirror endpoints", "no mirror is configured")}
	}
	if fs := e.withRuntime(ctx, "pulls over CRI"); fs != nil {
		return fs
	}
	if len(own) == 0 {
		return []Finding{unproven("pulls over CRI", "the mirrors run on other nodes, and only there the record of misses can be read")}
	}
	nonce, err := newNonce()
	if err != nil {
		return []Finding{couldNotRun("pulls over CRI", err)}
	}
	hosts := e.registryHosts()
	out := make([]Finding, len(hosts))
	parallel(len(hosts), func(i int) { out[i] = e.effective(ctx, hosts[i], nonce, own) })
	return out
}

func newNonce() (string, error) {
	b := make([]byte, 8)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}

// effective pulls a name that cannot exist from one registry host and looks for it in the mirrors' misses.
func (e *Env) effective(ctx context.Context, registry, nonce string, own []Mirror) Finding {
	repo := "edgeprep-probe/" + nonce
	ref := registry + "/" + repo + ":x"
	pullErr := e.Reader.CRI(e.Node.Runtime.Endpoint).PullAbsent(ctx, ref)
	if errors.Is(pullErr, host.ErrUnavailable) || ctx.Err() != nil {
		return couldNotRun(registry, pullErr)
	}
	source := "CRI PullImage " + ref + ", then the mirror's misses"
	var seen []string
	for _, m := range own {
		misses, err := mirror.AdminClient(m.Admin).Misses(ctx, repo)
		if err != nil {
			return couldNotRun(registry, err)
		}
		for _, miss := range misses {
			if miss.NS == registry {
				return pass(registry, "the pull arrived at "+m.URL+" with ns="+miss.NS+" ("+miss.Agent+")", source)
			}
			seen = append(seen, fmt.Sprintf("it arrived with ns=%q", miss.NS))
		}
	}
	observed := "no pull arrived at the mirror"
	if len(seen) > 0 {
		observed = strings.Join(seen, "; ")
	}
	if pullErr != nil {
		observed += "; the pull ended with: " + pullErr.Error()
	}
	return Finding{Status: StatusFail, Subject: registry, Expected: "the pull arrives at the mirror with ns=" + registry, Observed: observed,
		Source: source, Remedy: Remedy{Text: "let the runtime take the configuration in", Command: "edgeprep apply --allow restart"}}
}
