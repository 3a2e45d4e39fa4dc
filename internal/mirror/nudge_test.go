package mirror

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// An upstream fell silent and is back on a new connection: the next client has its answer at once, and who
// waited has it, too. The upstream is not asked for ever again.
func TestNewcomerHasASilentUpstreamAskedAgain(t *testing.T) {
	t.Parallel()
	set, layer := large(t, 3<<20)
	body := set.Blob(layer)
	for name, silent := range map[string]func(w http.ResponseWriter){
		"header": func(http.ResponseWriter) {},
		"body": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.Write(body[:1<<20])
			w.(http.Flusher).Flush()
		},
	} {
		for _, path := range []string{"/v2/big/blobs/" + layer + atBig, "/v2/big/manifests/1" + atBig} {
			t.Run(name+"/"+strings.Split(path, "/")[3], func(t *testing.T) {
				t.Parallel()
				o := newOrigin(t, set)
				asked := make(chan struct{}, 100)
				o.setFault(func(w http.ResponseWriter, r *http.Request, ref string) bool {
					if ref == layer {
						silent(w)
					}
					asked <- struct{}{}
					<-r.Context().Done()
					return true
				})
				lim := testLimits()
				lim.nudge = 50 * time.Millisecond
				_, srv := pullerTo(t, o.URL, lim, nil)
				var wg sync.WaitGroup
				wg.Go(func() { whole(t, srv.URL+path, set, layer) })
				<-asked
				for range 5 { // these leave; the upstream stays silent
					ctx, cancel := context.WithTimeout(t.Context(), 2*lim.nudge)
					req := mustRequest(t, srv.URL+path).WithContext(ctx)
					tr := &http.Transport{DisableKeepAlives: true}
					if resp, err := tr.RoundTrip(req); err == nil {
						io.Copy(io.Discard, resp.Body) // until its time is over
						resp.Body.Close()
					}
					cancel()
				}
				// A body that brings something each time is a sign of the upstream, each time.
				if n := o.count("GET blob") + o.count("GET manifest"); n < 2 || n > 1+maxNudges && name == "header" {
					t.Errorf("asked %d times", n)
				}
				o.setFault(nil)
				o.CloseClientConnections() // as the limit for silence would
				wg.Go(func() { whole(t, srv.URL+path, set, layer) })
				wg.Wait()
			})
		}
	}
}

func whole(t testing.TB, url string, set interface{ Blob(string) []byte }, layer string) {
	t.Helper()
	a := get(t, url)
	want := set.Blob(layer)
	if strings.Contains(url, "/manifests/") {
		want = set.Blob(a.Header.Get("Docker-Content-Digest"))
	}
	if a.err != nil || len(want) == 0 || !bytes.Equal(a.body, want) {
		t.Errorf("%s: %s, %d bytes, %v", url, a.Status, len(a.body), a.err)
	}
}
