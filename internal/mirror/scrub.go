package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A flip that changes neither size nor times of a file is not seen when the blob is served. The scrub reads
// every blob again within a period, slowly, and sets aside what is not what its name says.

// Bounds of how fast it reads.
const (
	scrubSlow = 4 << 20  // bytes per second, so that a small cache is through within the hour
	scrubFast = 20 << 20 // what it does not exceed unless the period demands it
	scrubStep = 1 << 20  // read at once
)

// Times of the scrub.
const (
	scrubDelay = time.Minute            // after the start: a node that boots has better things to do
	scrubPause = 200 * time.Millisecond // between looks whether requests are running
	scrubSave  = 5 * time.Minute        // between writes of the position
)

// ScrubState is how far the scrub is.
type ScrubState struct {
	Period    string    `json:"period"`
	Started   time.Time `json:"started,omitzero"`   // the pass that runs, or the last one
	Completed time.Time `json:"completed,omitzero"` // the last whole pass
	Position  string    `json:"position,omitempty"` // blob that was read last; empty: no pass runs
	Done      int64     `json:"done"`               // bytes of this pass
	Total     int64     `json:"total"`
	Blobs     int       `json:"blobs"` // read in this pass
	Bad       int       `json:"bad"`   // found in this pass
	BadEver   int       `json:"badEver"`
	LastBad   string    `json:"lastBad,omitempty"`
}

// scrubber is the scrub of one server.
type scrubber struct {
	s      *Store
	period time.Duration
	busy   func() bool                                  // requests are running
	heal   func(ctx context.Context, bad digest.Digest) // brings a blob in again
	state  guarded[ScrubState]
	now    func() time.Time
	sleep  func(ctx context.Context, d time.Duration) error
	begun  time.Time // of the pass, by the monotonic clock: the wall clock may jump
	saved  time.Time
}

func newScrubber(s *Store, period time.Duration) *scrubber {
	b := &scrubber{s: s, period: period, busy: func() bool { return false }, heal: func(context.Context, digest.Digest) {}, now: time.Now, sleep: sleep}
	b.state.set(func(st *ScrubState) { st.Period = period.String() })
	return b
}

// run scrubs until ctx ends, one pass per period. It has its own thread, of the lowest class where the system
// lets it.
func (b *scrubber) run(ctx context.Context) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its class with it
	lowerPriority()
	if b.sleep(ctx, min(scrubDelay, b.period)) != nil {
		return
	}
	b.load()
	for ctx.Err() == nil {
		if wait := b.due(); wait > 0 {
			if b.sleep(ctx, min(wait, time.Hour)) != nil { // an hour: the wall clock may be set meanwhile
				break
			}
			continue
		}
		if !b.pass(ctx) && b.sleep(ctx, scrubDelay) != nil { // there is nothing yet
			break
		}
	}
	b.save()
}

// due is how long it is until the next pass. Time that went backwards makes one due.
func (b *scrubber) due() time.Duration {
	st := b.state.get()
	if st.Position != "" || st.Started.IsZero() {
		return 0
	}
	ago := b.now().Sub(st.Started)
	if ago < 0 {
		return 0
	}
	return b.period - ago
}

// pass reads every blob, from where the last one was interrupted. false: there is none.
func (b *scrubber) pass(ctx context.Context) bool {
	total, shards := b.measure()
	if total == 0 {
		return false
	}
	b.begun = b.now()
	b.state.set(func(st *ScrubState) {
		st.Total = total
		if st.Position == "" {
			st.Started, st.Done, st.Blobs, st.Bad = b.begun.UTC().Round(0), 0, 0, 0
		}
	})
	from := b.state.get().Position
	for _, shard := range shards {
		if shard < path.Dir(from) {
			continue
		}
		for _, d := range b.blobsOf(shard) {
			if blobPath(d) <= from {
				continue
			}
			if b.one(ctx, d); ctx.Err() != nil {
				return true
			}
		}
	}
	b.state.set(func(st *ScrubState) { st.Completed, st.Position = b.now().UTC().Round(0), "" })
	b.save()
	return true
}

// measure sums the sizes of the blobs and lists the directories that hold them, in the order of a pass.
func (b *scrubber) measure() (total int64, shards []string) {
	algorithms, err := os.ReadDir(b.s.path(dirBlobs))
	if err != nil {
		return 0, nil
	}
	for _, a := range algorithms {
		dirs, err := os.ReadDir(b.s.path(path.Join(dirBlobs, a.Name())))
		if err != nil {
			continue
		}
		for _, d := range dirs {
			shards = append(shards, path.Join(dirBlobs, a.Name(), d.Name()))
		}
	}
	for _, shard := range shards {
		for _, d := range b.blobsOf(shard) {
			if key, err := b.s.stat(blobPath(d)); err == nil {
				total += key.size
			}
		}
	}
	return total, shards
}

// blobsOf lists the blobs of a directory, sorted.
func (b *scrubber) blobsOf(shard string) []digest.Digest {
	entries, err := os.ReadDir(b.s.path(shard))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.s.report(shard, Unreadable, err)
	}
	var out []digest.Digest
	for _, e := range entries {
		if d, ok := parseBlobPath(shard + "/" + e.Name()); ok {
			out = append(out, d)
		}
	}
	return out
}

// one reads one blob and notes the outcome.
func (b *scrubber) one(ctx context.Context, d digest.Digest) {
	size, err := b.hash(ctx, d)
	if ctx.Err() != nil {
		return
	}
	bad := errors.Is(err, errCorrupt)
	b.state.set(func(st *ScrubState) {
		st.Position = blobPath(d)
		st.Done += size
		st.Blobs++
		if bad {
			st.Bad++
			st.BadEver++
			st.LastBad = d.String()
		}
	})
	if bad {
		b.s.log.Error("a blob changed on the disk", "digest", d.String())
		b.heal(ctx, d)
	}
	if b.now().Sub(b.saved) >= scrubSave || bad {
		b.save()
	}
}

