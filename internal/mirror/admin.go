package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/host"
)

// What Health's Status says.
const (
	statusOK       = "ok"
	statusDegraded = "degraded"
)

// Health is how a mirror is.
type Health struct {
	Status   string    `json:"status"` // "ok" or "degraded": it serves, but look at Notes
	Cache    string    `json:"cache"`
	Writable bool      `json:"writable"`
	Free     int64     `json:"free"` // bytes for an unprivileged user
	Started  time.Time `json:"started"`
	PID      int       `json:"pid"`
	Listen   string    `json:"listen"`
	Notes    []string  `json:"notes,omitempty"`
	Unused   []Foreign `json:"unused,omitempty"` // files that requests met and could not use

	Scrub *ScrubState `json:"scrub,omitempty"` // nil: blobs are not read again
}

// Health looks at the cache's disk.
func (s *Store) Health() Health {
	h := Health{Status: statusOK, Cache: s.dir, PID: os.Getpid(), Unused: s.reports.values()}
	note := func(format string, args ...any) {
		h.Status = statusDegraded
		h.Notes = append(h.Notes, fmt.Sprintf(format, args...))
	}
	if _, err := os.ReadDir(s.dir); err != nil {
		note("the cache cannot be read: %v", err)
	}
	if free, err := freeSpace(s.dir); err == nil {
		h.Free = free
	}
	h.Writable = unix.Access(s.dir, unix.W_OK) == nil
	if !h.Writable {
		note("the cache cannot be written")
	}
	if n := len(h.Unused); n > 0 {
		note("%d files could not be used", n)
	}
	return h
}

// adminHandler serves the admin verbs. They are not on the data port: whoever can pull must not learn what
// others asked for.
func adminHandler(s *Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, r, "application/json", s.health())
	})
	mux.HandleFunc("GET /misses", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, r, "application/json", missList{s.misses.List(r.URL.Query().Get("repo"))})
	})
	mux.HandleFunc("GET /uses", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, r, "application/json", useList{s.uses.list()})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", metricsHandler(s))
	return mux
}

type useList struct {
	Uses []Use `json:"uses"`
}

type missList struct {
	Misses []Miss `json:"misses"`
}

// listenAdmin binds the socket; one that a killed server left is replaced, one that answers is not.
func listenAdmin(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if errors.Is(err, unix.EADDRINUSE) && !answers(ctx, socket) {
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
		l, err = lc.Listen(ctx, "unix", socket)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func answers(ctx context.Context, socket string) bool {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// freeSpace is what an unprivileged user may still write.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // Bsize is 32 bits on arm
}

// Admin asks a running mirror through its admin socket.
type Admin struct {
	socket string
	http   *http.Client
}

// AdminClient makes a client of the socket; nothing is opened yet.
func AdminClient(socket string) *Admin {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	tr := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	return &Admin{socket: socket, http: &http.Client{Transport: tr, Timeout: 10 * time.Second}}
}

// Misses lists what was asked for and not there, of one repository or, with "", of all.
func (a *Admin) Misses(ctx context.Context, repo string) ([]Miss, error) {
	var l missList
	err := a.get(ctx, "/misses?repo="+url.QueryEscape(repo), &l)
	return l.Misses, err
}

// Uses lists when references were last asked for.
func (a *Admin) Uses(ctx context.Context) ([]Use, error) {
	var l useList
	err := a.get(ctx, "/uses", &l)
	return l.Uses, err
}

// Health asks how the mirror is.
func (a *Admin) Health(ctx context.Context) (Health, error) {
	var h Health
	err := a.get(ctx, "/healthz", &h)
	return h, err
}

// get asks; a socket that nobody serves gives an error that wraps host.ErrUnavailable.
func (a *Admin) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://mirror"+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("admin socket %s: %w", a.socket, err)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("admin socket %s: %w: %w", a.socket, host.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("admin socket %s: %s answered %s", a.socket, path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("admin socket %s: %s: %w", a.socket, path, err)
	}
	return nil
}
