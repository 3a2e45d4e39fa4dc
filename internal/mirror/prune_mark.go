package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// marker finds what may go.
type marker struct {
	s      *Store
	opts   PruneOptions
	uses   map[string]time.Time
	report PruneReport

	roots []*root
	keep  map[string]bool        // reference files that stay because something leads to them, by reference
	gone  map[string]bool        // blobs that a reference reaches that goes
	blobs map[digest.Digest]bool // blobs that stay
	lost  int                    // manifests that are there and cannot be read: what they need is not known
}

// root is a reference that nothing else in its repository leads to, or that is kept by its own name.
type root struct {
	found
	grown
	entry   Entry
	subject digest.Digest // what it is attached to, a signature to its image
	reached bool          // something else leads to it
	lastUse time.Time
	came    time.Time
}

func (m *marker) mark(ctx context.Context) (sweeping, error) {
	refs, foreign, err := m.s.scanRefs(ctx)
	if err != nil {
		return sweeping{}, err
	}
	if err := m.findRoots(ctx, refs); err != nil {
		return sweeping{}, err
	}
	m.decide(refs)
	var out sweeping
	for _, f := range refs {
		switch {
		case m.keep[f.ref.String()]:
		case f.ref.Tag != "":
			out.tags = append(out.tags, recordPath(f.ref))
		default:
			out.digests = append(out.digests, recordPath(f.ref))
		}
	}
	out.blobs, err = m.unreached(ctx, foreign)
	if err == nil {
		out.quarantine, err = m.quarantined(ctx)
	}
	m.finish()
	return out, err
}

// decide says of each root whether it stays. What is attached to a manifest of the repository goes and stays
// with it.
func (m *marker) decide(refs []found) {
	there := map[string]bool{}
	for _, f := range refs {
		there[f.ref.String()] = true
	}
	var attached []*root
	for _, r := range m.roots {
		switch {
		case r.subject != "" && there[r.subjectName()] && !m.opts.Keep.Match(r.ref, r.rec.Digest):
			attached = append(attached, r)
		case m.goes(r):
			m.drop(r)
		default:
			m.stay(r)
		}
	}
	for range maxDepth { // a signature of a signature
		attached = slices.DeleteFunc(attached, func(r *root) bool {
			if m.keep[r.subjectName()] {
				m.stay(r)
				return true
			}
			return false
		})
	}
	for _, r := range attached {
		m.drop(r)
	}
}

func (r *root) subjectName() string { return r.ref.Name.String() + "@" + r.subject.String() }

