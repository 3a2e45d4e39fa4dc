package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// VerifyReport is what a verification found.
type VerifyReport struct {
	Deep     bool      `json:"deep"` // every blob was hashed
	Entries  []Entry   `json:"entries"`
	Problems []Problem `json:"problems,omitempty"`
	Orphans  []Content `json:"orphans,omitempty"` // blobs that no reference reaches; harmless
	Foreign  []Foreign `json:"foreign,omitempty"`
	Blobs    int       `json:"blobs"`
	Bytes    int64     `json:"bytes"`
}

// OK says whether every reference can be pulled.
func (r VerifyReport) OK() bool { return len(r.Problems) == 0 }

// ProblemKind is what is wrong with a reference.
type ProblemKind string

// The kinds.
const (
	ProblemMissing ProblemKind = "missing" // not there, or of another size
	ProblemCorrupt ProblemKind = "corrupt" // the digest or the document is wrong
	ProblemAnswer  ProblemKind = "answer"  // a server answered something else
)

// Problem is one thing that keeps a reference from being pulled.
type Problem struct {
	Kind      ProblemKind `json:"kind"`
	Reference string      `json:"reference"`
	Platform  string      `json:"platform,omitempty"`
	Content   *Content    `json:"content,omitempty"`
	Detail    string      `json:"detail"`
}

// Verify walks every reference: index, manifests, configs and layers are there with their sizes, manifests
// also with their digests. With deep, every blob is hashed. It changes nothing.
func (s *Store) Verify(ctx context.Context, deep bool, progress func(Progress)) (VerifyReport, error) {
	v := &verifier{s: s, report: VerifyReport{Deep: deep}, blobs: map[string]int64{}, reached: map[string]bool{}, bad: map[string]bool{}}
	if progress == nil {
		progress = func(Progress) {}
	}
	err := v.scan(ctx)
	if err == nil && deep {
		err = v.hashAll(ctx, progress)
	}
	if err == nil {
		err = v.walk(ctx)
	}
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verify the cache %s: %w", s.dir, err)
	}
	v.finish()
	return v.report, nil
}

type verifier struct {
	s       *Store
	report  VerifyReport
	refs    []found
	blobs   map[string]int64 // digest to size, of every blob file
	reached map[string]bool
	mu      sync.Mutex
	bad     map[string]bool // failed their digest now
}

func (v *verifier) scan(ctx context.Context) error {
	refs, foreign, err := v.s.scanRefs(ctx)
	if err != nil {
		return err
	}
	v.refs = refs
	more, err := v.s.scan(ctx, dirBlobs, func(rel string, fi fs.FileInfo) (Foreign, bool) {
		d, ok := parseBlobPath(rel)
		if !ok {
			return Foreign{Kind: Stray, Detail: "not a blob's path"}, false
		}
		v.blobs[d.String()] = fi.Size()
		v.report.Bytes += fi.Size()
		return Foreign{}, true
	})
	if err != nil {
		return err
	}
	aside, err := v.s.scan(ctx, dirQuarantine, func(string, fs.FileInfo) (Foreign, bool) {
		return Foreign{Kind: Aside, Detail: "failed its digest and was moved away"}, false
	})
	if err != nil {
		return err
	}
	v.report.Blobs = len(v.blobs)
	v.report.Foreign = slices.Concat(foreign, more, aside, v.s.topLevel())
	return nil
}

// topLevel finds what does not belong in the cache's root.
func (s *Store) topLevel() []Foreign {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return []Foreign{{Path: ".", Kind: Unreadable, Detail: err.Error()}}
	}
	var out []Foreign
	for _, e := range entries {
		switch e.Name() {
		case dirBlobs, dirRefs, dirTmp, dirQuarantine, dirUsage, fileMisses:
		default:
			out = append(out, Foreign{Path: e.Name(), Kind: Stray, Detail: "not part of the cache"})
		}
	}
	return out
}

