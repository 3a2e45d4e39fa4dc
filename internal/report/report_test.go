package report_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/report"
)

// golden compares with testdata/NAME; EDGEPREP_UPDATE=1 writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("EDGEPREP_UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

func at(second int) time.Time { return time.Date(2026, 11, 22, 21, 40, second, 0, time.UTC) }

func base(v check.Verdict, results ...check.Result) check.Report {
	r := check.Report{
		Schema: check.Schema, Started: at(0), Finished: at(2), Site: "ship-bravo", Profile: check.ProfileStage, Verdict: v, Results: results,
		Node:   check.Identity{Hostname: "bravo-1", Distro: "k3s", Version: "v1.36.3+k3s1", Role: "server", Platform: "linux/amd64", Live: true},
		Egress: check.Egress{State: check.EgressCut, Samples: 2},
	}
	return r
}

func passed(id, title string, n int) check.Result {
	x := check.Result{ID: id, Title: title, Severity: check.SeverityFail, Scope: check.ScopeNode, Status: check.StatusPass, Egress: check.EgressCut, DurationMS: 12}
	for range n {
		x.Findings = append(x.Findings, check.Finding{Status: check.StatusPass, Subject: "docker.io/library/busybox:1.36", Observed: "sha256:0a1b", Source: "CRI ImageStatus"})
	}
	return x
}

func with(x check.Result, s check.Status, fs ...check.Finding) check.Result {
	x.Status, x.Findings = s, append(x.Findings, fs...)
	return x
}

// reports are one of each kind.
func reports() map[string]check.Report {
	fail := check.Finding{Status: check.StatusFail, Subject: "/etc/containerd/config.toml:12", Expected: "one directory",
		Observed: "NOD-225: config_path is a list", Reason: "containerd takes it for one name", Source: "/etc/containerd/config.toml:12:3", Remedy: check.Remedy{Command: "edgeprep apply"}}
	many := make([]check.Finding, 11)
	for i := range many {
		many[i] = check.Finding{Status: check.StatusFail, Subject: "http://127.0.0.1:5000 docker.io/library/app:" + string(rune('a'+i)), Observed: "not found"}
	}
	skip := check.Finding{Status: check.StatusSkip, Subject: "required references", Reason: "no runtime: this is a mounted image", Deferred: true}
	broken := base(check.VerdictFail,
		passed("CRI-10", "every reference answers", 3),
		with(passed("REG-01", "config_path is one directory", 0), check.StatusFail, fail),
		with(passed("REG-16", "a pull arrives", 0), check.StatusFail, fail),
		with(passed("MIR-03", "every mirror is complete", 0), check.StatusFail, many...),
		with(passed("CRI-02", "content is complete", 0), check.StatusError, check.Finding{Status: check.StatusError, Subject: "image records", Reason: "connection refused\nsecond line"}),
		with(passed("TAR-10", "there is room", 0), check.StatusWarn, check.Finding{Status: check.StatusWarn, Subject: "/srv", Observed: "95 % used"}),
		with(passed("TAR-05", "archives are placed", 0), check.StatusSkip, check.Finding{Status: check.StatusSkip, Subject: "x", Reason: "kubeadm reads no image directory"}),
	)
	broken.Results[2].CausedBy = []string{"REG-01"}
	broken.Results[5].Waived = &check.Waiver{Reason: "larger disk on site", Owner: "j.ortiz", Until: "2027-01-31"}
	broken.Counts = check.Counts{Pass: 1, Warn: 1, Fail: 3, Error: 1, Skip: 1, Waived: 1}
	broken.Missing = []check.Missing{{IDs: []string{"REG-01"}, Text: "/etc/containerd/config.toml:12: edgeprep apply"}, {IDs: []string{"CRI-02", "IMG-01"}, Text: "image records: connection refused\nsecond line"}}
	demo := base(check.VerdictUnproven,
		passed("TAR-01", "archives are whole", 1),
		with(passed("IMG-01", "the sandbox image is there", 1), check.StatusSkip, skip),
		with(passed("CRI-10", "every reference answers", 0), check.StatusSkip, skip, skip),
		with(passed("PRC-03", "egress was cut", 0), check.StatusUnproven, check.Finding{Status: check.StatusUnproven, Subject: "quay.io:443", Expected: "not reachable",
			Observed: "192.0.2.1:443 accepts connections", Reason: "reachable by name", Source: "by name"}),
	)
	demo.Egress = check.Egress{State: check.EgressOpen, Reason: "reachable: quay.io:443 by name", Samples: 2,
		Probes: []check.Probe{{Target: "quay.io:443", How: "by name", Tries: 2, Reached: 2, Last: "192.0.2.1:443 accepts connections"}}}
	demo.Counts = check.Counts{Pass: 1, Skip: 2, Unproven: 1}
	demo.Missing = []check.Missing{{IDs: []string{"PRC-03"}, Text: "quay.io:443: reachable by name"}, {Text: "only the named checks were run"}}
	good := base(check.VerdictPass, passed("CRI-10", "every reference answers", 3))
	good.Counts, good.Deep = check.Counts{Pass: 1}, true
	return map[string]check.Report{"pass": good, "unproven": demo, "fail": broken}
}

func TestText(t *testing.T) {
	t.Parallel()
	for name, r := range reports() {
		var b bytes.Buffer
		if err := report.Text(&b, r, report.Options{}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", b.Bytes())
		if strings.ContainsAny(b.String(), "\x1b\r\t") {
			t.Errorf("%s: control bytes without colour", name)
		}
		var c, v bytes.Buffer
		if err := report.Text(&c, r, report.Options{Color: true}); err != nil {
			t.Fatal(err)
		}
		if plain := stripped(c.String()); plain != b.String() {
			t.Errorf("%s: colour changes the words:\n%s", name, cmp.Diff(b.String(), plain))
		}
		if err := report.Text(&v, r, report.Options{Verbose: true}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+"-verbose.txt", v.Bytes())
	}
}

// stripped takes ANSI sequences out.
func stripped(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, 0x1b)
		if i < 0 {
			return b.String() + s
		}
		b.WriteString(s[:i])
		s = s[i+strings.IndexByte(s[i:], 'm')+1:]
	}
}

func TestJSONKeepsEverything(t *testing.T) {
	t.Parallel()
	for name, r := range reports() {
		var b bytes.Buffer
		if err := report.JSON(&b, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", b.Bytes())
		var back check.Report
		d := json.NewDecoder(&b)
		d.DisallowUnknownFields()
		if err := d.Decode(&back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if d.More() {
			t.Error("more than one document")
		}
	}
}

func TestListAndExplain(t *testing.T) {
	t.Parallel()
	checks := []check.Check{
		{ID: "AAA-01", Title: "a is true", Severity: check.SeverityFail, Scope: check.ScopeNode, Unwaivable: true, DependsOn: []string{"BBB-02"},
			Story: check.Story{Seen: strings.Repeat("a word and ", 20) + "an end", Cause: "c", Look: "l", Fix: "f", Sources: []string{"x", "y"}}},
		{ID: "BBB-02", Title: "b is true", Severity: check.SeverityWarn, Scope: check.ScopeRehearsal, Profiles: []check.Profile{check.ProfileShip}},
	}
	var b bytes.Buffer
	if err := report.List(&b, checks); err != nil {
		t.Fatal(err)
	}
	if err := report.ListJSON(&b, checks); err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if err := report.Explain(&b, c); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "list.txt", b.Bytes())
}
