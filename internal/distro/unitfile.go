package distro

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The format of unit files: systemd.syntax(7), systemd.service(5) "COMMAND LINES", systemd.exec(5)
// "EnvironmentFile=". What systemd ignores with a warning is ignored here too.

// directive is one Key=Value of a unit file.
type directive struct {
	Section, Key, Value string
	File                string
	Line                int
}

// parseUnit reads the directives of a unit file.
func parseUnit(file string, data []byte) []directive {
	var out []directive
	section := ""
	for _, l := range joinLines(string(data), " ") {
		if strings.HasPrefix(l.text, "[") && strings.HasSuffix(l.text, "]") {
			section = l.text[1 : len(l.text)-1]
			continue
		}
		key, value, ok := strings.Cut(l.text, "=")
		if !ok {
			continue
		}
		out = append(out, directive{Section: section, Key: strings.TrimSpace(key), Value: strings.TrimSpace(value), File: file, Line: l.number})
	}
	return out
}

// logicalLine is a line with its continuations.
type logicalLine struct {
	text   string
	number int // of its first line
}

// joinLines splits text into trimmed lines without blank and comment lines; a line that ends with an odd
// number of backslashes goes on, with glue in the place of the last, and comments inside it are left out.
func joinLines(text, glue string) []logicalLine {
	var out []logicalLine
	var open *logicalLine
	for i, raw := range strings.Split(text, "\n") {
		line := strings.TrimSpace(strings.TrimRight(raw, "\r"))
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if open == nil {
			if line == "" {
				continue
			}
			out = append(out, logicalLine{number: i + 1})
			open = &out[len(out)-1]
		}
		trail := len(line) - len(strings.TrimRight(line, `\`))
		if trail%2 == 1 {
			open.text += line[:len(line)-1] + glue
			continue
		}
		open.text = strings.TrimSpace(open.text + line)
		open = nil
	}
	return out
}

// splitWords splits a value at white space; quotes group and C escapes are decoded. An unknown escape stays
// as it is, and a missing closing quote ends with the text.
func splitWords(s string) []string {
	var words []string
	var b strings.Builder
	var quote byte
	inWord := false
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			text, n := unescape(s[i:])
			b.WriteString(text)
			inWord = true
			i += n
			continue
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, inWord = c, true
		case quote == 0 && isSpace(c):
			if inWord {
				words = append(words, b.String())
				b.Reset()
				inWord = false
			}
		default:
			b.WriteByte(c)
			inWord = true
		}
		i++
	}
	if inWord {
		words = append(words, b.String())
	}
	return words
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// simpleEscapes are those of one character.
const simpleEscapes = "a\ab\bf\fn\nr\rt\tv\v\\\\\"\"''s "

// unescape decodes the escape that s begins with, and says how long it is.
func unescape(s string) (text string, n int) {
	for i := 0; i < len(simpleEscapes); i += 2 {
		if simpleEscapes[i] == s[1] {
			return simpleEscapes[i+1 : i+2], 2
		}
	}
	switch s[1] {
	case 'x':
		return codePoint(s, 2, 2, 16, true)
	case 'u':
		return codePoint(s, 2, 4, 16, false)
	case 'U':
		return codePoint(s, 2, 8, 16, false)
	case '0', '1', '2', '3', '4', '5', '6', '7':
		return codePoint(s, 1, 3, 8, true)
	}
	return s[:2], 2
}

// codePoint decodes digits characters from s[at]; what is no number or NUL stays as it is.
func codePoint(s string, at, digits, base int, raw bool) (string, int) {
	if len(s) < at+digits {
		return s[:2], 2
	}
	v, err := strconv.ParseUint(s[at:at+digits], base, 32)
	switch {
	case err != nil || v == 0:
		return s[:2], 2
	case raw && v <= 0xff:
		return string([]byte{byte(v)}), at + digits
	case !raw && v <= utf8.MaxRune && utf8.ValidRune(rune(v)):
		return string(rune(v)), at + digits
	}
	return s[:2], 2
}

// word is one argument of a command line and where it was written.
type word struct {
	Text   string
	Source string
}

// envVar is a variable of a unit's environment.
type envVar struct {
	Value  string
	Source string
}

// commandLine splits an Exec value: modifiers off, specifiers and variables replaced.
func commandLine(value, source, unit string, env map[string]envVar) []word {
	expand := true
	for value != "" && strings.IndexByte("@-:+!|", value[0]) >= 0 {
		expand = expand && value[0] != ':'
		value = value[1:]
	}
	var out []word
	for i, w := range splitWords(specifiers(value, unit)) {
		switch {
		case w == ";": // the next command of a oneshot unit
			return out
		case i == 0 || !expand:
			out = append(out, word{w, source})
		default:
			out = append(out, expandWord(w, source, env)...)
		}
	}
	return out
}

// expandWord replaces variables: $NAME as a word of its own becomes as many words as its value has, ${NAME}
// stays within its word.
func expandWord(w, source string, env map[string]envVar) []word {
	if name, ok := strings.CutPrefix(w, "$"); ok && isName(name) {
		v := env[name]
		var out []word
		for _, part := range splitWords(v.Value) {
			out = append(out, word{part, v.Source})
		}
		return out
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(w, '$')
		if i < 0 || i+1 == len(w) {
			break
		}
		b.WriteString(w[:i])
		w = w[i:]
		end := strings.IndexByte(w, '}')
		switch {
		case w[1] == '$':
			b.WriteByte('$')
			w = w[2:]
		case w[1] == '{' && end > 0 && isName(w[2:end]):
			v := env[w[2:end]]
			b.WriteString(v.Value)
			if v.Source != "" {
				source = v.Source
			}
			w = w[end+1:]
		default:
			b.WriteByte('$')
			w = w[1:]
		}
	}
	return []word{{b.String() + w, source}}
}

// isName says whether s can name an environment variable.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// specifiers replaces those that a unit's name gives; others stay as they are.
func specifiers(s, unit string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	name := strings.TrimSuffix(unit, ".service")
	prefix, instance, _ := strings.Cut(name, "@")
	return strings.NewReplacer("%%", "%", "%n", unit, "%N", name, "%p", prefix, "%P", prefix,
		"%i", instance, "%I", instance, "%t", "/run", "%E", "/etc", "%S", "/var/lib").Replace(s)
}

// parseEnvFile reads an EnvironmentFile: KEY=VALUE lines in which quotes group and a backslash at the end of
// a line joins it with the next.
func parseEnvFile(file string, data []byte) []directive {
	var out []directive
	for _, l := range joinLines(string(data), "") {
		key, value, ok := strings.Cut(l.text, "=")
		if key = strings.TrimSpace(key); !ok || !isName(key) {
			continue
		}
		out = append(out, directive{Key: key, Value: envValue(strings.TrimSpace(value)), File: file, Line: l.number})
	}
	return out
}

// envValue takes the quotes off. Single quotes keep everything, double quotes and bare text know a backslash.
func envValue(s string) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(s) && (quote == 0 || strings.IndexByte("\"\\`$", s[i+1]) >= 0):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
