package mirror

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

func blobHeader(w http.ResponseWriter, t target) {
	hd := w.Header()
	hd.Set("Docker-Content-Digest", t.digest.String())
	hd.Set("Etag", quote(t.digest.String()))
	hd.Set("Content-Type", "application/octet-stream") // else ServeContent reads the file to guess
}

// noBlob is a miss after blobHeader.
func (h *handler) noBlob(w http.ResponseWriter, r *http.Request, t target, msg string) {
	for _, k := range []string{"Etag", "Docker-Content-Digest", "Content-Type"} {
		w.Header().Del(k)
	}
	h.miss(w, r, t, "BLOB_UNKNOWN", msg)
}

// reason says why there is nothing. Also an upstream that is down is a 404: whoever asked has other endpoints
// to go to, and 5xx makes some clients stay.
func reason(err error) string {
	switch {
	case errors.Is(err, errUnavailable):
		return "not in the cache, and its upstream gives no answer"
	case errors.Is(err, errRefused):
		return "not in the cache, and its upstream may not be asked or refuses"
	}
	return "not in the cache"
}

// pulled serves a blob while it comes in from its upstream.
func (h *handler) pulled(w http.ResponseWriter, r *http.Request, t target) {
	if r.Method == http.MethodHead {
		h.pulledHead(w, r, t)
		return
	}
	f, err := h.pull.blob(r.Context(), t.name, t.digest)
	if isUnkept(err) {
		h.direct(w, r, t)
		return
	}
	if err != nil {
		h.miss(w, r, t, "BLOB_UNKNOWN", reason(err))
		return
	}
	if f == nil {
		b, err := h.store.openBlob(t.digest)
		if err != nil {
			h.miss(w, r, t, "BLOB_UNKNOWN", reason(err))
			return
		}
		defer b.file.Close()
		note(w, outcomeFill)
		h.cached(w, r, t, b)
		return
	}
	h.following(w, r, t, f)
}

// following serves a blob that comes in.
func (h *handler) following(w http.ResponseWriter, r *http.Request, t target, f *fill) {
	body := &follower{fill: f, ctx: r.Context()}
	body.open = func(start unkeptError, pos int64) (*direct, error) {
		return h.pull.direct(r.Context(), t.name, t.digest, start, f.file, pos)
	}
	defer body.close()
	// A range that ends before the tail would be given away unverified.
	if rg := r.Header.Get("Range"); rg != "" && !openEnded(rg) {
		err := f.wait(r.Context())
		if isUnkept(err) {
			h.direct(w, r, t)
			return
		}
		if err != nil {
			h.miss(w, r, t, "BLOB_UNKNOWN", reason(err))
			return
		}
	}
	blobHeader(w, t)
	note(w, outcomeFill)
	file, err := reopen(f.file)
	if err != nil {
		http.ServeContent(w, r, "", time.Time{}, body)
		return
	}
	defer file.Close()
	(&growing{file, f.size, f.limit}).serve(w, r, body)
}

// pulledHead answers with the length that the upstream says. Nothing is pulled for it.
func (h *handler) pulledHead(w http.ResponseWriter, r *http.Request, t target) {
	n, err := h.pull.size(r.Context(), t.name, t.digest)
	if err != nil {
		h.miss(w, r, t, "BLOB_UNKNOWN", reason(err))
		return
	}
	blobHeader(w, t)
	note(w, outcomeFill)
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.WriteHeader(http.StatusOK)
}
