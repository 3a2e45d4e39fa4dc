package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// settleTime is how long a bad blob must have been left alone before it is moved: a copy that is still
// being written looks bad, too.
const settleTime = time.Minute

// mark is what is known of a blob's file.
type mark struct {
	key      fileKey
	good     bool
	manifest bool // the content is a manifest or an index
}

// marks remembers which files were verified, and which were found bad, since the store was opened.
type marks struct {
	mu sync.Mutex
	m  map[digest.Digest]mark
}

// get gives the mark of a file that did not change since.
func (ms *marks) get(d digest.Digest, key fileKey) (mark, bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m, ok := ms.m[d]
	return m, ok && m.key == key
}

func (ms *marks) set(d digest.Digest, m mark) {
	if !m.key.settled(tick) {
		return
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.m == nil {
		ms.m = map[digest.Digest]mark{}
	}
	ms.m[d] = m
}

func (ms *marks) forget(d digest.Digest) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.m, d)
}

// blob is an open blob.
type blob struct {
	file     *os.File // not embedded: its Read and WriteTo must not show through held
	digest   digest.Digest
	key      fileKey
	manifest bool
	flight   *flight // not nil: not verified yet; wait for it before the last bytes are given away
}

// openBlob opens a blob. Small ones are verified before it returns, large ones in the background: the caller
// waits for the flight, or holds back the tail (held).
func (s *Store) openBlob(d digest.Digest) (*blob, error) {
	rel := blobPath(d)
	f, key, err := s.openFile(rel)
	if err != nil {
		s.marks.forget(d)
		return nil, s.absent(rel, Unreadable, err)
	}
	b := &blob{file: f, digest: d, key: key}
	if err := s.admit(b); err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

// admit decides on an open blob by its mark, or has it verified.
func (s *Store) admit(b *blob) error {
	m, known := s.marks.get(b.digest, b.key)
	switch {
	case known && m.good:
		b.manifest = m.manifest
		return nil
	case known:
		s.setAside(b.digest, b.key)
		return fmt.Errorf("%s: %w", b.digest, errCorrupt)
	case b.key.size > maxManifest:
		b.flight = s.flights.start(s, b)
		return nil
	}
	got, err := s.surely(b.digest, b.key, func() (digest.Digest, error) { return s.read(b) })
	if err != nil {
		return s.absent(blobPath(b.digest), Unreadable, err)
	}
	return s.judge(b, got)
}

// surely hashes a file again that is bad and changed only now: marks can tell its states apart a tick later, and a
// bad one that is not remembered would be sent to the next client too.
func (s *Store) surely(d digest.Digest, key fileKey, hash func() (digest.Digest, error)) (digest.Digest, error) {
	got, err := hash()
	for err == nil && got != d && !key.settled(tick) {
		if err := sleep(s.ctx, tick); err != nil {
			return "", err
		}
		got, err = hash()
	}
	return got, err
}

// read hashes a blob and finds out whether it is a manifest. Only what may be one is read into memory as a whole:
// many clients may ask for the same small layer at once.
func (s *Store) read(b *blob) (digest.Digest, error) {
	head := make([]byte, min(b.key.size, 512))
	if _, err := b.file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if text := bytes.TrimLeft(head, " \t\r\n"); len(text) > 0 && text[0] != '{' {
		return hashFile(s.ctx, b.file, b.digest.Algorithm())
	}
	body := make([]byte, b.key.size)
	n, err := b.file.ReadAt(body, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	b.manifest = sniffManifest(body[:n]) != ""
	return b.digest.Algorithm().FromBytes(body[:n]), nil
}

// judge compares what was read with the name and remembers the outcome.
func (s *Store) judge(b *blob, got digest.Digest) error {
	if !unchanged(b.file, b.key) {
		return fmt.Errorf("%s changed while it was read: %w", b.digest, ErrNotFound)
	}
	good := got == b.digest
	s.marks.set(b.digest, mark{key: b.key, good: good, manifest: b.manifest})
	s.counters.verified(b.key.size, good)
	if !good {
		s.report(blobPath(b.digest), Corrupt, errCorrupt)
		s.setAside(b.digest, b.key)
		return fmt.Errorf("%s: %w", b.digest, errCorrupt)
	}
	return nil
}

// setAside moves a bad blob to quarantine, if that is possible and nobody is still writing it.
func (s *Store) setAside(d digest.Digest, key fileKey) {
	if s.readOnly || !key.settled(s.settle) {
		return
	}
	w, err := s.writer()
	if err == nil {
		defer w.close()
		err = w.quarantine(d, key)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.report(blobPath(d), Corrupt, fmt.Errorf("not moved to quarantine: %w", err))
	}
}

// flight is one verification that runs in the background, for however many readers.
type flight struct {
	key  fileKey
	done chan struct{}
	err  error // valid once done is closed
}

// wait waits for the outcome.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flights are the verifications that run.
type flights struct {
	mu    sync.Mutex
	m     map[digest.Digest]*flight
	slots chan struct{} // as many hash at once
}

// start joins or begins the verification of an open blob.
func (fs *flights) start(s *Store, b *blob) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.m[b.digest]; ok && f.key == b.key {
		return f
	}
	if fs.m == nil {
		fs.m = map[digest.Digest]*flight{}
	}
	f := &flight{key: b.key, done: make(chan struct{})}
	fs.m[b.digest] = f
	s.wg.Go(func() {
		f.err = s.hashAgain(b.digest, b.key)
		fs.land(b.digest, f)
	})
	return f
}

func (fs *flights) land(d digest.Digest, f *flight) {
	fs.mu.Lock()
	if fs.m[d] == f {
		delete(fs.m, d)
	}
	fs.mu.Unlock()
	close(f.done)
}

// hashAgain verifies a blob through a descriptor of its own: the reader that asked may leave.
func (s *Store) hashAgain(d digest.Digest, key fileKey) error {
	select {
	case s.flights.slots <- struct{}{}:
		defer func() { <-s.flights.slots }()
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	f, now, err := s.openFile(blobPath(d))
	if err != nil {
		return s.absent(blobPath(d), Unreadable, err)
	}
	defer f.Close()
	if now != key {
		return fmt.Errorf("%s changed while it was read: %w", d, ErrNotFound)
	}
	got, err := s.surely(d, key, func() (digest.Digest, error) { return hashFile(s.ctx, f, d.Algorithm()) })
	if err != nil {
		return s.absent(blobPath(d), Unreadable, err)
	}
	return s.judge(&blob{file: f, digest: d, key: key}, got)
}

// hashBuffer is how much is read at once for hashing: it fits the processor's cache, and more is no faster.
const hashBuffer = 256 << 10

// hashFile hashes a file from its start without moving its offset.
func hashFile(ctx context.Context, f *os.File, alg digest.Algorithm) (digest.Digest, error) {
	h := alg.Hash()
	if err := copyTo(ctx, h, f); err != nil {
		return "", err
	}
	return digest.NewDigest(alg, h), nil
}

func copyTo(ctx context.Context, h hash.Hash, r io.ReaderAt) error {
	buf := make([]byte, hashBuffer)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.ReadAt(buf, off)
		h.Write(buf[:n])
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// holdBack is how much of an unverified blob is kept until its digest is known to be right.
const holdBack = 64 << 10

// limit says how far an unverified blob may be given away; from its tail on, that is known after the verification.
func (b *blob) limit(ctx context.Context, pos int64) (int64, error) {
	if open := b.key.size - holdBack; pos < open {
		return open, nil
	}
	return b.key.size, b.flight.wait(ctx)
}

// held reads an unverified blob and stops before its tail until the verification is done. When that fails so
// does the read: the client gets less than it was promised and cannot take the body for whole.
type held struct {
	*blob
	ctx context.Context
	pos int64
}

func (h *held) Read(p []byte) (int, error) {
	if h.pos >= h.key.size {
		return 0, io.EOF
	}
	end, err := h.limit(h.ctx, h.pos)
	if err != nil {
		return 0, err
	}
	n, err := h.file.ReadAt(p[:min(int64(len(p)), end-h.pos)], h.pos)
	h.pos += int64(n)
	if n > 0 {
		err = nil // a file that got shorter shows at the next read
	}
	return n, err
}

// Seek moves the position.
func (h *held) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += h.pos
	case io.SeekEnd:
		offset += h.key.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	h.pos = offset
	return offset, nil
}

// body is a manifest in memory.
type body struct {
	key  fileKey
	data []byte
}

// manifest reads a manifest or index, verified.
func (s *Store) manifest(d digest.Digest) ([]byte, error) {
	rel := blobPath(d)
	key, err := s.stat(rel)
	if err != nil {
		return nil, s.absent(rel, Unreadable, err)
	}
	if b, ok := s.bodies.get(d.String()); ok && b.key == key {
		return b.data, nil
	}
	if key.size > maxManifest {
		return nil, fmt.Errorf("%s is longer than a manifest may be: %w", d, ErrNotFound)
	}
	b, err := s.openBlob(d)
	if err != nil {
		return nil, err
	}
	defer b.file.Close()
	data, err := io.ReadAll(io.NewSectionReader(b.file, 0, b.key.size))
	if err != nil {
		return nil, s.absent(rel, Unreadable, err)
	}
	if b.flight != nil || int64(len(data)) != b.key.size || !unchanged(b.file, b.key) {
		return nil, fmt.Errorf("%s changed while it was read: %w", d, ErrNotFound)
	}
	if b.key.settled(tick) {
		s.bodies.put(d.String(), body{b.key, data}, len(data)+256)
	}
	return data, nil
}
