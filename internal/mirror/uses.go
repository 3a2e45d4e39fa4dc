package mirror

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxUses bounds what is remembered; the longest unused go first.
const maxUses = 16 << 10

// Use says when a reference was last asked for.
type Use struct {
	Reference string    `json:"reference"`
	Last      time.Time `json:"last"`
}

// uses remembers when each reference was last asked for. A hit costs a look into the map and one atomic store.
type uses struct {
	mu  sync.RWMutex
	m   map[Reference]*lastUse
	now func() time.Time
}

type lastUse struct {
	at    atomic.Int64 // seconds since 1970
	saved int64        // what the file says; 0: nothing
}

func newUses() *uses { return &uses{m: map[Reference]*lastUse{}, now: time.Now} }

// touch notes that a reference was asked for now.
func (u *uses) touch(ref Reference) {
	now := u.now().Unix()
	u.mu.RLock()
	e := u.m[ref]
	u.mu.RUnlock()
	if e == nil {
		e = u.add(ref)
	}
	if e.at.Load() != now { // a store each time would move the cache line between cores
		e.at.Store(now)
	}
}

// add makes room for a reference.
func (u *uses) add(ref Reference) *lastUse {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e, ok := u.m[ref]; ok {
		return e
	}
	if len(u.m) >= maxUses {
		u.forget(maxUses / 16)
	}
	e := &lastUse{}
	u.m[ref] = e
	return e
}

// forget drops the n longest unused; mu is held.
func (u *uses) forget(n int) {
	all := slices.SortedFunc(maps.Keys(u.m), func(a, b Reference) int { return cmp.Compare(u.m[a].at.Load(), u.m[b].at.Load()) })
	for _, r := range all[:n] {
		delete(u.m, r)
	}
}

// list gives all uses, the last one first.
func (u *uses) list() []Use {
	u.mu.RLock()
	defer u.mu.RUnlock()
	out := make([]Use, 0, len(u.m))
	for r, e := range u.m {
		out = append(out, Use{r.String(), time.Unix(e.at.Load(), 0).UTC()})
	}
	slices.SortFunc(out, func(a, b Use) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Reference, b.Reference))
	})
	return out
}

// load takes in what a file says. What is no line of it is skipped: the file may be a torn copy.
func (u *uses) load(b []byte) {
	for _, l := range decodeUses(b) {
		ref, err := ParseReference(l.Reference)
		if err != nil {
			continue
		}
		e := u.add(ref)
		if at := l.Last.Unix(); at > e.at.Load() {
			e.at.Store(at)
			e.saved = at
		}
	}
}

func decodeUses(b []byte) []Use {
	var out []Use
	for line := range bytes.Lines(b) {
		var l Use
		if json.Unmarshal(line, &l) == nil {
			out = append(out, l)
		}
	}
	return out
}

// pending says whether the file should be written again.
func (u *uses) pending(all bool) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, e := range u.m {
		if outdated(e.at.Load(), e.saved, all) {
			return true
		}
	}
	return false
}

// dump is what the file should say.
func (u *uses) dump() ([]byte, error) {
	u.mu.Lock()
	for _, e := range u.m {
		e.saved = e.at.Load()
	}
	u.mu.Unlock()
	return jsonLines(u.list())
}

// proving says whether a request is edgeprep's own look at the mirror: no node needs the image because of it.
func proving(agent string) bool {
	return strings.HasPrefix(agent, "edgeprep") && agent != mirrorAgent
}

// LastUses are the last uses as the cache's file says them; a mirror that runs may know later ones (Admin.Uses).
func (s *Store) LastUses() []Use {
	b, err := s.readKept(fileUses)
	if err != nil {
		return nil
	}
	u := newUses()
	u.load(b)
	return u.list()
}

// SavedMisses are the misses as the cache's file says them, the last one first.
func (s *Store) SavedMisses() []Miss {
	b, err := s.readKept(fileMisses)
	if err != nil {
		return nil
	}
	m := NewMisses()
	m.load(b)
	return m.List("")
}

// WithUses puts last uses on entries.
func WithUses(list []Entry, used []Use) {
	last := map[string]time.Time{}
	for _, u := range used {
		last[u.Reference] = u.Last
	}
	for i := range list {
		e := &list[i]
		e.LastUse = last[e.Reference]
		ref, err := ParseReference(e.Reference)
		if at := last[ref.Name.String()+"@"+e.Digest]; err == nil && at.After(e.LastUse) {
			e.LastUse = at
		}
	}
}
