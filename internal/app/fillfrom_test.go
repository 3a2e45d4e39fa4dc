package app

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/mirror"
	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
	"github.com/edgeprep/edgeprep/internal/progress"
)

// served serves a cache until stop.
func served(t *testing.T, cache string) (url, admin string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "epm-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	admin = filepath.Join(dir, "a.sock")
	s, err := mirror.Listen(t.Context(), mirror.Config{Cache: cache, Listen: "127.0.0.1:0", Admin: admin})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return s.URL(), admin, stop
}

func ask(t *testing.T, method, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "containerd/2.4")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A cache is loaded from another mirror by the list that the other one prints, with the same digests, and again
// without a request.
func TestLoadFromAMirror(t *testing.T) {
	t.Parallel()
	from, _ := cacheOf(t)
	url, _, stop := served(t, from)
	var list strings.Builder
	list.WriteString("[")
	for n := range listed(t, from) {
		fmt.Fprintf(&list, "{\"reference\":%q},", n)
	}
	text := strings.TrimSuffix(list.String(), ",") + "]"
	r := FillRequest{Cache: filepath.Join(t.TempDir(), "to"), From: url, Required: "-"}
	load := func() mirror.FillReport {
		t.Helper()
		r.Stdin = strings.NewReader(text)
		out, err := FillCache(t.Context(), r, progress.Discard{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := load(); out.Blobs == 0 || out.Images[0].Status != mirror.FillPulled {
		t.Errorf("%+v", out)
	}
	if d := cmp.Diff(listed(t, from), listed(t, r.Cache)); d != "" {
		t.Error(d)
	}
	stop()
	if out := load(); out.Blobs != 0 || out.Images[0].Status != mirror.FillPresent {
		t.Errorf("%+v", out)
	}
	for _, bad := range []string{"http://", "http://u:p@x", "http://x/?a=b"} {
		r.From, r.Stdin = bad, strings.NewReader(text)
		if _, err := FillCache(t.Context(), r, progress.Discard{}); err == nil || !strings.Contains(err.Error(), "MER-068") || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The site's settings for the host count; each registry is asked for below its own name.
func TestThrough(t *testing.T) {
	t.Parallel()
	var refs []mirror.Reference
	for _, n := range []string{"busybox:1", "ghcr.io/a/b:1", "busybox:2", "h.example:5000/x:1"} {
		ref, err := mirror.ParseReference(n)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	named := []mirror.Upstream{{Host: "h.example:5000", CA: "/ca.pem", Credentials: "/pw", Deny: []string{"**"}}, {Host: "ghcr.io", CA: "/other"}}
	got, err := through("https://h.example:5000/", named, refs)
	want := []mirror.Upstream{
		{Host: "docker.io", URL: "https://h.example:5000/docker.io", CA: "/ca.pem", Credentials: "/pw"},
		{Host: "ghcr.io", URL: "https://h.example:5000/ghcr.io", CA: "/ca.pem", Credentials: "/pw"},
		{Host: "h.example:5000", URL: "https://h.example:5000", CA: "/ca.pem", Credentials: "/pw"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
}

// What nodes asked for is known at once from the mirror that runs, and from the cache when none does.
func TestMissesAndLastPull(t *testing.T) {
	t.Parallel()
	cache, _ := cacheOf(t)
	url, admin, stop := served(t, cache)
	if got := ask(t, http.MethodHead, url+"/v2/library/edge-web/manifests/1.0?ns=docker.io"); got != 200 {
		t.Fatal(got)
	}
	for _, path := range []string{"/v2/team/app/manifests/7?ns=registry.example", "/v2/edgeprep-probe/x/manifests/1?ns=docker.io"} {
		if got := ask(t, http.MethodGet, url+path); got != 404 {
			t.Fatal(got)
		}
	}
	look := func(when string) {
		t.Helper()
		misses, err := CacheMisses(t.Context(), cache, admin, time.Time{})
		if err != nil || len(misses) != 1 || misses[0].Image != "registry.example/team/app:7" || misses[0].Client != "127.0.0.1" || misses[0].Present {
			t.Errorf("%s: %+v %v", when, misses, err)
		}
		if late, err := CacheMisses(t.Context(), cache, admin, time.Now().Add(time.Hour)); err != nil || len(late) != 0 {
			t.Errorf("%s: %+v %v", when, late, err)
		}
		s, err := mirror.Open(cache, mirror.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		list, err := ListCache(t.Context(), s, []string{"edge-web:1.0", "quay.io/**"}, admin)
		if err != nil || len(list) != 2 || list[0].Reference != imagetest.WebName || list[0].LastUse.IsZero() || !list[1].LastUse.IsZero() {
			t.Errorf("%s: %+v %v", when, list, err)
		}
	}
	look("running")
	stop()
	look("stopped")
	if other, err := CacheMisses(t.Context(), t.TempDir(), admin, time.Time{}); err != nil || len(other) != 0 {
		t.Errorf("another cache: %+v %v", other, err)
	}
}
