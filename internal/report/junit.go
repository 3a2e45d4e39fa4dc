package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/check"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Hostname   string          `xml:"hostname,attr,omitempty"`
	Timestamp  string          `xml:"timestamp,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Properties []junitProperty `xml:"properties>property,omitempty"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string      `xml:"classname,attr"`
	Name    string      `xml:"name,attr"`
	Time    string      `xml:"time,attr"`
	Failure *junitFault `xml:"failure"`
	Error   *junitFault `xml:"error"`
	Skipped *junitFault `xml:"skipped"`
	Out     string      `xml:"system-out,omitempty"`
	Err     string      `xml:"system-err,omitempty"`
}

type junitFault struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// JUnit writes a report for viewers of test results. JUnit knows neither warnings nor missing proofs: a check
// that warns passes with its text in system-out, one that is unproven or deferred is skipped with the reason.
// Viewers differ in what they show of a failure, so the text is in <failure> and in <system-err>.
func JUnit(w io.Writer, r check.Report) error {
	out := junitSuites{Name: "edgeprep check: " + string(r.Verdict), Time: seconds(r.Finished.Sub(r.Started))}
	for _, g := range groups(r) {
		s := junitSuite{Name: g.ID + " " + g.Title, Hostname: r.Node.Hostname, Timestamp: r.Started.Format("2006-01-02T15:04:05")}
		for _, row := range identityRows(r) {
			s.Properties = append(s.Properties, junitProperty{row[0], row[1]})
		}
		var took time.Duration
		for _, x := range g.Results {
			s.add(junitOf(x))
			took += time.Duration(x.DurationMS) * time.Millisecond
		}
		s.Time = seconds(took)
		out.Tests, out.Failures, out.Errors, out.Skipped = out.Tests+s.Tests, out.Failures+s.Failures, out.Errors+s.Errors, out.Skipped+s.Skipped
		out.Suites = append(out.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (s *junitSuite) add(c junitCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	switch {
	case c.Failure != nil:
		s.Failures++
	case c.Error != nil:
		s.Errors++
	case c.Skipped != nil:
		s.Skipped++
	}
}

func junitOf(x check.Result) junitCase {
	c := junitCase{Class: "edgeprep." + x.ID, Name: x.ID + " " + x.Title, Time: seconds(time.Duration(x.DurationMS) * time.Millisecond)}
	text := junitText(x)
	first, _, _ := strings.Cut(text, "\n")
	switch {
	case x.Waived != nil:
		c.Skipped = &junitFault{Message: "waived by " + x.Waived.Owner + until(x.Waived.Until) + ": " + x.Waived.Reason}
		c.Out = text
	case x.Status == check.StatusFail:
		c.Failure, c.Err = &junitFault{first, string(x.Severity), text}, text
	case x.Status == check.StatusError:
		c.Error, c.Err = &junitFault{first, "error", text}, text
	case x.Status == check.StatusSkip || x.Status == check.StatusUnproven:
		c.Skipped = &junitFault{Message: string(x.Status) + ": " + first}
	default:
		c.Out = text
	}
	return c
}

// junitText is every remark with its fix, a line each.
func junitText(x check.Result) string {
	var lines []string
	for _, f := range remarks(x) {
		line := sentence(f)
		if f.Source != "" {
			line += " (" + f.Source + ")"
		}
		lines = append(lines, line)
		if fix := f.Remedy.String(); fix != "" {
			lines = append(lines, "fix: "+fix)
		}
	}
	return strings.Join(lines, "\n")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