// hashAll hashes every blob, on all cores.
func (v *verifier) hashAll(ctx context.Context, progress func(Progress)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(v.s.flights.slots))
	var done int64
	for d, size := range v.blobs {
		g.Go(func() error {
			bad, err := v.s.rehash(ctx, digest.Digest(d))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if bad {
				v.bad[d] = true
				v.report.Foreign = append(v.report.Foreign, Foreign{
					Path: blobPath(digest.Digest(d)), Kind: kindOfHash(err), Size: size, Detail: err.Error()})
			}
			done += size
			progress(Progress{Item: d, Done: done, Total: v.report.Bytes})
			return nil
		})
	}
	return g.Wait()
}

// rehash reads a blob whatever is remembered of it. One that is gone meanwhile is not bad.
func (s *Store) rehash(ctx context.Context, d digest.Digest) (bad bool, err error) {
	f, _, err := s.openFile(blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	defer f.Close()
	got, err := hashFile(ctx, f, d.Algorithm())
	if err != nil {
		return true, err
	}
	if got != d {
		return true, errCorrupt
	}
	return false, nil
}

func kindOfHash(err error) ForeignKind {
	if errors.Is(err, errCorrupt) {
		return Corrupt
	}
	return Unreadable
}

// walk describes every reference.
func (v *verifier) walk(ctx context.Context) error {
	entries, err := v.s.entries(ctx, v.refs, func(_ found, t *tree) {
		for _, m := range t.manifests {
			v.reached[m.Digest] = true
		}
		for _, b := range t.branches {
			v.reached[b.desc.Digest] = true
			for _, c := range b.contents {
				v.reached[c.Digest] = true
			}
		}
	})
	v.report.Entries = entries
	return err
}

// finish turns entries into problems and finds orphans.
func (v *verifier) finish() {
	for i := range v.report.Entries {
		e := &v.report.Entries[i]
		v.markBad(e)
		v.report.Problems = append(v.report.Problems, problemsOf(*e)...)
	}
	for d, size := range v.blobs {
		if !v.reached[d] {
			v.report.Orphans = append(v.report.Orphans, Content{Digest: d, Size: size})
		}
	}
	slices.SortFunc(v.report.Orphans, func(a, b Content) int { return strings.Compare(a.Digest, b.Digest) })
	slices.SortFunc(v.report.Foreign, func(a, b Foreign) int { return strings.Compare(a.Path, b.Path) })
}

// markBad takes blobs that failed their hash just now for missing.
func (v *verifier) markBad(e *Entry) {
	if len(v.bad) == 0 {
		return
	}
	for i := range e.Platforms {
		p := &e.Platforms[i]
		own := Content{Kind: KindManifest, Digest: p.Digest}
		for _, c := range append(v.s.contentsOf(p.Digest), own) {
			if v.bad[c.Digest] && !slices.Contains(p.Missing, c) {
				p.Missing = append(p.Missing, c)
				p.Complete, e.Complete = false, false
			}
		}
	}
}

// contentsOf is what a manifest of the cache needs.
func (s *Store) contentsOf(manifest string) []Content {
	b, err := s.manifest(digest.Digest(manifest))
	if err != nil {
		return nil
	}
	doc, err := parseManifest(b, sniffManifest(b))
	if err != nil {
		return nil
	}
	out := []Content{contentOf(KindConfig, doc.Config)}
	for _, l := range doc.Layers {
		out = append(out, contentOf(KindLayer, l))
	}
	return out
}

// problemsOf says what keeps an entry from being pulled. Platforms whose manifest is not here are no problem
// as long as another one is complete: an archive need not have all of them.
func problemsOf(e Entry) []Problem {
	if e.Error != "" {
		return []Problem{{Kind: ProblemCorrupt, Reference: e.Reference, Detail: e.Error,
			Content: &Content{Kind: KindManifest, Digest: e.Digest, MediaType: e.MediaType}}}
	}
	var out []Problem
	for _, p := range e.Platforms {
		if !p.Present && e.Usable("") {
			continue
		}
		for _, c := range p.Missing {
			out = append(out, Problem{Kind: ProblemMissing, Reference: e.Reference, Platform: p.Platform,
				Content: &c, Detail: string(c.Kind) + " " + c.Digest + " is missing or has another size"})
		}
	}
	return out
}
