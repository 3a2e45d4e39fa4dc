package tomledit

import (
	"errors"
	"fmt"
	"slices"
)

// Set gives path a value: in place where there is one, else as a new key, in a style that is already there.
// Values are string, bool, int, int64, float64 and slices of them. A table is not replaced by a value.
func (d *Doc) Set(path []string, value any) (*Doc, error) {
	if len(path) == 0 {
		return nil, errors.New("no key to set")
	}
	want := d.Tree()
	if old, ok := get(want, path); ok {
		if _, table := old.(map[string]any); table {
			return nil, fmt.Errorf("%s is a table, not a value", dotted(path))
		}
	}
	decoded, err := normalize(value)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", dotted(path), err)
	}
	if err := put(want, path, decoded); err != nil {
		return nil, fmt.Errorf("set %s: %w", dotted(path), err)
	}
	e, err := d.setEdit(path, value)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", dotted(path), err)
	}
	return d.apply(e, want)
}

// setEdit finds the place where path is or should be.
func (d *Doc) setEdit(path []string, value any) (edit, error) {
	if kv, ok := d.keyval(path); ok {
		return edit{kv.value, kv.end, encode(value, string(d.data[kv.value:kv.end]))}, nil
	}
	if _, ok := get(d.tree, path); ok {
		return edit{}, errors.New("it is an element of an array: set the array as a whole")
	}
	return d.insertEdit(path, encode(value, ""))
}

// AddTable adds an empty [table] unless path is a table already.
func (d *Doc) AddTable(path []string) (*Doc, error) {
	if len(path) == 0 {
		return nil, errors.New("no table to add")
	}
	want := d.Tree()
	if old, ok := get(want, path); ok {
		if _, table := old.(map[string]any); table {
			return d, nil
		}
		return nil, fmt.Errorf("%s is a value, not a table", dotted(path))
	}
	if err := put(want, path, map[string]any{}); err != nil {
		return nil, fmt.Errorf("add table %s: %w", dotted(path), err)
	}
	if p := d.place(path); p.kind == asTable || p.kind == asLine && p.keyval < 0 {
		return d.apply(d.headerEdit(path, ""), want)
	}
	e, err := d.insertEdit(path, "{}")
	if err != nil {
		return nil, fmt.Errorf("add table %s: %w", dotted(path), err)
	}
	return d.apply(e, want)
}

// Delete removes path: a key with the comment behind it on its line, or a table with all of its sections.
// A path that does not exist is no error.
func (d *Doc) Delete(path []string) (*Doc, error) {
	if _, ok := get(d.tree, path); !ok || len(path) == 0 {
		return d, nil
	}
	if parts := d.inlineParts(path); len(parts) > 1 {
		next, err := d.Delete(parts[0])
		if err != nil {
			return nil, err
		}
		return next.Delete(path)
	}
	want := d.Tree()
	remove(want, path)
	edits := d.deleteEdits(path)
	if len(edits) == 0 {
		return nil, fmt.Errorf("delete %s: it is an element of an array: set the array as a whole", dotted(path))
	}
	return d.applyAll(edits, want, true)
}

// inlineParts are the dotted keys of one inline table that together make path.
func (d *Doc) inlineParts(path []string) [][]string {
	var parts [][]string
	covered := 0
	for _, kv := range d.keys {
		if kv.start >= covered && begins(kv.path, path) {
			covered = kv.end
			if kv.inline {
				parts = append(parts, kv.path)
			}
		}
	}
	return parts
}

func (d *Doc) deleteEdits(path []string) []edit {
	var edits []edit
	gone := map[int]bool{}
	for i, s := range d.sections {
		if i > 0 && begins(s.path, path) {
			gone[i] = true
			edits = append(edits, edit{s.start, s.end, ""})
		}
	}
	covered := 0 // end of the last key that is removed: what is inside it goes with it
	for i, kv := range d.keys {
		if gone[kv.section] || kv.start < covered || !begins(kv.path, path) {
			continue
		}
		covered = kv.end
		if kv.inline {
			edits = append(edits, d.inlineDelete(i))
			continue
		}
		edits = append(edits, edit{d.lineStart(kv.start), d.lineEnd(kv.end), ""})
	}
	return edits
}

// inlineDelete removes a key of an inline table and one comma.
func (d *Doc) inlineDelete(i int) edit {
	kv := d.keys[i]
	for _, next := range d.keys[i+1:] {
		if next.start > kv.end && d.siblings(kv, next) && d.onlyComma(kv.end, next.start) {
			return edit{kv.start, next.start, ""}
		}
	}
	for j := i - 1; j >= 0; j-- {
		prev := d.keys[j]
		if prev.end < kv.start && d.onlyComma(prev.end, kv.start) {
			return edit{prev.end, kv.end, ""}
		}
	}
	return edit{kv.start, d.skipComma(kv.end), ""}
}

func (d *Doc) siblings(a, b keyval) bool { return b.inline && a.section == b.section }

// onlyComma says whether nothing but one comma and white space stands between two offsets.
func (d *Doc) onlyComma(from, to int) bool {
	off := d.skip(from, " \t\r\n")
	return off < to && d.data[off] == ',' && d.skip(off+1, " \t\r\n") == to
}

// skipComma is the offset after a comma at off, or off.
func (d *Doc) skipComma(off int) int {
	if end := d.skip(off, " \t\r\n"); end < len(d.data) && d.data[end] == ',' {
		return end + 1
	}
	return off
}

// edit replaces the bytes [start, end).
type edit struct {
	start, end int
	text       string
}

func (d *Doc) apply(e edit, want map[string]any) (*Doc, error) {
	return d.applyAll([]edit{e}, want, false)
}

// applyAll makes the edits and compares what the result says with what it should say. With empties, tables
// that an edit left empty may be gone.
func (d *Doc) applyAll(edits []edit, want map[string]any, empties bool) (*Doc, error) {
	slices.SortFunc(edits, func(a, b edit) int { return b.start - a.start })
	data := d.Bytes()
	for _, e := range edits {
		data = slices.Concat(data[:e.start], []byte(e.text), data[e.end:])
	}
	got, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("the document's layout does not allow this edit; make it by hand: %w", err)
	}
	if !same(want, got.tree, empties) {
		return nil, errors.New("the document's layout does not allow this edit without changing more; make it by hand")
	}
	return got, nil
}

// keyval is the last key = value that defines exactly path.
func (d *Doc) keyval(path []string) (keyval, bool) {
	for _, kv := range d.keys {
		if slices.Equal(kv.path, path) {
			return kv, true
		}
	}
	return keyval{}, false
}

func begins(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}
