package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// Config is how a mirror is served.
type Config struct {
	Cache           string // directory
	Create          bool   // make the directory when it is missing: only where no disk can come late
	Listen          string // host:port; port 0 takes a free one
	Admin           string // path of the admin socket; empty: none
	TLSCert, TLSKey string // PEM files; empty: plain http
	TLSClientCA     string // PEM file; with it, only who has a certificate of it may pull, or a token
	Tokens          string // file of read tokens; with it, only who has one may pull, or a client certificate
	DefaultRegistry string // of names that say none; empty: docker.io
	Metrics         string // host:port of Prometheus metrics, /healthz and /readyz; empty: none
	AccessLog       bool   // log hits, too
	MaxConnections  int    // of the data port; 0: DefaultMaxConnections
	ReadOnly        bool   // never write to the cache, not even to set a bad blob aside
	// Upstream says where images come from that are not in the cache; nil: nowhere, and no connection is
	// ever opened.
	Upstream *Upstreams
	// ScrubPeriod is how long it may take until every blob was read again; 0: they are not.
	ScrubPeriod time.Duration
	Logger      *slog.Logger
	LogQueue    *LogQueue // that Logger writes to, for its count of dropped lines; nil: none
	Version     string    // for the metrics
}

// Time limits of the data port. There is none for a whole body: a slow link may take an hour for a layer.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	drainTimeout  = 20 * time.Second
	maxHeader     = 32 << 10
)

// Server is a mirror that is bound and not served yet.
type Server struct {
	cfg     Config
	log     *slog.Logger
	store   *Store
	misses  *Misses
	uses    *uses
	keepers []*keeper
	scrub   *scrubber     // nil: none
	pull    *puller       // nil: no upstream
	notes   []string      // for Health: what is not as it was asked for
	certs   *certificates // nil: plain http
	guard   *guard        // nil: everybody may pull
	data    net.Listener
	admin   net.Listener // nil: none
	watch   net.Listener // nil: no metrics
	started time.Time

	stopping atomic.Bool
}

// Serve binds and serves until ctx ends, then drains.
func Serve(ctx context.Context, cfg Config) error {
	s, err := Listen(ctx, cfg)
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}

// Listen binds the ports. It reads nothing of the cache, whose directory may be missing: a mirror must be
// there when its disk comes late. Sockets that systemd passed are used instead: the one called "admin", and
// the first other one; "metrics" is the metrics' one.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Logger, misses: NewMisses(), uses: newUses(), started: time.Now().UTC()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if cfg.Create {
		if err := os.MkdirAll(cfg.Cache, 0o750); err != nil {
			s.log.Error("the cache's directory is missing and cannot be made", "error", err)
		}
	}
	if s.store, err = Open(cfg.Cache, Options{Lazy: true, ReadOnly: cfg.ReadOnly, Logger: s.log}); err != nil {
		return nil, err
	}
	s.keepers = []*keeper{{store: s.store, file: fileUses, what: s.uses, every: saveEvery}, {store: s.store, file: fileMisses, what: s.misses, every: saveEvery}}
	if cfg.ScrubPeriod > 0 {
		s.scrub = newScrubber(s.store, cfg.ScrubPeriod)
		s.scrub.busy, s.scrub.heal = func() bool { return s.store.serving.Load() > 0 }, s.healer
	}
	if cfg.Upstream != nil {
		// A mirror that serves only what it has is better than none.
		if s.pull, err = newPuller(s.store, *cfg.Upstream, defaultLimits()); err != nil {
			s.log.Error("no upstream is asked; what is in the cache is served", "error", err)
			s.notes = append(s.notes, "no upstream is asked: "+err.Error())
		}
	}
	if s.guard, err = newGuard(cfg, s.log); err == nil {
		err = s.bind(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) bind(ctx context.Context) error {
	if err := s.passed(); err != nil {
		return err
	}
	if s.data == nil {
		l, err := listenTCP(ctx, s.cfg.Listen)
		if err != nil {
			return listenError(s.cfg.Listen, err)
		}
		s.data = l
	}
	if err := limitStalls(s.data, stallTimeout); err != nil {
		s.log.Warn("clients that take nothing are not cut", "error", err)
	}
	if err := s.wrapTLS(); err != nil {
		return err
	}
	s.bindMetrics(ctx)
	if s.admin != nil || s.cfg.Admin == "" {
		return nil
	}
	l, err := listenAdmin(ctx, s.cfg.Admin)
	if err != nil {
		s.log.Warn("no admin socket; images are served", "socket", s.cfg.Admin, "error", err)
		return nil
	}
	s.admin = l
	return nil
}

// bindMetrics opens the metrics' address. A mirror without metrics is better than none.
func (s *Server) bindMetrics(ctx context.Context) {
	if s.watch != nil || s.cfg.Metrics == "" {
		return
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Metrics)
	if err != nil {
		s.log.Error("no metrics; images are served", "address", s.cfg.Metrics, "error", err)
		s.notes = append(s.notes, "no metrics: "+err.Error())
		return
	}
	s.watch = l
}

// passed takes the sockets of systemd's socket activation.
func (s *Server) passed() error {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return fmt.Errorf("sockets passed by systemd: %w", err)
	}
	for name, ls := range byName {
		for _, l := range ls {
			switch {
			case l == nil: // not a stream socket
			case name == "admin" && s.admin == nil:
				s.admin = l
			case name == "metrics" && s.watch == nil:
				s.watch = l
			case s.data == nil:
				s.data = l
			default:
				s.log.Warn("socket passed by systemd not used", "name", name, "closed", l.Close() == nil)
			}
		}
	}
	return nil
}

