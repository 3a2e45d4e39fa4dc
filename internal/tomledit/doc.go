// Package tomledit changes single values of a TOML document and leaves every other byte, comments and layout
// included, as it was. It knows where each key stands, for messages that name a line.
//
// A document is parsed into byte ranges; an edit replaces or inserts one range, and the result is decoded
// again and compared with the old values: an edit that would change anything else is refused.
package tomledit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Doc is a parsed TOML document. It does not change: an edit gives a new one.
//
// A path names a value by its keys, one string each; elements of arrays and of [[tables]] are named by
// their number from 0: Get("node", "0", "address").
type Doc struct {
	data     []byte
	base     int   // offset after a byte order mark
	lines    []int // offset of each line's start
	eol      string
	tree     map[string]any
	sections []section // in document order; the first is what stands before any header
	keys     []keyval  // every key = value, those of inline tables included
	index    Index
	spelling map[string]string // how a key is quoted in this document
}

// section is a [header] or [[header]] and its lines.
type section struct {
	path      []string
	array     bool
	start     int // of the header's line
	end       int // after the last line that is header or key; comments and blank lines behind it do not count
	indent    string
	keyIndent string
	hasKeys   bool
}

// keyval is one key = value.
type keyval struct {
	path       []string
	section    int
	inline     bool // within an inline table
	start, end int  // from the key to the end of the value
	value      int  // start of the value
	kind       unstable.Kind
}

// SyntaxError says where a document is not TOML.
type SyntaxError struct {
	Line, Col int // 1-based; 0: not known
	Msg       string
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Col, e.Msg)
}

const bom = "\xef\xbb\xbf"

// maxSize keeps offsets within the 32 bits that the parser has for them.
const maxSize = 64 << 20

// Parse reads a document. What is not TOML gives a *SyntaxError.
func Parse(data []byte) (*Doc, error) {
	if len(data) > maxSize {
		return nil, &SyntaxError{Msg: fmt.Sprintf("larger than %d bytes", maxSize)}
	}
	d := &Doc{data: bytes.Clone(data), eol: "\n", index: Index{}, spelling: map[string]string{}}
	if bytes.HasPrefix(data, []byte(bom)) {
		d.base = len(bom)
	}
	d.splitLines()
	if bytes.Contains(data, []byte("\r\n")) {
		d.eol = "\r\n"
	}
	if err := toml.Unmarshal(d.data[d.base:], &d.tree); err != nil {
		return nil, syntaxError(err)
	}
	if d.tree == nil {
		d.tree = map[string]any{}
	}
	return d, d.scan()
}

func syntaxError(err error) error {
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, col := de.Position()
		return &SyntaxError{Line: line, Col: col, Msg: strings.TrimPrefix(de.Error(), "toml: ")}
	}
	return &SyntaxError{Msg: strings.TrimPrefix(err.Error(), "toml: ")}
}

// Bytes are the document's bytes.
func (d *Doc) Bytes() []byte { return bytes.Clone(d.data) }

// Get is the decoded value at path, nil and false when there is none. Tables are map[string]any.
func (d *Doc) Get(path ...string) (any, bool) { return get(d.tree, path) }

// Tree is the decoded document. It is a copy.
func (d *Doc) Tree() map[string]any { return clone(d.tree).(map[string]any) }

// Pos is where path is written: its key, its header, or for an element its value.
func (d *Doc) Pos(path ...string) (Position, bool) { return d.index.At(path...) }

// Index are the positions of all paths.
func (d *Doc) Index() Index { return d.index }

// splitLines fills lines.
func (d *Doc) splitLines() {
	d.lines = []int{d.base}
	for i, c := range d.data {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
}

// line is the number, from 0, of the line that off is on.
func (d *Doc) line(off int) int {
	i, found := slices.BinarySearch(d.lines, off)
	if found {
		return i
	}
	return i - 1
}

// lineStart is the offset of the line that off is on.
func (d *Doc) lineStart(off int) int { return d.lines[d.line(off)] }

// lineEnd is the offset after the line that off is on.
func (d *Doc) lineEnd(off int) int {
	if i := bytes.IndexByte(d.data[off:], '\n'); i >= 0 {
		return off + i + 1
	}
	return len(d.data)
}

// indentAt is the white space before off on its line.
func (d *Doc) indentAt(off int) string {
	s := string(d.data[d.lineStart(off):off])
	return s[:len(s)-len(strings.TrimLeft(s, " \t"))]
}
