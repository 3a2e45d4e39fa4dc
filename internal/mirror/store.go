package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/edgeprep/edgeprep/internal/diag"
)

// Options say how a cache is opened.
type Options struct {
	// ReadOnly keeps the store from moving bad blobs to quarantine and from loading.
	ReadOnly bool
	// Create makes the directory when it is missing.
	Create bool
	// Lazy lets the directory be missing: a server must start before its disk is mounted.
	Lazy bool
	// Logger is told what is wrong with files; nil: nobody.
	Logger *slog.Logger
}

// Store is a cache on disk. It is safe for concurrent use, also by several processes.
type Store struct {
	dir      string
	readOnly bool
	log      *slog.Logger

	marks   marks
	bodies  *lru[string, body]        // manifests by digest
	records *lru[string, knownRecord] // reference files by path
	reports *lru[string, Foreign]     // files that could not be used, by path
	hits    hits

	settle time.Duration     // see settleTime; tests have it shorter
	hook   func(step string) // told before each step of a write; tests kill the process there

	serving  atomic.Int32 // requests for blobs that run
	flights  flights
	counters *counters
	ctx      context.Context // ends the hashing in the background
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// Bounds of what a store keeps in memory.
const (
	maxBodies  = 16 << 20 // bytes
	maxRecords = 16 << 10
	maxReports = 256
)

// Open opens the cache in dir. Nothing is scanned: the time does not depend on what is cached.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	if opts.Create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, writeError(dir, "the directory", err)
		}
	}
	if err := checkRoot(dir, opts.Lazy); err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, readOnly: opts.ReadOnly, log: opts.Logger,
		bodies: newLRU[string, body](maxBodies), records: newLRU[string, knownRecord](maxRecords),
		reports: newLRU[string, Foreign](maxReports), hits: newHits(lookAgain), settle: settleTime, hook: func(string) {},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.counters = &counters{}
	s.flights.slots = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// CheckCache says what keeps a directory from being a cache.
func CheckCache(dir string) error { return checkRoot(dir, false) }

func checkRoot(dir string, lazy bool) error {
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && lazy:
		return nil
	case err != nil:
		return fail("MER-001", dir, "the cache cannot be opened", "", openFix(dir, err), err)
	case !fi.IsDir():
		return fail("MER-001", dir, "the cache is not a directory", "", "give the directory to --cache", nil)
	}
	return nil
}

// openFix is what helps when dir cannot be opened: to make it only where it is known to be missing.
func openFix(dir string, err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run the same command as root or as the cache's owner"
	}
	return "name the cache with --cache, or make it: mkdir -p " + diag.Word(dir)
}

// Dir is the directory of the cache.
func (s *Store) Dir() string { return s.dir }

// Close ends what runs in the background.
func (s *Store) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

func (s *Store) path(rel string) string { return filepath.Join(s.dir, filepath.FromSlash(rel)) }

// report logs a file that cannot be used, once, and keeps it for Health.
func (s *Store) report(rel string, kind ForeignKind, err error) {
	f := Foreign{Path: rel, Kind: kind, Detail: err.Error()}
	if old, ok := s.reports.get(rel); ok && old == f {
		return
	}
	s.reports.put(rel, f, 1)
	s.log.Warn("file in the cache not used", "path", rel, "kind", string(kind), "error", err)
}

// fileKey tells whether a file changed.
type fileKey struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // ns
}

func keyOf(fi fs.FileInfo) fileKey {
	k := fileKey{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		k.dev, k.ino, k.ctime = uint64(st.Dev), st.Ino, st.Ctim.Nano() //nolint:unconvert // Dev is 32 bits on mips
	}
	return k
}

// settled says whether the last change is longer ago than d. A change in the same tick of the kernel's clock
// would not be seen in the key. A change in the future, by a clock that was set back, counts as long ago.
func (k fileKey) settled(d time.Duration) bool {
	age := time.Since(time.Unix(0, k.ctime))
	return age < 0 || age >= d
}

// tick is longer than the kernel's clock tick, of which file times are made.
const tick = 20 * time.Millisecond

// openFile opens a regular file of the cache; it neither follows a link nor hangs on a FIFO.
func (s *Store) openFile(rel string) (*os.File, fileKey, error) {
	f, err := os.OpenFile(s.path(rel), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileKey{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", rel, fs.ErrInvalid)
	}
	if err != nil {
		f.Close()
		return nil, fileKey{}, err
	}
	return f, keyOf(fi), nil
}

// stat describes a file of the cache without following a link.
func (s *Store) stat(rel string) (fileKey, error) {
	fi, err := os.Lstat(s.path(rel))
	if err != nil {
		return fileKey{}, err
	}
	if !fi.Mode().IsRegular() {
		return fileKey{}, fmt.Errorf("%s is not a regular file: %w", rel, fs.ErrInvalid)
	}
	return keyOf(fi), nil
}

// isDir says whether a path of the cache is a directory.
func (s *Store) isDir(rel string) bool {
	fi, err := os.Lstat(s.path(rel))
	return err == nil && fi.IsDir()
}

// unchanged says whether an open file still has the key it was opened with.
func unchanged(f *os.File, key fileKey) bool {
	fi, err := f.Stat()
	return err == nil && keyOf(fi) == key
}

// absent is ErrNotFound for what is missing or unusable; what is more than missing is reported.
func (s *Store) absent(rel string, kind ForeignKind, err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		s.report(rel, kind, err)
	}
	return fmt.Errorf("%s: %w", rel, ErrNotFound)
}

// knownRecord is a reference file that was read.
type knownRecord struct {
	key fileKey
	rec record
}

// lookup reads the file of a reference.
func (s *Store) lookup(ref Reference) (record, error) {
	rel := recordPath(ref)
	key, err := s.stat(rel)
	if err != nil {
		return record{}, s.absent(rel, Unreadable, err)
	}
	if k, ok := s.records.get(rel); ok && k.key == key {
		return k.rec, nil
	}
	rec, key, err := s.readRecord(rel, ref)
	if err != nil {
		return record{}, s.absent(rel, kindOf(err), err)
	}
	if key.settled(tick) {
		s.records.put(rel, knownRecord{key, rec}, 1)
	}
	return rec, nil
}

func (s *Store) readRecord(rel string, ref Reference) (record, fileKey, error) {
	f, key, err := s.openFile(rel)
	if err != nil {
		return record{}, key, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return record{}, key, err
	}
	if len(b) > maxRecord {
		return record{}, key, &badFileError{fmt.Errorf("longer than %d bytes", maxRecord)}
	}
	ref = fileReference(ref)
	rec, err := decodeRecord(b, ref)
	if err != nil {
		return record{}, key, &badFileError{err}
	}
	return rec, key, nil
}

// fileReference is the reference that a file is about: with a digest, the tag does not matter.
func fileReference(r Reference) Reference {
	if r.Digest != "" {
		r.Tag = ""
	}
	return r
}

// badFileError says that a file could be read and is not what it should be.
type badFileError struct{ err error }

func (e *badFileError) Error() string { return e.err.Error() }
func (e *badFileError) Unwrap() error { return e.err }

func kindOf(err error) ForeignKind {
	if _, ok := errors.AsType[*badFileError](err); ok {
		return Garbage
	}
	return Unreadable
}
