package redact

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
)

// minValue is the shortest value that is hidden wherever it stands: shorter ones are words too.
const minValue = 6

// Redactor hides secrets by their values besides what Text hides.
type Redactor struct {
	values []string // longest first
}

// Learn takes the secrets that a text holds, so that they are hidden in other texts, however they are written there.
func (r *Redactor) Learn(text string) {
	_, found := scan(text)
	r.Add(found...)
}

// Add takes secrets. The parts of "user:password", and what is in base64, count too.
func (r *Redactor) Add(secrets ...string) {
	for _, s := range secrets {
		for _, v := range forms(strings.TrimSpace(s)) {
			if len(v) >= minValue && !slices.Contains(r.values, v) {
				r.values = append(r.values, v)
			}
		}
	}
	slices.SortStableFunc(r.values, func(a, b string) int { return len(b) - len(a) })
}

// forms are the ways in which a secret may be met.
func forms(s string) []string {
	out := []string{s}
	for _, word := range strings.Fields(s) {
		word = strings.Trim(word, `"',`)
		out = append(out, word)
		if b, err := base64.StdEncoding.DecodeString(word); err == nil && len(word) >= 2*minValue && isASCII(b) {
			out = append(out, passwordOf(string(b))...)
		}
	}
	out = append(out, passwordOf(s)...)
	for _, v := range slices.Clone(out) {
		if e := url.QueryEscape(v); e != v {
			out = append(out, e, url.PathEscape(v))
		}
		if u, err := url.PathUnescape(v); err == nil && u != v {
			out = append(out, u)
		}
	}
	return out
}

// passwordOf is the second part of "user:password", and what is sent for both.
func passwordOf(s string) []string {
	_, password, ok := strings.Cut(s, ":")
	if !ok || strings.ContainsAny(s, " \t\n/") {
		return nil
	}
	return []string{s, password, base64.StdEncoding.EncodeToString([]byte(s))}
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// Text hides secrets, known and likely.
func (r *Redactor) Text(s string) string {
	if isJSON(s) { // within its strings, else a value with a quote in it would open or close one
		f := &finder{block: -1}
		return f.jsonText(s, f.within(r.known))
	}
	return Text(r.known(s))
}

// known hides the values.
func (r *Redactor) known(s string) string {
	for _, v := range r.values {
		s = strings.ReplaceAll(s, v, Mark)
	}
	return s
}
