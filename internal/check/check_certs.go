package check

import (
	"context"
	"fmt"
	"time"
)

func certificateChecks() []Check {
	return []Check{{
		ID: "K8S-02", Title: "the distribution's certificates outlive storage and mission", Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:  "at the first power-on after months in a box every component says \"x509: certificate has expired\"",
			Cause: "certificates of a year are renewed by an upgrade that never comes, by a restart only within some days of their end, or by a kubelet that must be running; an expired client certificate cannot ask for a new one",
			Look: "every certificate in the files that the descriptor names, kubeconfigs included, against [checklist] power_on and mission: it must hold until power-on and 14 days more, " +
				"and to the mission's end unless the distribution renews it by itself before; a certificate of an authority is never renewed",
			Fix:     "make them anew right before shipping, and write power_on and mission into edgeprep.toml",
			Sources: []string{"rke2-docs: certificates.md", "k3s-io/docs: docs/cli/certificate.md", "rancher/rke2#8318, #2623", "kubernetes/kubeadm#2054"},
		},
		Run: runCertificateDates,
	}}
}

// earliest is how many certificates are shown although they are good.
const (
	earliest     = 5
	mostFindings = 25
)

func runCertificateDates(_ context.Context, e *Env) []Finding {
	const subject = "certificates"
	if len(e.Node.Certificates) == 0 {
		return []Finding{skip(subject, "nothing says where this distribution keeps them")}
	}
	c := e.memo.certificates()
	out := c.bad
	if len(c.all) == 0 {
		if !e.Node.Started && len(out) == 0 {
			return []Finding{skip(subject, "the distribution has never started: it has none yet")}
		}
		return append(out, unproven(subject, "none was found where this distribution keeps them"))
	}
	if _, _, stated := e.horizon(); !stated && e.opts.Profile != ProfileRunning && e.opts.Profile != ProfileArrival {
		f := deferred("planned dates", "[checklist] names neither power_on nor mission: certificates were judged as of today")
		f.Remedy = Remedy{Text: `write power_on = "YYYY-MM-DD" and mission = "180d" into [checklist]`}
		out = append(out, f)
	}
	for i, x := range c.all {
		f := e.judgeCertificate(x)
		if (i < earliest || f.Status != StatusPass) && len(out) < mostFindings {
			out = append(out, f)
		}
	}
	return out
}

// judgeCertificate compares a certificate with the planned dates and with who renews it when.
func (e *Env) judgeCertificate(c foundCertificate) Finding {
	from, until, _ := e.horizon()
	status, observed := e.validity(c.NotAfter)
	f := Finding{Status: status, Subject: c.name(), Observed: observed, Source: c.file,
		Expected: "valid from " + day(from) + " to " + day(until)}
	switch state := e.certificateState(c); {
	case state == CertificateEarly:
		f.Status, f.Observed = StatusFail, "not valid before "+day(c.NotBefore)
	case state == CertificateRenewed && c.renewedAt(from):
		f.Status, f.Observed = StatusPass, observed+"; made anew when it starts then"
	case state == CertificateRenewed:
		f.Status, f.Observed = StatusPass, observed+"; renewed while it runs"
	case state == CertificateEnds && !c.IsCA && c.rule.Renewed == "start":
		window := c.NotAfter.Add(-time.Duration(c.rule.Within) * 24 * time.Hour)
		f.Observed += fmt.Sprintf("; a start at power-on does not renew it, one after %s does", day(window))
	}
	if f.Status != StatusPass {
		f.Remedy = Remedy{Text: "make it anew right before shipping", Command: c.rule.Renew}
		if c.IsCA {
			f.Remedy = Remedy{Text: "an authority is replaced by hand, with everything that it signed; see the distribution's documentation"}
		}
	}
	return f
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
