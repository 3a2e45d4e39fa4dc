package tomledit

import "strings"

// Position is a place in a document, both numbers from 1; columns count bytes.
type Position struct{ Line, Col int }

// Index says where each path of a document is written. Use At.
type Index map[string]Position

// At is where path is written. A table that only longer headers or dotted keys imply stands where the first
// of them does.
func (x Index) At(path ...string) (Position, bool) {
	p, ok := x[join(path)]
	return p, ok
}

// Nearest is At for path, or else for the longest beginning of it that is written.
func (x Index) Nearest(path ...string) (Position, bool) {
	for n := len(path); n > 0; n-- {
		if p, ok := x.At(path[:n]...); ok {
			return p, true
		}
	}
	return Position{}, false
}

// Positions are where the keys of a document stand.
func Positions(data []byte) (Index, error) {
	d, err := Parse(data)
	if err != nil {
		return nil, err
	}
	return d.index, nil
}

// sep cannot be mistaken for a part of a key: TOML allows no raw NUL, and an escaped one only costs a position.
const sep = "\x00"

func join(path []string) string { return strings.Join(path, sep) }

// note records the place of path and, where not yet known, of the tables that it implies below from.
func (d *Doc) note(path []string, from, off int) {
	for n := from + 1; n <= len(path); n++ {
		k := join(path[:n])
		if _, ok := d.index[k]; !ok || n == len(path) {
			d.index[k] = d.position(off)
		}
	}
}

func (d *Doc) position(off int) Position {
	line := d.line(off)
	return Position{Line: line + 1, Col: 1 + off - d.lines[line]}
}
