package redact

import (
	"bytes"
	"encoding/json"
	"strings"
)

// isJSON says whether a text is one JSON object or list. Its strings are looked at one by one then: what is a secret
// to the end of a line in other texts would take the end of the string and of the document along.
func isJSON(s string) bool {
	s = strings.TrimSpace(s)
	return s != "" && (s[0] == '{' || s[0] == '[') && json.Valid([]byte(s))
}

// walker goes through a JSON text that is valid, and copies it but for the secrets.
type walker struct {
	*finder
	hide  func(string) string // hides what is a secret within a string
	out   strings.Builder
	stack []level
}

// level is an object or list that is not closed yet.
type level struct {
	object bool
	key    string // of the value that comes; in a list that of the list
	named  bool   // the key was there: what comes is its value
}

// jsonText copies a JSON text with the secrets in its strings hidden.
func (f *finder) jsonText(s string, hide func(string) string) string {
	w := &walker{finder: f, hide: hide, stack: []level{{}}}
	for i := 0; i < len(s); {
		n := 1
		top := &w.stack[len(w.stack)-1]
		switch s[i] {
		case '{', '[':
			w.stack = append(w.stack, level{object: s[i] == '{', key: top.key})
		case '}', ']':
			w.stack = w.stack[:len(w.stack)-1]
		case ',':
			top.named = false
		case ' ', '\t', '\r', '\n', ':':
		default:
			n = literal(s[i:])
			w.out.WriteString(w.value(top, s[i:i+n]))
			i += n
			continue
		}
		w.out.WriteByte(s[i])
		i += n
	}
	return w.out.String()
}

// literal is the length of the string, number or word that a text begins with.
func literal(s string) int {
	if s[0] != '"' {
		if i := strings.IndexAny(s, ",]} \t\r\n"); i > 0 {
			return i
		}
		return len(s)
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// value is a key or value with its secrets hidden. What does not change stays as it was written.
func (w *walker) value(at *level, raw string) string {
	text := raw
	if raw[0] == '"' {
		_ = json.Unmarshal([]byte(raw), &text) // the whole text is valid
	}
	if at.object && !at.named {
		at.key, at.named = text, true
		return changedTo(raw, text, w.hide(text))
	}
	if isSecret(at.key, text) {
		w.keep(text)
		return `"` + Mark + `"`
	}
	if raw[0] != '"' {
		return raw
	}
	return changedTo(raw, text, w.hide(text))
}

// changedTo is the string as it was, or the new one encoded.
func changedTo(raw, was, is string) string {
	if was == is {
		return raw
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(is) // a string can be
	return strings.TrimSuffix(b.String(), "\n")
}

// isSecret says whether a key makes its whole value a secret.
func isSecret(key, value string) bool {
	m := keyed.FindStringSubmatch(key + ": x")
	if m == nil || !strings.HasSuffix(key, m[1]) || plain.MatchString(value) {
		return false
	}
	return !harmless.MatchString(m[1]) && (!place.MatchString(m[1]) || !placed.MatchString(value))
}
