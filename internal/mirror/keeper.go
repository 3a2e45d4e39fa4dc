package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// kept is something that lives in memory and is written to a file of the cache in batches, so that a read
// never waits for the disk. Losing the file does no harm.
type kept interface {
	// load takes in the file's content.
	load([]byte)
	// pending says whether the file is worth writing; with all, whether it lacks anything.
	pending(all bool) bool
	// dump is the file's content.
	dump() ([]byte, error)
}

// saveEvery is how often files are written at most.
const saveEvery = time.Minute

// saveAgain is how far what the file says of something it knows may be behind: flash wears out.
const saveAgain = time.Hour

// outdated says whether a file that says saved should be written because of at; both are seconds since 1970.
// All that is in a file is outdated at the same full hour, so that it is written once an hour and not once for
// each.
func outdated(at, saved int64, all bool) bool {
	if all || saved == 0 {
		return at != saved
	}
	const hour = int64(saveAgain / time.Second)
	return at/hour != saved/hour
}

// maxKept bounds what is read of such a file.
const maxKept = 16 << 20

// keeper writes one of them.
type keeper struct {
	store  *Store
	file   string // relative to the cache
	what   kept
	every  time.Duration
	loaded bool
	failed bool
}

// run saves until ctx ends. What came in meanwhile is saved by the last call of save.
func (k *keeper) run(ctx context.Context) {
	k.load()
	t := time.NewTicker(k.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			k.save(false)
		}
	}
}

// load reads the file once the cache's directory is there: its disk may come late.
func (k *keeper) load() {
	if k.loaded {
		return
	}
	if _, err := os.Stat(k.store.dir); err != nil {
		return
	}
	k.loaded = true
	if b, err := k.store.readKept(k.file); err == nil {
		k.what.load(b)
	}
}

// readKept reads such a file; nothing else in its place hangs or fills the memory.
func (s *Store) readKept(rel string) ([]byte, error) {
	f, _, err := s.openFile(rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKept))
}

// save writes the file if that is worth it. Where it cannot be written, nothing is lost but what it is for.
func (k *keeper) save(all bool) {
	k.load()
	if !k.loaded || k.store.readOnly || !k.what.pending(all) {
		return
	}
	err := k.write()
	if err != nil && !k.failed {
		k.store.log.Warn("not written; it is tried again", "path", k.file, "error", err)
	}
	k.failed = err != nil
}

func (k *keeper) write() error {
	b, err := k.what.dump()
	if err != nil {
		return err
	}
	return k.store.putKept(k.file, b)
}

// putKept writes such a file.
func (s *Store) putKept(rel string, b []byte) error {
	w, err := s.writer()
	if err != nil {
		return err
	}
	defer w.close()
	return w.put(rel, func(out io.Writer) error {
		_, err := out.Write(b)
		return err
	})
}

// jsonLines is one line of JSON for each.
func jsonLines[T any](list []T) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, v := range list {
		if err := enc.Encode(v); err != nil {
			return nil, fmt.Errorf("encode a line: %w", err)
		}
	}
	return b.Bytes(), nil
}

// guarded is a value that several goroutines look at.
type guarded[T any] struct {
	mu sync.Mutex
	v  T
}

func (g *guarded[T]) get() T {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.v
}

func (g *guarded[T]) set(change func(*T)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.v)
}
