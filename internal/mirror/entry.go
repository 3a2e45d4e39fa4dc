package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/edgeprep/edgeprep/internal/host"
)

// Entry is one reference of the cache.
type Entry struct {
	Reference string     `json:"reference"`
	Digest    string     `json:"digest"`
	MediaType string     `json:"mediaType"`
	Size      int64      `json:"size"`             // bytes in the cache of all that it reaches
	Time      time.Time  `json:"time,omitzero"`    // when the tag got this digest; zero for digest references
	LastUse   time.Time  `json:"lastUse,omitzero"` // when a node last asked for it, or for its digest
	Complete  bool       `json:"complete"`         // every platform that it names is here
	Platforms []Platform `json:"platforms"`
	Error     string     `json:"error,omitempty"` // its manifest is missing or cannot be read
}

// Platform is one platform of an entry.
type Platform struct {
	Platform string    `json:"platform,omitempty"` // empty: not an image, or not known
	Digest   string    `json:"digest"`
	Size     int64     `json:"size"` // bytes in the cache
	Complete bool      `json:"complete"`
	Present  bool      `json:"present"` // its manifest is here
	Missing  []Content `json:"missing,omitempty"`
}

// Usable says whether a node of the platform ("linux/arm64") can run the image from this cache. Without a
// platform: whether any can.
func (e Entry) Usable(platform string) bool {
	if platform == "" {
		for _, p := range e.Platforms {
			if p.Complete {
				return true
			}
		}
		return false
	}
	p, ok := e.Best(platform)
	return ok && p.Complete
}

// Best is the platform that a node would choose. Content that names no platform is for every node.
func (e Entry) Best(platform string) (Platform, bool) {
	var best Platform
	rank := 0
	for _, p := range e.Platforms {
		r := platformRank(platform, p.Platform)
		if p.Platform == "" && rank == 0 && len(e.Platforms) == 1 {
			r = 1
		}
		if r > rank {
			best, rank = p, r
		}
	}
	return best, rank > 0
}

// Has says whether a reference can be pulled completely for each platform, or for any when none is given.
func (s *Store) Has(ctx context.Context, ref string, platforms ...string) (bool, error) {
	e, err := s.Stat(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil || len(platforms) == 0 {
		return e.Usable(""), err
	}
	for _, p := range platforms {
		if !e.Usable(p) {
			return false, nil
		}
	}
	return true, nil
}

// Stat describes a reference, "docker.io/library/busybox:1.36" or "…@sha256:…". Blobs are looked for by
// name and size; manifests are read and verified.
func (s *Store) Stat(ctx context.Context, ref string) (Entry, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return Entry{}, err
	}
	rec, err := s.lookup(r)
	if err != nil {
		return Entry{}, fmt.Errorf("%s: %w", ref, ErrNotFound)
	}
	return s.entry(ctx, r, rec)
}

// entry describes what a record points to. What is wrong with the content is part of the entry.
func (s *Store) entry(ctx context.Context, ref Reference, rec record) (Entry, error) {
	t, err := s.grow(ctx, rec.descriptor())
	if ctx.Err() != nil {
		return Entry{}, ctx.Err()
	}
	return s.describe(ref, rec, t, err), nil
}

func (s *Store) describe(ref Reference, rec record, t *tree, err error) Entry {
	e := Entry{Reference: ref.String(), Digest: rec.Digest.String(), MediaType: rec.MediaType, Time: rec.Time}
	if err != nil {
		e.Error = err.Error()
	}
	seen := map[string]bool{}
	for _, m := range t.manifests {
		e.Size += m.Size
	}
	for _, b := range t.branches {
		p, extra := s.platform(b, seen)
		e.Size += extra
		switch {
		case b.desc.Digest == e.Digest && !b.present:
			e.Error = b.err.Error()
		case !b.attestation:
			e.Platforms = append(e.Platforms, p)
		}
	}
	e.Complete = e.Error == "" && len(e.Platforms) > 0
	for _, p := range e.Platforms {
		e.Complete = e.Complete && p.Complete
	}
	return e
}

// platform looks for a branch's blobs; extra are the bytes of those that seen did not have.
func (s *Store) platform(b branch, seen map[string]bool) (p Platform, extra int64) {
	p = Platform{Platform: b.platform, Digest: b.desc.Digest, Present: b.present}
	if !b.present {
		p.Missing = []Content{b.manifestContent()}
		return p, 0
	}
	p.Size = b.desc.Size
	for _, c := range b.contents {
		if !s.hasBlob(digest.Digest(c.Digest), c.Size) {
			p.Missing = append(p.Missing, c)
			continue
		}
		p.Size += c.Size
		if !seen[c.Digest] {
			seen[c.Digest] = true
			extra += c.Size
		}
	}
	p.Complete = len(p.Missing) == 0
	return p, extra
}

// hasBlob says whether a blob of that size is there and is not known to be bad.
func (s *Store) hasBlob(d digest.Digest, size int64) bool {
	key, err := s.stat(blobPath(d))
	if err != nil || key.size != size {
		return false
	}
	m, known := s.marks.get(d, key)
	return !known || m.good
}

// grow walks what a descriptor reaches in the cache.
func (s *Store) grow(ctx context.Context, root host.Descriptor) (*tree, error) {
	return grow(ctx, root, "", func(ctx context.Context, d host.Descriptor) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if isManifestType(d.MediaType) {
			return s.sized(d)
		}
		return s.smallBlob(digestOf(d))
	})
}

// sized reads a manifest and checks the size that its parent says.
func (s *Store) sized(d host.Descriptor) ([]byte, error) {
	b, err := s.manifest(digestOf(d))
	if err == nil && int64(len(b)) != d.Size {
		return nil, fmt.Errorf("%s is %d bytes long, not %d: %w", d.Digest, len(b), d.Size, errCorrupt)
	}
	return b, err
}

// smallBlob reads a verified blob into memory, without keeping it.
func (s *Store) smallBlob(d digest.Digest) ([]byte, error) {
	b, err := s.openBlob(d)
	if err != nil {
		return nil, err
	}
	defer b.file.Close()
	if b.flight != nil {
		return nil, fmt.Errorf("%s is too large to be a config: %w", d, ErrNotFound)
	}
	return io.ReadAll(io.NewSectionReader(b.file, 0, b.key.size))
}

func (r record) descriptor() host.Descriptor {
	return host.Descriptor{MediaType: r.MediaType, Digest: r.Digest.String(), Size: r.Size}
}

// ForeignKind says why a file in the cache is not used.
type ForeignKind string

// The kinds.
const (
	Stray      ForeignKind = "stray"      // its name is none of the cache's
	Garbage    ForeignKind = "garbage"    // a reference file that is not what its name says
	Unreadable ForeignKind = "unreadable" // it could not be read
	Corrupt    ForeignKind = "corrupt"    // a blob that does not match its digest
	Aside      ForeignKind = "quarantine" // a blob that was moved away
)

// Foreign is a file in the cache that is not used, and is left alone.
type Foreign struct {
	Path   string      `json:"path"` // relative to the cache
	Kind   ForeignKind `json:"kind"`
	Size   int64       `json:"size,omitempty"`
	Detail string      `json:"detail,omitempty"`
}
