package mirror

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A journal that takes nothing must not keep an image from being pulled.
func TestABlockedLogDoesNotBlockPulls(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	q := NewLogQueue(w)
	s, _ := loaded(t)
	h := NewHandler(s, HandlerOptions{AccessLog: slog.New(slog.NewTextHandler(q, nil)), LogHits: true})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/library/edge-web/manifests/1.0", http.NoBody)
	must(t, err)
	req.Header.Set("User-Agent", strings.Repeat("a", 250))
	for q.Dropped() == 0 { // nobody reads: the pipe fills up, then the queue
		h.ServeHTTP(discard{http.Header{}}, req)
	}
	done := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r)
		done <- b
	}()
	q.Close(time.Minute)
	w.Close()
	out := string(<-done)
	if !strings.Contains(out, "log lines dropped") || strings.Count(out, "outcome=hit") < 1000 {
		t.Errorf("%d lines", strings.Count(out, "\n"))
	}
}

func TestLogQueueWritesAllInOrder(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	q := NewLogQueue(&out)
	want := ""
	for range 100 {
		line := strings.Repeat("x", len(want)%7) + "\n"
		want += line
		if n, err := q.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	q.Close(time.Minute)
	if out.String() != want || q.Dropped() != 0 {
		t.Errorf("%q, %d dropped", out.String(), q.Dropped())
	}
	q.Write([]byte("late"))
	if q.Dropped() != 1 {
		t.Error("a line after the end is not counted")
	}
}

// Hits are logged only when that is wanted, the rest always, and a ping never.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	s, _ := loaded(t)
	for _, hits := range []bool{false, true} {
		var out bytes.Buffer
		h := NewHandler(s, HandlerOptions{AccessLog: slog.New(slog.NewTextHandler(&out, nil)), LogHits: hits})
		for _, p := range []string{"/v2/", "/v2/library/edge-web/manifests/1.0", "/v2/library/edge-web/manifests/none?ns=docker.io"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p, http.NoBody)
			must(t, err)
			req.RemoteAddr = "10.0.0.7:4711"
			req.Header.Set("User-Agent", "containerd/2.4.2")
			req.Header.Set("Authorization", "Basic c2VjcmV0")
			h.ServeHTTP(discard{http.Header{}}, req)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if want := map[bool]int{false: 1, true: 2}[hits]; len(lines) != want {
			t.Errorf("hits %v: %d lines\n%s", hits, len(lines), out.String())
		}
		last := lines[len(lines)-1]
		for _, want := range []string{"outcome=miss", "ns=docker.io", "name=docker.io/library/edge-web", "reference=none", "status=404", "client=10.0.0.7:4711", "agent=containerd/2.4.2", "took="} {
			if !strings.Contains(last, want) {
				t.Errorf("no %s in %s", want, last)
			}
		}
		if strings.Contains(out.String(), "c2VjcmV0") {
			t.Error("a secret is in the log")
		}
	}
}
