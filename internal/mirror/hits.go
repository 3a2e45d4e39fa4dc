package mirror

import (
	"net/http"
	"strconv"
	"time"
)

// lookAgain is how long a manifest that was just served is served again without a look at its files: a site's nodes
// pull the same image at once, and two lstat are a third of such a request. A tag that changes on disk, or a file
// that goes away, is seen after it; what is new is seen at once, because only what was found is remembered.
const lookAgain = 100 * time.Millisecond

// Bounds of what is remembered so. The bodies are those of the store's own cache, which is larger.
const (
	maxHits     = 4 << 20 // bytes
	hitOverhead = 512
)

// hit is a manifest as it was found, and when.
type hit struct {
	rec  record
	data []byte
	head *manifestHead // nil: not made
	at   time.Time
}

// manifestHead is the header of a manifest's answers. It is made once for many, which share it: nobody changes it.
type manifestHead struct{ digest, etag, mediaType, length []string }

func headOf(rec record, data []byte) *manifestHead {
	return &manifestHead{digest: []string{rec.Digest.String()}, etag: []string{quote(rec.Digest.String())},
		mediaType: []string{rec.MediaType}, length: []string{strconv.Itoa(len(data))}}
}

// send answers with the manifest, or with that the client has it already.
func (v hit) send(w http.ResponseWriter, r *http.Request) {
	head := v.head
	if head == nil {
		head = headOf(v.rec, v.data)
	}
	hd := w.Header()
	hd["Docker-Content-Digest"], hd["Etag"] = head.digest, head.etag
	if noneMatch(r.Header.Get("If-None-Match"), head.etag[0]) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	hd["Content-Type"], hd["Content-Length"] = head.mediaType, head.length
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(v.data) //nolint:errcheck // the client left; there is nobody to tell
	}
}

// hits are the manifests that were looked up a moment ago.
type hits struct {
	lru *lru[Reference, hit]
	ttl time.Duration
}

func newHits(ttl time.Duration) hits {
	return hits{lru: newLRU[Reference, hit](maxHits), ttl: ttl}
}

func (h hits) get(ref Reference) (hit, bool) {
	v, ok := h.lru.get(ref)
	return v, ok && time.Since(v.at) < h.ttl
}

func (h hits) put(ref Reference, v hit) {
	if h.ttl > 0 {
		h.lru.put(ref, v, len(v.data)+hitOverhead)
	}
}

// forget makes the next look go to the files: they were written by this process.
func (h hits) forget(ref Reference) {
	h.lru.mu.Lock()
	defer h.lru.mu.Unlock()
	h.lru.drop(ref)
}

// answer gives a manifest of the cache to a client, as it is or was a moment ago.
func (s *Store) answer(ref Reference) (hit, error) {
	if v, ok := s.hits.get(ref); ok {
		return v, nil
	}
	now := time.Now()
	rec, data, err := s.image(ref)
	if err != nil {
		return hit{}, err
	}
	v := hit{rec, data, headOf(rec, data), now}
	s.hits.put(ref, v)
	return v, nil
}
