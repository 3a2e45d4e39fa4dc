package tomledit

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
)

func get(v any, path []string) (any, bool) {
	for _, k := range path {
		switch t := v.(type) {
		case map[string]any:
			next, ok := t[k]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(k)
			if err != nil || i < 0 || i >= len(t) {
				return nil, false
			}
			v = t[i]
		default:
			return nil, false
		}
	}
	return v, true
}

func clone(v any) any {
	switch t := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(t))
		for k, x := range t {
			m[k] = clone(x)
		}
		return m
	case []any:
		s := slices.Clone(t)
		for i := range s {
			s[i] = clone(s[i])
		}
		return s
	}
	return v
}

// put sets path in tree, making the tables on the way.
func put(tree any, path []string, value any) error {
	last := path[len(path)-1]
	for _, k := range path[:len(path)-1] {
		if m, ok := tree.(map[string]any); ok {
			if _, ok := m[k]; !ok {
				m[k] = map[string]any{}
			}
		}
		next, ok := get(tree, []string{k})
		if !ok {
			return fmt.Errorf("no element %s", k)
		}
		tree = next
	}
	switch t := tree.(type) {
	case map[string]any:
		t[last] = value
		return nil
	case []any:
		if i, err := strconv.Atoi(last); err == nil && i >= 0 && i < len(t) {
			t[i] = value
			return nil
		}
	}
	return fmt.Errorf("%s is not a table", dotted(path[:len(path)-1]))
}

// remove takes path out of tree.
func remove(tree map[string]any, path []string) {
	m, ok := get(tree, path[:len(path)-1])
	if t, isMap := m.(map[string]any); ok && isMap {
		delete(t, path[len(path)-1])
	}
}

// same compares decoded values; NaN is the same as NaN. With empties, a table that is empty on one side may
// be missing on the other: removing the last of some dotted keys removes what they implied.
func same(a, b any, empties bool) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		return ok && sameKeys(x, y, empties) && sameKeys(y, x, empties)
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, func(p, q any) bool { return same(p, q, empties) })
	case float64:
		y, ok := b.(float64)
		return ok && (x == y || math.IsNaN(x) && math.IsNaN(y))
	case time.Time:
		y, ok := b.(time.Time)
		return ok && x.Equal(y)
	}
	return reflect.DeepEqual(a, b)
}

func sameKeys(x, y map[string]any, empties bool) bool {
	for k, v := range x {
		w, ok := y[k]
		if !ok && empties && void(v) {
			continue
		}
		if !ok || !same(v, w, empties) {
			return false
		}
	}
	return true
}

// void says whether v is a table with nothing but empty tables in it.
func void(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	for _, x := range m {
		if !void(x) {
			return false
		}
	}
	return true
}
