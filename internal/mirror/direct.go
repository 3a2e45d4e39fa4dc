package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// unkeptError says that a blob cannot be kept in the cache. Its upstream can still give it to a client.
type unkeptError struct {
	err   error
	at    int64     // so many bytes are in the fill's file
	state hash.Hash // the hash of them; nil: none are
}

func (e *unkeptError) Error() string { return e.err.Error() }
func (e *unkeptError) Unwrap() error { return e.err }

// maxDirect is how many bodies of one upstream go to clients without being kept, at once.
const maxDirect = 64

// direct is a blob on its way from an upstream to one client, past the cache. All of it is hashed, whatever
// part the client wants, and the last bytes that go out are held back until size and digest are right.
type direct struct {
	digest digest.Digest
	size   int64 // -1: the upstream does not say
	body   io.Reader
	hash   hash.Hash
	read   int64 // of the blob, by body and what came before it
	pos    int64 // the next byte for the client
	end    int64 // the client wants nothing from here on; -1: it wants all
	held   []byte
	buf    []byte
	right  bool
	close  func()
}

// direct opens a blob at its upstream. With a prefix, its bytes before start.at are read from there and the
// client is at pos; hashing goes on from start.state.
func (p *puller) direct(ctx context.Context, n Name, d digest.Digest, start unkeptError, prefix io.ReaderAt, pos int64) (*direct, error) {
	u, err := p.at(n)
	if err != nil {
		return nil, err
	}
	select {
	case u.direct <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := &direct{digest: d, size: -1, end: -1, pos: pos, read: start.at, hash: cloneHash(start.state), buf: make([]byte, 2*holdBack)}
	if out.hash == nil {
		out.hash, out.read, prefix = d.Algorithm().Hash(), 0, nil
	}
	body, size, err := u.open(ctx, call{method: http.MethodGet, repository: n.Repository, verb: "blobs", ref: d.String(), from: out.read})
	if err != nil {
		<-u.direct
		return nil, err
	}
	out.size, out.body = size, io.TeeReader(body, out.hash)
	out.close = func() {
		body.Close() //nolint:errcheck // it was read as far as it is wanted
		<-u.direct
	}
	if prefix != nil && pos < out.read {
		out.body = io.MultiReader(io.NewSectionReader(prefix, pos, out.read-pos), out.body)
		out.read = pos
	}
	return out, nil
}

// cloneHash copies the state of a hash: others may go on from it, too. Nil if there is none.
func cloneHash(h hash.Hash) hash.Hash {
	c, ok := h.(hash.Cloner)
	if !ok {
		return nil
	}
	out, err := c.Clone()
	if err != nil {
		return nil
	}
	return out
}

func (d *direct) Read(p []byte) (int, error) {
	for !d.right && len(d.held) <= holdBack {
		if err := d.more(); err != nil {
			return 0, err
		}
	}
	ready := len(d.held)
	if !d.right {
		ready -= holdBack
	}
	if ready == 0 {
		return 0, io.EOF
	}
	n := copy(p, d.held[:ready])
	d.held = d.held[n:]
	d.pos += int64(n)
	return n, nil
}

// more reads on, and judges at the end.
func (d *direct) more() error {
	had := copy(d.buf, d.held)
	d.held = d.buf[:had]
	n, err := d.body.Read(d.buf[had:])
	from, to := d.read, d.read+int64(n)
	d.read = to
	if d.end >= 0 {
		to = min(to, d.end)
	}
	if from = max(from, d.pos+int64(had)); from < to { // the client wants these of them
		first := had + n - int(d.read-from)
		d.held = d.buf[:had+copy(d.buf[had:], d.buf[first:first+int(to-from)])]
	}
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, io.EOF):
		return err
	case d.size >= 0 && d.read != d.size:
		return fmt.Errorf("%w: %s is not %d bytes long: %w", errUnavailable, d.digest, d.size, errCorrupt)
	case digest.NewDigest(d.digest.Algorithm(), d.hash) != d.digest:
		return fmt.Errorf("%w: %s: %w", errUnavailable, d.digest, errCorrupt)
	}
	d.right = true
	return nil
}

// Seek chooses what the client gets; only before the first Read.
func (d *direct) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += d.pos
	case io.SeekEnd:
		offset += d.size
	}
	if offset < 0 || d.held != nil {
		return 0, fs.ErrInvalid
	}
	d.pos = offset
	return offset, nil
}

// direct serves a blob that cannot be kept. Of a range, no more than a client may have before all is known to
// be right goes out early, so the whole blob is read for it.
func (h *handler) direct(w http.ResponseWriter, r *http.Request, t target) {
	d, err := h.pull.direct(r.Context(), t.name, t.digest, unkeptError{}, nil, 0)
	if err != nil {
		h.miss(w, r, t, "BLOB_UNKNOWN", reason(err))
		return
	}
	defer d.close()
	if d.size < 0 {
		h.endless(w, r, t, d)
		return
	}
	end, ok := rangeEnd(r.Header.Get("Range"), d.size)
	if !ok || r.Header.Get("If-Range") != "" { // ignoring a range is allowed: RFC 9110 section 14.2
		r.Header.Del("Range")
		end = d.size
	}
	d.end = end
	blobHeader(w, t)
	note(w, outcomeFill)
	http.ServeContent(w, r, "", time.Time{}, d)
}

// endless serves a blob whose length is not known, in chunks. Only the last one, which is empty, makes it whole.
func (h *handler) endless(w http.ResponseWriter, r *http.Request, t target, d *direct) {
	if !r.ProtoAtLeast(1, 1) {
		h.miss(w, r, t, "BLOB_UNKNOWN", "not in the cache, and its length is not known")
		return
	}
	blobHeader(w, t)
	note(w, outcomeFill)
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, d); err != nil {
		http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // it keeps the end from being written
	}
}

// rangeEnd is where a single range ends; without one, at the end of the blob.
func rangeEnd(header string, size int64) (int64, bool) {
	if header == "" {
		return size, true
	}
	s, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return 0, false
	}
	from, to, ok := strings.Cut(strings.TrimSpace(s), "-")
	if !ok || !only(from, isDigit) || !only(to, isDigit) {
		return 0, false
	}
	if from == "" || to == "" {
		return size, true
	}
	last, err := strconv.ParseInt(to, 10, 64)
	if err != nil || last >= size {
		return size, true // ServeContent judges it
	}
	return last + 1, true
}
