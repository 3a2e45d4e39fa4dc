package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// growing is a file of which clients may have only a part yet: it is still coming in, or not verified. The kernel
// sends it from the file (sendfile), as far as it may.
type growing struct {
	file *os.File // its offset is the next byte that is sent
	size int64
	// limit waits until more than pos may be sent, and says how far.
	limit func(ctx context.Context, pos int64) (int64, error)
}

// reopen gives a second description of an open file, with an offset of its own, whatever its name is by now.
func reopen(f *os.File) (*os.File, error) {
	own, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open %s once more: %w", f.Name(), err)
	}
	return own, nil
}

// send sends from pos on, and says how far it came.
func (g *growing) send(ctx context.Context, w io.Writer, pos int64) int64 {
	if _, err := g.file.Seek(pos, io.SeekStart); err != nil {
		return pos
	}
	for pos < g.size {
		end, err := g.limit(ctx, pos)
		if err != nil {
			return pos
		}
		n, err := io.CopyN(w, g.file, end-pos)
		pos += n
		if err != nil {
			return pos
		}
	}
	return pos
}

// serve answers with the blob. What the kernel cannot send, because of how it was asked for or because the file cannot
// go on, is read from rest, which also finds out why.
func (g *growing) serve(w http.ResponseWriter, r *http.Request, rest io.ReadSeeker) {
	pos, ok := fromStart(r, g.size)
	if !ok {
		http.ServeContent(w, r, "", time.Time{}, rest)
		return
	}
	startFrom(w, r, pos, g.size)
	if pos = g.send(r.Context(), w, pos); pos == g.size {
		return
	}
	if _, err := rest.Seek(pos, io.SeekStart); err == nil {
		io.Copy(w, rest) //nolint:errcheck // what is missing cuts the connection; there is nobody else to tell
	}
}

// fromStart says where a request wants a blob from, if it wants all that follows and asks no more than that: the
// other forms are left to http.ServeContent.
func fromStart(r *http.Request, size int64) (int64, bool) {
	for _, k := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"} {
		if _, ok := r.Header[k]; ok {
			return 0, false
		}
	}
	rg := r.Header.Values("Range")
	if r.Method != http.MethodGet || len(rg) > 1 {
		return 0, false
	}
	if len(rg) == 0 || rg[0] == "" {
		return 0, true
	}
	if !openEnded(rg[0]) {
		return 0, false
	}
	pos, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(rg[0], "bytes="), "-"), 10, 64)
	return pos, err == nil && pos < size
}

// startFrom writes the header of an answer that begins at pos.
func startFrom(w http.ResponseWriter, r *http.Request, pos, size int64) {
	hd := w.Header()
	hd.Set("Accept-Ranges", "bytes")
	hd.Set("Content-Length", strconv.FormatInt(size-pos, 10))
	if r.Header.Get("Range") == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	hd.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", pos, size-1, size))
	w.WriteHeader(http.StatusPartialContent)
}
