package plan

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/resource"
)

// ErrGraph is wrapped when the resources cannot be ordered: a mistake in edgeprep, not on the node.
var ErrGraph = errors.New("the resources cannot be ordered")

// item is a resource or the removal of one, with what must come before it.
type item struct {
	id   string
	res  *resource.Resource // nil: a removal of what the ledger holds under id
	deps []string
}

// unique merges resources that two packages ask for in the same way (a common directory). Different wishes
// under one id are a mistake.
func unique(rs []resource.Resource) ([]item, error) {
	var out []item
	at := map[string]int{}
	for _, r := range rs {
		deps := slices.Clone(r.After)
		if r.Unit != nil {
			deps = append(deps, r.Unit.RestartOn...)
		}
		i, twice := at[r.ID]
		if !twice {
			at[r.ID] = len(out)
			out = append(out, item{id: r.ID, res: &r, deps: deps})
			continue
		}
		have := *out[i].res
		have.After, have.Why, r.After, r.Why = nil, "", nil, ""
		if !reflect.DeepEqual(have, r) {
			return nil, fmt.Errorf("%w: %s is wanted in two ways", ErrGraph, r.ID)
		}
		out[i].deps = append(out[i].deps, deps...)
	}
	return out, nil
}

// order sorts items so that each comes after its dependencies, otherwise as they were given.
func order(items []item) ([]item, error) {
	at := map[string]int{}
	for i, it := range items {
		at[it.id] = i
	}
	waits := make([]int, len(items))
	frees := make([][]int, len(items))
	for i, it := range items {
		for _, d := range it.deps {
			j, ok := at[d]
			if !ok {
				return nil, fmt.Errorf("%w: %s comes after %s, which does not exist", ErrGraph, it.id, d)
			}
			waits[i]++
			frees[j] = append(frees[j], i)
		}
	}
	out := make([]item, 0, len(items))
	done := make([]bool, len(items))
	for len(out) < len(items) {
		i := firstReady(waits, done)
		if i < 0 {
			return nil, fmt.Errorf("%w: a cycle through %s", ErrGraph, strings.Join(left(items, done), ", "))
		}
		done[i] = true
		out = append(out, items[i])
		for _, j := range frees[i] {
			waits[j]--
		}
	}
	return out, nil
}

// firstReady is the first item that waits for nothing. Plans have hundreds of items at most.
func firstReady(waits []int, done []bool) int {
	for i := range waits {
		if !done[i] && waits[i] == 0 {
			return i
		}
	}
	return -1
}

func left(items []item, done []bool) []string {
	var out []string
	for i, it := range items {
		if !done[i] {
			out = append(out, it.id)
		}
	}
	return out
}
