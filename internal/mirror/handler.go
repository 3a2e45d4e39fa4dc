package mirror

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// HandlerOptions say how a store is served.
type HandlerOptions struct {
	// DefaultRegistry is the registry of names that say none; empty: docker.io.
	DefaultRegistry string
	// Misses takes what was asked for and is not there; nil: not recorded.
	Misses *Misses
	// AccessLog, if not nil, is told of every request for a part of an image that is not a hit.
	AccessLog *slog.Logger
	// LogHits has it told of hits, too.
	LogHits bool

	pull  *puller // nil: nothing is looked for upstream
	uses  *uses   // nil: not recorded
	guard *guard  // nil: everybody may pull
}

// handler serves the pull half of the distribution API.
type handler struct {
	store    *Store
	registry string
	misses   *Misses
	access   *slog.Logger
	hits     bool
	pull     *puller
	uses     *uses
	guard    *guard
	version  []string // of the API, for each answer's header
	replies  sync.Pool
}

// NewHandler serves a store. No client writes to it through the handler; the ResponseWriter must reach it
// bare, or large blobs are copied through user space instead of being sent by the kernel.
func NewHandler(store *Store, opts HandlerOptions) http.Handler {
	h := &handler{store: store, registry: opts.DefaultRegistry, misses: opts.Misses, access: opts.AccessLog, hits: opts.LogHits,
		pull: opts.pull, uses: opts.uses, guard: opts.guard,
		version: []string{"registry/2.0"}, replies: sync.Pool{New: func() any { return &reply{} }}}
	if h.registry == "" {
		h.registry = DefaultRegistry
	}
	return h
}

// ServeHTTP routes by hand: http.ServeMux would clean paths and redirect.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	t, ok := parseTarget(r.URL.Path, namespaceOf(r.URL), h.registry)
	rw := h.replies.Get().(*reply) //nolint:forcetypeassert // the pool holds nothing else
	*rw = reply{ResponseWriter: w}
	defer func() {
		*rw = reply{}
		h.replies.Put(rw)
	}()
	if h.guard != nil && !h.guard.admits(r) {
		h.guard.refuse(rw, r)
		note(rw, outcomeRefused)
	} else {
		h.route(rw, r, t, ok)
	}
	h.done(rw, r, t, start)
}

func (h *handler) route(w http.ResponseWriter, r *http.Request, t target, ok bool) {
	w.Header()["Docker-Distribution-Api-Version"] = h.version
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is pull-only")
	case !ok:
		refuse(w, r, http.StatusNotFound, "UNSUPPORTED", "not a pull request of the distribution API")
	case t.op == opPing:
		writeJSON(w, r, "application/json", struct{}{})
	case !t.name.valid():
		h.miss(w, r, t, "NAME_INVALID", "invalid repository name")
	default:
		h.serve(w, r, t)
	}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, t target) {
	switch t.op {
	case opManifest:
		h.manifest(w, r, t)
	case opBlob:
		h.blob(w, r, t)
	case opTags:
		h.tags(w, r, t)
	default:
		h.referrers(w, r, t)
	}
}

// namespaceOf is the ns parameter. Most requests of clients other than containerd have no query at all.
func namespaceOf(u *url.URL) string {
	if u.RawQuery == "" {
		return ""
	}
	// containerd sends this and nothing else.
	if ns, ok := strings.CutPrefix(u.RawQuery, "ns="); ok && !strings.ContainsAny(ns, "%+&;") {
		return ns
	}
	return u.Query().Get("ns")
}

