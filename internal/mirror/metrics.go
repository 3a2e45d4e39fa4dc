package mirror

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metric is one metric as docs/metrics.md lists it.
type metric struct {
	name   string
	kind   prometheus.ValueType // untyped: a histogram
	help   string
	labels []string
}

// Names of metrics.
const (
	mBuild       = "edgeprep_build_info"
	mRequests    = "edgeprep_mirror_requests_total"
	mSent        = "edgeprep_mirror_sent_bytes_total"
	mTook        = "edgeprep_mirror_request_duration_seconds"
	mReceived    = "edgeprep_mirror_upstream_received_bytes_total"
	mAsked       = "edgeprep_mirror_upstream_requests_total"
	mUnreachable = "edgeprep_mirror_upstream_unreachable"
	mTransfers   = "edgeprep_mirror_upstream_transfers"
	mConnections = "edgeprep_mirror_connections"
	mTurnedAway  = "edgeprep_mirror_connections_refused_total"
	mDegraded    = "edgeprep_mirror_degraded"
	mFree        = "edgeprep_mirror_cache_free_bytes"
	mWritable    = "edgeprep_mirror_cache_writable"
	mHashed      = "edgeprep_mirror_verified_bytes_total"
	mVerified    = "edgeprep_mirror_verified_blobs_total"
	mMisses      = "edgeprep_mirror_misses"
	mScrubbed    = "edgeprep_mirror_scrub_completed_timestamp_seconds"
	mScrubPart   = "edgeprep_mirror_scrub_pass_ratio"
	mScrubBad    = "edgeprep_mirror_scrub_bad_blobs_total"
	mExpires     = "edgeprep_mirror_certificate_expiry_timestamp_seconds"
	mTLSFailed   = "edgeprep_mirror_certificate_reload_failures_total"
	mLogDropped  = "edgeprep_mirror_log_lines_dropped_total"
)

// metricTable is every metric of the mirror; docs/metrics.md is made of it.
func metricTable() []metric {
	const counter, gauge, histogram = prometheus.CounterValue, prometheus.GaugeValue, prometheus.UntypedValue
	return []metric{
		{mRequests, counter, "Requests for a part of an image. outcome: hit (from the cache), fill (brought in from an upstream), stale (from the cache because the upstream gave no other answer), miss (404), refused (no certificate or token).", []string{"registry", "outcome"}},
		{mSent, counter, "Bytes of bodies sent to clients.", []string{"registry", "outcome"}},
		{mTook, histogram, "Time from a request's header to the end of its body. kind: manifest, blob, tags, referrers.", []string{"kind", "outcome"}},
		{mAsked, counter, "Requests to upstreams, also looks for a sign of life. result: ok, not_found, refused, throttled (429), error (any other status), broken (no whole answer), unreachable (no connection).", []string{"registry", "result"}},
		{mReceived, counter, "Bytes of manifests and blobs that came from upstreams.", []string{"registry"}},
		{mUnreachable, gauge, "1: the upstream does not answer, or asked not to be asked; requests do not wait for it.", []string{"registry"}},
		{mTransfers, gauge, "Blobs that are being brought in.", nil},
		{mConnections, gauge, "Connections of clients that are open.", nil},
		{mTurnedAway, counter, "Connections over [mirror.limits] max_connections, closed at once.", nil},
		{mMisses, gauge, "Different misses that are remembered: edgeprep mirror misses.", nil},
		{mVerified, counter, "Blobs that were hashed before or while they were served, or by the scrub. result: good, bad (set aside and answered 404).", []string{"result"}},
		{mHashed, counter, "Bytes that were hashed for it.", nil},
		{mFree, gauge, "Bytes that are free on the cache's disk for the mirror.", nil},
		{mWritable, gauge, "1: the cache can be written; 0: what it has is served, and nothing can be added.", nil},
		{mDegraded, gauge, "1: it serves, but something needs a look: /healthz says what.", nil},
		{mScrubbed, gauge, "When the last whole pass of the scrub over the cache ended; 0: none did yet, or there is no scrub.", nil},
		{mScrubPart, gauge, "How much of the cache the running pass of the scrub has read, 0 to 1.", nil},
		{mScrubBad, counter, "Blobs that the scrub found changed on the disk, also before a restart.", nil},
		{mExpires, gauge, "Until when the TLS certificate in use is good; 0: plain http.", nil},
		{mTLSFailed, counter, "Changes of the TLS files that could not be used; those from before stay in use.", nil},
		{mLogDropped, counter, "Log lines dropped because standard error took nothing.", nil},
		{mBuild, gauge, "Always 1.", []string{"version", "goversion"}},
	}
}

// collector shows what a server counts to Prometheus. It reads when it is asked; nothing is done per request.
type collector struct {
	s     *Server
	descs map[string]*prometheus.Desc
	kinds map[string]prometheus.ValueType
}

