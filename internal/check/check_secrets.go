package check

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"strings"

	"github.com/edgeprep/edgeprep/internal/config"
)

func secretsChecks() []Check { return []Check{credentialsCheck(), mirrorCertsCheck()} }

func credentialsCheck() Check {
	return Check{
		ID: "MIR-11", Title: "the files that the mirror needs are there, and no credential ends while there is no uplink",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "the mirror does not start for a missing key; or private images that are not cached stop resolving some hours after the uplink went",
			Cause:   "a TLS key or token file that was not copied along; a credential helper whose tokens live for hours and come from a cloud. edgeprep's mirror starts without upstream credentials and serves what it has",
			Look:    "the files of [mirror.tls] and tokens_file; of each [[upstream]] with upstream = \"connected\": its credentials file and helper",
			Fix:     "put the file where the site file says; take helpers out of the profile of a site without an uplink",
			Sources: []string{"aceeric/ociregistry: cmd/subcmd/serve.go, impl/auth/ecr.go", "docs/upstreams.md, docs/operations.md"},
		},
		Run: runCredentials,
	}
}

func runCredentials(_ context.Context, e *Env) []Finding {
	const subject = "the mirror's files"
	self, err := e.Site.Self("", e.memo.facts)
	if len(e.Mirrors) == 0 || err != nil || !e.Site.HasMirror(self) {
		return []Finding{skip(subject, "no mirror runs on this node")}
	}
	var out []Finding
	m := e.Site.Mirror
	for _, f := range [][2]string{{"[mirror.tls] cert", m.TLS.Cert}, {"[mirror.tls] key", m.TLS.Key}, {"[mirror.tls] client_ca", m.TLS.ClientCA}, {"[mirror] tokens_file", m.TokensFile}} {
		if why := e.unusable(f[1]); why != "" {
			out = append(out, Finding{Status: StatusFail, Subject: f[1], Expected: "a file that root can read", Observed: why + ": the mirror does not start without it", Source: f[0],
				Remedy: Remedy{Text: "put it there, then", Command: "edgeprep apply"}})
		}
	}
	if m.Upstream != config.UpstreamNever {
		for _, u := range e.Site.Upstreams {
			out = append(out, e.upstreamSecrets(u)...)
		}
	}
	if len(out) == 0 {
		return []Finding{pass(subject, "every file that the site file names for it is there", "[mirror], [[upstream]]")}
	}
	return out
}

// unusable says why a file cannot be used; empty: it can, or none is named.
func (e *Env) unusable(file string) string {
	if file == "" {
		return ""
	}
	data, err := e.Reader.FS().ReadFile(file, maxText)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it is not there"
	case err != nil:
		return err.Error()
	case len(strings.TrimSpace(string(data))) == 0:
		return "it is empty"
	}
	return ""
}

func (e *Env) upstreamSecrets(u config.Upstream) []Finding {
	var out []Finding
	warn := func(subject, observed, fix string) {
		out = append(out, Finding{Status: StatusWarn, Subject: subject, Expected: "credentials that last as long as the mission", Observed: observed, Source: "[[upstream]] host = \"" + u.Host + "\"", Remedy: Remedy{Text: fix}})
	}
	if u.CredentialsHelper != "" {
		warn(u.Host, u.CredentialsHelper+" makes tokens that end within hours, and makes none without an uplink: what is not cached by then cannot be pulled", "bring every required image into the cache before shipping: edgeprep mirror fill")
	}
	if file := u.CredentialsFile; file != "" && !strings.HasPrefix(file, "env:") {
		if why := e.unusable(file); why != "" {
			warn(file, why+": private images that are not cached cannot be pulled; the mirror serves the others", "put it there, or take the key out")
		} else if data, err := e.Reader.FS().ReadFile(file, maxText); err == nil && shortLived(string(data)) {
			warn(file, "its user is one that a cloud registry gives tokens of hours to: it ends while there is no uplink", "use a credential that lasts, or fill the cache before shipping")
		}
	}
	if strings.HasPrefix(u.CredentialsFile, "env:") {
		warn(u.Host, "its credentials come from the environment, which the mirror's unit does not have", "credentials_file = \"/etc/edgeprep/...\", mode 0600")
	}
	return out
}

