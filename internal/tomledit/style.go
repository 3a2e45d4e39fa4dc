package tomledit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
)

// keyText writes a dotted key, each part spelt as elsewhere in the document.
func (d *Doc) keyText(path []string) string {
	parts := make([]string, len(path))
	for i, k := range path {
		parts[i] = d.spelling[k]
		if parts[i] == "" {
			parts[i] = quoteKey(k)
		}
	}
	return strings.Join(parts, ".")
}

func quoteKey(k string) string {
	bare := k != "" && !strings.ContainsFunc(k, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
	if bare {
		return k
	}
	return quote(k)
}

// dotted is a path for people.
func dotted(path []string) string {
	parts := make([]string, len(path))
	for i, k := range path {
		parts[i] = quoteKey(k)
	}
	return strings.Join(parts, ".")
}

// withoutNumbers takes the element numbers out of a path: a header means the last element.
func withoutNumbers(path []string, tree any) []string {
	var out []string
	for i, k := range path {
		parent, _ := get(tree, path[:i])
		if _, element := parent.([]any); !element {
			out = append(out, k)
		}
	}
	return out
}

// headerIndent is how far a new header is indented: as its brothers are, else one step from its ancestor.
func (d *Doc) headerIndent(path []string, near int) string {
	depth, step := len(path), ""
	for i, s := range d.sections {
		if i > 0 && len(s.path) == depth && common(s.path, path) >= depth-1 {
			return s.indent
		}
		if s.indent != "" && step == "" {
			step = "  "
			if s.indent[0] == '\t' {
				step = "\t"
			}
		}
	}
	s := d.sections[near]
	if c := common(s.path, path); near == 0 || c == 0 {
		return ""
	} else if c < len(s.path) || step == "" {
		return s.indent
	}
	return s.indent + strings.Repeat(step, depth-len(s.path))
}

// newKeyIndent is how far the keys below a new header are indented that is indented by indent.
func (d *Doc) newKeyIndent(path []string, indent string) string {
	extra := ""
	for i, s := range d.sections {
		if i == 0 || !s.hasKeys || !strings.HasPrefix(s.keyIndent, s.indent) {
			continue
		}
		extra = s.keyIndent[len(s.indent):]
		if len(s.path) == len(path) {
			break
		}
	}
	return indent + extra
}

// keyIndentOf is how far a new key of section s is indented.
func (d *Doc) keyIndentOf(s section) string {
	if s.hasKeys {
		return s.keyIndent
	}
	if len(s.path) == 0 {
		return ""
	}
	return d.newKeyIndent(s.path, s.indent)
}

// encode writes a value; a string keeps the kind of quotes that old has.
func encode(value any, old string) string {
	switch v := value.(type) {
	case string:
		if strings.HasPrefix(old, "'") && !strings.HasPrefix(old, "'''") && literal(v) {
			return "'" + v + "'"
		}
		return quote(v)
	case float64:
		return encodeFloat(v)
	case []string:
		return encodeList(v, quote)
	case []any:
		return encodeList(v, func(x any) string { return encode(x, "") })
	}
	return fmt.Sprint(value) // bool and integers
}

func encodeList[T any](list []T, one func(T) string) string {
	parts := make([]string, len(list))
	for i, x := range list {
		parts[i] = one(x)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func encodeFloat(f float64) string {
	s := strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64))
	if strings.ContainsAny(s, ".en") { // exponent, inf and nan too
		return s
	}
	return s + ".0"
}

// literal says whether s can stand between single quotes.
func literal(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == '\'' || r < ' ' || r == 0x7f })
}

// quote writes a basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// normalize is the value as a decoder would give it, an error for kinds that are not written here.
func normalize(value any) (any, error) {
	switch value.(type) {
	case string, bool, int, int64, float64, []string, []any:
	default:
		return nil, fmt.Errorf("a value of type %T cannot be written", value)
	}
	if s, ok := value.(string); ok && !utf8.ValidString(s) {
		return nil, errors.New("the string is not UTF-8")
	}
	var out map[string]any
	if err := toml.Unmarshal([]byte("v = "+encode(value, "")), &out); err != nil {
		return nil, fmt.Errorf("the value cannot be written as TOML: %w", err)
	}
	return out["v"], nil
}
