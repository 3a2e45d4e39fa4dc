package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgeprep/edgeprep/internal/mirror"
)

// TestMain makes this program a mirror when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		if err := serve(os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	var c mirror.Config
	f.StringVar(&c.Cache, "cache", "", "")
	f.StringVar(&c.Listen, "listen", "", "")
	config := f.String("config", "", "")
	f.String("upstream", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *config != "" {
		b, err := os.ReadFile(*config)
		if err != nil {
			return err
		}
		_, url, _ := strings.Cut(string(b), `url = "`)
		url, _, _ = strings.Cut(url, `"`)
		c.Upstream = &mirror.Upstreams{Named: []mirror.Upstream{{Host: "docker.io", URL: url}}}
	}
	return mirror.Serve(ctx, c)
}

// The harness itself, on a small image and against nobody: figures come out, and what is exact is exact.
func TestSmoke(t *testing.T) {
	t.Parallel()
	b := &bench{dir: t.TempDir(), programs: programs{edgeprep: []string{os.Args[0], "serve"}}, rounds: 1, round: 50 * time.Millisecond, many: 20, say: t.Logf}
	files := filepath.Join(b.dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.img, err = makeImage(files, []int64{5e6, 1e6}); err != nil {
		t.Fatal(err)
	}
	rows, err := b.measure(t.Context(), "blobs,manifests,fast,hit,start")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"disk writes in a hit's path": "met", "upstream calls in a hit's path": "met", "warm blobs, GB/s ÷ nginx, 8 clients": "not measured"}
	for _, r := range rows {
		if v, ok := want[r.what]; ok && v != r.verdict {
			t.Errorf("%s: %s, %s", r.what, r.measured, r.verdict)
		}
		delete(want, r.what)
	}
	if len(want) > 0 {
		t.Errorf("no rows %v", want)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(p, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := replace(p, table([]row{atMost(1, 2, "%.1f").row("x", 1.5, "")})); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(p)
	if s := string(b); err != nil || !strings.HasPrefix(s, "before\n"+beginMark) || !strings.HasSuffix(s, endMark+"\nafter\n") ||
		strings.Contains(s, "old") || strings.Count(s, "| x | ≤ 1.0 | ≤ 2.0 | 1.5 | least met |") != 1 {
		t.Errorf("%v\n%s", err, s)
	}
}

func TestMedianAndRatios(t *testing.T) {
	t.Parallel()
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Error(got)
	}
	if got := median(ratios([]float64{2, 8, 9}, []float64{1, 2, 3})); got != 3 {
		t.Error(got)
	}
}

// What wrk prints, as it does.
func TestParseWrk(t *testing.T) {
	t.Parallel()
	const good = `Running 1s test @ http://127.0.0.1:5000/v2/x
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms    1.10ms  20.10ms   85.00%
    Req/Sec    31.61k     2.01k   34.00k    80.00%
  Latency Distribution
     50%    1.90ms
     99%    6.53ms
  31502 requests in 1.00s, 24.01MB read
Requests/sec:  31461.29
Transfer/sec:     23.98MB
`
	if r, err := parseWrk(good); err != nil || r.perSecond != 31461.29 || r.p99 != 6530*time.Microsecond {
		t.Error(r, err)
	}
	for name, bad := range map[string]string{
		"nothing":      "",
		"bad answers":  good + "  Non-2xx or 3xx responses: 17\n",
		"broken off":   good + "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
		"no latencies": strings.Replace(good, "99%", "98%", 1),
		"a new unit":   strings.Replace(good, "6.53ms", "6.53parsec", 1),
	} {
		if r, err := parseWrk(bad); err == nil {
			t.Error(name, r)
		}
	}
}

// Others' use of the machine is told, the run's own is not.
func TestDoubts(t *testing.T) {
	t.Parallel()
	parse := func(line string, own time.Duration) activity {
		a, err := parseActivity(line + " 0 0\ncpu0 1 2 3\n")
		if err != nil {
			t.Fatal(err)
		}
		a.own = own
		return a
	}
	// 100 ticks of 10 ms each way: user nice system idle iowait irq softirq steal
	start := parse("cpu  1000 0 1000 5000 0 0 0 0", 0)
	for name, c := range map[string]struct {
		line  string
		own   time.Duration
		doubt string
	}{
		"idle":                    {"cpu  1000 0 1000 5900 100 0 0 0", 0, ""},
		"only ours":               {"cpu  1500 0 1400 5100 0 0 0 0", 9 * time.Second, ""},
		"a compiler":              {"cpu  1500 0 1400 5100 0 0 0 0", 4 * time.Second, "50 % of its cores, its host 0 %"},
		"a neighbour on the host": {"cpu  1000 0 1000 5900 0 0 0 100", 0, "0 % of its cores, its host 10 %"},
	} {
		if got := doubts(start, parse(c.line, c.own)); (got == "") != (c.doubt == "") || !strings.Contains(got, c.doubt) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := parseActivity("cpu 1 2 3\n"); err == nil {
		t.Error("a short line was read")
	}
}
