package tomledit

import (
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// scan fills sections, keys and index. The document is known to be valid.
func (d *Doc) scan() error {
	var p unstable.Parser
	p.Reset(d.data[d.base:])
	d.sections = []section{{start: d.base, end: d.base}}
	elements := map[string]int{} // elements seen of each [[table]]
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			d.scanHeader(e, elements)
		case unstable.KeyValue:
			d.scanLine(e)
		}
	}
	if err := p.Error(); err != nil {
		return &SyntaxError{Msg: err.Error()}
	}
	return nil
}

func (d *Doc) scanHeader(e *unstable.Node, elements map[string]int) {
	var path []string
	var first, last int
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if path == nil {
			first = d.start(n)
		}
		path = append(path, d.key(n))
		last = d.start(n) + int(n.Raw.Length)
		if c, ok := elements[join(path)]; ok && (!it.IsLast() || e.Kind == unstable.Table) {
			path = append(path, strconv.Itoa(c-1))
		}
	}
	s := section{path: path, start: d.lineStart(first), end: d.lineEnd(last), indent: d.indentAt(first)}
	if e.Kind == unstable.ArrayTable {
		c := elements[join(path)]
		elements[join(path)] = c + 1
		s.array, s.path = true, append(path, strconv.Itoa(c))
	}
	d.note(s.path, 0, first)
	d.sections = append(d.sections, s)
}

// scanLine takes in a key = value that stands on its own lines.
func (d *Doc) scanLine(e *unstable.Node) {
	i := len(d.sections) - 1
	s := &d.sections[i]
	kv := d.scanKeyValue(e, s.path, i, false)
	s.end = d.lineEnd(kv.end)
	if !s.hasKeys {
		s.hasKeys, s.keyIndent = true, d.indentAt(kv.start)
	}
}

func (d *Doc) scanKeyValue(e *unstable.Node, parent []string, section int, inline bool) keyval {
	start := d.base + int(e.Raw.Offset)
	kv := keyval{section: section, inline: inline, start: start, end: start + int(e.Raw.Length), kind: e.Value().Kind}
	kv.path = append([]string(nil), parent...)
	last := start
	for it := e.Key(); it.Next(); {
		kv.path = append(kv.path, d.key(it.Node()))
		last = d.start(it.Node()) + int(it.Node().Raw.Length)
	}
	kv.value = d.skip(last, "= \t")
	d.note(kv.path, len(parent), start)
	d.keys = append(d.keys, kv)
	d.scanValue(e.Value(), kv.path, section)
	return kv
}

// scanValue takes in what stands inside an array or inline table.
func (d *Doc) scanValue(v *unstable.Node, path []string, section int) {
	if v.Kind != unstable.Array && v.Kind != unstable.InlineTable {
		return
	}
	i := 0
	for it := v.Children(); it.Next(); {
		n := it.Node()
		if v.Kind == unstable.InlineTable {
			d.scanKeyValue(n, path, section, true)
			continue
		}
		el := append(append([]string(nil), path...), strconv.Itoa(i))
		if n.Raw.Length > 0 {
			d.note(el, len(path), d.start(n))
		}
		d.scanValue(n, el, section)
		i++
	}
}

func (d *Doc) start(n *unstable.Node) int { return d.base + int(n.Raw.Offset) }

// key is the decoded key of n; how it is spelt is kept for new headers.
func (d *Doc) key(n *unstable.Node) string {
	k := string(n.Data)
	if _, ok := d.spelling[k]; !ok {
		at := d.start(n)
		d.spelling[k] = string(d.data[at : at+int(n.Raw.Length)])
	}
	return k
}

func (d *Doc) skip(off int, chars string) int {
	for off < len(d.data) && strings.IndexByte(chars, d.data[off]) >= 0 {
		off++
	}
	return off
}
