package tomledit

import (
	"errors"
	"fmt"
	"strconv"
)

// AppendTable adds one empty element to the [[tables]] at path, behind the last one.
func (d *Doc) AppendTable(path ...string) (*Doc, error) {
	if len(path) == 0 {
		return nil, errors.New("no table to add to")
	}
	old, ok := get(d.tree, path)
	list, isList := old.([]any)
	if ok && (!isList || len(list) > 0 && d.element(path, len(list)-1) < 0) {
		return nil, fmt.Errorf("%s is not written as [[tables]]: change it by hand", dotted(path))
	}
	want := d.Tree()
	if err := put(want, path, append(clone(list).([]any), map[string]any{})); err != nil {
		return nil, fmt.Errorf("add to %s: %w", dotted(path), err)
	}
	at := d.nearestEnd(path, len(list))
	header := "[[" + d.keyText(withoutNumbers(path, d.tree)) + "]]"
	if at > d.base {
		header = d.eol + header
	}
	return d.apply(d.newLines(at, header), want)
}

// nearestEnd is where the lines of the last element end, those of its own tables included; without one the end of
// the document.
func (d *Doc) nearestEnd(path []string, n int) int {
	at := len(d.data)
	for _, s := range d.sections {
		if n > 0 && begins(s.path, append(append([]string(nil), path...), strconv.Itoa(n-1))) {
			at = s.end
		}
	}
	return at
}

// DeleteElement removes element i of the [[tables]] at path.
func (d *Doc) DeleteElement(i int, path ...string) (*Doc, error) {
	if d.element(path, i) < 0 {
		return nil, fmt.Errorf("%s has no [[table]] %d", dotted(path), i)
	}
	want := d.Tree()
	old, _ := get(want, path)
	list := old.([]any)
	list = append(list[:i:i], list[i+1:]...)
	if len(list) == 0 {
		remove(want, path)
	} else if err := put(want, path, list); err != nil {
		return nil, fmt.Errorf("delete from %s: %w", dotted(path), err)
	}
	return d.applyAll(d.deleteEdits(append(append([]string(nil), path...), strconv.Itoa(i))), want, true)
}

// element is the section of element i of the [[tables]] at path, or -1.
func (d *Doc) element(path []string, i int) int {
	full := append(append([]string(nil), path...), strconv.Itoa(i))
	for n, s := range d.sections {
		if s.array && len(s.path) == len(full) && begins(s.path, full) {
			return n
		}
	}
	return -1
}
