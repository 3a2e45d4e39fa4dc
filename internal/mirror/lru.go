package mirror

import (
	"container/list"
	"sync"
)

// lru is a map bounded by the sum of its values' weights; the longest unused goes first.
type lru[K comparable, V any] struct {
	mu     sync.Mutex
	max    int
	weight int
	order  *list.List // of lruEntry, last used in front
	items  map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key    K
	value  V
	weight int
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{max: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[k]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return entryOf[K, V](e).value, true
}

// put adds or replaces a value; one that is heavier than the whole map is not kept.
func (c *lru[K, V]) put(k K, v V, weight int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(k)
	if weight > c.max {
		return
	}
	c.items[k] = c.order.PushFront(&lruEntry[K, V]{k, v, weight})
	c.weight += weight
	for c.weight > c.max {
		c.drop(entryOf[K, V](c.order.Back()).key)
	}
}

// drop removes a key; mu is held.
func (c *lru[K, V]) drop(k K) {
	e, ok := c.items[k]
	if !ok {
		return
	}
	c.weight -= entryOf[K, V](e).weight
	c.order.Remove(e)
	delete(c.items, k)
}

// values are all values, last used first.
func (c *lru[K, V]) values() []V {
	c.mu.Lock()
	defer c.mu.Unlock()
	vs := make([]V, 0, len(c.items))
	for e := c.order.Front(); e != nil; e = e.Next() {
		vs = append(vs, entryOf[K, V](e).value)
	}
	return vs
}

func entryOf[K comparable, V any](e *list.Element) *lruEntry[K, V] {
	return e.Value.(*lruEntry[K, V]) //nolint:forcetypeassert // the list holds nothing else
}
