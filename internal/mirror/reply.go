package mirror

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// reply remembers what was answered. It is the only thing that may stand around the server's own
// ResponseWriter, and hands files through to it: net/http lets the kernel send them.
type reply struct {
	http.ResponseWriter
	status  int
	sent    int64 // bytes of the body
	outcome outcome
}

// WriteHeader notes the status.
func (r *reply) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *reply) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.sent += int64(n)
	return n, err
}

// ReadFrom lets the kernel send a file.
func (r *reply) ReadFrom(src io.Reader) (n int64, err error) {
	if to, ok := r.ResponseWriter.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(src)
	} else {
		n, err = io.Copy(r.ResponseWriter, src)
	}
	r.sent += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *reply) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// note keeps the outcome of a request; without it, what was answered came from the cache.
func note(w http.ResponseWriter, o outcome) {
	if r, ok := w.(*reply); ok {
		r.outcome = o
	}
}

// done counts an answer, and logs it unless it is a hit and hits are not wanted.
func (h *handler) done(w *reply, r *http.Request, t target, start time.Time) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.outcome == outcomeNone && t.op != "" && t.op != opPing {
		w.outcome = outcomeHit
	}
	// docker, podman and skopeo begin with a ping that is meant to be refused.
	challenged := w.outcome == outcomeRefused && t.op == opPing && r.Header.Get("Authorization") == ""
	took := time.Since(start)
	h.store.counters.answered(t, w.outcome, w.sent, took)
	if h.access == nil || challenged || w.outcome == outcomeNone || w.outcome == outcomeHit && !h.hits {
		return
	}
	name := t.raw
	if t.name.valid() {
		name = t.name.String()
	}
	h.access.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "request",
		slog.String("outcome", w.outcome.String()), slog.String("method", r.Method), slog.String("kind", string(t.op)),
		slog.String("ns", clip(t.ns)), slog.String("name", clip(name)), slog.String("reference", clip(t.ref)),
		slog.Int("status", w.status), slog.Int64("bytes", w.sent), slog.Duration("took", took.Round(time.Microsecond)),
		slog.String("range", clip(r.Header.Get("Range"))), slog.String("client", r.RemoteAddr),
		slog.String("agent", clip(r.UserAgent())))
}