// hash reads a blob at its rate. What was found is remembered as if a client had asked for it.
func (b *scrubber) hash(ctx context.Context, d digest.Digest) (int64, error) {
	f, key, err := b.s.openFile(blobPath(d))
	if err != nil {
		return 0, b.s.absent(blobPath(d), Unreadable, err)
	}
	defer f.Close()
	if m, known := b.s.marks.get(d, key); known && !m.good {
		return key.size, b.s.judgeAgain(d, key)
	}
	h := d.Algorithm().Hash()
	head, err := b.read(ctx, f, key.size, h)
	if err != nil {
		return 0, b.s.absent(blobPath(d), Unreadable, err)
	}
	bl := &blob{file: f, digest: d, key: key}
	bl.manifest = key.size <= maxManifest && int64(len(head)) == key.size && sniffManifest(head) != ""
	return key.size, b.s.judge(bl, digest.NewDigest(d.Algorithm(), h))
}

// judgeAgain sets aside what is known to be bad and was too new for that before.
func (s *Store) judgeAgain(d digest.Digest, key fileKey) error {
	s.setAside(d, key)
	return fmt.Errorf("%s: %w", d, errCorrupt)
}

// read hashes a file. Its content comes along as far as it may be a manifest.
func (b *scrubber) read(ctx context.Context, f *os.File, size int64, h io.Writer) (head []byte, err error) {
	buf := make([]byte, scrubStep)
	for off := int64(0); ; {
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
		start := b.now()
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n]) //nolint:errcheck // a hash does not fail
		if size <= maxManifest {
			head = append(head, buf[:n]...)
		}
		off += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := b.sleep(ctx, b.gap(n, off, b.now().Sub(start))); err != nil {
			return nil, err
		}
		if err != nil {
			return head, nil //nolint:nilerr // the end of the file
		}
	}
}

// wait waits while requests run, unless the pass would not end within its period.
func (b *scrubber) wait(ctx context.Context) error {
	for b.busy() && !b.late() {
		if err := b.sleep(ctx, scrubPause); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// late says whether less is done than should be: in the first half of the period there is time for others.
func (b *scrubber) late() bool {
	st := b.state.get()
	used := float64(b.now().Sub(b.begun)) / float64(b.period)
	return float64(st.Done)/float64(st.Total) < 2*used-1
}

// gap is the pause after n bytes that took a while, at the rate that ends the pass in time.
func (b *scrubber) gap(n int, off int64, took time.Duration) time.Duration {
	st := b.state.get()
	left := b.period - b.now().Sub(b.begun)
	return max(0, time.Duration(float64(n)/scrubRate(st.Total, st.Total-st.Done-off, b.period, left)*float64(time.Second))-took)
}

// scrubRate is how many bytes are read per second, with left of total bytes to be read in what is left of the
// period.
func scrubRate(total, left int64, period, rest time.Duration) float64 {
	whole := 1.25 * float64(total) / period.Seconds() // with some time to spare
	limit := max(scrubFast, whole)
	if rest <= 0 {
		return limit
	}
	return min(limit, max(scrubSlow, 1.25*float64(left)/rest.Seconds()))
}

// load takes up where the last process was.
func (b *scrubber) load() {
	raw, err := b.s.readKept(fileScrub)
	var st ScrubState
	if err != nil || json.Unmarshal(raw, &st) != nil {
		return
	}
	if _, ok := parseBlobPath(st.Position); !ok || st.Done < 0 {
		st.Position = ""
	}
	st.Period = b.period.String()
	b.state.set(func(now *ScrubState) { *now = st })
}

// save writes the position. Where it cannot be written, a restart begins anew.
func (b *scrubber) save() {
	b.saved = b.now()
	st := b.state.get()
	if b.s.readOnly || st.Started.IsZero() {
		return
	}
	raw, err := json.Marshal(st)
	if err != nil {
		return
	}
	if err := b.s.putKept(fileScrub, append(raw, '\n')); err != nil {
		b.s.log.Info("the position of the scrub is not written", "error", err)
	}
}

// lowerPriority makes the thread wait for others at the disk and the processor, where that is allowed.
// ioprio_set(2): class 3 is idle; who 1 is a thread.
func lowerPriority() {
	const whoProcess, idle = 1, 3 << 13
	unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, idle) //nolint:errcheck // a service may not; the rate holds anyway
	unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19) //nolint:errcheck // as above
}

// healer brings a bad blob in again from the upstream of a repository that needs it.
func (s *Server) healer(ctx context.Context, bad digest.Digest) {
	if s.pull == nil {
		return
	}
	refs, _, err := s.store.scanRefs(ctx)
	if err != nil {
		return
	}
	for _, f := range refs {
		t, err := s.store.grow(ctx, f.rec.descriptor())
		if err != nil {
			continue
		}
		needs := false
		eachBlob(t, f.rec, func(d string) { needs = needs || d == bad.String() })
		if needs && s.bringAgain(ctx, f.ref.Name, bad) {
			return
		}
	}
}

func (s *Server) bringAgain(ctx context.Context, n Name, d digest.Digest) bool {
	f, err := s.pull.blob(ctx, n, d)
	if err != nil {
		s.log.Warn("the bad blob is not brought in again; its next pull tries", "name", n.String(), "digest", d.String(), "error", err)
		return errors.Is(err, errUnavailable)
	}
	if f != nil {
		defer f.leave()
		if err := f.wait(ctx); err != nil {
			return false
		}
	}
	s.log.Info("the bad blob was brought in again", "name", n.String(), "digest", d.String())
	return true
}
