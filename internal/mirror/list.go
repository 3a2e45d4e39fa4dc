package mirror

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// temporary are names that other programs give to what they write or keep beside files: not a concern.
// Syncthing: lib/fs/tempname.go (.syncthing.NAME.tmp, ~syncthing~NAME.tmp), .stfolder, .stversions;
// lib/model/folder_sendrecv.go (NAME.sync-conflict-DATE-TIME-DEVICE.EXT).
var temporary = regexp.MustCompile(`^(\.|~syncthing~)|\.sync-conflict-\d{8}-\d{6}-|(\.tmp|\.partial|~)$`)

// found is a reference file.
type found struct {
	ref Reference
	rec record
}

// List is every reference of the cache: tags, and digests that no tag or index of their repository reaches.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	refs, _, err := s.scanRefs(ctx)
	if err != nil {
		return nil, err
	}
	return s.entries(ctx, refs, nil)
}

// entries describes references; reached is told every blob that they reach, if not nil.
func (s *Store) entries(ctx context.Context, refs []found, reached func(found, *tree)) ([]Entry, error) {
	var out []Entry
	byTag := map[string]bool{} // repository@digest of what is reached from elsewhere in the repository
	trees := map[digest.Digest]grown{}
	add := func(f found) error {
		g, ok := trees[f.rec.Digest]
		if !ok {
			g.tree, g.err = s.grow(ctx, f.rec.descriptor())
			trees[f.rec.Digest] = g
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, m := range g.tree.manifests {
			if f.ref.Tag != "" || m.Digest != f.rec.Digest.String() {
				byTag[f.ref.Name.String()+"@"+m.Digest] = true
			}
		}
		if reached != nil {
			reached(f, g.tree)
		}
		out = append(out, s.describe(f.ref, f.rec, g.tree, g.err))
		return nil
	}
	for _, f := range refs {
		if err := add(f); err != nil {
			return nil, err
		}
	}
	out = slices.DeleteFunc(out, func(e Entry) bool { return byTag[e.Reference] })
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Reference, b.Reference) })
	return out, nil
}

type grown struct {
	tree *tree
	err  error
}

// scanRefs reads every reference file. What is none is reported and skipped.
func (s *Store) scanRefs(ctx context.Context) ([]found, []Foreign, error) {
	var refs []found
	foreign, err := s.scan(ctx, dirRefs, func(rel string, _ fs.FileInfo) (Foreign, bool) {
		ref, ok := parseRecordPath(rel)
		if !ok {
			return Foreign{Kind: Stray, Detail: "not a reference's path"}, false
		}
		rec, _, err := s.readRecord(rel, ref)
		if errors.Is(err, fs.ErrNotExist) {
			return Foreign{}, true // removed meanwhile
		}
		if err != nil {
			return Foreign{Kind: kindOf(err), Detail: err.Error()}, false
		}
		refs = append(refs, found{ref, rec})
		return Foreign{}, true
	})
	return refs, foreign, err
}

// scan walks a part of the cache. use takes a regular file, or says what is wrong with it.
func (s *Store) scan(ctx context.Context, top string, use func(rel string, fi fs.FileInfo) (Foreign, bool)) ([]Foreign, error) {
	var out []Foreign
	add := func(rel string, f Foreign) {
		f.Path = rel
		out = append(out, f)
	}
	err := filepath.WalkDir(s.path(top), func(p string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel := s.rel(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			add(rel, Foreign{Kind: Unreadable, Detail: err.Error()})
			return nil //nolint:nilerr // it is reported, and the rest is walked
		case e.IsDir() && temporary.MatchString(e.Name()) && rel != top:
			add(rel, Foreign{Kind: Stray, Detail: "another program's directory"})
			return filepath.SkipDir
		case e.IsDir():
			return nil
		}
		if f, ok := s.classify(rel, e, use); !ok {
			add(rel, f)
		}
		return nil
	})
	return out, err
}

// classify uses one directory entry, or says why not.
func (s *Store) classify(rel string, e fs.DirEntry, use func(string, fs.FileInfo) (Foreign, bool)) (Foreign, bool) {
	fi, err := e.Info()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Foreign{}, true
	case err != nil:
		return Foreign{Kind: Unreadable, Detail: err.Error()}, false
	case temporary.MatchString(path.Base(rel)):
		return Foreign{Kind: Stray, Size: fi.Size(), Detail: "another program's temporary or conflict file"}, false
	case !fi.Mode().IsRegular():
		return Foreign{Kind: Stray, Detail: "not a regular file"}, false
	}
	f, ok := use(rel, fi)
	f.Size = fi.Size()
	return f, ok
}

func (s *Store) rel(p string) string {
	rel, err := filepath.Rel(s.dir, p)
	if err != nil {
		return p
	}
	return filepath.ToSlash(rel)
}