// manifest serves a manifest by tag or digest, bytes and type as they were pulled.
func (h *handler) manifest(w http.ResponseWriter, r *http.Request, t target) {
	if t.digest == "" && strings.Contains(t.ref, ":") {
		refuse(w, r, http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
		return
	}
	if t.tag == "" && t.digest == "" {
		h.miss(w, r, t, "MANIFEST_UNKNOWN", "invalid tag or digest")
		return
	}
	found, from, err := h.image(r.Context(), t.reference())
	if err != nil {
		h.miss(w, r, t, "MANIFEST_UNKNOWN", reason(err))
		return
	}
	if h.uses != nil && !proving(r.UserAgent()) {
		h.uses.touch(t.reference())
	}
	note(w, from)
	found.send(w, r)
}

// image finds a manifest in the cache, or upstream where there is one.
func (h *handler) image(ctx context.Context, ref Reference) (hit, outcome, error) {
	if h.pull != nil {
		return h.pull.manifest(ctx, ref)
	}
	found, err := h.store.answer(ref)
	return found, outcomeHit, err
}

// blob serves a blob to any repository: its digest is all that it is known by.
func (h *handler) blob(w http.ResponseWriter, r *http.Request, t target) {
	if t.digest == "" {
		refuse(w, r, http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
		return
	}
	h.store.serving.Add(1)
	defer h.store.serving.Add(-1)
	b, err := h.store.openBlob(t.digest)
	switch {
	case err == nil:
		defer b.file.Close()
		h.cached(w, r, t, b)
	case h.pull != nil:
		h.pulled(w, r, t)
	default:
		h.miss(w, r, t, "BLOB_UNKNOWN", "not in the cache")
	}
}

// cached serves a blob of the cache.
func (h *handler) cached(w http.ResponseWriter, r *http.Request, t target, b *blob) {
	// containerd resolves a digest by HEAD manifests, then HEAD blobs; a manifest found by the latter would
	// be taken for an octet-stream. containerd: core/remotes/docker/resolver.go, Resolve.
	if r.Method == http.MethodHead && b.manifest {
		h.miss(w, r, t, "BLOB_UNKNOWN", "it is a manifest")
		return
	}
	blobHeader(w, t)
	if b.flight == nil || r.Method == http.MethodHead {
		http.ServeContent(w, r, "", time.Time{}, b.file)
		return
	}
	h.unverified(w, r, t, b)
}

// unverified serves a large blob for the first time since start. The verification runs beside; the tail waits
// for it. A range that ends before the tail would be given away unverified, so it waits as a whole.
func (h *handler) unverified(w http.ResponseWriter, r *http.Request, t target, b *blob) {
	if rg := r.Header.Get("Range"); rg != "" && !openEnded(rg) {
		if err := b.flight.wait(r.Context()); err != nil {
			h.noBlob(w, r, t, "not in the cache")
			return
		}
	}
	(&growing{b.file, b.key.size, b.limit}).serve(w, r, &held{blob: b, ctx: r.Context()})
}

// openEnded says whether a Range is one "bytes=N-": it ends with the blob's tail.
func openEnded(s string) bool {
	n, ok := strings.CutPrefix(s, "bytes=")
	if !ok {
		return false
	}
	n, ok = strings.CutSuffix(n, "-")
	return ok && n != "" && only(n, isDigit)
}

func quote(s string) string { return `"` + s + `"` }

// noneMatch is the weak comparison of If-None-Match, RFC 9110 section 13.1.2.
func noneMatch(header, etag string) bool {
	if header == "" {
		return false
	}
	for v := range strings.SplitSeq(header, ",") {
		v = strings.TrimPrefix(strings.TrimSpace(v), "W/")
		if v == "*" || v == etag {
			return true
		}
	}
	return false
}

// miss answers 404: containerd then asks its next endpoint at once, which no other status does so well.
func (h *handler) miss(w http.ResponseWriter, r *http.Request, t target, code, msg string) {
	if h.misses != nil {
		h.misses.add(t, r)
	}
	note(w, outcomeMiss)
	refuse(w, r, http.StatusNotFound, code, msg)
}

// refuse writes an error body of the distribution specification.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, msg string) {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(map[string][]item{"errors": {{code, msg}}})
	if err != nil {
		b = nil
	}
	w.Header().Set("Content-Type", "application/json")
	send(w, r, status, b)
}

func writeJSON(w http.ResponseWriter, r *http.Request, mediaType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	send(w, r, http.StatusOK, b)
}

// send writes a small body with its length, or only its header.
func send(w http.ResponseWriter, r *http.Request, status int, b []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(b) //nolint:errcheck // the client left; there is nobody to tell
	}
}
