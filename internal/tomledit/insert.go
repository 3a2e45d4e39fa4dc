package tomledit

import (
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A new key goes where TOML lets its table be extended: an inline table only between its braces, a table made
// by dotted keys only by another dotted key of the same section, all others below their header or a new one.
type placeKind int

const (
	asTable   placeKind = iota // under a header that must be made
	asLine                     // a line in an existing section
	asElement                  // inside an inline table
	asNothing                  // within an array or a value
)

type place struct {
	kind    placeKind
	section int // asLine
	keyval  int // asElement: the inline table; asLine: the dotted key to stand behind, or -1
	depth   int // keys of the path that the place stands for
}

// place finds where the missing path belongs.
func (d *Doc) place(path []string) place {
	parent := path[:len(path)-1]
	if i := d.enclosing(parent); i >= 0 {
		p := place{kind: asElement, keyval: i, depth: len(d.keys[i].path)}
		if d.keys[i].kind != unstable.InlineTable {
			p.kind = asNothing
		}
		return p
	}
	if p, ok := d.dottedPlace(parent); ok {
		return p
	}
	for i, s := range d.sections {
		if len(s.path) == len(parent) && begins(s.path, parent) {
			return place{kind: asLine, section: i, keyval: -1, depth: len(parent)}
		}
	}
	return place{kind: asTable}
}

// enclosing is the innermost key whose value path lies in, or -1.
func (d *Doc) enclosing(path []string) int {
	found := -1
	for i, kv := range d.keys {
		if begins(path, kv.path) && (found < 0 || len(kv.path) > len(d.keys[found].path)) {
			found = i
		}
	}
	return found
}

// dottedPlace finds the line whose dotted key defines the longest beginning of parent.
func (d *Doc) dottedPlace(parent []string) (place, bool) {
	best, found := place{}, false
	for i, kv := range d.keys {
		if kv.inline {
			continue
		}
		from := len(d.sections[kv.section].path)
		n := common(kv.path[:len(kv.path)-1], parent)
		if n > from && (!found || n >= best.keyLen(d, parent)) {
			best, found = place{kind: asLine, section: kv.section, keyval: i, depth: from}, true
		}
	}
	return best, found
}

func (p place) keyLen(d *Doc, parent []string) int {
	kv := d.keys[p.keyval]
	return common(kv.path[:len(kv.path)-1], parent)
}

func common(a, b []string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// insertEdit adds path = text.
func (d *Doc) insertEdit(path []string, text string) (edit, error) {
	p := d.place(path)
	switch p.kind {
	case asNothing:
		return edit{}, errors.New("what it belongs to is not a table that can be added to")
	case asElement:
		return d.elementEdit(p.keyval, d.keyText(path[p.depth:])+" = "+text), nil
	case asLine:
		s := d.sections[p.section]
		return d.lineEdit(p, d.keyIndentOf(s)+d.keyText(path[p.depth:])+" = "+text), nil
	}
	return d.headerEdit(path[:len(path)-1], d.keyText(path[len(path)-1:])+" = "+text), nil
}

// elementEdit adds to the inline table that is the value of key i, behind what is in it.
func (d *Doc) elementEdit(i int, text string) edit {
	t := d.keys[i]
	last := -1
	for _, kv := range d.keys[i+1:] {
		if kv.start < t.end && kv.inline {
			last = max(last, kv.end)
		}
	}
	if last >= 0 {
		return edit{last, last, ", " + text}
	}
	at := t.value + 1
	if strings.TrimSpace(string(d.data[at:t.end-1])) == "" && !strings.Contains(string(d.data[at:t.end-1]), "\n") {
		return edit{at, t.end - 1, " " + text + " "}
	}
	return edit{at, at, " " + text}
}

// lineEdit adds a line at the end of a section, or behind the dotted key that it belongs to.
func (d *Doc) lineEdit(p place, line string) edit {
	s := d.sections[p.section]
	switch {
	case p.keyval >= 0:
		return d.newLines(d.lineEnd(d.keys[p.keyval].end), line)
	case p.section == 0 && !s.hasKeys:
		return d.firstLine(line)
	}
	return d.newLines(s.end, line)
}

// firstLine adds the first key that stands before any header: behind the comment at the top of the file, as
// far as a blank line parts it from what follows.
func (d *Doc) firstLine(line string) edit {
	at := d.base
	for off := d.base; off < len(d.data); {
		end := d.lineEnd(off)
		text := strings.TrimSpace(string(d.data[off:end]))
		if text != "" && !strings.HasPrefix(text, "#") {
			break
		}
		if text == "" || end == len(d.data) {
			at = end
		}
		off = end
	}
	if at < len(d.data) && len(d.sections) > 1 {
		line += d.eol
	}
	return d.newLines(at, line)
}

// newLines inserts text as whole lines at the start of a line or at the end of the file. A file without a
// final newline keeps none.
func (d *Doc) newLines(at int, text string) edit {
	if at == len(d.data) && at > d.base && d.data[at-1] != '\n' {
		return edit{at, at, d.eol + text}
	}
	return edit{at, at, text + d.eol}
}

// headerEdit adds [path] and, unless empty, one line below it, behind the section that is nearest of kin.
func (d *Doc) headerEdit(path []string, line string) edit {
	near := d.nearest(path)
	indent := d.headerIndent(path, near)
	header := indent + "[" + d.keyText(withoutNumbers(path, d.tree)) + "]"
	if line != "" {
		header += d.eol + d.newKeyIndent(path, indent) + line
	}
	at := d.sections[near].end
	if near == 0 && len(d.sections) == 1 {
		at = len(d.data)
	}
	if at > d.base {
		header = d.eol + header
	}
	return d.newLines(at, header)
}

// nearest is the last of the sections that share the longest beginning with path; without any, the last one.
func (d *Doc) nearest(path []string) int {
	best, n := len(d.sections)-1, 0
	for i, s := range d.sections {
		if c := common(s.path, path); c > 0 && c >= n {
			best, n = i, c
		}
	}
	return best
}