func newCollector(s *Server) *collector {
	c := &collector{s: s, descs: map[string]*prometheus.Desc{}, kinds: map[string]prometheus.ValueType{}}
	for _, m := range metricTable() {
		c.descs[m.name], c.kinds[m.name] = prometheus.NewDesc(m.name, m.help, m.labels, nil), m.kind
	}
	return c
}

// Describe lists the metrics.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect reads the counters.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	show := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], c.kinds[name], v, labels...)
	}
	n := c.s.store.counters
	for registry, t := range n.named() {
		showTally(show, registry, t)
	}
	showTally(show, otherTally, &n.other)
	c.times(ch)
	c.upstreams(show)
	c.state(show)
	show(mVerified, float64(n.verifiedGood.Load()), "good")
	show(mVerified, float64(n.verifiedBad.Load()), "bad")
	show(mHashed, float64(n.verifiedBytes.Load()))
	show(mConnections, float64(n.connections.Load()))
	show(mTurnedAway, float64(n.turnedAway.Load()))
	show(mBuild, 1, c.s.cfg.Version, runtime.Version())
}

func showTally(show func(string, float64, ...string), registry string, t *tally) {
	for o := outcomeHit; o < outcomes; o++ {
		show(mRequests, float64(t.requests[o].Load()), registry, o.String())
		if o <= outcomeStale {
			show(mSent, float64(t.sent[o].Load()), registry, o.String())
		}
	}
	for r := range results {
		show(mAsked, float64(t.asked[r].Load()), registry, r.String())
	}
	show(mReceived, float64(t.received.Load()), registry)
}

func (c *collector) times(ch chan<- prometheus.Metric) {
	took := &c.s.store.counters.took
	for k := 1; k < kinds; k++ {
		for o := outcomeHit; o < outcomes; o++ {
			if n, sum, at := took[k][o].read(); n > 0 {
				ch <- prometheus.MustNewConstHistogram(c.descs[mTook], n, sum, at, kindName(k), o.String())
			}
		}
	}
}

func (c *collector) upstreams(show func(string, float64, ...string)) {
	p := c.s.pull
	if p == nil {
		show(mTransfers, 0)
		return
	}
	open := map[string]bool{}
	p.mu.Lock()
	running := len(p.fills)
	for _, u := range p.others.values() {
		if p.store.counters.named()[u.cfg.Host] != nil {
			open[u.cfg.Host] = u.breaker.isOpen()
		}
	}
	p.mu.Unlock()
	for registry, u := range p.named {
		open[registry] = u.breaker.isOpen()
	}
	for registry, is := range open {
		show(mUnreachable, number(is), registry)
	}
	show(mTransfers, float64(running))
}

func (c *collector) state(show func(string, float64, ...string)) {
	h := c.s.health()
	show(mFree, float64(h.Free))
	show(mWritable, number(h.Writable))
	show(mDegraded, number(h.Status != statusOK))
	show(mMisses, float64(len(c.s.misses.List(""))))
	showScrub(show, h.Scrub)
	c.tls(show)
	dropped := uint64(0)
	if c.s.cfg.LogQueue != nil {
		dropped = c.s.cfg.LogQueue.Dropped()
	}
	show(mLogDropped, float64(dropped))
}

func showScrub(show func(string, float64, ...string), st *ScrubState) {
	var completed, part, bad float64
	if st != nil {
		bad = float64(st.BadEver)
		if !st.Completed.IsZero() {
			completed = float64(st.Completed.Unix())
		}
		if st.Position != "" && st.Total > 0 {
			part = float64(st.Done) / float64(st.Total)
		}
	}
	show(mScrubbed, completed)
	show(mScrubPart, part)
	show(mScrubBad, bad)
}

func (c *collector) tls(show func(string, float64, ...string)) {
	expires, failed := time.Unix(0, 0), uint64(0)
	if c.s.certs != nil {
		expires, failed = c.s.certs.state()
	}
	show(mExpires, float64(expires.Unix()))
	show(mTLSFailed, float64(failed))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metricsHandler serves the metrics, with those of the process and of Go's runtime.
func metricsHandler(s *Server) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, ErrorHandling: promhttp.ContinueOnError})
}

// watchHandler is what is served at [mirror] metrics: numbers and whether it is well, and nothing that says
// who asked for what.
func watchHandler(s *Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metricsHandler(s))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		h := s.health()
		writeJSON(w, r, "application/json", map[string]any{"status": h.Status, "notes": len(h.Notes)})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	return mux
}

// ready answers 200 from the first connection on, and 503 once the mirror has been told to stop.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.stopping.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ok\n")) //nolint:errcheck // who asked has left
}
