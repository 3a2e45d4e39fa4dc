package mirror

import (
	"maps"
	"strings"
	"sync/atomic"
	"time"
)

// outcome is how a request for a part of an image ended.
type outcome uint8

const (
	outcomeNone    outcome = iota // no part of an image was asked for
	outcomeHit                    // from the cache
	outcomeFill                   // brought in from an upstream for this request or another that runs
	outcomeStale                  // from the cache, because the upstream gave no answer that says otherwise
	outcomeMiss                   // 404
	outcomeRefused                // no certificate or token
	outcomes
)

func (o outcome) String() string {
	return [outcomes]string{"none", "hit", "fill", "stale", "miss", "refused"}[o]
}

// result is how one request to an upstream ended.
type result uint8

const (
	resultOK          result = iota
	resultNotFound           // it does not have it
	resultRefused            // it does not give it
	resultThrottled          // 429
	resultError              // any other answer
	resultBroken             // a connection that ended before an answer
	resultUnreachable        // nobody is there
	results
)

func (r result) String() string {
	return [results]string{"ok", "not_found", "refused", "throttled", "error", "broken", "unreachable"}[r]
}

// tally counts what was done for one registry.
type tally struct {
	requests [outcomes]atomic.Uint64
	sent     [outcomes]atomic.Uint64 // bytes of bodies to clients
	asked    [results]atomic.Uint64  // requests to the upstream
	received atomic.Uint64           // bytes of blobs and manifests from the upstream
}

// Bounds of labels: whoever can reach the mirror can name any registry.
const (
	maxTallies  = 64
	otherTally  = "other" // no registry can be called so: its name has no dot and no port
	unknownKind = "none"
)

// counters are what a mirror counts. The path of a hit costs only atomics.
type counters struct {
	tallies atomic.Pointer[map[string]*tally] // by registry; replaced when there is a new one, which is seldom
	other   tally
	took    [kinds][outcomes]histogram

	verifiedBytes atomic.Uint64
	verifiedGood  atomic.Uint64
	verifiedBad   atomic.Uint64
	connections   atomic.Int64
	turnedAway    atomic.Uint64 // connections over the limit
}

// kinds are the operations that times are kept of.
const kinds = 5

func kindIndex(o op) int {
	switch o {
	case opManifest:
		return 1
	case opBlob:
		return 2
	case opTags:
		return 3
	case opReferrers:
		return 4
	}
	return 0
}

func kindName(k int) string {
	return [kinds]string{unknownKind, string(opManifest), string(opBlob), string(opTags), string(opReferrers)}[k]
}

// of is the tally of a registry, or of all others.
func (c *counters) of(registry string) *tally {
	if t := c.named()[registry]; t != nil {
		return t
	}
	return &c.other
}

// named are the tallies of registries that have one of their own. Nobody changes the map.
func (c *counters) named() map[string]*tally {
	if m := c.tallies.Load(); m != nil {
		return *m
	}
	return nil
}

// name gives a registry a tally of its own while there is room.
func (c *counters) name(registry string) *tally {
	for {
		old := c.tallies.Load()
		known := c.named()
		if t := known[registry]; t != nil {
			return t
		}
		if registry == "" || len(known) >= maxTallies {
			return &c.other
		}
		next := maps.Clone(known)
		if next == nil {
			next = map[string]*tally{}
		}
		t := &tally{}
		next[strings.Clone(registry)] = t
		if c.tallies.CompareAndSwap(old, &next) {
			return t
		}
	}
}

// answered counts an answer. Only a registry of which something was served gets a name of its own: a client
// that makes names up fills no table.
func (c *counters) answered(t target, o outcome, sent int64, took time.Duration) {
	c.took[kindIndex(t.op)][o].add(took)
	if t.op == "" || t.op == opPing {
		return
	}
	of := c.of
	if o == outcomeHit || o == outcomeFill || o == outcomeStale {
		of = c.name
	}
	n := of(t.name.Registry)
	n.requests[o].Add(1)
	n.sent[o].Add(uint64(max(sent, 0)))
}

// verified counts a blob that was hashed.
func (c *counters) verified(size int64, good bool) {
	c.verifiedBytes.Add(uint64(max(size, 0)))
	if good {
		c.verifiedGood.Add(1)
	} else {
		c.verifiedBad.Add(1)
	}
}

// bucketBounds are upper bounds of a histogram: from a manifest out of memory to a layer over a slow link.
func bucketBounds() [buckets - 1]time.Duration {
	return [buckets - 1]time.Duration{
		500 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond,
		500 * time.Millisecond, 2 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute,
	}
}

const buckets = 11

// histogram counts durations.
type histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

func (h *histogram) add(d time.Duration) {
	i := 0
	for _, bound := range bucketBounds() {
		if d <= bound {
			break
		}
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// read gives the count, the sum in seconds, and the cumulated counts by upper bound in seconds.
func (h *histogram) read() (n uint64, sum float64, at map[float64]uint64) {
	at = map[float64]uint64{}
	for i, bound := range bucketBounds() {
		n += h.counts[i].Load()
		at[bound.Seconds()] = n
	}
	n += h.counts[buckets-1].Load()
	return n, time.Duration(h.sum.Load()).Seconds(), at
}
