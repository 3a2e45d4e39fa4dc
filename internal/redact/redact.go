// Package redact takes secrets out of text that leaves a node or is shown: plans, reports, logs, support bundles.
//
// It knows secrets by the way they are written (a key that names one, the user part of a URL, a header of
// authentication, a private key), and by their values where a caller has read them. It rather hides too much.
package redact

import (
	"regexp"
	"strings"
)

// Mark stands where a secret was.
const Mark = "***"

// Text hides what looks like a secret. Its own output is left as it is.
func Text(s string) string {
	s, _ = scan(s)
	return s
}

// scan hides secrets, and gives their values.
func scan(s string) (string, []string) {
	f := &finder{block: -1}
	if isJSON(s) {
		return f.jsonText(s, f.within(nil)), f.found
	}
	s = privateKey.ReplaceAllStringFunc(s, func(string) string { return "(a private key is not shown)" })
	lines := strings.SplitAfter(s, "\n")
	for i, line := range lines {
		lines[i] = f.line(line)
	}
	return strings.Join(lines, ""), f.found
}

var (
	// a key that was cut off in the middle is one too
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)

	// keys whose values are secrets, in TOML, YAML, JSON, environment, unit files and queries of URLs
	keyed = regexp.MustCompile(`(?i)([\w.-]*(?:pass(?:word|wd|phrase)?|secret|token|auth|authorization|credentials?|private[_-]?key|api[_-]?key|access[_-]?key|key-data|signature|sig)[\w.-]*)(\\?["']?[ \t]*(?:=|:(?:[ \t]|["'\\]))[ \t]*)(.+)`)
	// what the name of such a key ends with when its value is none: a place, a name, a rule
	harmless = regexp.MustCompile(`(?i)(?:name|names|helper|mode|ttl|policy|type|provider|providers|service|source|signer|url|config|cachettl|algorithm|expires|id|s)$`)
	// ... or where it is kept: then the value is a path, else somebody took the one for the other
	place  = regexp.MustCompile(`(?i)(?:file|files|path|dir)$`)
	placed = regexp.MustCompile(`^\\?["']?(?:[/.~$%]|env:|[A-Za-z]:\\|$)`)
	// values that are no secret
	plain = regexp.MustCompile(`^(?i:\\?["']?(?:true|false|null|none|\*\*\*|\d{1,6})?\\?["']?[,;&}\])]*\s*|[{\[|>]+[-+]?\s*)$`)

	flag       = regexp.MustCompile(`(?i)(--[\w-]*(?:password|secret|token|access-key)(?:-key)?[ =]+)([^\s"'\\]+)`)
	userinfo   = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*:(?:\\?/){2})([^\s"'/<>\\]+)@`)
	proxyUser  = regexp.MustCompile(`(?i)(proxy\w*\\?["']?[ \t]*[=:][ \t]*\\?["']?)([^\s"'/@=]+)@`)
	scheme     = regexp.MustCompile(`(?i)\b((?:basic|bearer)[ \t]+)([A-Za-z0-9+/_.~=-]{8,})`)
	jwt        = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`)
	joinToken  = regexp.MustCompile(`\bK10[0-9a-f]{32,}::[^\s"'\\]+`)          // k3s, RKE2: pkg/clientaccess
	bootstrap  = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)           // kubeadm: bootstrapapi.BootstrapTokenPattern
	headerOpen = regexp.MustCompile(`^[+\- ]?\s*\[.*\bheaders?\\?["']?\]\s*$`) // hosts.toml: [host."https://x".header]; config.toml: [...registry.headers]
	tableOpen  = regexp.MustCompile(`^[+\- ]?\s*\[[^\]"'=]*(?:["'][^"']*["'][^\]]*)?\]\]?\s*$`)
	assignment = regexp.MustCompile(`^([+\- ]?\s*\\?["']?[\w-]+\\?["']?\s*=\s*)(.+)`)
)

// environment is a line of a unit file. What an application takes from there nobody knows, so only variables whose
// names say that they are none keep their values.
var (
	environment = regexp.MustCompile(`^([+\- ]?\s*Environment=)(.*)`)
	variable    = regexp.MustCompile(`"(\w+)=([^"]*)"|'(\w+)=([^']*)'|(\w+)=(\S+)`)
	harmlessVar = regexp.MustCompile(`(?i)(?:proxy|args|opts|options|path|dir|home|config|level|debug|lang|version)$`)
	blockScalar = regexp.MustCompile(`^[|>][-+0-9]*\s*(?:#.*)?$`)
)

// finder goes through lines.
type finder struct {
	found  []string
	block  int  // the indent of a YAML key whose value, a secret, is in the lines below it; -1: none
	header bool // in a table of HTTP headers: any of them may be a secret
	list   bool // in a list that is the value of a secret key, over several lines
}

// within hides secrets in a string of a JSON text, which may be a text of many lines itself.
func (f *finder) within(first func(string) string) func(string) string {
	return func(s string) string {
		if first != nil {
			s = first(s)
		}
		s, found := scan(s)
		f.found = append(f.found, found...)
		return s
	}
}

func (f *finder) line(s string) string {
	text, end := strings.CutSuffix(s, "\n")
	if f.block < 0 && !f.list && isJSON(text) { // one of a log of JSON lines
		f.header = false
		s = f.jsonText(text, f.within(nil))
		if end {
			s += "\n"
		}
		return s
	}
	if f.block >= 0 && strings.TrimSpace(text) != "" && indent(text) <= f.block {
		f.block = -1
	}
	switch {
	case f.block >= 0:
		text = f.rest(text)
	case environment.MatchString(text):
		m := environment.FindStringSubmatch(text)
		text = m[1] + variable.ReplaceAllStringFunc(m[2], f.variable)
	case f.list:
		f.list = !strings.Contains(text, "]")
		text = f.rest(text)
	case headerOpen.MatchString(text):
		f.header = true
	case f.header && tableOpen.MatchString(text):
		f.header = false
	case f.header && assignment.MatchString(text):
		m := assignment.FindStringSubmatch(text)
		f.list = opensList(m[2])
		text = m[1] + f.value(m[2])
	}
	text = f.inline(text)
	if end {
		return text + "\n"
	}
	return text
}

func indent(s string) int { return len(s) - len(strings.TrimLeft(s, " \t-+")) }

// variable hides the value of one assignment.
func (f *finder) variable(s string) string {
	m := variable.FindStringSubmatch(s)
	name, v := m[1]+m[3]+m[5], m[2]+m[4]+m[6]
	if v == "" || harmlessVar.MatchString(name) {
		return s
	}
	f.keep(v)
	return strings.Replace(s, name+"="+v, name+"="+Mark, 1)
}

// opensList says whether a value goes on in the next lines.
func opensList(v string) bool { return strings.HasPrefix(v, "[") && !strings.Contains(v, "]") }

// rest hides the elements of a list, but not its end.
func (f *finder) rest(s string) string {
	inner := strings.Trim(s, " \t,]")
	if inner == "" || plain.MatchString(inner) {
		return s
	}
	f.keep(inner)
	return strings.Replace(s, inner, Mark, 1)
}

// inline hides what is a secret wherever on a line it stands.
func (f *finder) inline(s string) string {
	s = f.part(userinfo, s, func(m []string) string { return m[1] + Mark + "@" })
	s = f.part(proxyUser, s, func(m []string) string { return m[1] + Mark + "@" })
	s = f.part(flag, s, func(m []string) string { return m[1] + Mark })
	s = keyed.ReplaceAllStringFunc(s, func(all string) string {
		m := keyed.FindStringSubmatch(all)
		if sep := strings.TrimRight(m[2], `"'\`); strings.HasSuffix(sep, ":") && sep != m[2] { // the quote opens the value
			m[2], m[3] = sep, m[2][len(sep):]+m[3]
		}
		if blockScalar.MatchString(m[3]) && !place.MatchString(m[1]) && !harmless.MatchString(m[1]) {
			f.block = indent(s)
		}
		if plain.MatchString(m[3]) || f.block >= 0 {
			return all
		}
		if harmless.MatchString(m[1]) || place.MatchString(m[1]) && placed.MatchString(m[3]) {
			return m[1] + m[2] + f.inline(m[3])
		}
		f.list = opensList(m[3])
		return m[1] + m[2] + f.value(m[3])
	})
	s = f.part(scheme, s, func(m []string) string {
		if strings.Trim(m[2], "abcdefghijklmnopqrstuvwxyz.-") == "" { // a word
			return m[0]
		}
		return m[1] + Mark
	})
	for _, re := range []*regexp.Regexp{jwt, joinToken, bootstrap} {
		s = re.ReplaceAllStringFunc(s, func(v string) string { f.keep(v); return Mark })
	}
	return s
}

// part replaces and remembers the second group.
func (f *finder) part(re *regexp.Regexp, s string, with func(m []string) string) string {
	return re.ReplaceAllStringFunc(s, func(all string) string {
		m := re.FindStringSubmatch(all)
		out := with(m)
		if out != all && m[2] != Mark {
			f.keep(m[2])
		}
		return out
	})
}

var quoted = regexp.MustCompile(`^\\?"((?:[^"\\]|\\[^"])*?)\\?"|^'([^']*)'`)

// value hides the value of a secret key: what is in quotes, or all that is left of the line. What follows the
// quotes is looked at for itself.
func (f *finder) value(v string) string {
	if v == Mark || strings.HasPrefix(v, Mark) {
		return v
	}
	if m := quoted.FindStringSubmatch(v); m != nil {
		f.keep(m[1] + m[2])
		return `"` + Mark + `"` + f.inline(v[len(m[0]):])
	}
	if m := strings.IndexAny(v, "&"); m > 0 && !strings.ContainsAny(v[:m], " \t") { // the query of a URL goes on
		f.keep(v[:m])
		return Mark + f.inline(v[m:])
	}
	f.keep(strings.Trim(v, " \t\"'[],"))
	return Mark
}

func (f *finder) keep(v string) {
	if v != "" && v != Mark {
		f.found = append(f.found, v)
	}
}