// findRoots walks every reference.
func (m *marker) findRoots(ctx context.Context, refs []found) error {
	trees := map[digest.Digest]grown{}
	reached := map[string]bool{} // by another reference of the repository
	for _, f := range refs {
		g, ok := trees[f.rec.Digest]
		if !ok {
			g.tree, g.err = m.s.grow(ctx, f.rec.descriptor())
			trees[f.rec.Digest] = g
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, d := range g.tree.manifests {
			if f.ref.Tag != "" || d.Digest != f.rec.Digest.String() {
				reached[f.ref.Name.String()+"@"+d.Digest] = true
			}
		}
		r := &root{found: f, grown: g, entry: m.s.describe(f.ref, f.rec, g.tree, g.err)}
		m.times(r)
		m.roots = append(m.roots, r)
	}
	m.roots = slices.DeleteFunc(m.roots, func(r *root) bool {
		r.reached = reached[r.ref.String()]
		if !r.reached && r.ref.Tag == "" {
			r.subject = m.s.subjectOf(r.rec.Digest)
		}
		return r.reached && !m.opts.Keep.Match(r.ref, r.rec.Digest)
	})
	return nil
}

// subjectOf is the manifest that a manifest is attached to.
func (s *Store) subjectOf(d digest.Digest) digest.Digest {
	var doc manifestDoc
	if b, err := s.manifest(d); err != nil || json.Unmarshal(b, &doc) != nil || doc.Subject == nil {
		return ""
	}
	return doc.Subject.Digest
}

// unreadable counts manifests that are there and cannot be read. What they need must not be taken for
// unreachable: the disk, or whoever is still copying, may give it back.
func (m *marker) unreadable(g grown) {
	if g.err != nil {
		m.lost++
	}
	for _, b := range g.tree.branches {
		if b.present {
			continue
		}
		if _, err := os.Lstat(m.s.path(blobPath(digestOf(b.desc)))); !errors.Is(err, fs.ErrNotExist) {
			m.lost++
		}
	}
}

// times finds out when a reference came and was last asked for: itself, or anything that it leads to, in its
// repository.
func (m *marker) times(r *root) {
	r.lastUse = m.uses[r.ref.String()]
	for _, d := range append(slices.Clone(r.tree.manifests), r.rec.descriptor()) {
		if at := m.uses[r.ref.Name.String()+"@"+d.Digest]; at.After(r.lastUse) {
			r.lastUse = at
		}
	}
	r.came = r.rec.Time
	if r.came.IsZero() { // files of digests say no time
		if key, err := m.s.stat(recordPath(r.ref)); err == nil {
			r.came = time.Unix(0, key.mtime)
		}
	}
}

// goes decides on a reference.
func (m *marker) goes(r *root) bool {
	o := m.opts
	switch {
	case len(o.Match) == 0 && o.UnusedFor == 0 && !o.Only,
		o.Keep.Match(r.ref, r.rec.Digest),
		len(o.Match) > 0 && !o.Match.Match(r.ref, r.rec.Digest):
		return false
	case o.UnusedFor == 0:
		return true
	}
	last := r.lastUse
	if r.came.After(last) {
		last = r.came
	}
	return !last.IsZero() && o.Now().Sub(last) > o.UnusedFor // what is from the future stays: a clock was wrong
}

func (m *marker) drop(r *root) {
	m.report.References = append(m.report.References, Pruned{Reference: r.entry.Reference, Digest: r.entry.Digest, Size: r.entry.Size,
		LastUse: r.lastUse, Time: r.came})
	eachBlob(r.tree, r.rec, func(d string) { m.gone[d] = true })
}

func (m *marker) stay(r *root) {
	if !r.reached {
		m.report.Kept++
	}
	m.unreadable(r.grown)
	m.keep[r.ref.String()] = true
	m.keep[r.ref.Name.String()+"@"+r.rec.Digest.String()] = true
	for _, d := range r.tree.manifests {
		m.keep[r.ref.Name.String()+"@"+d.Digest] = true
	}
	eachBlob(r.tree, r.rec, func(d string) { m.blobs[digest.Digest(d)] = true })
}

// eachBlob is told every blob that a reference reaches.
func eachBlob(t *tree, rec record, fn func(digest string)) {
	fn(rec.Digest.String())
	for _, d := range t.manifests {
		fn(d.Digest)
	}
	for _, b := range t.branches {
		fn(b.desc.Digest)
		for _, c := range b.contents {
			fn(c.Digest)
		}
	}
}

// unreached are the blobs that no reference that stays reaches.
func (m *marker) unreached(ctx context.Context, foreign []Foreign) ([]string, error) {
	var out []string
	more, err := m.s.scan(ctx, dirBlobs, func(rel string, fi fs.FileInfo) (Foreign, bool) {
		d, ok := parseBlobPath(rel)
		switch {
		case !ok:
			return Foreign{Kind: Stray}, false
		case m.blobs[d]:
		case !m.gone[d.String()] && m.young(fi):
			m.report.Young++
			m.report.YoungBytes += fi.Size()
		default:
			m.report.Blobs++
			m.report.Bytes += fi.Size()
			out = append(out, rel)
		}
		return Foreign{}, true
	})
	if err != nil {
		return nil, err
	}
	for _, f := range slices.Concat(foreign, more) {
		if f.Kind == Unreadable {
			m.lost++
		}
	}
	if m.lost > 0 {
		m.report.Blobs, m.report.Bytes, out = 0, 0, nil
		m.report.Notes = append(m.report.Notes, fmt.Sprintf("no blob is removed: %d files cannot be read, and what they need is not known; see edgeprep mirror verify", m.lost))
	}
	return out, nil
}

// young says whether a file may belong to a copy that is still going on. Its change on this disk counts: copies
// bring old modification times along. One from the future, by a clock that was wrong, is young.
func (m *marker) young(fi fs.FileInfo) bool {
	return m.opts.Now().Sub(time.Unix(0, keyOf(fi).ctime)) < m.opts.Grace
}

func (m *marker) quarantined(ctx context.Context) ([]string, error) {
	var out []string
	_, err := m.s.scan(ctx, dirQuarantine, func(rel string, fi fs.FileInfo) (Foreign, bool) {
		m.report.Quarantine++
		m.report.Bytes += fi.Size()
		out = append(out, rel)
		return Foreign{}, true
	})
	return out, err
}

func (m *marker) finish() {
	m.report.Applied = m.opts.Apply
	slices.SortFunc(m.report.References, func(a, b Pruned) int { return strings.Compare(a.Reference, b.Reference) })
	var all []Entry
	for _, r := range m.roots {
		all = append(all, r.entry)
	}
	_, idle := m.opts.Match.Select(all)
	for _, p := range idle {
		m.report.Idle = append(m.report.Idle, p.String())
	}
}
