package plan

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	udiff "github.com/aymanbagabas/go-udiff"
)

// secretKey finds values that must not be shown even in files that are not secret as a whole: the passwords
// in a registries.yaml or hosts.toml that is merged.
var secretKey = regexp.MustCompile(`(?i)((?:pass(?:word|wd)?|secret|token|identity_?token|auth(?:orization)?|private_?key)["']?[ \t]*[:=][ \t]*)[^\s{\[].*`)

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
	d := redact(udiff.Unified(from, to, string(old), string(want)))
	if len(d) > maxDiff {
		d = d[:strings.LastIndexByte(d[:maxDiff], '\n')+1] + fmt.Sprintf("(%d more bytes)\n", len(d)-maxDiff)
	}
	return d
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

func redact(s string) string { return secretKey.ReplaceAllString(s, "${1}***") }
