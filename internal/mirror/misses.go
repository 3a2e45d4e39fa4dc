package mirror

import (
	"net/http"
	"sync"
	"time"
)

// maxMisses bounds what is remembered; the least recently asked for goes first.
const maxMisses = 4096

// Miss is something that was asked for and is not in the cache.
type Miss struct {
	NS         string    `json:"ns"` // the ns parameter as it was sent; empty: the registry was in the path
	Registry   string    `json:"registry"`
	Repository string    `json:"repository"`
	Reference  string    `json:"reference,omitempty"` // tag or digest
	Kind       string    `json:"kind"`                // "manifest", "blob", "tags", "referrers"
	Agent      string    `json:"agent,omitempty"`     // User-Agent
	Client     string    `json:"client,omitempty"`    // address of the last one who asked
	Count      int       `json:"count"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
}

// Misses remembers misses in memory, one per reference and user agent.
type Misses struct {
	mu  sync.Mutex
	now func() time.Time
	lru *lru[missKey, *Miss]
}

type missKey struct{ ns, registry, repository, reference, kind, agent string }

// NewMisses makes an empty memory.
func NewMisses() *Misses {
	return &Misses{now: time.Now, lru: newLRU[missKey, *Miss](maxMisses)}
}

// add records a miss. What clients send is clipped, so that memory stays bounded.
func (m *Misses) add(t target, r *http.Request) {
	k := missKey{clip(t.ns), clip(t.name.Registry), clip(t.name.Repository), clip(t.ref), string(t.op), clip(r.UserAgent())}
	now := m.now().UTC()
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.lru.get(k); ok {
		old.Count++
		old.Last, old.Client = now, r.RemoteAddr
		return
	}
	m.lru.put(k, &Miss{
		NS: k.ns, Registry: k.registry, Repository: k.repository, Reference: k.reference, Kind: k.kind,
		Agent: k.agent, Client: r.RemoteAddr, Count: 1, First: now, Last: now,
	}, 1)
}

// List gives the misses of a repository, or all for "", the last one first.
func (m *Misses) List(repository string) []Miss {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []Miss{}
	for _, e := range m.lru.values() {
		if repository == "" || e.Repository == repository {
			out = append(out, *e)
		}
	}
	return out
}
