package systemd

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// install is the [Install] section of a unit file and its drop-ins.
type install struct {
	WantedBy   []string
	RequiredBy []string
	UpheldBy   []string
	Alias      []string
	Also       []string
}

func (i *install) list(key string) *[]string {
	switch key {
	case "WantedBy":
		return &i.WantedBy
	case "RequiredBy":
		return &i.RequiredBy
	case "UpheldBy": // since v254
		return &i.UpheldBy
	case "Alias":
		return &i.Alias
	case "Also":
		return &i.Also
	}
	return nil
}

// links says whether enabling would make a link.
func (i *install) links() bool {
	return len(i.WantedBy)+len(i.RequiredBy)+len(i.UpheldBy)+len(i.Alias) > 0
}

// parse adds what a unit file says, as systemd.syntax(7) has it: the last line of a continued one has no
// backslash, comments may stand in between, and an empty value empties the list.
func (i *install) parse(content []byte) {
	section, pending := "", ""
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") || (line == "" && pending == "") {
			continue
		}
		if head, ok := strings.CutSuffix(line, `\`); ok {
			pending += head + " "
			continue
		}
		line, pending = strings.TrimSpace(pending+line), ""
		if strings.HasPrefix(line, "[") {
			section = line
		} else if section == "[Install]" {
			i.assign(line)
		}
	}
}

func (i *install) assign(line string) {
	key, value, ok := strings.Cut(line, "=")
	list := i.list(strings.TrimSpace(key))
	if !ok || list == nil {
		return
	}
	words := strings.Fields(value)
	if len(words) == 0 {
		*list = nil
		return
	}
	for _, w := range words {
		*list = append(*list, strings.Trim(w, `"'`))
	}
}

// expand replaces the specifiers of systemd.unit(5) that a unit without instance has.
func expand(s, unit string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	prefix := strings.TrimSuffix(unit, path.Ext(unit))
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case '%':
			b.WriteByte('%')
		case 'n':
			b.WriteString(unit)
		case 'N', 'p':
			b.WriteString(prefix)
		case 'i', 'I':
		default:
			return "", fmt.Errorf("unit %s: the specifier %%%c in [Install] cannot be resolved without a running systemd", unit, s[i])
		}
	}
	return b.String(), nil
}

// checkName refuses what is no name of a unit, before it becomes part of a path.
func checkName(name string) error {
	switch {
	case len(name) > 255 || !nameChars.MatchString(name) || !validTypes[path.Ext(name)] || strings.HasPrefix(name, "."):
		return fmt.Errorf("%q is not the name of a unit", name)
	case strings.Contains(name, "@."):
		return fmt.Errorf("unit %s: a template has no state; name an instance of it", name)
	}
	return nil
}

// nameChars: systemd.unit(5), "valid unit names".
var nameChars = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+$`)

var validTypes = map[string]bool{
	".service": true, ".socket": true, ".target": true, ".mount": true, ".automount": true, ".timer": true,
	".path": true, ".device": true, ".swap": true, ".slice": true, ".scope": true,
}