func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fail("MER-010", "", "the address "+addr+" is in use", "another program, or another mirror, listens there",
			"ss -ltnp | grep "+addr, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail("MER-011", "", "the address "+addr+" is not on this node", "",
			"set [mirror] listen to an address that ip addr shows, or to 0.0.0.0", err)
	}
	return fmt.Errorf("listen on %s: %w", addr, err)
}

// wrapTLS puts TLS around the data port, if there are certificates.
func (s *Server) wrapTLS() error {
	var err error
	if s.certs, err = newCertificates(s.cfg, s.log); err != nil || s.certs == nil {
		return err
	}
	s.data = tls.NewListener(s.data, &tls.Config{GetConfigForClient: s.certs.current, MinVersion: tls.VersionTLS12})
	return nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.data.Addr() }

// URL is how it is reached from this node.
func (s *Server) URL() string {
	scheme := "http"
	if s.cfg.TLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + s.Addr().String()
}

// Close frees what Listen took, for a server that is not served.
func (s *Server) Close() error {
	var err error
	for _, l := range []net.Listener{s.data, s.admin, s.watch} {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}
	return errors.Join(err, s.end())
}

// end stops what runs in the background.
func (s *Server) end() error {
	err := s.store.Close()
	if s.pull != nil {
		s.pull.closeIdle()
	}
	return err
}

// Serve serves until ctx ends, then lets running requests finish for a while. It frees all that Listen took.
func (s *Server) Serve(ctx context.Context) error {
	defer s.end() //nolint:errcheck // nothing is written by it
	s.store.wg.Go(s.sweep)
	data := s.server(s.handler())
	data.ConnState = s.connState
	servers := []*http.Server{data}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(data, s.data) })
	beside := func(h http.Handler, l net.Listener) {
		srv := s.server(h)
		servers = append(servers, srv)
		g.Go(func() error { return serve(srv, l) })
	}
	if s.admin != nil {
		beside(adminHandler(s), s.admin)
	}
	if s.watch != nil {
		beside(watchHandler(s), s.watch)
	}
	if _, err := os.Stat(s.store.Dir()); err != nil {
		// Not made here: what is missing may be a disk that is mounted later.
		s.log.Warn("the cache is not there: nothing is kept until it is", "cache", s.store.Dir(), "fix", "mkdir -p "+diag.Word(s.store.Dir()), "error", err)
	}
	s.log.Info("mirror serves", "listen", s.Addr().String(), "cache", s.store.Dir(), "connected", s.pull != nil)
	for _, k := range s.keepers {
		g.Go(func() error {
			k.run(gctx)
			return nil
		})
	}
	if s.scrub != nil {
		g.Go(func() error {
			s.scrub.run(gctx)
			return nil
		})
	}
	n := s.notifier()
	n.ready()
	g.Go(func() error {
		n.run(gctx)
		s.stopping.Store(true)
		n.stopping()
		return s.drain(servers)
	})
	err := g.Wait()
	for _, k := range s.keepers {
		k.save(true)
	}
	return err
}

// handler is the chain that the data port serves. Nothing but reply may wrap the ResponseWriter in it.
func (s *Server) handler() http.Handler {
	return NewHandler(s.store, HandlerOptions{DefaultRegistry: s.cfg.DefaultRegistry, Misses: s.misses,
		AccessLog: s.log, LogHits: s.cfg.AccessLog, pull: s.pull, uses: s.uses, guard: s.guard})
}

func (s *Server) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

func serve(srv *http.Server, l net.Listener) error {
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// drain ends idle connections at once and running ones when they are done, or after the limit.
func (s *Server) drain(servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	for _, srv := range servers {
		if srv.Shutdown(ctx) != nil {
			srv.Close() //nolint:errcheck // the limit is over; clients resume elsewhere
		}
	}
	return nil
}

// sweep removes what killed writers left. Where the cache cannot be written, nothing was left either.
func (s *Server) sweep() {
	if s.cfg.ReadOnly {
		return
	}
	w, err := s.store.writer()
	if err != nil {
		return
	}
	defer w.close()
	if err := w.sweep(); err != nil {
		s.log.Info("temporary files not removed", "error", err)
	}
}

func (s *Server) health() Health {
	h := s.store.Health()
	h.Started, h.Listen = s.started, s.Addr().String()
	if s.scrub != nil {
		st := s.scrub.state.get()
		h.Scrub = &st
		if st.Bad > 0 {
			h.Status, h.Notes = statusDegraded, append(h.Notes, fmt.Sprintf("%d blobs changed on the disk since the scrub began: look after the disk", st.Bad))
		}
	}
	if len(s.notes) > 0 {
		h.Status, h.Notes = statusDegraded, append(h.Notes, s.notes...)
	}
	if s.pull != nil {
		if notes := s.pull.notes(); len(notes) > 0 {
			h.Status, h.Notes = "degraded", append(h.Notes, notes...)
		}
	}
	return h
}
