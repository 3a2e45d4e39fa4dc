package mirror

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/edgeprep/edgeprep/internal/preload/imagetest"
)

// scrape reads the metrics of a server: "name{labels}" to value.
func scrape(t testing.TB, url string) map[string]float64 {
	t.Helper()
	a := get(t, url+"/metrics")
	if a.StatusCode != 200 {
		t.Fatal(a.Status, string(a.body))
	}
	if found, err := promlint.New(bytes.NewReader(a.body)).Lint(); err != nil || len(found) > 0 {
		t.Errorf("promlint: %v %v", found, err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(a.body)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
			must(t, err)
			out[line[:i]] = v
		}
	}
	return out
}

func metricsURL(s *Server) string { return "http://" + s.watch.Addr().String() }

// Every outcome of a request is counted under its registry, with what it sent.
func TestMetricsCountWhatIsDone(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	s, stop := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0", Version: "v1",
		Upstream: &Upstreams{Named: []Upstream{{Host: DefaultRegistry, URL: o.URL}}}})
	web, _ := set.Image(imagetest.WebName)
	url := s.URL() + "/v2/library/edge-web/"
	layer := web.Platforms[0].Layers[0]
	for range 2 {
		if a := get(t, url+"blobs/"+layer); a.StatusCode != 200 {
			t.Fatal(a.Status)
		}
		get(t, url+"manifests/1.0")
		settled(t, s.pull) // while something is being kept, it is a fill
	}
	get(t, url+"manifests/none")
	for i := range 3 * maxTallies { // names that a client makes up
		get(t, s.URL()+fmt.Sprintf("/v2/x/manifests/1?ns=127.0.0.1:%d", i+1))
	}
	m := scrape(t, metricsURL(s))
	size := float64(len(set.Blob(layer)))
	manifest := float64(web.Size)
	for name, want := range map[string]float64{
		`edgeprep_mirror_requests_total{outcome="fill",registry="docker.io"}`:              2,
		`edgeprep_mirror_requests_total{outcome="hit",registry="docker.io"}`:               2,
		`edgeprep_mirror_requests_total{outcome="miss",registry="docker.io"}`:              1,
		`edgeprep_mirror_requests_total{outcome="stale",registry="docker.io"}`:             0,
		`edgeprep_mirror_requests_total{outcome="miss",registry="other"}`:                  3 * maxTallies,
		`edgeprep_mirror_sent_bytes_total{outcome="fill",registry="docker.io"}`:            size + manifest,
		`edgeprep_mirror_sent_bytes_total{outcome="hit",registry="docker.io"}`:             size + manifest,
		`edgeprep_mirror_upstream_received_bytes_total{registry="docker.io"}`:              size + manifest,
		`edgeprep_mirror_upstream_requests_total{registry="docker.io",result="ok"}`:        3, // with a sign of life
		`edgeprep_mirror_upstream_unreachable{registry="docker.io"}`:                       0,
		`edgeprep_mirror_request_duration_seconds_count{kind="blob",outcome="hit"}`:        1,
		`edgeprep_mirror_upstream_transfers`:                                               0,
		`edgeprep_mirror_connections_refused_total`:                                        0,
		`edgeprep_mirror_cache_writable`:                                                   1,
		`edgeprep_mirror_degraded`:                                                         0,
		`edgeprep_mirror_misses`:                                                           1 + 3*maxTallies,
		`edgeprep_mirror_upstream_requests_total{registry="docker.io",result="not_found"}`: 1,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s = %v (%v), want %v", name, got, ok, want)
		}
	}
	if m["edgeprep_mirror_cache_free_bytes"] <= 0 || m["edgeprep_mirror_verified_bytes_total"] <= 0 || m["process_open_fds"] <= 0 {
		t.Errorf("%v", m)
	}
	must(t, stop())
}

// A tag that is served although its upstream is gone counts as stale, and the upstream as unreachable.
func TestMetricsStale(t *testing.T) {
	t.Parallel()
	set := standard(t)
	o := newOrigin(t, set)
	store := open(t, tempDir(t))
	load(t, store, sourceOf(set))
	o.CloseClientConnections()
	o.Close()
	s, stop := start(t, Config{Cache: store.Dir(), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0",
		Upstream: &Upstreams{Named: []Upstream{{Host: DefaultRegistry, URL: o.URL}}}})
	if a := get(t, s.URL()+"/v2/library/edge-web/manifests/1.0"); a.StatusCode != 200 {
		t.Fatal(a.Status)
	}
	m := scrape(t, metricsURL(s))
	if m[`edgeprep_mirror_requests_total{outcome="stale",registry="docker.io"}`] != 1 || m[`edgeprep_mirror_upstream_unreachable{registry="docker.io"}`] != 1 ||
		m[`edgeprep_mirror_upstream_requests_total{registry="docker.io",result="unreachable"}`] == 0 {
		t.Errorf("%v", m)
	}
	must(t, stop())
}

