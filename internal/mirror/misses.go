package mirror

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
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

// Image is the reference that was asked for; false: what was asked for is none.
func (m Miss) Image() (Reference, bool) {
	r := Reference{Name: Name{m.Registry, m.Repository}}
	if m.Kind != string(opManifest) || !r.valid() || m.Probe() {
		return r, false
	}
	if d := digest.Digest(m.Reference); d.Validate() == nil {
		r.Digest = d
		return r, true
	}
	r.Tag = m.Reference
	return r, validTag(m.Reference)
}

// Probe says whether it was asked for only to see what this mirror answers.
func (m Miss) Probe() bool { return Name{m.Registry, m.Repository}.probe() }

// Misses remembers misses in memory, one per reference and user agent.
type Misses struct {
	mu  sync.Mutex
	now func() time.Time
	lru *lru[missKey, *knownMiss]
}

type knownMiss struct {
	Miss
	saved int64 // Last as the file says it; 0: it is not in there
}

type missKey struct{ ns, registry, repository, reference, kind, agent string }

// NewMisses makes an empty memory.
func NewMisses() *Misses {
	return &Misses{now: time.Now, lru: newLRU[missKey, *knownMiss](maxMisses)}
}

// add records a miss. What clients send is clipped, so that memory stays bounded.
func (m *Misses) add(t target, r *http.Request) {
	now := m.now().UTC()
	m.put(Miss{
		NS: clip(t.ns), Registry: clip(t.name.Registry), Repository: clip(t.name.Repository), Reference: clip(t.ref),
		Kind: string(t.op), Agent: clip(r.UserAgent()), Client: clientOf(r), Count: 1, First: now, Last: now,
	}, 0)
}

// clientOf is the address without the port, which says nothing.
func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// put adds a miss to what is known of the same one.
func (m *Misses) put(miss Miss, saved int64) {
	k := missKey{miss.NS, miss.Registry, miss.Repository, miss.Reference, miss.Kind, miss.Agent}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.lru.get(k)
	if !ok {
		m.lru.put(k, &knownMiss{miss, saved}, 1)
		return
	}
	old.Count += miss.Count
	if miss.First.Before(old.First) {
		old.First = miss.First
	}
	if miss.Last.After(old.Last) {
		old.Last, old.Client = miss.Last, miss.Client
	}
}

// List gives the misses of a repository, or all for "", the last one first.
func (m *Misses) List(repository string) []Miss {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []Miss{}
	for _, e := range m.lru.values() {
		if repository == "" || e.Repository == repository {
			out = append(out, e.Miss)
		}
	}
	return out
}

func (m *Misses) load(b []byte) {
	for _, miss := range decodeMisses(b) {
		m.put(miss, miss.Last.Unix())
	}
}

// decodeMisses reads a file of misses. What is no line of it is skipped: the file may be a torn copy.
func decodeMisses(b []byte) []Miss {
	var out []Miss
	for line := range bytes.Lines(b) {
		var miss Miss
		if json.Unmarshal(line, &miss) == nil && miss.Count > 0 && len(line) < maxMissLine {
			out = append(out, miss)
		}
	}
	return out
}

// maxMissLine is more than a line can have: its texts are clipped.
const maxMissLine = 8 << 10

func (m *Misses) pending(all bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.lru.values() {
		if !e.Probe() && outdated(e.Last.Unix(), e.saved, all) {
			return true
		}
	}
	return false
}

// dump is the file's content, oldest first, so that the order is the same again when it is loaded.
func (m *Misses) dump() ([]byte, error) {
	m.mu.Lock()
	var out []Miss
	for _, e := range slices.Backward(m.lru.values()) {
		if !e.Probe() {
			e.saved = e.Last.Unix()
			out = append(out, e.Miss)
		}
	}
	m.mu.Unlock()
	return jsonLines(out)
}
