package registries

import (
	"maps"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// stringList is v as a list of strings; nil is an empty one.
func stringList(v any) ([]string, bool) {
	if v == nil {
		return nil, true
	}
	list, ok := v.([]any)
	out := make([]string, 0, len(list))
	for _, x := range list {
		s, isString := x.(string)
		ok = ok && isString
		out = append(out, s)
	}
	return out, ok
}

// splitList is a path list without its empty elements.
func splitList(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ":"), func(p string) bool { return p == "" })
}
