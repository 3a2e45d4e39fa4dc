package plan

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	udiff "github.com/aymanbagabas/go-udiff"

	"github.com/edgeprep/edgeprep/internal/redact"
)

const maxDiff = 64 << 10

// diffText is the unified diff of two contents; nil is no file.
func diffText(p string, old, want []byte, secret bool) string {
	switch {
	case bytes.Equal(old, want):
		return ""
	case secret:
		return fmt.Sprintf("(secret content is not shown: %d bytes, now %d bytes)\n", len(old), len(want))
	case !isText(old) || !isText(want):
		return fmt.Sprintf("(binary: %d bytes, now %d bytes)\n", len(old), len(want))
	}
	from, to := p, p
	if old == nil {
		from = "/dev/null"
	}
	if want == nil {
		to = "/dev/null"
	}
	// hidden before they are compared: whether a line is a secret may depend on one that a diff leaves out
	d := udiff.Unified(from, to, redact.Text(string(old)), redact.Text(string(want)))
	if d == "" {
		return "(only values that are not shown differ)\n"
	}
	if len(d) > maxDiff {
		d = d[:strings.LastIndexByte(d[:maxDiff], '\n')+1] + fmt.Sprintf("(%d more bytes)\n", len(d)-maxDiff)
	}
	return d
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }
