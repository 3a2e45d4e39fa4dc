package report_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joshdk/go-junit"

	"github.com/edgeprep/edgeprep/internal/check"
	"github.com/edgeprep/edgeprep/internal/report"
)

// hostile is a report into which a node put markup and control characters.
func hostile() check.Report {
	bad := "</script><script>alert(1)</script> | `x` \x00\x1b[31m ]]> *b* [l](http://x)\nsecond"
	r := base(check.VerdictFail, with(passed("REG-01", bad, 0), check.StatusFail,
		check.Finding{Status: check.StatusFail, Subject: bad, Expected: bad, Observed: bad, Source: bad, Remedy: check.Remedy{Text: bad, Command: bad}}))
	r.Site, r.Node.Hostname, r.Person = bad, bad, bad
	r.Missing = []check.Missing{{IDs: []string{"REG-01"}, Text: bad}}
	r.Clock, r.Certificates = clockFacts(), certificateFacts()
	r.Clock.RTCName, r.Clock.Battery, r.Clock.Service, r.Clock.Sources, r.Clock.PowerOn, r.Clock.Mission = bad, bad, bad, []string{bad}, bad, bad
	for i := range r.Certificates {
		c := &r.Certificates[i]
		c.Path, c.Subject, c.Reason, c.State = bad, bad, bad, check.CertificateState(bad)
	}
	r.Drift, r.Against = []check.Drift{{What: bad, Was: bad, Is: bad, Matters: true}}, bad
	return r
}

func TestFormats(t *testing.T) {
	t.Parallel()
	drifted := reports()["fail"]
	drifted.Against, drifted.Drift = "left.json", []check.Drift{{What: "image quay.io/x:1", Was: "sha256:0a", Is: "gone", Matters: true}, {What: "edgeprep", Was: "1", Is: "2"}}
	drifted.Person, drifted.Tool = "A. Nyman", check.Tool{Version: "v0.3.0", SHA256: strings.Repeat("ab", 32)}
	drifted.Inputs = []check.Input{{Name: "archive", Path: "/opt/edge.tar", Size: 10, SHA256: strings.Repeat("cd", 32)}}
	drifted.Clock, drifted.Certificates = clockFacts(), certificateFacts()
	for format, suffix := range map[string]string{"html": "html", "markdown": "md", "junit": "xml", "text": "drift.txt"} {
		var b bytes.Buffer
		if err := report.Write(&b, format, drifted, report.Options{}); err != nil {
			t.Fatal(err)
		}
		golden(t, "drifted."+suffix, b.Bytes())
	}
}

// clockFacts are those of a node whose real-time clock is behind.
func clockFacts() check.ClockRecord {
	return check.ClockRecord{Time: at(1), RTC: at(1).Add(-90 * time.Second), RTCName: "rtc0", Battery: "okay", Synchronized: check.ClockFree,
		Service: "chrony.service", Sources: []string{"10.0.0.1", "pool.ntp.org"}, PowerOn: "2027-01-15", Mission: "180d", MissionEnd: "2027-07-14"}
}

// certificateFacts are one of each state.
func certificateFacts() []check.CertificateRecord {
	var out []check.CertificateRecord
	for i, s := range []check.CertificateState{check.CertificateGood, check.CertificateRenewed, check.CertificateEnds, check.CertificateShort, check.CertificateEarly} {
		out = append(out, check.CertificateRecord{Path: "/etc/pki/" + string(s) + ".crt", Subject: "CN=" + string(s), Authority: i == 0, SHA256: strings.Repeat("0a", 32),
			NotBefore: at(0), NotAfter: at(0).AddDate(1, 0, -60*i), State: s})
	}
	out[2].More = 130
	return append(out, check.CertificateRecord{Path: "/etc/pki/x.crt", State: check.CertificateUnread, Reason: "it cannot be read; run as root"})
}

// The paper loads nothing and runs nothing, whatever the node put into it.
func TestHTMLIsSelfContainedAndInert(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]check.Report{"fail": reports()["fail"], "hostile": hostile()} {
		var b bytes.Buffer
		if err := report.HTML(&b, r, strings.Repeat("0", 64)); err != nil {
			t.Fatal(err)
		}
		for _, no := range []string{"<script", "<link", "<img", "<iframe", "src=", "url(", "@import", " onload"} {
			if strings.Contains(strings.ToLower(b.String()), no) {
				t.Errorf("%s: contains %q", name, no)
			}
		}
	}
}

// A JUnit parser that others use reads it: every check is a case with its status, and what it says is there.
func TestJUnitParses(t *testing.T) {
	t.Parallel()
	all := reports()
	all["hostile"] = hostile()
	for name, r := range all {
		var b bytes.Buffer
		if err := report.JUnit(&b, r); err != nil {
			t.Fatal(err)
		}
		suites, err := junit.Ingest(b.Bytes())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var totals junit.Totals
		statuses := map[string]junit.Status{}
		for _, s := range suites {
			s.Aggregate()
			totals.Tests, totals.Failed, totals.Error = totals.Tests+s.Totals.Tests, totals.Failed+s.Totals.Failed, totals.Error+s.Totals.Error
			totals.Skipped += s.Totals.Skipped
			for _, c := range s.Tests {
				statuses[strings.TrimPrefix(c.Classname, "edgeprep.")] = c.Status
				if (c.Status == junit.StatusFailed || c.Status == junit.StatusError) && (c.Message == "" || c.Error == nil || c.SystemErr == "") {
					t.Errorf("%s: %s fails without saying why: %+v", name, c.Name, c)
				}
			}
		}
		if head := fmt.Sprintf(`tests="%d" failures="%d" errors="%d" skipped="%d"`, totals.Tests, totals.Failed, totals.Error, totals.Skipped); !strings.Contains(b.String(), head) {
			t.Errorf("%s: the document does not say %s", name, head)
		}
		for _, x := range r.Results {
			if got, want := statuses[x.ID], junitStatus(x); got != want {
				t.Errorf("%s: %s (%s) is %q to the parser, want %q", name, x.ID, x.Status, got, want)
			}
		}
	}
}

