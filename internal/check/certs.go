package check

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/edgeprep/edgeprep/internal/distro"
	"github.com/edgeprep/edgeprep/internal/host"
)

// maxCertificates bounds what one file may hold: a bundle of all public authorities has some 150.
const maxCertificates = 400

// foundCertificate is one certificate of the distribution and who renews it.
type foundCertificate struct {
	*x509.Certificate
	file string
	rule distro.Certificates
}

// name says what the certificate is about.
func (c foundCertificate) name() string {
	n := c.Subject.CommonName
	if n == "" {
		n = "serial " + c.SerialNumber.String()
	}
	if c.IsCA {
		return n + " (authority)"
	}
	return n
}

// certificates are those of the distribution, each once, and what could not be read.
type certificates struct {
	all []foundCertificate
	bad []Finding
}

// readCertificates reads the files that the descriptor names. A file is read as PEM or as a kubeconfig.
func (e *Env) readCertificates() certificates {
	var out certificates
	seen := map[string]bool{}
	for _, rule := range e.Node.Certificates {
		for _, pattern := range rule.Files {
			files, err := glob(e.Reader.FS(), pattern)
			if err != nil {
				out.bad = append(out.bad, unproven(pattern, "it cannot be read: "+err.Error()+"; run as root"))
			}
			for _, file := range files {
				e.seen(file, out.file(e.Reader.FS(), file, rule, seen))
			}
		}
	}
	for _, f := range out.bad {
		e.unread(f.Subject, cmp.Or(f.Reason, f.Observed))
	}
	slices.SortStableFunc(out.all, func(a, b foundCertificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return out
}

// file takes those certificates of a file that are new, and gives them all.
func (c *certificates) file(f host.FS, file string, rule distro.Certificates, seen map[string]bool) (all []foundCertificate) {
	data, err := f.ReadFile(file, maxText)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a link to nowhere
		c.bad = append(c.bad, Finding{Status: StatusFail, Subject: file, Expected: "a certificate", Observed: "a link to a file that is not there", Source: file})
		return nil
	case errors.Is(err, fs.ErrPermission):
		c.bad = append(c.bad, unproven(file, "it cannot be read; run as root"))
		return nil
	case err != nil:
		c.bad = append(c.bad, couldNotRun(file, err))
		return nil
	}
	found, err := certificatesIn(data)
	if err != nil {
		c.bad = append(c.bad, Finding{Status: StatusFail, Subject: file, Expected: "a certificate", Observed: err.Error(), Source: file,
			Remedy: Remedy{Text: "make it anew", Command: rule.Renew}})
	}
	for _, x := range found {
		all = append(all, foundCertificate{x, file, rule})
		if key := string(x.Raw); !seen[key] {
			seen[key] = true
			c.all = append(c.all, foundCertificate{x, file, rule})
		}
	}
	return all
}

// embedded is a certificate in a kubeconfig. client-go: tools/clientcmd/api/v1/types.go
var embedded = regexp.MustCompile(`(?m)^\s*-?\s*(client-certificate|certificate-authority)-data:\s*["']?([A-Za-z0-9+/=]+)["']?\s*$`)

// certificatesIn reads PEM, or the certificates that a kubeconfig carries. A kubeconfig without any has none
// of its own: it names files.
func certificatesIn(data []byte) ([]*x509.Certificate, error) {
	if all, isPEM, err := parsePEM(data); isPEM || err != nil {
		return all, err
	}
	var out []*x509.Certificate
	for _, m := range embedded.FindAllSubmatch(data, maxCertificates) {
		raw, err := base64.StdEncoding.DecodeString(string(m[2]))
		if err != nil {
			return out, errors.New(string(m[1]) + "-data is not base64")
		}
		found, _, err := parsePEM(raw)
		if err != nil {
			return out, err
		}
		out = append(out, found...)
	}
	if len(out) == 0 && !strings.Contains(string(data), "clusters:") {
		return nil, errors.New("no certificate is in it")
	}
	return out, nil
}

// parsePEM reads certificates among other blocks. isPEM says whether there was any block.
func parsePEM(data []byte) (out []*x509.Certificate, isPEM bool, err error) {
	for len(out) < maxCertificates {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		isPEM = true
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return out, true, errors.New("a certificate in it is damaged: " + err.Error())
		}
		out = append(out, c)
	}
	if isPEM && len(out) == 0 {
		return nil, true, errors.New("no certificate is in it")
	}
	return out, isPEM, nil
}

// latestStart is the certificate that became valid last: no clock may be before that.
func (c certificates) latestStart() (foundCertificate, bool) {
	if len(c.all) == 0 {
		return foundCertificate{}, false
	}
	return slices.MaxFunc(c.all, func(a, b foundCertificate) int { return a.NotBefore.Compare(b.NotBefore) }), true
}

// renewedAt says whether a power-on at that time makes the certificate anew.
func (c foundCertificate) renewedAt(on time.Time) bool {
	left := c.NotAfter.Sub(on)
	return !c.IsCA && c.rule.Renewed == "start" && left > 0 && (c.rule.Within == 0 || left <= time.Duration(c.rule.Within)*24*time.Hour)
}
