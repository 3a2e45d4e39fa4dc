package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgeprep/edgeprep/internal/host"
	"github.com/edgeprep/edgeprep/internal/plan"
	"github.com/edgeprep/edgeprep/internal/progress"
	"github.com/edgeprep/edgeprep/internal/resource"
)

// OwnLabel marks the image records that edgeprep made.
const OwnLabel = "edgeprep.io/source"

// beforeImport is what is there of the images that are brought in: records of the containerd, files of the cache.
func (st *step) beforeImport() ([]plan.Target, error) {
	set := *st.c.Resource.ImageSet
	if set.Target == resource.TargetCache {
		return st.beforeLoad(set)
	}
	names := map[string]bool{}
	for _, a := range set.Archives {
		for _, n := range a.Images {
			names[n.Name] = true
			if set.Pin {
				names[plan.PinName(n)] = true
			}
		}
	}
	var out []plan.Target
	for n := range names {
		out = append(out, plan.Target{Image: n, Endpoint: set.Endpoint})
	}
	slices.SortFunc(out, func(a, b plan.Target) int { return strings.Compare(a.Image, b.Image) })
	return st.s.lookAll(out)
}

// lookImage is an image record as it is now.
func (s *session) lookImage(t plan.Target) (*plan.State, error) {
	if s.images == nil {
		s.images = map[host.Endpoint]map[string]host.Image{}
	}
	have, ok := s.images[t.Endpoint]
	if !ok {
		list, err := s.r.Runtime(t.Endpoint).Images(s.durable())
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		have = map[string]host.Image{}
		for _, img := range list {
			have[img.Name] = img
		}
		s.images[t.Endpoint] = have
	}
	img, ok := have[t.Image]
	if !ok {
		return nil, nil
	}
	return &plan.State{Image: &img}, nil
}

func (st *step) importImages() error {
	set := *st.c.Resource.ImageSet
	st.s.images = nil // what is looked up afterwards is read again
	for _, a := range set.Archives {
		if err := st.importArchive(set, a); err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
	}
	return nil
}

func (st *step) importArchive(set resource.ImageSet, a resource.ImageArchive) (err error) {
	s := st.s
	src, err := s.e.Open(s.ctx, a.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	report := func(msg string, done, total int64) {
		s.emit(progress.Event{Type: progress.StepProgress, Step: st.c.ID, Msg: msg, Done: done, Total: total})
	}
	if set.Target == resource.TargetCache {
		return s.e.Load(s.ctx, set.Cache, src, func(done, total int64) { report("", done, total) })
	}
	_, err = s.e.Host.RuntimeControl(set.Endpoint).Import(s.ctx, src, host.ImportOptions{Platform: set.Platform,
		Snapshotter: set.Endpoint.Snapshotter, Unpack: set.Unpack, Pin: set.Pin, Labels: map[string]string{OwnLabel: path.Base(a.Path)},
		Progress: func(p host.ImportProgress) { report(p.Phase+" "+p.Image, p.Done, p.Total) }})
	return err
}

// verifyImport checks that each image has its record with the right digest. The cache answers in the plan
// that is made after the run.
func (st *step) verifyImport(after []plan.Target) error {
	set := *st.c.Resource.ImageSet
	if set.Target == resource.TargetCache {
		return nil
	}
	got := map[string]string{}
	for _, t := range after {
		if t.After != nil && t.After.Image != nil {
			got[t.Image] = t.After.Image.Target.Digest
		}
	}
	for _, n := range st.c.After.Images {
		if got[n.Name] != n.Digest {
			return mismatch("image " + n.Name)
		}
	}
	return nil
}

// beforeLoad lists what the cache has of the repositories and blobs that are brought in. The layout is the
// cache's own (docs/formats.md): plain files, so that they are put back like any others.
func (st *step) beforeLoad(set resource.ImageSet) ([]plan.Target, error) {
	blobs, err := st.absentBlobs(set)
	if err != nil {
		return nil, err
	}
	refs, err := st.s.filesBelow(scanDirs(set))
	if err != nil {
		return nil, err
	}
	for _, p := range refs {
		blobs = append(blobs, plan.Target{Path: p})
	}
	return st.s.lookAll(blobs)
}

// absentBlobs are the blobs of the sources that the cache has not.
func (st *step) absentBlobs(set resource.ImageSet) ([]plan.Target, error) {
	seen := map[string]bool{}
	var out []plan.Target
	for _, a := range set.Archives {
		src, err := st.s.e.Open(st.s.ctx, a.Path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Path, err)
		}
		for _, b := range src.Blobs() {
			p := blobPath(set.Cache, b.Digest)
			if p == "" || seen[p] {
				continue
			}
			seen[p] = true
			if _, err := st.s.fs.Lstat(p); errors.Is(err, fs.ErrNotExist) {
				out = append(out, plan.Target{Path: p})
			}
		}
		if err := src.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// blobPath is where the cache has a blob; empty for a digest that is none.
func blobPath(cache, digest string) string {
	alg, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) < 2 || strings.ContainsAny(digest, "/.") {
		return ""
	}
	return path.Join(cache, "blobs", alg, hex[:2], hex)
}

// scanDirs are the directories of the repositories of a set in a cache.
func scanDirs(set resource.ImageSet) []string {
	if set.Target != resource.TargetCache {
		return nil
	}
	var out []string
	for _, a := range set.Archives {
		for _, n := range a.Images {
			repo, _, _ := strings.Cut(plan.PinName(n), "@")
			for _, kind := range []string{"_tags", "_digests"} {
				if d := path.Join(set.Cache, "refs", repo, kind); !slices.Contains(out, d) {
					out = append(out, d)
				}
			}
		}
	}
	return out
}

// filesBelow lists the files in directories, which may be missing.
func (s *session) filesBelow(dirs []string) ([]string, error) {
	var out []string
	for _, d := range dirs {
		list, err := s.fs.ReadDir(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, fi := range list {
			switch fi.Type {
			case host.TypeFile:
				out = append(out, fi.Path)
			case host.TypeDir:
				more, err := s.filesBelow([]string{fi.Path})
				if err != nil {
					return nil, err
				}
				out = append(out, more...)
			}
		}
	}
	return out, nil
}

// scan finds what appeared beside the known targets of a change: files in its directories, directories for
// the links of a unit.
func (s *session) scan(in entry, known []plan.Target) ([]plan.Target, error) {
	have := map[string]bool{}
	for _, t := range known {
		have[t.Path] = true
	}
	list, err := s.filesBelow(in.Scan)
	if err == nil && in.Kind == resource.KindUnit {
		for _, d := range in.Links {
			have[d] = true
		}
		list, err = s.linkDirs()
	}
	if err != nil {
		return nil, err
	}
	out := goneLinkDirs(in, list, known)
	for _, p := range list {
		if have[p] {
			continue
		}
		got, _, err := plan.Look(s.fs, p)
		if err != nil {
			return nil, err
		}
		out = append(out, plan.Target{Path: p, After: got})
	}
	return out, nil
}

// goneLinkDirs are the directories of links that went with their last link.
func goneLinkDirs(in entry, now []string, known []plan.Target) []plan.Target {
	var out []plan.Target
	for _, d := range in.Links {
		if !slices.Contains(now, d) && !slices.ContainsFunc(known, func(t plan.Target) bool { return t.Path == d }) {
			was := &plan.State{Type: host.TypeDir, Mode: 0o755, UID: plan.UnknownID, GID: plan.UnknownID} // as systemd makes them
			out = append(out, plan.Target{Path: d, Before: was})
		}
	}
	return out
}
