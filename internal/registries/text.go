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

// nearest is the known key that k was probably meant to be, or "".
func nearest(k string, known []string) string {
	best, least := "", len(k)/2+1
	for _, c := range known {
		if n := distance(k, c); n < least {
			best, least = c, n
		}
	}
	return best
}

// distance is the number of letters to insert, remove or change to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// splitList is a path list without its empty elements.
func splitList(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ":"), func(p string) bool { return p == "" })
}