// shortLived says whether credentials are of a user name under which clouds hand out passwords of hours: ECR's,
// Google's, Azure's. Nothing of the text leaves this function.
func shortLived(text string) bool {
	for _, user := range []string{"AWS", "oauth2accesstoken", "00000000-0000-0000-0000-000000000000"} {
		if strings.HasPrefix(strings.TrimSpace(text), user+":") {
			return true
		}
	}
	return false
}

func mirrorCertsCheck() Check {
	return Check{
		ID: "MIR-12", Title: "the mirror's certificates are good beyond the end of the mission",
		Severity: SeverityFail, Scope: ScopeNode,
		Story: Story{
			Seen:    "x509: certificate has expired, from every node, on the day of power-on",
			Cause:   "a certificate of 90 or 365 days, a box that was stored for months, and nobody who could renew it",
			Look:    "certificate and authority of [mirror.tls], the nodes' client certificate and those for upstreams, against [checklist] power_on and mission; whether certificate and key belong together",
			Fix:     "issue it anew for twice the planned time, put it in place, then edgeprep apply",
			Sources: []string{"failure-modes: MIR-12, REG-13"},
		},
		Run: runMirrorCerts,
	}
}

func runMirrorCerts(_ context.Context, e *Env) []Finding {
	var out []Finding
	seen := map[string]bool{}
	look := func(key, file string) {
		if file != "" && !seen[file] {
			seen[file] = true
			out = append(out, e.mirrorCert(key, file)...)
		}
	}
	t := e.Site.Mirror.TLS
	if len(e.Mirrors) > 0 {
		look("[mirror.tls] cert", t.Cert)
		look("[mirror.tls] ca", t.CA)
		look("[mirror.tls] client_ca", t.ClientCA)
		look("[registries] client_cert", e.Site.Registries.ClientCert)
	}
	if e.Site.Mirror.Upstream != config.UpstreamNever {
		for _, u := range e.Site.Upstreams {
			look("[[upstream]] client_cert", u.ClientCert)
		}
	}
	if t.Cert != "" && t.Key != "" {
		out = append(out, e.pair(t.Cert, t.Key)...)
	}
	if len(out) == 0 {
		return []Finding{skip("certificates", "the site file names none: the mirror speaks plain http")}
	}
	return out
}

func (e *Env) mirrorCert(key, file string) []Finding {
	data, err := e.Reader.FS().ReadFile(file, maxText)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{{Status: StatusFail, Subject: file, Expected: "a certificate", Observed: "it is not there", Source: key}}
	}
	if err != nil {
		return []Finding{couldNotRun(file, err)}
	}
	certs, isPEM, err := parsePEM(data)
	if err != nil || !isPEM || len(certs) == 0 {
		return []Finding{{Status: StatusFail, Subject: file, Expected: "a certificate in PEM", Observed: "none can be read in it", Source: key}}
	}
	var out []Finding
	now := e.Now()
	for _, c := range certs {
		f := Finding{Subject: file, Expected: "valid until the mission ends", Source: key, Remedy: Remedy{Text: "issue it anew for twice the planned time; then", Command: "edgeprep apply"}}
		f.Status, f.Observed = e.validity(c.NotAfter)
		if c.NotBefore.After(now) {
			f.Status, f.Observed = StatusFail, "not valid before "+c.NotBefore.UTC().Format("2006-01-02")+": the clock is wrong, or the certificate is"
		}
		if f.Status == StatusPass {
			f.Remedy = Remedy{}
		}
		out = append(out, f)
	}
	return out
}

// pair: a mirror whose certificate and key do not belong together does not start. Nothing of the key is said.
func (e *Env) pair(cert, key string) []Finding {
	c, err := e.Reader.FS().ReadFile(cert, maxText)
	k, kerr := e.Reader.FS().ReadFile(key, maxText)
	if err != nil || kerr != nil { // MIR-11 says so
		return nil
	}
	if _, err := tls.X509KeyPair(c, k); err != nil {
		return []Finding{{Status: StatusFail, Subject: key, Expected: "the key of " + cert, Observed: "certificate and key do not belong together", Source: "[mirror.tls] key"}}
	}
	return nil
}