// What watches the mirror gets numbers, and nothing that says who asked for what.
func TestWatchPort(t *testing.T) {
	t.Parallel()
	sock := socketPath(t)
	s, stop := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0", Admin: sock})
	for p, want := range map[string]string{"/healthz": `{"notes":0,"status":"ok"}`, "/readyz": "ok\n", "/misses": "", "/v2/": ""} {
		a := get(t, metricsURL(s)+p)
		if (a.StatusCode == 200) != (want != "") || want != "" && string(a.body) != want {
			t.Errorf("%s: %s %q", p, a.Status, a.body)
		}
	}
	for _, p := range []string{"/metrics", "/healthz", "/readyz"} {
		if a := get(t, s.URL()+p); a.StatusCode != 404 {
			t.Errorf("%s on the data port: %s", p, a.Status)
		}
	}
	s.stopping.Store(true)
	if a := get(t, metricsURL(s)+"/readyz"); a.StatusCode != 503 {
		t.Errorf("told to stop: %s", a.Status)
	}
	must(t, stop())
}

// An address that is taken costs the metrics, not the images.
func TestServesWithoutItsMetricsPort(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	s, stop := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0", Metrics: l.Addr().String()})
	if a := get(t, s.URL()+"/v2/"); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	if h := s.health(); h.Status != statusDegraded || len(h.Notes) != 1 || !strings.Contains(h.Notes[0], "no metrics") {
		t.Errorf("%+v", h)
	}
	must(t, stop())
}

// More connections than the limit are closed at once, and room that is given back can be used.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	s, stop := start(t, Config{Cache: tempDir(t), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0", MaxConnections: 2})
	dial := func() net.Conn {
		c, err := net.Dial("tcp", s.Addr().String())
		must(t, err)
		return c
	}
	ping := func(c net.Conn) bool {
		fmt.Fprintf(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
		n, err := c.Read(make([]byte, 4096))
		return err == nil && n > 0
	}
	a, b := dial(), dial()
	defer b.Close()
	if !ping(a) || !ping(b) {
		t.Fatal("two of two are not served")
	}
	c := dial()
	if ping(c) {
		t.Error("a third of two is served")
	}
	c.Close()
	if !s.full() || !s.notifier().answers(t.Context()) {
		t.Error("being overrun would make systemd kill it")
	}
	a.Close()
	for served := false; !served; { // until the server has seen it leave
		d := dial()
		served = ping(d)
		d.Close()
	}
	if m := scrape(t, metricsURL(s)); m["edgeprep_mirror_connections_refused_total"] < 1 || m["edgeprep_mirror_connections"] > 2 {
		t.Errorf("%v", m)
	}
	must(t, stop())
}

func kindOfMetric(m metric) string {
	return map[prometheus.ValueType]string{prometheus.CounterValue: "counter", prometheus.GaugeValue: "gauge", prometheus.UntypedValue: "histogram"}[m.kind]
}

// docs/metrics.md is made of the table that the collector serves.
func TestMetricsDocIsCurrent(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Metrics of the mirror\n\nGenerated from `internal/mirror/metrics.go`; edit there, then `make docs`.\n" +
		"`edgeprep mirror serve --metrics ADDRESS` or `[mirror] metrics` serves them at `/metrics`; so does the admin socket.\n" +
		"The usual `go_*` and `process_*` metrics are there, too. A registry has a label of its own once something of it was\n" +
		"served, or when an `[[upstream]]` names it, up to " + strconv.Itoa(maxTallies) + "; all the rest is `other`.\n" +
		"[operations.md](operations.md) says what to watch.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range metricTable() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, kindOfMetric(m), strings.Join(m.labels, ", "), m.help)
	}
	file := filepath.Join("..", "..", "docs", "metrics.md")
	if os.Getenv("EDGEPREP_UPDATE") != "" {
		must(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	got, err := os.ReadFile(file)
	must(t, err)
	if string(got) != b.String() {
		t.Error("docs/metrics.md is not what the code says: make docs")
	}
}

// Whatever is drawn or alerted on must exist.
func TestDashboardAndAlertsNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, m := range metricTable() {
		known[m.name] = true
		if kindOfMetric(m) == "histogram" {
			for _, s := range []string{"_bucket", "_sum", "_count"} {
				known[m.name+s] = true
			}
		}
	}
	name := regexp.MustCompile(`\b(edgeprep_[a-z_]+|process_[a-z_]+|go_[a-z_]+)\b`)
	s, err := Listen(t.Context(), Config{Cache: tempDir(t), Listen: "127.0.0.1:0"})
	must(t, err)
	defer s.Close()
	srv := newRecorderServer(t, metricsHandler(s))
	for k := range scrape(t, srv) {
		known[strings.SplitN(k, "{", 2)[0]] = true
	}
	for _, f := range []string{"grafana-mirror.json", "alerts-mirror.yaml"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "docs", "monitoring", f))
		must(t, err)
		used := name.FindAllString(string(b), -1)
		if len(used) < 5 {
			t.Errorf("%s uses %d metrics", f, len(used))
		}
		for _, n := range used {
			if !known[n] {
				t.Errorf("%s: no metric %s", f, n)
			}
		}
	}
}

func newRecorderServer(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{Handler: h} //nolint:gosec // a test's own
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}
