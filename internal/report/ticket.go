package report

import (
	"regexp"
	"strings"

	"github.com/edgeprep/edgeprep/internal/check"
)

// Ticket is a record in one short line for labels and small codes: "EP1:NODE:PASS:24 digits of the sha256". It has
// only characters of QR's alphanumeric mode, so that its code fits a small terminal. A node's name is cut to 20.
func Ticket(r check.Report, sha256 string) string {
	node := regexp.MustCompile(`[^A-Z0-9.-]+`).ReplaceAllString(strings.ToUpper(or(r.Node.Hostname, "node")), "-")
	return "EP1:" + node[:min(len(node), 20)] + ":" + string(r.Verdict) + ":" + strings.ToUpper(sha256[:min(len(sha256), 24)])
}