func junitStatus(x check.Result) junit.Status {
	switch {
	case x.Waived != nil:
		return junit.StatusSkipped
	case x.Status == check.StatusFail:
		return junit.StatusFailed
	case x.Status == check.StatusError:
		return junit.StatusError
	case x.Status == check.StatusSkip, x.Status == check.StatusUnproven:
		return junit.StatusSkipped
	}
	return junit.StatusPassed
}

// What a node says cannot make rows, links or headings in Markdown.
func TestMarkdownIsInert(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := report.Markdown(&b, hostile()); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, "<script") || strings.Contains(line, " [l](") || strings.ContainsAny(line, "\x00\x1b") || strings.HasPrefix(line, "second") {
			t.Errorf("%q", line)
		}
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kept")
	k, err := report.Keep(dir, reports()["pass"], nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "check-20261122T214000Z-bravo-1-PASS.json"); k.Record != want || len(k.Files) != 6 {
		t.Errorf("kept %+v", k)
	}
	sum := exec.Command("sha256sum", "-c", filepath.Base(k.Record)+".sha256")
	sum.Dir = dir
	if out, err := sum.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	html, err := os.ReadFile(strings.TrimSuffix(k.Record, ".json") + ".html")
	if err != nil || !bytes.Contains(html, []byte(k.SHA256)) || !bytes.Contains(html, []byte(report.Code(k.SHA256))) {
		t.Errorf("the paper does not carry the record's digest: %v", err)
	}
	if c := report.Code(strings.Repeat("0a1b", 16)); c != "0A1B-0A1B-0A1B-0A1B-0A1B" {
		t.Errorf("code %s", c)
	}
}

// OpenSSH itself verifies what was signed, and refuses what was changed.
func TestSignaturesVerifyWithSSHKeygen(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		missing(t, "needs ssh-keygen (Debian's openssh-client)")
	}
	for _, kind := range [][]string{{"ed25519"}, {"rsa", "-b", "2048"}, {"ecdsa"}} {
		dir := t.TempDir()
		key := filepath.Join(dir, "key")
		run(t, nil, keygen, append([]string{"-q", "-N", "", "-f", key, "-t"}, kind...)...)
		s, err := report.NewSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		k, err := report.Keep(dir, reports()["fail"], s)
		if err != nil {
			t.Fatal(err)
		}
		allowed := filepath.Join(dir, "allowed_signers")
		if err := os.WriteFile(allowed, []byte("nyman "+s.Public()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		record, err := os.ReadFile(k.Record)
		if err != nil {
			t.Fatal(err)
		}
		verify := []string{"-Y", "verify", "-f", allowed, "-I", "nyman", "-n", report.Namespace, "-s", k.Record + ".sig"}
		run(t, record, keygen, verify...)
		cmd := exec.Command(keygen, verify...)
		cmd.Stdin = bytes.NewReader(bytes.Replace(record, []byte("FAIL"), []byte("PASS"), 1))
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%v: a changed record verifies: %s", kind, out)
		}
	}
}

// A key with a passphrase is signed with by the agent, and the error says so.
func TestSigningWithTheAgent(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		missing(t, "needs ssh-keygen (Debian's openssh-client)")
	}
	dir, err := os.MkdirTemp("", "eprep-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	key := filepath.Join(dir, "key")
	run(t, nil, keygen, "-q", "-N", "secret", "-f", key, "-t", "ed25519")
	if _, err := report.NewSigner(key); err == nil || !strings.Contains(err.Error(), "ssh-add "+key) {
		t.Errorf("a locked key: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := report.NewSigner(key + ".pub"); err == nil || !strings.Contains(err.Error(), "no ssh agent") {
		t.Errorf("no agent: %v", err)
	}
	plain := filepath.Join(dir, "plain")
	run(t, nil, keygen, "-q", "-N", "", "-f", plain, "-t", "ed25519")
	socket := filepath.Join(dir, "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		missing(t, "needs ssh-agent (Debian's openssh-client)")
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	t.Setenv("SSH_AUTH_SOCK", socket)
	add := func() error { return exec.Command("ssh-add", "-q", plain).Run() }
	for i := 0; add() != nil; i++ { // until its socket is there
		if i > 1000 {
			t.Fatal("the agent takes no key")
		}
	}
	s, err := report.NewSigner(plain + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Sign([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := report.NewSigner(key + ".pub"); err == nil || !strings.Contains(err.Error(), "does not have the key") {
		t.Errorf("another key: %v", err)
	}
}

func run(t *testing.T, stdin []byte, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// missing skips, or fails where everything has to be there.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("EDGEPREP_REQUIRE_REAL") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
